"""Faults injected into trainings: signals, full disks, damaged checkpoints, dead or stuck workers, dead ranks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path

import torch
from lightning import Callback

from tests.tasks.test_tasks import TINY
from tests.torture.commands import (
    Command,
    Row,
    fill_disk,
    is_alive,
    list_descendants,
    mount_small_disk,
    repeat_with_signals,
    wait_until,
)
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
    "+callbacks.step_file={_target_: tests.torture.trainings.StepFile}",
]


class StepFile(Callback):
    """Writes the number of finished steps to a file, on rank zero."""

    def on_train_batch_end(self, trainer, *rest):
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "step").write_text(str(trainer.global_step))


class Training:
    """A training in a folder of its own."""

    def __init__(self, folder: Path, clips: Path, *overrides: str) -> None:
        self.folder, self.log = folder, folder / "log.txt"
        folder.mkdir(parents=True, exist_ok=True)
        self.arguments = [*TRAINING, *overrides, f"data.root={clips}", f"paths.runs={folder}"]

    def start(self) -> Command:
        """Start or resume the training."""
        return Command([*self.arguments, "resume=true"], self.log, new_interpreter="trainer=ddp" in self.arguments)

    @property
    def directory(self) -> Path:
        return next(self.folder.glob("*/*/seed=0"), self.folder)

    @property
    def step(self) -> int:
        """Steps finished, according to the step file."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.directory / "step").read_text())
        return 0

    @property
    def saved_step(self) -> int:
        """Steps in the newest intact checkpoint."""
        for name in ("last", "previous"):
            path = self.directory / "checkpoints" / f"{name}.ckpt"
            with contextlib.suppress(OSError, zipfile.BadZipFile, NotImplementedError):
                with zipfile.ZipFile(path) as archive:
                    is_intact = archive.testzip() is None
                if is_intact:
                    return torch.load(path, weights_only=True)["global_step"]
        return 0

    @property
    def unsaved_steps(self) -> int:
        """Steps to repeat on resuming."""
        return max(0, self.step - self.saved_step)

    def read_result(self) -> tuple:
        """Return everything that faults must not change: checkpoints, rows of metrics, scores."""
        checkpoints = {name: self.directory / "checkpoints" / f"{name}.ckpt" for name in ("last", "best")}
        contents = {
            name: elsewhere(torch.load(path, weights_only=True), self.directory) for name, path in checkpoints.items()
        }
        results = json.loads((self.directory / "results.json").read_text())
        scores = {key: results[key] for key in ("summary", "clips")}
        return contents, figures(self.directory), scores

    def equals(self, reference: Training) -> bool:
        """Compare with an undisturbed training, bit for bit."""
        if not (self.directory / "results.json").exists():
            return False  # the failure is recorded elsewhere
        (ours, *our_figures), (theirs, *their_figures) = self.read_result(), reference.read_result()
        try:
            same(ours, theirs)
        except AssertionError as error:
            print(f"{self.folder}: {error}", file=sys.stderr)
            return False
        pairs = zip(("rows", "scores"), our_figures, their_figures, strict=True)
        if different := [name for name, a, b in pairs if a != b]:
            print(f"{self.folder}: {different} differ", file=sys.stderr)
        return not different


def wait_for_step(training: Training, command: Command, step: int) -> bool:
    """Wait until ``step`` is finished; return False if the process ends before."""
    return wait_until(command, lambda: training.step >= step)


def wait_for_random_moment(training: Training, command: Command, rng: random.Random) -> bool:
    """Wait for a random moment: usually within the next steps, sometimes during startup or the end."""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 4))
        return command.poll() is None
    step = training.step + rng.randint(1, 4)
    if step > STEPS or not wait_for_step(training, command, step):
        return False
    time.sleep(rng.uniform(0, 0.1))
    return command.poll() is None


def complete(training: Training, row: Row, reference: Training) -> None:
    """Resume a training to its end and compare it with the reference."""
    command = training.start()
    if command.wait() != 0:
        row.complaints.append(command.read_output()[-1500:])
        return
    row.survived += 1
    row.runs += 1
    row.identical += training.equals(reference)


def send_signals(folder: Path, clips: Path, reference: Training, name: str, count: int, rng: random.Random) -> Row:
    """Send ``count`` signals at random moments, over as many trainings as necessary."""
    row = Row(f"training: {name}")
    while row.injected < count and not row.complaints:
        training = Training(folder / f"{name}{row.runs}", clips)

        def wait_for_moment(command: Command, training: Training = training) -> bool:
            return wait_for_random_moment(training, command, rng)

        for _ in repeat_with_signals(row, name, count, training.start, wait_for_moment):
            row.repeated.append(training.unsaved_steps)
        row.runs += 1
        row.identical += training.equals(reference)
    return row


