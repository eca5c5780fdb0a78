"""The code behind a run: commit, difference, and imported files that no commit holds; on real repositories."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.config import code_record
from src.config.code_record import complete_record, read_commit, record_code
from src.config.run_directory import claim_directory


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Iterator[Path]:
    """A checkout with a tracked part of a network."""
    folder = tmp_path / "project"
    (folder / "src" / "nn").mkdir(parents=True)
    (folder / "src" / "run.py").write_text("print(1)\n")
    (folder / "src" / "nn" / "fuse.py").write_text("GAIN = 1\n")
    git(folder.parent, "init", "-q", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    monkeypatch.setattr(code_record, "CHECKOUT", folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def import_file(file: Path, text: str) -> str:
    """Write and import a module; return the hash of its file."""
    file.write_text(text)
    sys.path.append(str(file.parent))
    importlib.invalidate_caches()
    importlib.import_module(file.stem)
    return hashlib.sha256(text.encode()).hexdigest()


def list_own(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries of the tests' own files: the suite that runs is no part of these checkouts, either."""
    return {entry["module"]: entry for entry in record["untracked"] if entry["module"].startswith("own_")}


def test_a_clean_checkout_is_its_commit(project, tmp_path):
    record = record_code(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "code.json").read_text()) == record
    del record["untracked"]
    assert record == {"commit": git(project, "rev-parse", "HEAD"), "modified": [], "diff": None}


def test_the_copied_difference_restores_the_code(project, tmp_path):
    (project / "src" / "nn" / "fuse.py").write_text("GAIN = 2\n")
    (project / "notes.txt").write_text("not imported")
    record = record_code(tmp_path / "run")
    assert record["commit"] == read_commit() == git(project, "rev-parse", "HEAD") + "-dirty"
    assert (record["modified"], list_own(record)) == (["src/nn/fuse.py"], {})
    git(tmp_path, "clone", "-q", str(project), "again")
    git(tmp_path / "again", "apply", str(tmp_path / "run" / record["diff"]["copy"]))
    assert (tmp_path / "again" / "src" / "nn" / "fuse.py").read_text() == "GAIN = 2\n"


def test_imported_files_without_a_commit_are_hashed_and_copied(project, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    inside = import_file(project / "own_inside.py", "A = 1\n")
    outside = import_file(tmp_path / "elsewhere" / "own_outside.py", "B = 2\n")
    import_file(project / "own_tracked.py", "GAIN = 1\n")
    git(project, "add", "own_tracked.py")
    (project / "own_unused.py").write_text("C = 3\n")
    record = record_code(tmp_path / "run")
    found = list_own(record)
    assert {name: entry["sha256"] for name, entry in found.items()} == {"own_inside": inside, "own_outside": outside}
    assert found["own_outside"]["file"] == str(tmp_path / "elsewhere" / "own_outside.py")
    assert (tmp_path / "run" / found["own_inside"]["copy"]).read_text() == "A = 1\n"
    late = import_file(tmp_path / "elsewhere" / "own_late.py", "D = 4\n")
    completed = list_own(complete_record(tmp_path / "run"))
    assert {name: entry["sha256"] for name, entry in completed.items()} == {
        "own_inside": inside,
        "own_late": late,
        "own_outside": outside,
    }


def test_large_files_are_hashed_alone_and_libraries_left_out(project, tmp_path):
    (project / "lib" / "site-packages").mkdir(parents=True)
    import_file(project / "lib" / "site-packages" / "own_library.py", "E = 5\n")
    digest = import_file(project / "own_large.py", "#" * code_record.LARGEST_FILE + "\n")
    assert {
        name: (entry["sha256"], entry["copy"]) for name, entry in list_own(record_code(tmp_path / "run")).items()
    } == {"own_large": (digest, None)}


@pytest.mark.parametrize("around", [False, True])
def test_an_installation_is_its_version_and_the_hash_of_its_files(tmp_path, monkeypatch, around):
    """Even within a repository of something else, whose commit would mislead."""
    if around:
        (tmp_path / "thesis.txt").write_text("x")
        git(tmp_path, "init", "-q")
        git(tmp_path, "add", "thesis.txt")
        git(tmp_path, "commit", "-q", "-m", "thesis")
    installed = tmp_path / "env" / "site-packages"
    (installed / "src").mkdir(parents=True)
    (installed / "src" / "run.py").write_text("print(1)\n")
    monkeypatch.setattr(code_record, "CHECKOUT", installed)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine").mkdir()
    digest = import_file(tmp_path / "mine" / f"own_installed_{around}.py", "F = 6\n")
    first = record_code(tmp_path / "run")
    assert first["commit"] == "unknown"
    assert list_own(first)[f"own_installed_{around}"]["sha256"] == digest
    assert len(first["sources"]) == 64
    (installed / "src" / "run.py").write_text("print(2)\n")
    second = record_code(tmp_path / "other")
    assert second["sources"] != first["sources"]


def test_a_continued_run_keeps_the_record_of_its_beginning(project, tmp_path):
    run, config = tmp_path / "run", OmegaConf.create({"resume": True})
    first = git(project, "rev-parse", "HEAD")
    for _ in range(2):
        with claim_directory(config, run):
            pass
    assert "earlier" not in json.loads((run / "code.json").read_text())
    (project / "src" / "nn" / "fuse.py").write_text("GAIN = 3\n")
    with claim_directory(config, run):
        pass
    record = complete_record(run)
    assert [entry["commit"] for entry in (record, *record["earlier"])] == [f"{first}-dirty", first]
    assert (run / "commit.txt").read_text().strip() == f"{first}-dirty"
