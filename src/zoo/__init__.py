"""Weights by name: shipped with the suite, or fetched once into a cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from src.errors import CheckpointError
from src.zoo import cache
from src.zoo.catalogue import find, read_catalogue

_fetching = ContextVar("_fetching", default=True)


def locate(checkpoint: str | Path, *, kind: str | None = None) -> Path:
    """Return the file of a checkpoint: an existing path as it is, or the file of a name, fetched if necessary.

    Args:
        checkpoint: a path or a name.
        kind: required kind of the entry; None: any.

    Raises:
        CheckpointError: there is neither such a file nor such a name, it is of another kind, or the file cannot be
            fetched.
    """
    path = Path(os.path.expanduser(checkpoint))
    if path.is_file():
        return path
    entry = find(str(checkpoint))
    if kind and entry.kind != kind:
        raise CheckpointError(f"{entry.name} is a {entry.kind} ({entry.network}), not a {kind}: choose another name.")
    if here := cache.find_file(entry):
        return here
    if not _fetching.get():
        raise CheckpointError(f"The weights {entry.name} are not here: task=weights fetch={entry.name} fetches them.")
    from src.zoo import download  # imported late, because it is slow

    return download.fetch(entry)


@contextmanager
def without_fetching() -> Iterator[None]:
    """Let :func:`locate` find files that are here, and fetch none."""
    token = _fetching.set(False)
    try:
        yield
    finally:
        _fetching.reset(token)


def is_name(checkpoint: object) -> bool:
    """Return True for a name of the catalogue that is no existing file as well."""
    return isinstance(checkpoint, str) and checkpoint in read_catalogue() and not Path(checkpoint).is_file()
