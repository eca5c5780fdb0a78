"""The mutation tester notices what tests notice, and leaves the project as it was."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.mutants.__main__ import LEAST, Result, draw, list_all, read_equivalents, summarize
from tests.mutants.changes import Change, list_changes
from tests.mutants.selection import Coverage
from tests.mutants.trial import Copy

SOURCE = b'''"""Adds 1 < 2."""


def enlarge(size: int = 3, even: bool = False) -> int:
    if size < 4 and not even:
        raise ValueError(f"{size + 1} is too small")
    return size * 2
'''


def test_changes_are_made_of_code_alone():
    assert {(c.kind, c.old, c.new, c.lines[0]) for c in list_changes("a.py", SOURCE)} == {
        ("number", "3", "4", 4),
        ("truth", "False", "True", 4),
        ("condition", "size < 4 and not even", "not (size < 4 and not even)", 5),
        ("boolean", "size < 4 and not even", "size < 4 or not even", 5),
        ("operator", "size * 2", "size + 2", 7),
        ("comparison", "size < 4", "size <= 4", 5),
        ("sign", "not even", "even", 5),
        ("number", "2", "3", 7),
        ("number", "4", "5", 5),
    }
    assert b"return (size + 2)\n" in next(c for c in list_changes("a.py", SOURCE) if c.kind == "operator").apply(SOURCE)


def test_a_sample_has_some_of_each_folder_and_is_repeatable():
    changes = [Change(f"src/{f}/a.py", (i, i), 0, 0, "number", "1", "2", "") for f in "abc" for i in range(100)]
    drawn = draw(changes, 60, seed=1)
    assert drawn == draw(changes, 60, seed=1) != draw(changes, 60, seed=2)
    assert len(set(drawn)) == 60
    assert min(sum(change.folder == f"src/{name}" for change in drawn) for name in "abc") >= LEAST
    assert len(draw(changes, 1000, seed=1)) == 300


def test_the_quickest_tests_of_the_changed_lines_are_chosen():
    coverage = Coverage(
        {"src/a.py": {1: [], 5: ["slow", "quick"], 6: ["middle"]}}, {"slow": 9, "quick": 1, "middle": 2}
    )
    change = Change("src/a.py", (5, 6), 0, 0, "number", "1", "2", "")
    assert coverage.select(change, budget=100) == ["quick", "middle", "slow"]
    assert coverage.select(change, budget=4) == ["quick", "middle"]
    at_import = Change("src/a.py", (1, 1), 0, 0, "number", "1", "2", "")
    assert coverage.select(at_import, budget=100) == ["quick", "middle", "slow"]
    assert coverage.select(Change("src/b.py", (1, 1), 0, 0, "number", "1", "2", ""), 100) == []


def test_known_equivalents_exist_and_are_left_out():
    for entry in read_equivalents():
        everything = {(c.file, c.statement, c.old, c.new) for c in list_all([entry["file"]], None)}
        assert entry["reason"]
        path = Path(__file__).parents[1] / entry["file"]
        changes = {(c.file, c.statement, c.old, c.new) for c in list_changes(entry["file"], path.read_bytes())}
        key = (entry["file"], entry["line"], entry["old"], entry["new"])
        assert key in changes, f"{key} is no change of the code as it is"
        assert key not in everything


@pytest.mark.long
def test_a_copy_tells_what_tests_notice(tmp_path):
    project = tmp_path / "project"
    for name, text in {
        "src/a.py": "def double(x):\n    return x * 2\n",
        "tests/test_a.py": (
            "import os\nfrom src.a import double\n"
            "def test_weak(): assert double(2) == 4\n"
            "def test_strong(): assert double(3) == 6\n"
            "def test_broken(): assert os.path.isdir('/nowhere')\n"
            "def test_endless():\n    while double(3) != 6: pass\n"
        ),
        "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['.']\n",
    }.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    for module in ("__init__", "trial", "changes"):
        (project / f"tests/mutants/{module}.py").parent.mkdir(exist_ok=True)
        source = Path(__file__).parent / f"mutants/{module}.py"
        (project / f"tests/mutants/{module}.py").write_bytes(source.read_bytes())
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (change,) = (c for c in list_changes("src/a.py", b"def double(x):\n    return x * 2\n") if c.kind == "operator")
    copy = Copy(project, tmp_path / "copies" / "one", ["pytest"])
    try:
        for names, verdict in (
            (["weak"], "survived"),
            (["weak", "strong"], "noticed"),
            (["broken", "weak"], "survived"),
            (["broken", "strong"], "noticed"),
            (["endless"], "time"),
        ):
            tests = [f"tests/test_a.py::test_{name}" for name in names]
            assert copy.attempt(change, tests, limit=3 if verdict == "time" else 60)[0] == verdict, names
            assert (copy.folder / "src/a.py").read_text() == "def double(x):\n    return x * 2\n"
    finally:
        copy.close()


def test_shares_are_told_by_folder():
    def result(folder: str, verdict: str) -> Result:
        return Result(Change(f"src/{folder}/a.py", (1, 1), 0, 0, "number", "1", "2", ""), verdict, 1.0, ["test"])

    text = summarize([result("a", "noticed"), result("a", "survived"), result("b", "time"), result("b", "untested")])
    assert [line.split() for line in text.splitlines()] == [
        ["src/a", "1", "of", "2", "50%"],
        ["src/b", "1", "of", "2", "50%"],
        ["2", "of", "4", "noticed", "(50.0%)"],
    ]
