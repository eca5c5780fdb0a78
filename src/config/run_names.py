"""Names of run folders: short and readable, equal for equal overrides, different for different ones."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from src.config.overrides import PATH_OPTIONS, TEXT_OPTIONS, by_place, split_paths
from src.config.run_directory import IMPLIED, UNNAMED
from src.zoo import is_name

LONGEST = 80  # characters of a name that holds every override in full
SHORTENED = 64  # characters of the overrides in a longer one; a hash follows
VALUE, LABEL = 20, 32  # characters of a value and of a run's name in it
UNSAFE = re.compile(r"[^\w.,=+\-\[\]]")  # in a folder's name


def name_overrides(overrides: Sequence[str]) -> str:
    """Return the name of a folder for overrides; empty if all of them are ``UNNAMED`` or ``IMPLIED``.

    A long name keeps the last part of each option, own parts and choices of groups first, as many as there is room for,
    then the number of the others and a hash of all: ``fuse=conv,size=mini,batch_size=4,+7-1f09c2ab``.
    """
    pairs = _list_pairs(overrides)
    name = _join(pairs)
    faithful = all(key in PATH_OPTIONS or not UNSAFE.search(value) for key, value in pairs)
    if faithful and len(name) <= LONGEST:
        return UNSAFE.sub("_", name)
    shown, parts = "", [_abbreviate(*pair) for pair in sorted(pairs, key=_rank)]
    left = len(parts)
    for part in parts:
        longer = f"{shown},{part}" if shown else part
        if len(longer) <= SHORTENED:
            shown, left = longer, left - 1
    digest = hashlib.sha1("\n".join(f"{key}={_resolve(key, value)}" for key, value in pairs).encode()).hexdigest()
    return UNSAFE.sub("_", f"{shown}{f',+{left}' if left else ''}-{digest[:8]}")


def former_name(overrides: Sequence[str]) -> str:
    """Return the name that :func:`name_overrides` gave earlier, to find the runs that have it."""
    name = UNSAFE.sub("_", _join(_list_pairs(overrides), labelled=False))
    return name if len(name) <= 180 else name[:160] + "-" + hashlib.sha1(name.encode()).hexdigest()[:12]


def label_path(text: str, *, labelled: bool = True, with_step: bool = True) -> str:
    """Return a short name of a path: its last part and a hash of the whole; names of weights stay as they are.

    The hash of Python code depends on its content, too: a run of edited code is another run.

    Args:
        text: the path, as typed.
        labelled: whether a checkpoint in a run's folder is named after that run.
        with_step: whether its training step is added. Later, the file may hold another.
    """
    if is_name(text):
        return text
    path = Path(os.path.expanduser(text)).resolve()
    content = _read_code(path) if labelled and path.suffix in ("", ".py") else b""
    label = (_label_checkpoint(path, with_step=with_step) if labelled else "") or path.name
    return f"{label}-{hashlib.sha1(str(path).encode() + content).hexdigest()[:6]}"


def _read_code(path: Path) -> bytes:
    """Return the content of a Python file, or of those in a package; empty for anything else."""
    package = path if (path / "__init__.py").is_file() else None
    files = sorted(package.rglob("*.py")) if package else [path] if path.suffix == ".py" and path.is_file() else []
    return b"\0".join(file.read_bytes() for file in files)


def _list_pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Return the options and values that a name consists of, sorted."""
    overrides = [by_place(override).lstrip("+~") for override in overrides]
    named = [override for override in overrides if not override.startswith(UNNAMED) and override not in IMPLIED]
    return sorted((key, value) for key, _, value in (override.partition("=") for override in named))


def _join(pairs: Sequence[tuple[str, str]], *, labelled: bool = True) -> str:
    return ",".join(f"{key}={_shorten(key, value, labelled=labelled)}" for key, value in pairs)


def _shorten(key: str, value: str, *, labelled: bool = True) -> str:
    """Shorten each path of a value (see :func:`label_path`); return other values as they are."""
    if key in TEXT_OPTIONS:
        return value.strip("'")
    if key not in PATH_OPTIONS or not value:
        return value
    return "+".join(label_path(path.strip("'\""), labelled=labelled) for path in split_paths(value))


def _abbreviate(key: str, value: str) -> str:
    """Return an override by the last part of its option, with a value of limited length, its end for paths.

    A class stands for its part: ``fuse=MeanFuse``.
    """
    if key.endswith("._target_"):
        return f"{key.split('.')[-2]}={value.rpartition('.')[2][: 2 * VALUE]}"
    value = _shorten(key, value)
    if key in PATH_OPTIONS:
        value = value if len(value) <= 2 * VALUE else value[-2 * VALUE :]
    return f"{re.split(r'[./]', key)[-1]}={value[: 2 * VALUE if key in PATH_OPTIONS else VALUE]}"


def _rank(pair: tuple[str, str]) -> tuple[bool, bool, str, str]:
    """Sort the user's own parts first, then choices of groups, then options."""
    key, value = pair
    return not key.endswith("._target_"), "." in key or key == "code", key, value


def _resolve(key: str, value: str) -> str:
    """Return a value with its paths in full, and with the step of a checkpoint."""
    if key not in PATH_OPTIONS or not value:
        return value
    paths = [path.strip("'\"") for path in split_paths(value)]
    return "\n".join(f"{label_path(path)} {Path(os.path.expanduser(path)).resolve()}" for path in paths)


def _label_checkpoint(path: Path, *, with_step: bool) -> str:
    """Return run, seed and step of a checkpoint in a run's folder; empty for other files."""
    run = path.parent.parent
    if path.parent.name != "checkpoints" or not (run / "config.yaml").is_file() or not path.is_file():
        return ""
    name = run.name
    if name.startswith("seed="):
        words = [run.parent.parent.name, run.parent.name] if "=" in run.parent.name else [run.parent.name]
        name = "+".join(words).replace(",", "+")[:LABEL].rstrip("+-=") + f"+{run.name}"
    file = path.stat()
    step = _read_step(path, file.st_mtime_ns, file.st_size) if with_step else None
    kind = "" if path.stem == "last" and (step is not None or not with_step) else f"+{path.stem}"
    return name + kind + (f"+step{step}" if step is not None else "")


@cache
def _read_step(path: Path, changed: int, size: int) -> int | None:
    """Return the training step of a checkpoint; None for one that has none. Read once for each state of the file."""
    from src.checkpoints import read_step  # imports torch

    return read_step(path)
