"""Whether a configuration fits what it describes: names, kinds and choices of options, before anything is made of it.

What an object takes says the signature of its ``_target_``; what a command has beside objects, :class:`Options`.
Nothing is called, and nothing is read but modules.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import PurePath
from types import ModuleType, NoneType, UnionType
from typing import (
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    TypedDict,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from torch import nn

from src.errors import UserError

GROUPS = ("task", "protocol", "model", "data", "degradation", "trainer", "callbacks", "logger")  # made of objects
COLLECTIONS = ("callbacks", "logger")  # groups of objects by names of one's own
RESERVED = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")  # Hydra's own
GIVEN = {  # what code gives to an object that the configuration describes in part, see src.config.composition
    "task": ("config", "directory"),
    "model": ("protocol", "description"),
    "data": ("geometry", "training_geometry", "degradation", "seed"),
    "data.layout": ("root",),
    "trainer": ("default_root_dir", "logger", "callbacks", "plugins"),
    "logger.*": ("save_dir",),
}
FURTHER = {  # functions that hand what they do not know themselves to another
    "src.data.layouts.published.procedural": "src.data.procedural.scenes.prepare",
    "src.training.wandb.build_logger": "lightning.pytorch.loggers.WandbLogger",
}
LISTS, MAPPINGS = (list, tuple, Sequence, Iterable), (dict, Mapping)
OURS = {"trainer.precision": ("auto",)}  # choices that become one of the object's before it is made
BOUNDS = {  # least and most, of what a signature calls a number
    "seed": (0, 2**32 - 1),
    "size.width": (0.01, None),
    "size.depth": (0.01, None),
    "model.schedule.restarts": (1, None),
    "data.batch_size": (1, None),
    "data.workers": (0, None),
    "data.samples": (1, None),
    "data.validate_clips": (0, None),
    "data.validate_frames": (1, None),
    "data.test_frames": (1, None),
    "trainer.accumulate_grad_batches": (1, None),
    "callbacks.last.every_n_train_steps": (1, None),
    "callbacks.offsets.every_n_train_steps": (1, None),
    "gop": (1, None),
    "processes": (1, None),
    "batches": (1, None),
    "repeats": (1, None),
    "bench.height": (1, None),
    "bench.width": (1, None),
    "bench.repeats": (1, None),
    "bench.batch": (1, None),
    "bench.crop": (1, None),
    "report.pictures": (0, None),
    "report.clips": (0, None),
}


class Paths(TypedDict):
    """``paths``."""

    runs: str
    data: str


class Size(TypedDict):
    """``size``."""

    width: float
    depth: float
    rate: float | None
    rate_below: float
    warm_start: bool
    restarts: int
    warmup: int
    pretrained: bool
    pretrained_frozen: float


class Bench(TypedDict):
    """``bench``, of ``task=bench``."""

    models: list[str] | None
    size: str
    height: int
    width: int
    time: bool
    repeats: int
    precision: Literal["32", "bf16"]
    operator: Literal["ours", "torchvision"]
    compile: bool
    deformable: bool
    loader: bool
    batch: int
    crop: int


class Doctor(TypedDict):
    """``doctor``, of ``task=doctor``."""

    read: bool
    processes: int | None


class Report(TypedDict):
    """``report``, of ``task=report``."""

    pictures: int
    clips: int


class Options(TypedDict, total=False):
    """What a command has beside the objects of ``GROUPS``; what a task restricts further, it refuses itself."""

    seed: int
    checkpoint: str | None
    resume: bool
    paths: Paths
    size: Size
    output: str
    # task=bench, task=doctor, task=report
    bench: Bench
    doctor: Doctor
    report: Report
    project: str
    # task=prepare
    pack: str | None
    gop: int
    processes: int | None
    check: bool
    measure: list[int] | None
    batches: int
    repeats: int
    # task=restore
    input: str | list[str]
    container: str
    overwrite: bool
    preview: int
    compare: str | None
    codec: str
    quality: float | None
    preset: str | int | None
    slow_motion: bool
    constant_rate: bool
    deinterlace: bool
    fps: float | None
    max_frames: int | None
    factor: int | None
    cuts: bool
    edges: str
    tile: int | None
    overlap: int | None
    memory: float | None
    padding: int
    context: int
    precision: str | int
    compile: bool
    segment: int
    show: str | None


class Signature(NamedTuple):
    """What a function or class can be given.

    Args:
        kinds: annotations by option; Any where there is none.
        needed: options without a default.
        further: whether there may be others, which its signature does not name.
    """

    kinds: dict[str, Any]
    needed: list[str]
    further: bool


class _Unknown:
    """A value that is not known yet: an object to be made, ``???``, or an interpolation that only its task resolves."""


UNKNOWN = _Unknown()


def validate(config: DictConfig) -> None:
    """Refuses options that nothing takes, that are lacking, or that are of another kind than what takes them.

    Raises:
        UserError: of the first one a sentence, with its nearest name.
    """
    dangling: list[str] = []
    content, text = _read(config, "", dangling), OmegaConf.to_yaml(config)
    kinds = get_type_hints(Options)
    _check_names("", content, [*kinds, *GROUPS], text)
    for name, kind in kinds.items():
        if is_typeddict(kind) and isinstance(content.get(name), dict):
            _check_names(name, content[name], list(get_type_hints(kind)), text)
    if fault := type_mismatch("", {key: value for key, value in content.items() if key not in GROUPS}, Options):
        raise UserError(fault)
    for group in COLLECTIONS:
        made = {name: node for name, node in (content.get(group) or {}).items() if node}
        for name, node in made.items():
            if node is not UNKNOWN and not (isinstance(node, dict) and "_target_" in node):
                others = [other for other in made if other != name]
                raise UserError(f"{group}.{name} makes nothing, for it has no _target_{_end(name, others)}")
    for group in GROUPS:
        _check_objects(group, content.get(group))
    for option, (least, most) in BOUNDS.items():
        value = _at(content, option)
        if isinstance(value, int | float) and not (least <= value and (most is None or value <= most)):
            bounds = f"at least {least}" if most is None else f"from {least} to {most}"
            raise UserError(f"{option} is {value}, but must be {bounds}.")
    if dangling:
        raise UserError(dangling[0])


def closest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The one of ``names`` that ``name`` is likely to mean; None where it is like none of them."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)), None)


@cache
def signature_of(target: str) -> Signature:
    """What the object with this dotted name can be given.

    ``**options`` of a class go to its parent, as far as ours and Lightning's do.
    """
    made: Any = _object(target)
    calls: list[Any] = [made]
    if isinstance(made, type):
        calls = [cls.__init__ for cls in made.__mro__ if "__init__" in vars(cls) and cls not in (object, nn.Module)]  # type: ignore[misc]
        calls = calls or ([] if issubclass(made, nn.Module) else [made])
    kinds, needed, further = dict[str, Any](), list[str](), False
    for call in calls:
        try:
            signature = inspect.signature(call)
        except (ValueError, TypeError):  # of compiled code
            return Signature({}, [], True)
        hints, parameters = _hints(call), list(signature.parameters.values())[call is not made :]  # without self
        for one in parameters:
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name not in kinds:
                kinds[one.name] = hints.get(one.name, Any)
                if one.default is not one.empty and one.default is None:
                    kinds[one.name] = kinds[one.name] | None  # where the annotation leaves it out
                if one.default is one.empty and call is calls[0]:  # what a parent needs it may be given by its child
                    needed.append(one.name)
        further = any(one.kind is one.VAR_KEYWORD for one in parameters)
        if not further:
            break
    if target in FURTHER:
        more = signature_of(FURTHER[target])
        return Signature({**more.kinds, **kinds}, needed, more.further)
    return Signature(kinds, needed, further)


def type_mismatch(where: str, value: Any, kind: Any) -> str:
    """In what a plain value is not of an annotated kind, as a sentence; empty where it is.

    A TypedDict may hold more than it names.
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if value is UNKNOWN or kind in (Any, object) or isinstance(kind, TypeVar | str):
        return ""
    if origin in (Union, UnionType):
        faults = [type_mismatch(where, value, one) for one in inner]
        if within := [fault for fault in faults if fault and not fault.startswith(f"{where} is ")]:
            return "" if "" in faults else within[0]
        fits = "" in faults
    elif origin is Literal:
        fits = any(str(value) == str(one) and isinstance(value, bool) == isinstance(one, bool) for one in inner)
    elif is_typeddict(kind) and isinstance(value, Mapping):
        kinds, needed = get_type_hints(kind), get_type_hints(kind, include_extras=True)
        lacking = [k for k in kind.__required_keys__ - value.keys() if get_origin(needed[k]) is not NotRequired]
        if lacking:
            return f"{where} lacks {', '.join(sorted(lacking))}."
        return _first(type_mismatch(_under(where, key), value[key], kinds[key]) for key in value if key in kinds)
    elif origin in MAPPINGS and isinstance(value, Mapping):
        return _first(type_mismatch(_under(where, key), part, inner[1]) for key, part in value.items() if inner)
    elif origin in LISTS and isinstance(value, list | tuple):
        each = inner if origin is tuple and ... not in inner else (*inner[:1],) * len(value)
        if fits := not inner or len(each) == len(value):
            return _first(
                type_mismatch(_under(where, k), part, kind)
                for k, (part, kind) in enumerate(zip(value, each, strict=bool(inner)))
            )
    elif origin in (bool, int, float):
        numbers = {bool: bool, int: int, float: int | float}
        fits = isinstance(value, numbers[origin]) and isinstance(value, bool) == (origin is bool)
    else:
        text = isinstance(origin, type) and issubclass(origin, str | PurePath)
        fits = value is None if origin is NoneType else text and isinstance(value, str)
    return "" if fits else f"{where} is {_shown(value)}, but must be {_described(kind)}{_meant(value, kind)}"


