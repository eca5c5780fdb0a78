"""Run the command line in processes of its own, and record the outcome of faults.

The processes are forked from this one, which has imported everything, so that each starts within a second.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from src.run import main as command_line
from tests.tasks.test_tasks import ROOT

EXIT_CODES = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 138}


@dataclass
class Row:
    """Results for one kind of fault.

    Attributes:
        fault: the fault.
        injected: faults injected.
        survived: faults after which the same command completed the run.
        runs: runs completed.
        identical: runs with the same result as an undisturbed one.
        repeated: training steps done a second time, for each fault.
        complaints: unexpected output or exit codes.
        note: a remark for the table.
    """

    fault: str
    injected: int = 0
    survived: int = 0
    runs: int = 0
    identical: int = 0
    repeated: list[int] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def is_passed(self) -> bool:
        return self.injected == self.survived and self.runs == self.identical and not self.complaints


class Command:
    """A command line of the suite in a process of its own.

    Args:
        arguments: of ``python -m src.run``.
        log: file to append its output to.
        new_interpreter: start a new interpreter instead of forking, for runs on several ranks: Lightning starts the
            other ranks with the command line of the first.
    """

    def __init__(self, arguments: list[str], log: Path, new_interpreter: bool = False) -> None:
        self.log, self.code = log, None
        self.log_start = log.stat().st_size if log.exists() else 0
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(arguments, new_interpreter)

    def _run(self, arguments: list[str], new_interpreter: bool) -> None:
        os.setsid()
        out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if new_interpreter:
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, "-m", "src.run", *arguments])
        sys.argv = ["src.run", *arguments]
        code = 0
        try:
            command_line()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)

    def poll(self) -> int | None:
        """Return the exit code; None while the process is running."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float = 300) -> int:
        """Wait for the process to end and return its exit code."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"the command hangs: {self.read_output()[-2000:]}")
            time.sleep(0.02)
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process only, not to its workers and ranks."""
        os.kill(self.pid, number)

    def read_output(self) -> str:
        """Return the output of this process."""
        with self.log.open("rb") as stream:
            stream.seek(self.log_start)
            return stream.read().decode(errors="replace")


def wait_until(command: Command, condition: Callable[[], bool], seconds: float = 120) -> bool:
    """Wait until ``condition`` holds; return False if the process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        if command.poll() is not None:
            return False
        if time.monotonic() > deadline:
            raise TimeoutError(f"the command makes no progress: {command.read_output()[-2000:]}")
        time.sleep(0.01)
    return command.poll() is None


def is_alive(pid: int) -> bool:
    """Check that a process exists and is not a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def list_descendants(pid: int) -> dict[int, str]:
    """Return the command lines of a process's children and their children, by process id."""
    parents, lines = {}, {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                stat = Path(entry.path, "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
                lines[int(entry.name)] = Path(entry.path, "cmdline").read_text().replace("\0", " ")
    found: dict[int, str] = {}
    while more := {p: lines[p] for p, parent in parents.items() if p not in found and parent in {pid, *found}}:
        found |= more
    return found


def list_survivors(processes: dict[int, str], seconds: float = 20) -> list[str]:
    """Return the command lines of the processes that are still alive after some seconds."""
    deadline = time.monotonic() + seconds
    while left := [line for pid, line in processes.items() if is_alive(pid)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []


def repeat_with_signals(
    row: Row, name: str, count: int, start: Callable[[], Command], wait_for_moment: Callable[[Command], bool]
) -> Iterator[None]:
    """Repeat a command until it completes, sending a signal each time, at most ``count`` in ``row``.

    Yields after each signal. The signals count as survived once the command completes.

    Args:
        row: the results.
        name: of the signal.
        count: signals in this row.
        start: starts the command.
        wait_for_moment: waits for the moment of the signal; returns False to let the command complete.
    """
    number, faults = getattr(signal, name), 0
    while True:
        command = start()
        if row.injected < count and wait_for_moment(command):
            children = list_descendants(command.pid)
            command.kill(number)
            row.injected, faults = row.injected + 1, faults + 1
            code = command.wait()
            if code not in (EXIT_CODES[name], -number, 0):  # 0: the command was about to end
                row.complaints.append(f"exit code {code}: {command.read_output()[-1500:]}")
            elif code > 0 and "Traceback" in command.read_output().partition("Interrupted.")[0]:
                row.complaints.append(command.read_output()[-1500:])
            if survivors := list_survivors(children):
                row.complaints.append(f"processes left behind: {survivors}")
            yield
        elif command.wait() != 0:
            row.complaints.append(command.read_output()[-1500:])
            return
        if command.code == 0:
            row.survived += faults
            return


@contextlib.contextmanager
def mount_small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """Mount a file system of ``size`` bytes; None without permission to mount."""
    folder.mkdir(parents=True)
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill_disk(folder: Path) -> Path:
    """Write a file until the disk is full."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    return path