def damage_checkpoints(folder: Path, clips: Path, reference: Training, count: int, rng: random.Random) -> Row:
    """Truncate the last checkpoint, or flip a bit in it, between two commands."""
    row = Row("training: last.ckpt truncated, or a bit flipped")
    interrupted = Training(folder / "interrupted", clips)
    command = interrupted.start()
    wait_for_step(interrupted, command, 22)
    command.kill()
    command.wait()
    for number in range(count):
        training = Training(folder / f"damaged{number}", clips)
        shutil.rmtree(training.folder)
        shutil.copytree(interrupted.folder, training.folder)
        last = training.directory / "checkpoints" / "last.ckpt"
        size = last.stat().st_size
        with last.open("r+b") as stream:
            if number % 2:
                stream.seek(rng.randrange(size))
                byte = stream.read(1)[0]
                stream.seek(-1, os.SEEK_CUR)
                stream.write(bytes([byte ^ 1 << rng.randrange(8)]))
            else:
                stream.truncate(rng.randrange(size))
        row.injected += 1
        row.repeated.append(training.step - training.saved_step)
        complete(training, row, reference)
    return row


def stop_workers(
    folder: Path, clips: Path, reference: Training, name: str, message: str, count: int, rng: random.Random
) -> Row:
    """Kill or stop a data loading process; the training must end with ``message`` and resume."""
    row = Row(f"training: {'worker killed' if name == 'SIGKILL' else 'decoder stuck (worker stopped)'}")
    for number in range(count):
        training = Training(folder / f"worker-{name}{number}", clips)
        command = training.start()
        wait_for_step(training, command, rng.randint(2, STEPS - 25))
        workers = [pid for pid, line in list_descendants(command.pid).items() if "forkserver" in line]
        children = [pid for pid in workers if any(pid in list_descendants(other) for other in workers)]
        victim = rng.choice(children or workers)
        os.kill(victim, getattr(signal, name))
        row.injected += 1
        code = command.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        output = command.read_output()
        if code == 2 and message in output and "Traceback" not in output:
            row.repeated.append(training.unsaved_steps)
            complete(training, row, reference)
        else:
            row.complaints.append(f"exit code {code}: {output[-1500:]}")
    return row


def kill_ranks(folder: Path, clips: Path, count: int, rng: random.Random) -> Row:
    """Kill one of the two ranks of a training; the other must end within seconds, and the training must resume."""
    overrides = ["trainer=ddp", "trainer.devices=2", "data.batch_size=2", "data.patches_per_read=2"]
    row, longest = Row("training on two ranks: a rank killed"), 0.0
    reference = Training(folder / "ranks", clips, *overrides)
    if reference.start().wait() != 0:
        row.complaints.append(reference.log.read_text()[-1500:])
        return row
    for number in range(count):
        training = Training(folder / f"ranks{number}", clips, *overrides)
        command = training.start()
        wait_for_step(training, command, rng.randint(2, STEPS - 10))
        lines = list_descendants(command.pid)
        other_ranks = [pid for pid, line in lines.items() if "src.run" in line or "src/run" in line]
        victim = command.pid if number % 2 else other_ranks[0]
        remaining = {command.pid, *other_ranks} - {victim}
        os.kill(victim, signal.SIGKILL)
        row.injected += 1
        start = time.monotonic()
        while any(is_alive(pid) for pid in remaining) and time.monotonic() < start + 60:
            command.poll()
            time.sleep(0.1)
        longest = max(longest, time.monotonic() - start)
        command.wait(60)
        row.repeated.append(training.unsaved_steps)
        complete(training, row, reference)
    row.note = f"the other rank ended after at most {longest:.0f} s"
    return row


def fill_disks(folder: Path, clips: Path, reference: Training, count: int, rng: random.Random) -> Row:
    """Fill the disk of a training; it must end with a message and resume once there is space."""
    row = Row("training: disk full")
    for number in range(count):
        with mount_small_disk(folder / f"disk{number}", 64 << 20) as disk:
            if disk is None:
                row.note = "skipped: no permission to mount a small disk"
                return row
            training = Training(disk / "runs", clips)
            training.log = folder / f"disk{number}.txt"
            command = training.start()
            wait_for_step(training, command, rng.randint(2, STEPS - 10))
            filler = fill_disk(disk)
            row.injected += 1
            code = command.wait()
            filler.unlink()
            output = command.read_output()
            if code != 2 or "Traceback" in output or not ("full" in output or "could not be" in output):
                row.complaints.append(f"exit code {code}: {output[-1500:]}")
                continue
            row.repeated.append(training.unsaved_steps)
            complete(training, row, reference)
    return row
