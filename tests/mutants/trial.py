"""Try changes in a copy of the project: fork a process that has imported all libraries, and run tests in it.

python -m tests.mutants.trial <library>,<library>,...     in the copy; requests and replies as lines of JSON
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.mutants.changes import Change

LIBRARIES = "libraries.txt"  # these two in the copy
FAILED = Path("failed.txt")


class Copy:
    """A copy of the project's files, and the process that runs tests in it.

    Args:
        root: the project.
        folder: where to copy to.
        libraries: modules to import before anything is tried.
    """

    def __init__(self, root: Path, folder: Path, libraries: Sequence[str]) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes((root / name).read_bytes())
        shared = root.parent / "shared"
        if shared.is_dir() and not (folder.parent / "shared").exists():
            (folder.parent / "shared").symlink_to(shared.resolve())
        for command in (["init", "-q"], ["add", "-A"]):  # what tests read of the repository
            subprocess.run(["git", *command], cwd=folder, check=True)
        (folder / LIBRARIES).write_text("\n".join(libraries), encoding="utf-8")
        self.reliable: dict[str, bool] = {}
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.trial", LIBRARIES],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def attempt(self, change: Change, tests: Sequence[str], limit: float) -> tuple[str, float]:
        """Run tests on a changed file, and put the file back.

        A test that fails without the change, too, e.g. in a copy of the project, is left out.

        Args:
            change: the change.
            tests: names that pytest gives them.
            limit: seconds.

        Returns:
            "noticed" if a test fails, "time" if the limit is over, else "survived"; and the seconds that it took.
        """
        start, file, tests = time.monotonic(), self.folder / change.file, list(tests)
        before = file.read_bytes()
        while True:
            file.write_bytes(change.apply(before))
            try:
                verdict, failed = self._run(tests, limit)
            finally:
                file.write_bytes(before)
            if verdict != "noticed" or not failed:
                return verdict, time.monotonic() - start
            if failed not in self.reliable:
                self.reliable[failed] = self._run([failed], limit)[0] == "survived"
            if self.reliable[failed]:
                return verdict, time.monotonic() - start
            tests = [test for test in tests if self.reliable.get(test, True)]

    def _run(self, tests: Sequence[str], limit: float) -> tuple[str, str]:
        """Return the verdict, and the test that failed."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps({"tests": tests, "limit": limit}), file=self.server.stdin, flush=True)
        verdict, _, failed = self.server.stdout.readline().rstrip("\n").partition(" ")
        return verdict, failed

    def close(self) -> None:
        self.server.kill()
        self.server.wait()


def list_libraries() -> list[str]:
    """List the modules of other projects that this one and its tests import."""
    program = (
        "import importlib, pkgutil, sys\n"
        "for module in pkgutil.walk_packages(['src'], 'src.'):\n"
        "    try: importlib.import_module(module.name)\n"
        "    except ImportError: pass\n"
        "print(*(name for name in sys.modules if not name.startswith(('src', 'hydra_plugins', '__'))), sep=',')"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [*found.stdout.strip().splitlines()[-1].split(","), "pytest", "pytest_timeout", "hypothesis"]


def _serve(libraries: Sequence[str]) -> None:
    for name in libraries:
        with suppress(Exception):
            importlib.import_module(name)
    replies = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        FAILED.write_text("")
        pid = os.fork()
        if pid == 0:
            _run_tests(request["tests"])
        deadline, verdict = time.monotonic() + request["limit"], ""
        while not verdict:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                verdict = "survived" if os.waitstatus_to_exitcode(status) == 0 else "noticed"
            elif time.monotonic() > deadline:
                verdict = "time"
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what it has started, too
        if verdict == "time":
            os.waitpid(pid, 0)
        print(verdict, FAILED.read_text() if verdict == "noticed" else "", file=replies, flush=True)


def _run_tests(tests: Sequence[str]) -> None:
    os.setsid()
    for descriptor in (0, 1, 2):
        os.dup2(os.open("output.txt", os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
    code = 1
    try:
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"]
        code = int(pytest.main([*options, *tests], plugins=[_Failures()]))
    finally:
        os._exit(code)


class _Failures:
    """Write the name of the test that failed."""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            FAILED.write_text(report.nodeid)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines())
