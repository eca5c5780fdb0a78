"""Validate a configuration against the signatures of its targets before anything is instantiated.

The signature of a ``_target_`` names the options of an object, and dataclasses name all others:
:class:`src.config.root.RootOptions` and the options of the task (:mod:`src.config.options`). Nothing is called, and
nothing is read but modules.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from src.config.options import ROOT, options_mismatch, options_of
from src.config.root import ObjectNode, ObjectNodes, RootOptions
from src.config.signatures import Signature, import_object, is_module, read_hints, signature_of
from src.config.suggestions import closest, end_with_suggestion
from src.config.type_check import UNKNOWN, join, type_mismatch
from src.errors import UserError

RESERVED = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")  # Hydra's own
ROOT_TYPES = read_hints(RootOptions)
COLLECTIONS = [name for name, kind in ROOT_TYPES.items() if kind is ObjectNodes]
OBJECT_GROUPS = [name for name, kind in ROOT_TYPES.items() if kind is ObjectNode or kind is ObjectNodes]
TASK_ARGUMENTS = ("config", "directory")  # arguments of every task


def validate(config: DictConfig, overrides: Iterable[str] = ()) -> None:
    """Check names, types, bounds and choices of all options.

    Args:
        config: the composed configuration.
        overrides: those of the command line; other options may be left from an object that they replace.

    Raises:
        UserError: an option is unknown, missing or does not fit; the message names the first offending option
            and suggests the closest valid name.
    """
    dangling: list[str] = []
    content, text = _read(config, "", dangling), OmegaConf.to_yaml(config)
    for group in COLLECTIONS:
        _check_collection(group, {name: node for name, node in (content.get(group) or {}).items() if node})
    values = {name: value for name, value in content.items() if name not in OBJECT_GROUPS}
    _check_nested_names(values, ROOT_TYPES, text)
    _check_values(values, RootOptions)
    _check_task(content, text)
    typed = {override.partition("=")[0].lstrip("+") for override in overrides}
    for group in OBJECT_GROUPS:
        _check_objects(group, content.get(group), typed)
    if dangling:
        raise UserError(dangling[0])


def _check_task(content: dict[str, Any], text: str) -> None:
    """Check the options at the root and in the nodes of the task."""
    target = (content.get("task") or {}).get("_target_", UNKNOWN)
    if target is UNKNOWN:
        return
    task = import_object(str(target), "task._target_")
    kinds = options_of(task) if callable(task) else {}
    nodes = {name: kind for name, kind in kinds.items() if name != ROOT}
    root = read_hints(kinds[ROOT]) if ROOT in kinds else {}
    _check_names("", content, [*ROOT_TYPES, *nodes, *root], text)
    _check_nested_names(content, nodes | root, text)
    for name, kind in kinds.items():
        if name == ROOT:
            _check_values(content, kind)
        elif isinstance(content.get(name), dict) and (mismatch := options_mismatch(name, content[name], kind)):
            raise UserError(mismatch)


def _check_nested_names(content: Mapping[str, Any], kinds: Mapping[str, Any], text: str) -> None:
    for name, kind in kinds.items():
        if is_dataclass(kind) and isinstance(content.get(name), dict):
            _check_names(name, content[name], list(read_hints(kind)), text)  # type: ignore[arg-type]


def _check_values(content: Mapping[str, Any], kind: type) -> None:
    if mismatch := options_mismatch("", content, kind):
        raise UserError(mismatch)


def _check_names(path: str, node: Mapping[str, Any], names: list[str], text: str) -> None:
    """Reject unknown options, unless something else in the configuration refers to them."""
    for name in node:
        if name not in names and f"${{{join(path, name)}" not in text:
            whole = f"The configuration has no option {name}, and nothing in it refers to one"
            message = f"{path} has no option {name}" if path else whole
            raise UserError(message + end_with_suggestion(name, names))


def _check_collection(group: str, nodes: dict[str, Any]) -> None:
    for name, node in nodes.items():
        if node is not UNKNOWN and not _is_object(node):
            end = end_with_suggestion(name, [other for other in nodes if other != name])
            raise UserError(f"{group}.{name} has no _target_, so nothing can be instantiated from it{end}")


def _check_objects(path: str, node: Any, typed: Collection[str]) -> None:
    """Check every object that is described from here on down."""
    if _is_object(node):
        _check_object(path, node, typed)
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        _check_objects(join(path, name), child, typed)


def _check_object(path: str, node: Mapping[str, Any], typed: Collection[str]) -> None:
    target = node["_target_"]
    if target is UNKNOWN:
        return
    signature = _signature_at(path, target)
    provided = _provided(path, node, signature)
    positional = list(signature.kinds)[: len(node.get("_args_") or ())]
    missing = [name for name in signature.required if name not in {*node, *provided, *positional}]
    if f"{path}._target_" in typed:
        _check_replacement(path, node, signature, missing, typed)
    for name, value in node.items():
        if name in RESERVED:
            continue
        if name in provided:
            raise UserError(f"{path}.{name} ({target}) is set automatically; remove it.")
        mistyped = closest(name, signature.kinds, 0.8) if signature.further else True
        if name.startswith("_") or (name not in signature.kinds and mistyped):
            names = RESERVED if name.startswith("_") else signature.kinds.keys() - provided
            raise UserError(f"{path} has no option {name} ({target}){end_with_suggestion(name, names)}")
        if mismatch := type_mismatch(f"{path}.{name}", _hide_objects(value), signature.kinds.get(name, Any)):
            raise UserError(mismatch)
    if target.startswith("hydra.utils.get_") and isinstance(node.get("path"), str):
        import_object(node["path"], f"{path}.path")
    if missing and node.get("_partial_") is not True:
        raise UserError(f"{path} lacks {', '.join(missing)} ({target}): add {path}.{missing[0]}=<value>.")


def _check_replacement(
    path: str, node: Mapping[str, Any], signature: Signature, missing: list[str], typed: Collection[str]
) -> None:
    """Reject options that are left from the object whose ``_target_`` was replaced, all in one message."""
    target = node["_target_"]
    inherited = [name for name in node if name not in RESERVED and f"{path}.{name}" not in typed]
    surplus = [] if signature.further else [name for name in inherited if name not in signature.kinds]
    is_partial = node.get("_partial_") is True
    if is_partial and f"{path}._partial_" not in typed and is_module(import_object(target)):
        surplus, is_partial = [*surplus, "_partial_"], False  # of a function; a Module is made, then called
    if not surplus:
        return
    drops = " ".join(shlex.quote(f"~{path}.{name}") for name in surplus)
    needs = " ".join(f"+{path}.{name}=<value>" for name in missing) if missing and not is_partial else ""
    raise UserError(
        f"{path} is now {target}, and {', '.join(surplus)} of the former object remain{'s' * (len(surplus) == 1)}: add "
        f"{drops} to drop {'it' if len(surplus) == 1 else 'them'}{', and ' * bool(needs)}{needs}."
    )


def _provided(path: str, node: Mapping[str, Any], signature: Signature) -> set[str]:
    """Return the arguments of an object that code provides."""
    names = {*signature.provided}
    if path == "task":
        names |= {*TASK_ARGUMENTS, *options_of(import_object(node["_target_"]))}
    if node.get("_partial_") is True and signature.first and not node.get("_args_"):
        names.add(signature.first)
    return names


def _signature_at(path: str, target: Any) -> Signature:
    """Return the signature of a node's target, if it can be called."""
    if not isinstance(target, str) or not callable(import_object(target, f"{path}._target_")):
        raise UserError(f"{path}._target_ is {target}, which cannot be called: name a class or a function.")
    return signature_of(target)


