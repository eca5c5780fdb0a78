"""Record the code behind a run: its commit, changes to tracked files, and imported Python files that no commit holds.

A run's directory holds ``code.json``, and in ``code/`` copies of the changes and of these files if they are small.
``results.json`` repeats the record. Copies bear the beginning of their hash, so that a resumed run keeps those of its
beginning.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from src.atomic import atomic_write

CHECKOUT = Path(__file__).resolve().parents[2]
RECORD, COPIES = "code.json", "code"
LARGEST_DIFF, LARGEST_FILE = 2**20, 2**18  # bytes of what is copied
LIBRARIES = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
PACKAGE_FOLDERS = {"site-packages", "dist-packages"}
GENERATED = ("torch", "_remote_module_non_scriptable")  # modules that torch writes into temporary files


def read_commit() -> str:
    """Return the commit of the code, marked as dirty if files differ from it; 'unknown' outside a checkout."""
    described = _git("describe", "--always", "--dirty", "--abbrev=40") if _is_checkout() else None
    return described.decode().strip() if described else "unknown"


def record_code(directory: Path) -> dict[str, Any]:
    """Write the record of the code that this process has imported into a run's directory.

    Records of earlier starts with other code are kept in ``earlier``.

    Returns:
        ``commit``; ``modified``, the tracked files that differ from it, and ``diff`` (``sha256``, ``copy``), the
        difference; ``untracked``, the imported Python files outside of the commit and of installed packages
        (``module``, ``file``, ``sha256``, ``copy``); ``version`` and ``sources``, a hash of all files of the suite,
        where it is no checkout. ``copy`` is None for large ones.
    """
    former = read_record(directory)
    record: dict[str, Any] = {"commit": read_commit()}
    if record["commit"] == "unknown":
        record |= {"version": _read_version(), "sources": _hash_sources()}
    names = _git("diff", "HEAD", "--name-only", "--relative", "-z") if record["commit"] != "unknown" else None
    record["modified"] = _split(names)
    record["diff"] = None
    if record["modified"]:
        diff = _git("diff", "HEAD", "--relative", "--no-ext-diff", "--no-textconv", "--no-color") or b""
        record["diff"] = _keep(directory, "changes", ".diff", diff, LARGEST_DIFF)
    record["untracked"] = _keep_untracked(directory, [])
    if former:
        earlier = [*former.pop("earlier", []), former]
        record |= {"earlier": kept} if (kept := [one for one in earlier if one != record]) else {}
    _write(directory, record)
    return record


def complete_record(directory: Path) -> dict[str, Any]:
    """Add Python files that were imported since :func:`record_code`, and return the record."""
    record = read_record(directory) or record_code(directory)
    known = record["untracked"]
    if late := _keep_untracked(directory, [one["file"] for one in known]):
        record["untracked"] = sorted([*known, *late], key=lambda one: one["module"])
        _write(directory, record)
    return record


def read_record(directory: Path) -> dict[str, Any] | None:
    """Read the record of a run; None if there is none, or half of one."""
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("untracked"), list) else None


def list_changed(directory: Path) -> list[str]:
    """List the Python files outside of the commit that a run has imported and that have another content now."""
    record = read_record(directory) or {"untracked": []}
    files = [(Path(one["file"]), one["sha256"]) for one in record["untracked"]]
    return [str(file) for file, digest in files if file.is_file() and _hash(file) != digest]


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _keep_untracked(directory: Path, known: list[str]) -> list[dict[str, Any]]:
    """Hash and copy the imported Python files that no commit and no installed package holds, without the known."""
    tracked = {CHECKOUT / name for name in _split(_git("ls-files", "-z"))} if _is_checkout() else {*_list_sources()}
    kept = []
    for module, file in _list_imported():
        if file in tracked or str(file) in known:
            continue
        try:
            content = file.read_bytes()
        except OSError:  # gone since its import
            continue
        entry = _keep(directory, module.rpartition(".")[2], file.suffix, content, LARGEST_FILE)
        kept.append({"module": module, "file": str(file), **entry})
    return kept


def _list_imported() -> Iterator[tuple[str, Path]]:
    """List the imported Python files by the names of their modules, without those of installed packages."""
    seen = set[Path]()
    for name, module in sorted(sys.modules.items()):
        source = getattr(module, "__file__", None)
        if not isinstance(source, str) or not source.endswith(".py") or name.split(".")[0] in GENERATED:
            continue
        file = Path(source).resolve()
        is_library = PACKAGE_FOLDERS & {*file.parts} or any(library in file.parents for library in LIBRARIES)
        if file not in seen and not is_library:
            seen.add(file)
            yield name, file


def _keep(directory: Path, name: str, suffix: str, content: bytes, largest: int) -> dict[str, Any]:
    """Return the hash of some content and the place of its copy."""
    digest = hashlib.sha256(content).hexdigest()
    if len(content) > largest:
        return {"sha256": digest, "copy": None}
    copy = Path(COPIES) / f"{name}-{digest[:8]}{suffix}"
    (directory / COPIES).mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / copy, "wb") as stream:
        stream.write(content)
    return {"sha256": digest, "copy": copy.as_posix()}


def _write(directory: Path, record: dict[str, Any]) -> None:
    with atomic_write(directory / RECORD) as stream:
        stream.write(json.dumps(record, indent=1) + "\n")


def _list_sources() -> list[Path]:
    """List the files of the suite, for an installation without a checkout."""
    places = (("src", "*.py"), ("hydra_plugins", "*.py"), ("conf", "*.yaml"))
    return sorted(file for folder, pattern in places for file in (CHECKOUT / folder).rglob(pattern))


def _hash_sources() -> str:
    digest = hashlib.sha256()
    for file in _list_sources():
        content = file.read_bytes()
        digest.update(f"{file.relative_to(CHECKOUT).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _read_version() -> str | None:
    try:
        return version("zeitlupe")
    except PackageNotFoundError:
        return None


def _is_checkout() -> bool:
    """Return True if Git holds this code; an installation may lie in a repository of something else."""
    return _git("ls-files", "--error-unmatch", "src/run.py") is not None


def _git(*arguments: str) -> bytes | None:
    """Return the output of Git in the checkout; None if it fails."""
    try:
        return subprocess.run(["git", "-C", str(CHECKOUT), *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _split(names: bytes | None) -> list[str]:
    return sorted(name.decode(errors="replace") for name in (names or b"").split(b"\0") if name)
