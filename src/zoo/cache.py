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


def folder() -> Path:
    """Return the folder of the cache: ``ZEITLUPE_CACHE``, or the platform's."""
    named = os.environ.get("ZEITLUPE_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("zeitlupe")


def find_file(entry: Entry) -> Path | None:
    """Return the file of an entry, shipped or in the cache under any name; None if it is not here.

    A damaged file counts as none.
    """
    if entry.shipped.is_file():
        return entry.shipped
    named = folder() / entry.cached
    return next((path for path in _list_candidates(entry, named) if entry.matches(digest(path))), None)


def _list_candidates(entry: Entry, named: Path) -> list[Path]:
    """List the files that may be the one of an entry, the one with its name first."""
    fitting = [path for path in list_files() if entry.size in (None, path.stat().st_size)]
    return sorted(fitting, key=lambda path: path != named)


def list_files() -> list[Path]:
    """List the complete files in the cache."""
    try:
        paths = sorted(folder().iterdir())
    except OSError:  # no such folder, or no permission
        return []
    files = [path for path in paths if path.name[0] != "." and path.suffix not in UNFINISHED and path.is_file()]
    return [path for path in files if path.stat().st_size <= LARGEST]


def digest(path: Path, *, anew: bool = False) -> dict[str, Any]:
    """Return the ``sha256`` and ``git_blob`` of a file; one in the cache is hashed once, and again if it changes.

    Args:
        path: the file.
        anew: hash it in any case.
    """
    about = path.stat()
    stamp = {"size": about.st_size, "mtime_ns": about.st_mtime_ns}
    known = _recall().get(path.name, {}) if path.parent == folder() else {}
    if not anew and stamp.items() <= known.items() and {"sha256", "git_blob"} <= known.keys():
        return known
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % about.st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            sha256.update(block)
            blob.update(block)
    found = {**stamp, "sha256": sha256.hexdigest(), "git_blob": blob.hexdigest()}
    if path.parent == folder() and path.suffix not in UNFINISHED:
        remember(path.name, found)
    return found


def remember(name: str, found: dict[str, Any]) -> None:
    """Note the digests of a file in the cache; a cache that cannot be written does without."""
    with suppress(OSError), atomic_write(folder() / MEMORY) as stream:
        json.dump({**_recall(), name: found}, stream, indent=1)


def _recall() -> dict[str, dict[str, Any]]:
    try:
        known = json.loads((folder() / MEMORY).read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, dict)} if isinstance(known, dict) else {}