def _read(node: Any, path: str, dangling: list[str]) -> Any:
    """Return a node as plain dictionaries and lists.

    Values that cannot be resolved yet are UNKNOWN. A message about each that never can is added to ``dangling``.
    """
    if not isinstance(node, DictConfig | ListConfig):
        return node
    if node._is_none():
        return None
    keys = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    values: dict[Any, Any] = {}
    for key in keys:
        try:
            values[key] = UNKNOWN if OmegaConf.is_missing(node, key) else node[key]
        except InterpolationKeyError as error:
            reason = str(error).splitlines()[0]
            dangling.append(
                f"{join(path, key)} refers to an option that does not exist ({reason}): fix the ${{...}} reference, or "
                "add that option."
            )
            values[key] = UNKNOWN
        except (OmegaConfBaseException, UserError):  # the task reports it, if it needs the value
            values[key] = UNKNOWN
        values[key] = _read(values[key], join(path, key), dangling)
    return {str(key): value for key, value in values.items()} if isinstance(node, DictConfig) else [*values.values()]


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _hide_objects(value: Any) -> Any:
    """Return a value with UNKNOWN for each object that it describes: its type shows only when it is made."""
    if isinstance(value, dict):
        return UNKNOWN if _is_object(value) else {name: _hide_objects(part) for name, part in value.items()}
    return [_hide_objects(part) for part in value] if isinstance(value, list) else value
