"""Check plain values against type annotations, including the bounds of ``annotated_types``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt

from src.config.suggestions import closest

LISTS, MAPPINGS = (list, tuple, Sequence, Iterable), (dict, Mapping)


class _Unknown:
    """A value that is not known yet: an object that a node describes, ``???``, or an interpolation that fails."""


UNKNOWN = _Unknown()


def type_mismatch(path: str, value: Any, kind: Any) -> str:
    """Describe the first mismatch between a plain value and a type annotation.

    A ``TypedDict`` may hold more keys than it names.

    Args:
        path: path of the value in its configuration or file; the message begins with it.
        value: value built of dictionaries, lists, strings, numbers, booleans and None; ``UNKNOWN`` matches every type.
        kind: the annotation.

    Returns:
        The message; empty if the value matches.
    """
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if value is UNKNOWN or kind in (Any, object) or isinstance(kind, TypeVar | str):
        return ""
    if origin is Annotated:
        return type_mismatch(path, value, arguments[0]) or _bound_violation(path, value, arguments[1:])
    if origin in (Union, UnionType):
        return _union_mismatch(path, value, kind)
    if is_typeddict(kind) and isinstance(value, Mapping):
        return _typed_dict_mismatch(path, value, kind)
    if origin in MAPPINGS and isinstance(value, Mapping):
        return _first(type_mismatch(join(path, key), part, arguments[1]) for key, part in value.items() if arguments)
    if origin in LISTS and isinstance(value, list | tuple):
        kinds = arguments if origin is tuple and ... not in arguments else (*arguments[:1],) * len(value)
        if not arguments or len(kinds) == len(value):
            parts = enumerate(zip(value, kinds, strict=bool(arguments)))
            return _first(type_mismatch(join(path, index), part, kind) for index, (part, kind) in parts)
    elif origin is Literal:
        if any(_equals(value, choice) for choice in arguments):
            return ""
    elif origin in (bool, int, float):
        numbers = {bool: bool, int: int, float: int | float}
        if isinstance(value, numbers[origin]) and isinstance(value, bool) == (origin is bool):
            return ""
    elif value is None:
        if origin is NoneType:
            return ""
    elif isinstance(value, str) and isinstance(origin, type) and issubclass(origin, str | PurePath):
        return ""
    return f"{path} is {_show(value)}, but must be {_describe(kind)}{_suggest(value, kind)}"


def normalise(value: Any, kind: Any) -> Any:
    """Return a matching value as its annotation spells it: a choice of a ``Literal`` (32 as "32"), lists as tuples."""
    kinds = [kind, *get_args(kind)]
    choices = [choice for part in kinds if get_origin(part) is Literal for choice in get_args(part)]
    if value is not None and choices:
        return next((choice for choice in choices if _equals(value, choice)), value)
    return tuple(value) if isinstance(value, list) else value


def join(path: str, name: Any) -> str:
    """Return the path of a child."""
    return f"{path}.{name}" if path else str(name)


def _equals(value: Any, choice: Any) -> bool:
    return str(value) == str(choice) and isinstance(value, bool) == isinstance(choice, bool)


def _first(messages: Iterable[str]) -> str:
    return next(filter(None, messages), "")


def _union_mismatch(path: str, value: Any, kind: Any) -> str:
    mismatches = {part: type_mismatch(path, value, part) for part in get_args(kind)}
    if "" in mismatches.values():
        return ""
    inside = [message for message in mismatches.values() if not message.startswith(f"{path} is ")]
    bounded = [part for part in mismatches if get_origin(part) is Annotated]
    outside = [mismatches[part] for part in bounded if not type_mismatch(path, value, get_args(part)[0])]
    whole = f"{path} is {_show(value)}, but must be {_describe(kind)}{_suggest(value, kind)}"
    return next(iter([*inside, *outside]), whole)


def _typed_dict_mismatch(path: str, value: Mapping[str, Any], kind: Any) -> str:
    kinds, required = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    missing = [key for key in kind.__required_keys__ - value.keys() if get_origin(required[key]) is not NotRequired]
    if missing:
        return f"{path} lacks {', '.join(sorted(missing))}."
    return _first(type_mismatch(join(path, key), value[key], kinds[key]) for key in value if key in kinds)


def _bound_violation(path: str, value: Any, metadata: Sequence[Any]) -> str:
    """Describe the bounds of an annotation, if a number lies outside of them."""
    bounds = [part for item in metadata for part in (item if isinstance(item, GroupedMetadata) else [item])]
    words, valid = list[str](), True
    for bound in bounds:
        if isinstance(bound, Ge):
            words, valid = [*words, f"at least {bound.ge}"], valid and value >= bound.ge
        elif isinstance(bound, Gt):
            words, valid = [*words, f"more than {bound.gt}"], valid and value > bound.gt
        elif isinstance(bound, Le):
            words, valid = [*words, f"at most {bound.le}"], valid and value <= bound.le
        elif isinstance(bound, Lt):
            words, valid = [*words, f"less than {bound.lt}"], valid and value < bound.lt
    phrase = re.sub("^at least (.*) and at most (.*)", r"from \1 to \2", " and ".join(words))
    return "" if valid else f"{path} is {_show(value)}, but must be {phrase}."


def _show(value: Any) -> str:
    """Return the beginning of a value as a configuration spells it."""
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _describe(kind: Any) -> str:
    """Return a noun phrase for the values of a type."""
    *others, last = dict.fromkeys(_alternatives(kind))
    return f"{', '.join(others)} or {last}" if others else last


def _alternatives(kind: Any) -> list[str]:
    """List noun phrases for the values of a type."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    if origin is Annotated:
        return _alternatives(arguments[0])
    if origin in (Union, UnionType):
        return [word for part in arguments for word in _alternatives(part)]
    if origin is Literal:
        return [*map(str, arguments)]
    if origin in words:
        return [words[origin]]
    if origin in LISTS:
        count = f" of {len(arguments)}" if origin is tuple and ... not in arguments else ""
        return [f"a list{count}" + (f", each {_describe(arguments[0])}" if arguments else "")]
    if origin in MAPPINGS or is_typeddict(kind):
        return ["values by name"]
    path = isinstance(origin, type) and issubclass(origin, PurePath)
    return ["a path" if path else "an object with a _target_"]


def _suggest(value: Any, kind: Any) -> str:
    """Return the end of a message about a value of the wrong type: the nearest right one."""
    if isinstance(value, float) and value.is_integer():
        return f": write {int(value)}."
    literals = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    choices = [str(choice) for part in literals for choice in get_args(part)]
    match = closest(value, choices) if isinstance(value, str) else None
    return f": did you mean {match}?" if match else "."