def _first(faults: Iterable[str]) -> str:
    return next(filter(None, faults), "")


# --- names ---------------------------------------------------------------------------------------------------


def _check_names(where: str, node: Mapping[str, Any], known: list[str], text: str) -> None:
    """Refuses options that are not known, unless something else in the configuration refers to them."""
    for name in node:
        if name not in known and f"${{{_under(where, name)}" not in text:
            whole = f"The configuration has no option {name}, and nothing in it refers to one"
            raise UserError((f"{where} has no option {name}" if where else whole) + _end(name, known))


def _check_objects(where: str, node: Any) -> None:
    """Checks every object that is described from here on down."""
    if _is_object(node):
        _check_object(where, node)
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        _check_objects(_under(where, name), child)


def _check_object(where: str, node: Mapping[str, Any]) -> None:
    target = node["_target_"]
    if target is UNKNOWN:
        return
    known = _known(where, target)
    given = next((names for place, names in GIVEN.items() if fnmatch(where, place) and where.count(".") < 2), ())
    for name, value in node.items():
        if name in RESERVED or value in OURS.get(f"{where}.{name}", ()):
            continue
        if name in given:
            raise UserError(f"{where}.{name} is what the run itself gives to {target}: leave it out.")
        typo = closest(name, known.kinds, 0.8) if known.further else True
        if name.startswith("_") or (name not in known.kinds and typo):
            names = RESERVED if name.startswith("_") else known.kinds.keys() - set(given)
            raise UserError(f"{where} has no option {name} ({target}){_end(name, names)}")
        if fault := type_mismatch(f"{where}.{name}", _opaque(value), known.kinds.get(name, Any)):
            raise UserError(fault)
    if target.startswith("hydra.utils.get_") and isinstance(node.get("path"), str):
        _object(node["path"], f"{where}.path")
    by_place = list(known.kinds)[: len(node.get("_args_") or ())]
    lacking = [name for name in known.needed if name not in {*node, *given, *by_place}]
    if lacking and node.get("_partial_") is not True:
        raise UserError(f"{where} lacks {', '.join(lacking)} ({target}): give {where}.{lacking[0]}=<value>.")


