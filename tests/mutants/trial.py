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

from tests.mutants.changes import Change


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
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.trial", ",".join(libraries)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def attempt(self, change: Change | None, tests: Sequence[str], limit: float) -> tuple[str, float]:
        """Run tests on a changed file, and put the file back.

        Args:
            change: None: nothing is changed.
            tests: names that pytest gives them.
            limit: seconds.

        Returns:
            "noticed" if a test fails, "time" if the limit is over, else "survived"; and the seconds that it took.
        """
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        start = time.monotonic()
        file = self.folder / (change.file if change else "pyproject.toml")
        before = file.read_bytes()
        if change:
            file.write_bytes(change.apply(before))
        try:
            print(json.dumps({"tests": list(tests), "limit": limit}), file=self.server.stdin, flush=True)
            verdict = self.server.stdout.readline().strip()
        finally:
            file.write_bytes(before)
        return verdict or "noticed", time.monotonic() - start

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
        print(verdict, file=replies, flush=True)


def _run_tests(tests: Sequence[str]) -> None:
    os.setsid()
    for descriptor in (0, 1, 2):
        os.dup2(os.open("output.txt", os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
    code = 1
    try:
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"]
        code = int(pytest.main([*options, *tests]))
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1].split(","))
