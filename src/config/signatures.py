"""Read the signatures of the objects that a configuration describes. A signature is the schema of its options."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache
from types import ModuleType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from src.annotations import ProvidedMarker
from src.config.suggestions import end_with_suggestion
from src.config.type_check import join
from src.errors import UserError


class Signature(NamedTuple):
    """The arguments of a function or class.

    Args:
        kinds: annotations by name; Any without one.
        required: names without a default.
        provided: names of the arguments that code provides.
        first: the first positional argument, which callers of a partial object provide.
        further: True if there may be other arguments, which the signature does not name.
    """

    kinds: dict[str, Any]
    required: list[str]
    provided: frozenset[str]
    first: str | None
    further: bool


@cache
def signature_of(target: str) -> Signature:
    """Return the signature of the object with this dotted name.

    ``**options`` of a class go to its parent class, and those of a function to the class that it returns.
    """
    made: Any = import_object(target)
    calls: list[Any] = [made]
    if isinstance(made, type):
        calls = [vars(cls)["__init__"] for cls in made.__mro__ if "__init__" in vars(cls) and not _is_root(cls)]
        calls = calls or ([] if is_module(made) else [made])
    kinds, required, first, further = dict[str, Any](), list[str](), None, False
    while calls:
        call = calls.pop(0)
        try:
            signature = inspect.signature(call)
        except (ValueError, TypeError):  # of compiled code
            return Signature({}, [], frozenset(), None, True)
        hints = read_hints(_owner_of(call, made))
        own = list(signature.parameters.values())[call is not made :]  # without self
        for parameter in own:
            if (
                parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
                and parameter.name not in kinds
            ):
                kind = hints.get(parameter.name, Any)
                kinds[parameter.name] = kind | None if parameter.default is None and kind is not Any else kind
                if parameter.default is parameter.empty and call is _call_of(made):  # a child may provide its parent's
                    required.append(parameter.name)
        if call is _call_of(made) and own and own[0].kind is own[0].POSITIONAL_OR_KEYWORD:
            first = own[0].name
        further = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own)
        if not further:
            break
        result = hints.get("return")
        if inspect.isfunction(made) and isinstance(result, type):
            parent = signature_of(f"{result.__module__}.{result.__qualname__}")
            kinds, further = {**parent.kinds, **kinds}, parent.further
    provided = frozenset(name for name, kind in kinds.items() if _is_provided(kind))
    return Signature(kinds, required, provided, first, further)


def read_hints(call: Callable[..., Any]) -> dict[str, Any]:
    """Return annotations by name; nothing if they name modules that are only imported for type checkers."""
    try:
        return get_type_hints(call, include_extras=True)
    except Exception:
        return {}


def import_object(target: str, path: str = "_target_") -> Any:
    """Return the object with a dotted name.

    Args:
        target: the dotted name.
        path: path of the option that holds the name, for the error message.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    owner: Any = None
    place = ""
    for name in target.split("."):
        inside = join(place, name)
        if not hasattr(owner, name) and (owner is None or isinstance(owner, ModuleType)):
            try:
                importlib.import_module(inside)
            except ModuleNotFoundError as error:
                if error.name and not inside.startswith(error.name):
                    raise UserError(f"{path} is {target}, which needs {error.name}: install it.") from error
            except (ImportError, ValueError) as error:
                raise UserError(f"{path} is {target}, but {inside} cannot be imported: {error}.") from error
        if owner is None and name not in sys.modules:
            raise UserError(
                f"{path} is {target}, but there is no module {name}: correct it, install its package, or add "
                f"code=<folder>/{name}.py if it is a file of your own."
            )
        if owner is not None and not hasattr(owner, name):
            names = {other.name for other in pkgutil.iter_modules(getattr(owner, "__path__", ()))} | {*dir(owner)}
            raise UserError(f"{path} is {target}, but {place} has no {name}{end_with_suggestion(name, names)}")
        owner, place = sys.modules[name] if owner is None else getattr(owner, name), inside
    return owner


def is_module(made: Any) -> bool:
    """Return True for a class of ``torch.nn.Module``."""
    return isinstance(made, type) and any(map(_is_root, made.__mro__[:-1]))


def _is_root(cls: type) -> bool:
    """Return True for classes whose own arguments are of no interest: ``object`` and ``torch.nn.Module``."""
    return cls is object or f"{cls.__module__}.{cls.__name__}" == "torch.nn.modules.module.Module"


def _owner_of(call: Any, made: Any) -> Any:
    """Return the object that resolves a call's annotations: a dataclass inherits fields with those of other modules."""
    owners = made.__mro__ if isinstance(made, type) else ()
    return next((cls for cls in owners if vars(cls).get("__init__") is call and is_dataclass(cls)), call)


def _call_of(made: Any) -> Any:
    """Return the function that a call of an object runs."""
    if not isinstance(made, type):
        return made
    return next((vars(cls)["__init__"] for cls in made.__mro__ if "__init__" in vars(cls) and not _is_root(cls)), made)


def _is_provided(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return any(isinstance(item, ProvidedMarker) for item in get_args(kind)[1:])
    return any(map(_is_provided, get_args(kind)))