def _known(where: str, target: Any) -> Signature:
    """What the object of a node takes, if it is one that can be made."""
    if not isinstance(target, str) or not callable(_object(target, f"{where}._target_")):
        raise UserError(f"{where}._target_ is {target}, which makes nothing: name a class or a function.")
    return signature_of(target)


def _object(target: str, where: str = "_target_") -> Any:
    """The object with a dotted name.

    Raises:
        UserError: there is none; the sentence names its nearest neighbour.
    """
    found: Any = None
    place = ""
    for name in target.split("."):
        inside = _under(place, name)
        if not hasattr(found, name) and (found is None or isinstance(found, ModuleType)):
            try:
                importlib.import_module(inside)
            except ModuleNotFoundError as error:
                if error.name and not inside.startswith(error.name):
                    raise UserError(f"{where} is {target}, which needs {error.name}: install it.") from error
            except (ImportError, ValueError) as error:
                raise UserError(f"{where} is {target}, but {inside} cannot be imported: {error}.") from error
        if found is None and name not in sys.modules:
            raise UserError(
                f"{where} is {target}, but there is no module {name}: mend it, or install what it belongs to."
            )
        if found is not None and not hasattr(found, name):
            names = {other.name for other in pkgutil.iter_modules(getattr(found, "__path__", ()))} | {*dir(found)}
            raise UserError(f"{where} is {target}, but {place} has no {name}{_end(name, names)}")
        found, place = sys.modules[name] if found is None else getattr(found, name), inside
    return found


