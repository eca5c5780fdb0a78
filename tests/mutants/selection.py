"""Which tests run which lines, measured once for a state of the code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from coverage import CoverageData

from tests.mutants.changes import Change
from tests.mutants.recording import FILE

FAST = "not slow and not accelerator and not long"


@dataclass(frozen=True)
class Coverage:
    """Tests by the lines that they run, and their durations.

    Attributes:
        lines: for each file, the tests of each line.
        seconds: duration of each test.
    """

    lines: Mapping[str, Mapping[int, Sequence[str]]]
    seconds: Mapping[str, float]

    @cached_property
    def _files(self) -> dict[str, set[str]]:
        return {file: {test for tests in lines.values() for test in tests} for file, lines in self.lines.items()}

    def select(self, change: Change, budget: float) -> list[str]:
        """Return the tests that run the change, the quickest first, as many as the budget in seconds suffices for.

        A line that runs only at import, e.g. a constant, concerns the tests that run anything of its file.
        """
        lines = self.lines.get(change.file, {})
        first, last = change.lines
        tests = {test for line in range(first, last + 1) for test in lines.get(line, ())}
        chosen, total = [], 0.0
        for test in sorted(tests or self._files.get(change.file, ()), key=lambda test: self.seconds.get(test, 0)):
            total += self.seconds.get(test, 0)
            if chosen and total > budget:
                break
            chosen.append(test)
        return chosen


def measure(root: Path, folder: Path) -> Coverage:
    """Run the fast tests once, or read what an earlier call measured in the same folder.

    Args:
        root: the project.
        folder: for the measurements.

    Raises:
        SystemExit: a test fails before anything is changed.
    """
    data, durations = folder / "coverage", folder / "durations.json"
    if not durations.exists():
        folder.mkdir(parents=True, exist_ok=True)
        variables = {FILE: str(folder / "running.json"), "COVERAGE_FILE": str(data), "OMP_NUM_THREADS": "1"}
        options = ["--cov=src", "--cov-context=test", "--cov-report=", "-p", "tests.mutants.recording"]
        command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "-m", FAST, *options]
        if subprocess.run(command, cwd=root, env={**os.environ, **variables}).returncode:
            sys.exit("The tests fail before anything is changed.")
        (folder / "running.json").rename(durations)
    return Coverage(_read_lines(data, root), json.loads(durations.read_text()))


def _read_lines(data: Path, root: Path) -> dict[str, dict[int, list[str]]]:
    coverage = CoverageData(str(data))
    coverage.read()
    lines: dict[str, dict[int, list[str]]] = {}
    for file in coverage.measured_files():
        tests = lines[str(Path(file).relative_to(root))] = defaultdict(list)
        for line, contexts in coverage.contexts_by_lineno(file).items():
            tests[line] = sorted({context.rpartition("|")[0] for context in contexts} - {""})
    return lines
