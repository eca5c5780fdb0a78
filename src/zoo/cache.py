"""The cache of fetched weights. A file is known by its hash, so one that was put there by hand may have any name."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs

from src.atomic import atomic_write
from src.zoo.catalogue import Entry

MEMORY = ".digests.json"  # of files hashed before, with the size and time that they had
UNFINISHED = (".part", ".crdownload", ".download", ".tmp")  # suffixes of downloads that still run
LARGEST = 2**31  # bytes; larger files are not looked at

_hashed: dict[tuple[str, int, int], dict[str, Any]] = {}  # by path, size and time: a cache may be read-only


def folder() -> Path:
    """Return the folder of the cache: ``ZEITLUPE_CACHE``, or the platform's."""
    named = os.environ.get("ZEITLUPE_CACHE")
    return Path(os.path.expanduser(named)) if named else platformdirs.user_cache_path("zeitlupe")


def find_file(entry: Entry) -> Path | None:
    """Return the file of an entry, shipped or in the cache under any name; None if it is not here.

    A damaged file counts as none.
    """
    if entry.shipped.is_file():
        return entry.shipped
    named = folder() / entry.cached
    candidates = sorted(list_files(), key=lambda path: path != named)
    return next((path for path in candidates if _is_file_of(entry, path)), None)


def _is_file_of(entry: Entry, path: Path) -> bool:
    try:
        return entry.size in (None, path.stat().st_size) and entry.matches(digest(path))
    except OSError:  # it cannot be read, or has just been removed
        return False


def list_files() -> list[Path]:
    """List the complete files in the cache."""
    try:
        paths = sorted(folder().iterdir())
    except OSError:  # no such folder, or no permission
        return []
    return [path for path in paths if path.name[0] != "." and path.suffix not in UNFINISHED and _is_usable(path)]


def _is_usable(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size <= LARGEST
    except OSError:  # no permission, or it has just been removed
        return False


def digest(path: Path, *, anew: bool = False) -> dict[str, Any]:
    """Return the ``sha256`` and ``git_blob`` of a file; one in the cache is hashed once, and again if it changes.

    Args:
        path: the file.
        anew: hash it in any case.

    Raises:
        OSError: it cannot be read.
    """
    about = path.stat()
    stamp = {"size": about.st_size, "mtime_ns": about.st_mtime_ns}
    known = _recall().get(path.name, {}) if path.parent == folder() else {}
    if not anew and stamp.items() <= known.items() and {"sha256", "git_blob"} <= known.keys():
        return known
    if not anew and (known := _hashed.get((str(path), about.st_size, about.st_mtime_ns), {})):
        return known
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % about.st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            sha256.update(block)
            blob.update(block)
    found = {**stamp, "sha256": sha256.hexdigest(), "git_blob": blob.hexdigest()}
    if path.suffix not in UNFINISHED:
        remember(path, found)
    return found


def remember(path: Path, found: dict[str, Any]) -> None:
    """Note the result of :func:`digest` for a file: in this process, and in the cache if it lies there."""
    _hashed[str(path), found["size"], found["mtime_ns"]] = found
    if path.parent == folder():
        with suppress(OSError), atomic_write(folder() / MEMORY) as stream:  # without permission: in this process alone
            json.dump({**_recall(), path.name: found}, stream, indent=1)


def _recall() -> dict[str, dict[str, Any]]:
    try:
        known = json.loads((folder() / MEMORY).read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, dict)} if isinstance(known, dict) else {}