def _end(name: str, names: Iterable[str]) -> str:
    """The end of a sentence on an unknown name: the one that is meant or, if they are not too many, all."""
    names = sorted(names)
    if meant := closest(name, names):
        return f": did you mean {meant}?"
    return f": there is {', '.join(names)}." if 0 < len(names) < 30 else "."


# --- values --------------------------------------------------------------------------------------------------


def _read(node: Any, where: str, dangling: list[str]) -> Any:
    """A node as plain dictionaries and lists; what cannot be resolved yet is UNKNOWN, what never can is said."""
    if not isinstance(node, DictConfig | ListConfig):
        return node
    if node._is_none():
        return None
    keys = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    found: dict[Any, Any] = {}
    for key in keys:
        try:
            found[key] = UNKNOWN if OmegaConf.is_missing(node, key) else node[key]
        except InterpolationKeyError as error:
            said = str(error).splitlines()[0]
            dangling.append(
                f"{_under(where, key)} cannot be resolved ({said}): mend its name, or add what it refers to."
            )
            found[key] = UNKNOWN
        except (OmegaConfBaseException, UserError):  # which its task tells, if it needs it
            found[key] = UNKNOWN
        found[key] = _read(found[key], _under(where, key), dangling)
    return {str(key): value for key, value in found.items()} if isinstance(node, DictConfig) else list(found.values())


def _at(content: Any, option: str) -> Any:
    for part in option.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _under(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _opaque(value: Any) -> Any:
    """A value in which objects that are yet to be made may be of any kind."""
    if isinstance(value, dict):
        return UNKNOWN if _is_object(value) else {name: _opaque(part) for name, part in value.items()}
    return [_opaque(part) for part in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    """A value as a configuration has it, or its beginning."""
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _described(kind: Any) -> str:
    """What is of a kind, for a sentence."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(word for one in inner for word in _described(one).split(" or ")))
    if origin is Literal:
        return " or ".join(dict.fromkeys(map(str, inner)))
    if origin in words:
        return words[origin]
    if origin in LISTS:
        count = f" of {len(inner)}" if origin is tuple and ... not in inner else ""
        return f"a list{count}" + (f", each {_described(inner[0])}" if inner else "")
    if origin in MAPPINGS or is_typeddict(kind):
        return "values by name"
    path = isinstance(origin, type) and issubclass(origin, PurePath)
    return "a path" if path else "an object, which a _target_ describes"


def _meant(value: Any, kind: Any) -> str:
    """The end of a sentence on a value of another kind: what may be meant."""
    if isinstance(value, float) and value.is_integer():
        return f": write {int(value)}."
    choices = [str(choice) for one in (kind, *get_args(kind)) if get_origin(one) is Literal for choice in get_args(one)]
    meant = closest(value, choices) if isinstance(value, str) else None
    return f": did you mean {meant}?" if meant else "."


def _hints(call: Any) -> dict[str, Any]:
    try:
        return get_type_hints(call)
    except Exception:  # annotations of what is imported for type checkers alone, say
        return {}
