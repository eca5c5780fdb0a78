"""Does to trainings and restorations what happens to them in life, and looks at what comes out: make torture.

Every fault is a real one, at a random moment: a signal to the process, a full disk, a file cut off. The same command is
then given again, and again, until it has finished; what there is at the end must be what an undisturbed run gives, to
the last bit: weights, their average, the optimiser, all counters, the rows of metrics.csv, scores, files.

Commands run in processes that are forked from this one, which has imported everything, so that a start takes a second.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from lightning import Callback

from src.atomic import atomic_write
from src.run import main as command_line
from tests.tasks.test_restore import film, finished
from tests.tasks.test_tasks import ROOT, TINY
from tests.training.test_checkpointing import elsewhere, figures, same

STEPS = 40
TRAINING = [
    *(option for option in TINY if not option.startswith(("trainer.val", "callbacks.last", "trainer.devices"))),
    "model=edvr_m",
    f"trainer.max_steps={STEPS}",
    "trainer.val_check_interval=15",
    "callbacks.last.every_n_train_steps=4",
    "trainer.log_every_n_steps=5",
    "callbacks.samples=null",
    "data.validate_frames=2",
    "data.test_frames=2",
    "data.timeout=8",
    "data.workers=1",
    "+callbacks.seen={_target_: tests.torture.Seen}",
]
RESTORING = ["task=restore", "codec=ffv1", "segment=5", "model=blend", "model.network.scale=4"]
END = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 138}


class Seen(Callback):
    """Tells in a file how many steps are done; one rank does."""

    def on_train_batch_end(self, trainer, *rest):
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "seen").write_text(str(trainer.global_step))


@dataclass
class Row:
    """What was done to runs, how often, how often the same command went on, and what that cost."""

    fault: str
    injected: int = 0
    survived: int = 0
    runs: int = 0
    identical: int = 0
    again: list[int] = field(default_factory=list)  # steps or parts that were done a second time, for each fault
    said: list[str] = field(default_factory=list)  # complaints that were none of the sentences that belong here
    note: str = ""

    @property
    def whole(self) -> bool:
        return self.injected == self.survived and self.runs == self.identical and not self.said


# --- processes --------------------------------------------------------------------------------------------------------


class Command:
    """A command line of the suite in a process of its own.

    Args:
        arguments: of ``python -m src.run``.
        log: what it says, added to what is there.
        anew: whether the process is a new one: ranks are started by the command line of the first.
    """

    def __init__(self, arguments: list[str], log: Path, anew: bool = False) -> None:
        self.log, self.code = log, None
        self.begun = log.stat().st_size if log.exists() else 0
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(arguments, anew)

    def _run(self, arguments: list[str], anew: bool) -> None:
        os.setsid()
        out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if anew:
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, "-m", "src.run", *arguments])
        sys.argv = ["src.run", *arguments]
        code = 0
        try:
            command_line()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float = 300) -> int:
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"it hangs: {self.said()[-2000:]}")
            time.sleep(0.02)
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal to the process alone; its workers and ranks are left to themselves."""
        os.kill(self.pid, number)

    def said(self) -> str:
        with self.log.open("rb") as stream:
            stream.seek(self.begun)
            return stream.read().decode(errors="replace")


def descendants(pid: int) -> dict[int, str]:
    """Processes that one has started, and those that these have, with their command lines."""
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


