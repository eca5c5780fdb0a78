"""Options of tasks: frozen dataclasses that a task function takes as keyword arguments.

The argument ``options`` holds options at the root of the configuration. An argument of another name, such as
``bench: BenchOptions``, holds those of the node with this name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from src.config.signatures import import_object, read_hints
from src.config.suggestions import end_with_suggestion
from src.config.type_check import join, normalise, type_mismatch
from src.errors import UserError

ROOT = "options"  # the argument whose options stand at the root
Options = TypeVar("Options")


def run_task(config: DictConfig, directory: Path) -> Any:
    """Call the task of a configuration with its options.

    Args:
        config: the composed configuration.
        directory: directory of the run.

    Returns:
        The result of the task.

    Raises:
        UserError: the task cannot be run with this configuration.
    """
    task = import_object(config.task._target_, "task._target_")
    kinds = options_of(task)
    return task(config, directory, **{name: build_options(kind, _node(config, name)) for name, kind in kinds.items()})


def options_of(task: Callable[..., Any]) -> dict[str, type]:
    """Return the dataclasses of a task's options by the names of the arguments."""
    parameters, hints = inspect.signature(task).parameters.values(), read_hints(task)
    kinds = {one.name: hints.get(one.name) for one in parameters if one.kind is one.KEYWORD_ONLY}
    return {name: cast(type, kind) for name, kind in kinds.items() if is_dataclass(kind)}


def build_options(kind: type[Options], values: Mapping[Any, Any]) -> Options:
    """Return a dataclass with the values that a node holds for its fields.

    Raises:
        MissingMandatoryValue: a value is ``???``.
    """
    hints, held = read_hints(kind), dict[str, Any]()
    keys = set(values.keys())  # "in" would leave out ???, and its message
    for name in [field.name for field in fields(cast(Any, kind)) if field.name in keys]:
        value = values[name]
        if is_dataclass(hints[name]):
            held[name] = build_options(cast(type, hints[name]), value)
        else:
            plain = OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig | ListConfig) else value
            held[name] = normalise(plain, hints[name])
    return kind(**held)


def override_options(options: Options, overrides: Sequence[str], path: str) -> Options:
    """Return options with some values changed.

    Args:
        options: the original.
        overrides: such as ``crop=64``.
        path: path of the options in the configuration, for the error message.

    Raises:
        UserError: there is no such option, or the value does not fit.
    """
    changes = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides))))
    kind = type(options)
    names = [field.name for field in fields(cast(Any, kind))]
    for name in changes:
        if name not in names:
            raise UserError(f"{path} has no option {name}{end_with_suggestion(name, names)}")
    if mismatch := options_mismatch(path, changes, kind):
        raise UserError(mismatch)
    return build_options(kind, {**vars(options), **changes})


def options_mismatch(path: str, values: Mapping[str, Any], kind: type) -> str:
    """Describe the first value that does not match its field of a dataclass; empty if all match."""
    for name, hint in read_hints(kind).items():
        if name not in values:
            continue
        value = values[name]
        if is_dataclass(hint) and isinstance(value, Mapping):
            mismatch = options_mismatch(join(path, name), value, cast(type, hint))
        else:
            mismatch = type_mismatch(join(path, name), value, hint)
        if mismatch:
            return mismatch
    return ""


def _node(config: DictConfig, name: str) -> DictConfig:
    return config if name == ROOT else config[name]
