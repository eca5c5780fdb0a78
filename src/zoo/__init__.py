"""Weights by name: shipped with the suite, or fetched once into a cache."""

from __future__ import annotations

from pathlib import Path

from src.zoo import cache, download
from src.zoo.catalogue import find, read_catalogue


def locate(checkpoint: str | Path) -> Path:
    """Return the file of a checkpoint: an existing path as it is, or the file of a name, fetched if necessary.

    Raises:
        CheckpointError: there is neither such a file nor such a name, or the file cannot be fetched.
    """
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return path
    entry = find(str(checkpoint))
    return cache.find_file(entry) or download.fetch(entry)


def is_name(checkpoint: object) -> bool:
    """Return True for a name of the catalogue that is no existing file as well."""
    return isinstance(checkpoint, str) and checkpoint in read_catalogue() and not Path(checkpoint).is_file()