def outlived(processes: dict[int, str], seconds: float = 20) -> list[str]:
    """Which processes are still there after some seconds."""
    deadline = time.monotonic() + seconds
    while left := [line for pid, line in processes.items() if _alive(pid)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []


def again(
    row: Row, name: str, count: int, start: Callable[[], Command], reached: Callable[[Command], bool]
) -> Iterator[None]:
    """Gives a command again and again until it has finished, with a signal each time until there were enough.

    It yields after each signal. These count as survived when the command has finished.

    Args:
        row: where it is counted.
        name: of the signal.
        count: of signals in this row.
        start: gives the command.
        reached: waits for the moment of the signal; False where there is none, and the command is left alone.
    """
    number, faults = getattr(signal, name), 0
    while True:
        command = start()
        if row.injected < count and reached(command):
            others = descendants(command.pid)
            command.kill(number)
            row.injected, faults = row.injected + 1, faults + 1
            code = command.wait()
            if code not in (END[name], -number, 0):  # 0: it was about to end anyway
                row.said.append(f"exit code {code}: {command.said()[-1500:]}")
            elif code > 0 and "Traceback" in command.said().partition("Interrupted;")[0]:
                row.said.append(command.said()[-1500:])
            if left := outlived(others):
                row.said.append(f"left behind: {left}")
            yield
        elif command.wait() != 0:
            row.said.append(command.said()[-1500:])
            return
        if command.code == 0:
            row.survived += faults
            return


# --- trainings --------------------------------------------------------------------------------------------------------


class Training:
    """A training in a folder of its own."""

    def __init__(self, place: Path, clips: Path, *more: str) -> None:
        self.place, self.log = place, place / "log.txt"
        place.mkdir(parents=True, exist_ok=True)
        self.arguments = [*TRAINING, *more, f"data.root={clips}", f"paths.runs={place}"]

    def start(self) -> Command:
        return Command([*self.arguments, "resume=true"], self.log, anew="trainer=ddp" in self.arguments)

    @property
    def directory(self) -> Path:
        return next(self.place.glob("*/*/seed=0"), self.place)

    @property
    def step(self) -> int:
        """Steps done, as far as can be seen."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.directory / "seen").read_text())
        return 0

    @property
    def saved(self) -> int:
        """Steps in the newest checkpoint whose bytes are all right."""
        for name in ("last", "previous"):
            path = self.directory / "checkpoints" / f"{name}.ckpt"
            with contextlib.suppress(OSError, zipfile.BadZipFile, NotImplementedError):
                with zipfile.ZipFile(path) as archive:
                    whole = archive.testzip() is None
                if whole:
                    return torch.load(path, weights_only=True)["global_step"]
        return 0

    def outcome(self) -> tuple:
        """What must not depend on what happened."""
        checkpoints = {name: self.directory / "checkpoints" / f"{name}.ckpt" for name in ("last", "best")}
        contents = {
            name: elsewhere(torch.load(path, weights_only=True), self.directory) for name, path in checkpoints.items()
        }
        results = json.loads((self.directory / "results.json").read_text())
        scores = {key: results[key] for key in ("summary", "clips")}
        return contents, figures(self.directory), scores

    def is_like(self, whole: Training) -> bool:
        if not (self.directory / "results.json").exists():
            return False  # it did not finish, which is told elsewhere
        (ours, rows, scores), (theirs, *others) = self.outcome(), whole.outcome()
        try:
            same(ours, theirs)
        except AssertionError as error:
            print(f"{self.place}: {error}", file=sys.stderr)
            return False
        if different := [name for name, a, b in zip(("rows", "scores"), (rows, scores), others, strict=True) if a != b]:
            print(f"{self.place}: {different} differ", file=sys.stderr)
        return not different


def until(command: Command, reached: Callable[[], bool], seconds: float = 120) -> bool:
    """Waits until something is reached; False where the process ends before."""
    deadline = time.monotonic() + seconds
    while not reached():
        if command.poll() is not None:
            return False
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing goes on: {command.said()[-2000:]}")
        time.sleep(0.01)
    return command.poll() is None


def reach(training: Training, command: Command, goal: int) -> bool:
    return until(command, lambda: training.step >= goal)


def moment(training: Training, command: Command, draws: random.Random) -> bool:
    """Waits for a random moment of a training: mostly within its steps, now and then while it starts or ends."""
    if draws.random() < 0.2:
        time.sleep(draws.uniform(0, 4))
        return command.poll() is None
    goal = training.step + draws.randint(1, 4)
    if goal > STEPS or not reach(training, command, goal):
        return False  # and ends by itself
    time.sleep(draws.uniform(0, 0.1))
    return command.poll() is None


def signalled(place: Path, clips: Path, whole: Training, name: str, count: int, draws: random.Random) -> Row:
    """A signal at so many random moments, over as many trainings as that takes."""
    row = Row(f"training: {name}")
    while row.injected < count and not row.said:
        training = Training(place / f"{name}{row.runs}", clips)
        for _ in again(row, name, count, training.start, lambda command, one=training: moment(one, command, draws)):
            row.again.append(max(0, training.step - training.saved))
        row.runs += 1
        row.identical += training.is_like(whole)
    return row


def finishes(training: Training, row: Row, whole: Training) -> None:
    """Lets the same command run to the end, and compares."""
    command = training.start()
    if command.wait() != 0:
        row.said.append(command.said()[-1500:])
        return
    row.survived += 1
    row.runs += 1
    row.identical += training.is_like(whole)


def damaged(place: Path, clips: Path, whole: Training, count: int, draws: random.Random) -> Row:
    """The last checkpoint cut off, or a byte of it changed, while nobody looks."""
    row = Row("training: last.ckpt cut off, or a byte changed")
    begun = Training(place / "begun", clips)
    command = begun.start()
    reach(begun, command, 22)
    command.kill()
    command.wait()
    for number in range(count):
        training = Training(place / f"damaged{number}", clips)
        shutil.rmtree(training.place)
        shutil.copytree(begun.place, training.place)
        last = training.directory / "checkpoints" / "last.ckpt"
        size = last.stat().st_size
        with last.open("r+b") as stream:
            if number % 2:
                stream.seek(draws.randrange(size))
                byte = stream.read(1)[0]
                stream.seek(-1, os.SEEK_CUR)
                stream.write(bytes([byte ^ 1 << draws.randrange(8)]))
            else:
                stream.truncate(draws.randrange(size))
        row.injected += 1
        row.again.append(training.step - training.saved)
        finishes(training, row, whole)
    return row


def worker(
    place: Path, clips: Path, whole: Training, name: str, sentence: str, count: int, draws: random.Random
) -> Row:
    """A process that reads data is killed, or stops for ever; training ends with a sentence, and goes on."""
    row = Row(f"training: {'worker killed' if name == 'SIGKILL' else 'decoder stuck (worker stopped)'}")
    for number in range(count):
        training = Training(place / f"worker-{name}{number}", clips)
        command = training.start()
        reach(training, command, draws.randint(2, STEPS - 25))
        workers = [pid for pid, line in descendants(command.pid).items() if "forkserver" in line]
        children = [pid for pid in workers if any(pid in descendants(other) for other in workers)]
        reader = draws.choice(children or workers)
        os.kill(reader, getattr(signal, name))
        row.injected += 1
        code = command.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.kill(reader, signal.SIGKILL)
        if code == 2 and sentence in command.said() and "Traceback" not in command.said():
            row.again.append(max(0, training.step - training.saved))
            finishes(training, row, whole)
        else:
            row.said.append(f"exit code {code}: {command.said()[-1500:]}")
    return row


def ranks(place: Path, clips: Path, count: int, draws: random.Random) -> Row:
    """One of two processes of a training is killed; the other must end soon, and both go on."""
    both = ["trainer=ddp", "trainer.devices=2", "data.batch_size=2", "data.patches_per_read=2"]
    row, longest = Row("training on two ranks: a rank killed"), 0.0
    whole = Training(place / "ranks", clips, *both)
    if whole.start().wait() != 0:
        row.said.append(whole.log.read_text()[-1500:])
        return row
    for number in range(count):
        training = Training(place / f"ranks{number}", clips, *both)
        command = training.start()
        reach(training, command, draws.randint(2, STEPS - 10))
        others = [pid for pid, line in descendants(command.pid).items() if "src.run" in line or "src/run" in line]
        victim = command.pid if number % 2 else others[0]
        left = {command.pid, *others} - {victim}
        os.kill(victim, signal.SIGKILL)
        row.injected += 1
        begun = time.monotonic()
        while any(_alive(pid) for pid in left) and time.monotonic() < begun + 60:
            command.poll()
            time.sleep(0.1)
        longest = max(longest, time.monotonic() - begun)
        command.wait(60)
        row.again.append(max(0, training.step - training.saved))
        finishes(training, row, whole)
    row.note = f"the other was gone after {longest:.0f} s at most"
    return row


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path | None]:
    """A file system of its own of so many bytes; None where nobody may mount one here."""
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> Path:
    """Writes until the disk is full."""
    path = place / "filler"
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    return path


def full_disk(place: Path, clips: Path, whole: Training, count: int, draws: random.Random) -> Row:
    row = Row("training: disk full")
    for number in range(count):
        with small_disk(place / f"disk{number}", 64 << 20) as disk:
            if disk is None:
                row.note = "not done: nobody may mount a small disk here"
                return row
            training = Training(disk / "runs", clips)
            training.log = place / f"disk{number}.txt"
            command = training.start()
            reach(training, command, draws.randint(2, STEPS - 10))
            filler = fill(disk)
            row.injected += 1
            code = command.wait()
            filler.unlink()
            said = command.said()
            if code != 2 or "Traceback" in said or not ("full" in said or "could not be" in said):
                row.said.append(f"exit code {code}: {said[-1500:]}")
                continue
            row.again.append(max(0, training.step - training.saved))
            finishes(training, row, whole)
    return row


# --- restorations -----------------------------------------------------------------------------------------------------


def restored(place: Path, name: str, count: int, draws: random.Random) -> Row:
    """A signal at so many random moments of restorations; the file must come out the same, byte for byte."""
    row = Row(f"restoration: {name}")
    source = film(place / f"{name}.mkv", frames=240, size=(96, 128))
    whole = place / f"{name}-whole.mkv"
    command = Command([*RESTORING, f"input={source}", f"output={whole}"], place / "restoring.txt")
    if command.wait() != 0:
        row.said.append(command.said()[-1500:])
        return row
    while row.injected < count and not row.said:
        output = place / f"{name}-{row.runs}.mkv"
        arguments = [*RESTORING, f"input={source}", f"output={output}"]

        def reached(command: Command, output: Path = output) -> bool:
            if not _reach_parts(output, command, len(finished(output)) + draws.randint(0, 9)):
                return False
            time.sleep(draws.uniform(0, 0.3))
            return command.poll() is None

        def start(arguments: list[str] = arguments) -> Command:
            return Command(arguments, place / "restoring.txt")

        for _ in again(row, name, count, start, reached):
            pass
        row.runs += 1
        row.identical += output.exists() and _digest(output) == _digest(whole)
    return row


def full_restoring(place: Path, count: int, draws: random.Random) -> Row:
    row = Row("restoration: disk full")
    source = film(place / "full.mkv", frames=240, size=(96, 128))
    whole = place / "full-whole.mkv"
    Command([*RESTORING, f"input={source}", f"output={whole}"], place / "restoring.txt").wait()
    for number in range(count):
        with small_disk(place / f"restoring{number}", 4 * whole.stat().st_size + (1 << 20)) as disk:
            if disk is None:
                row.note = "not done: nobody may mount a small disk here"
                return row
            output = disk / "out.mkv"
            arguments = [*RESTORING, f"input={source}", f"output={output}"]
            command = Command(arguments, place / "restoring.txt")
            _reach_parts(output, command, draws.randint(1, 20))
            filler = fill(disk)
            row.injected += 1
            code, said = command.wait(), command.said()
            filler.unlink()
            if code != 2 or "Traceback" in said or os.strerror(errno.ENOSPC) not in said:
                row.said.append(f"exit code {code}: {said[-1500:]}")
                continue
            command = Command(arguments, place / "restoring.txt")
            if command.wait() != 0:
                row.said.append(command.said()[-1500:])
                continue
            row.survived += 1
            row.runs += 1
            row.identical += _digest(output) == _digest(whole)
    return row


def _reach_parts(output: Path, command: Command, goal: int) -> bool:
    return until(command, lambda: len(finished(output)) >= goal)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- all of it --------------------------------------------------------------------------------------------------------


def torture(place: Path, kills: int, others: int, seed: int) -> Iterator[Row]:
    """One row a kind of fault, ``kills`` times SIGKILL and ``others`` times all others."""
    draws = random.Random(seed)
    clips = place / "clips"
    clips.mkdir(parents=True)
    for name in ("left", "right"):
        film(clips / f"{name}.mkv", frames=60)
    whole = Training(place / "whole", clips)
    if whole.start().wait() != 0:
        raise RuntimeError(whole.log.read_text()[-3000:])
    yield signalled(place, clips, whole, "SIGKILL", kills, draws)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        yield signalled(place, clips, whole, name, others, draws)
    yield full_disk(place, clips, whole, others, draws)
    yield damaged(place, clips, whole, others, draws)
    yield worker(place, clips, whole, "SIGKILL", "that reads training data was killed", others, draws)
    yield worker(place, clips, whole, "SIGSTOP", "no training data has come", others, draws)
    yield ranks(place, clips, others, draws)
    yield restored(place, "SIGKILL", kills, draws)
    for name in ("SIGTERM", "SIGINT"):
        yield restored(place, name, others, draws)
    yield full_restoring(place, others, draws)


HEAD = """| what happens | times | the same command went on | runs that ended as an undisturbed one | done again |
| --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = []
    for row in rows:
        again = f"{sum(row.again) / len(row.again):.1f} steps each time" if row.again else "what was not finished"
        again = f"{again}; {row.note}" if row.note else again
        lines.append(f"| {row.fault} | {row.injected} | {row.survived} | {row.identical} of {row.runs} | {again} |")
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="times SIGKILL, of trainings and of restorations")
    parser.add_argument("--others", type=int, default=6, help="times each other fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for table.md and torture.json")
    given = parser.parse_args()
    rows: list[Row] = []
    place = Path(tempfile.mkdtemp())  # an object that tidies up would do so in every process that is forked, too
    begun = time.monotonic()
    try:
        for row in torture(place, given.kills, given.others, given.seed):
            rows.append(row)
            print(f"{time.monotonic() - begun:5.0f} s  {asdict(row)}", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(table(rows))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        with atomic_write(given.out / "table.md") as stream:
            stream.write(table(rows))
        with atomic_write(given.out / "torture.json") as stream:
            stream.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if not all(row.whole for row in rows):
        sys.exit("Something was lost, or said what it should not: see above.")


if __name__ == "__main__":
    main()
