"""Faults injected into restorations: signals and full disks; the output must be the same file, byte for byte."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import time
from pathlib import Path

from tests.tasks.test_restore import film, finished
from tests.torture.commands import Command, Row, fill_disk, mount_small_disk, repeat_with_signals, wait_until

RESTORATION = ["task=restore", "codec=ffv1", "segment=5", "model=blend", "model.network.scale=4"]


def start_restoration(source: Path, output: Path, folder: Path) -> Command:
    """Start or resume a restoration."""
    return Command([*RESTORATION, f"input={source}", f"output={output}"], folder / "restorations.txt")


def wait_for_parts(output: Path, command: Command, count: int) -> bool:
    """Wait until ``count`` parts are finished; return False if the process ends before."""
    return wait_until(command, lambda: len(finished(output)) >= count)


def compute_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def send_signals(folder: Path, name: str, count: int, rng: random.Random) -> Row:
    """Send ``count`` signals at random moments, over as many restorations as necessary."""
    row = Row(f"restoration: {name}")
    source = film(folder / f"{name}.mkv", frames=240, size=(96, 128))
    reference = folder / f"{name}-reference.mkv"
    command = start_restoration(source, reference, folder)
    if command.wait() != 0:
        row.complaints.append(command.read_output()[-1500:])
        return row
    while row.injected < count and not row.complaints:
        output = folder / f"{name}-{row.runs}.mkv"

        def wait_for_moment(command: Command, output: Path = output) -> bool:
            if not wait_for_parts(output, command, len(finished(output)) + rng.randint(0, 9)):
                return False
            time.sleep(rng.uniform(0, 0.3))
            return command.poll() is None

        def start(output: Path = output) -> Command:
            return start_restoration(source, output, folder)

        for _ in repeat_with_signals(row, name, count, start, wait_for_moment):
            pass
        row.runs += 1
        row.identical += output.exists() and compute_digest(output) == compute_digest(reference)
    return row


def fill_disks(folder: Path, count: int, rng: random.Random) -> Row:
    """Fill the disk of a restoration; it must end with a message and resume once there is space."""
    row = Row("restoration: disk full")
    source = film(folder / "full.mkv", frames=240, size=(96, 128))
    reference = folder / "full-reference.mkv"
    command = start_restoration(source, reference, folder)
    if command.wait() != 0:
        row.complaints.append(command.read_output()[-1500:])
        return row
    for number in range(count):
        with mount_small_disk(folder / f"restoration{number}", 4 * reference.stat().st_size + (1 << 20)) as disk:
            if disk is None:
                row.note = "skipped: no permission to mount a small disk"
                return row
            output = disk / "out.mkv"
            command = start_restoration(source, output, folder)
            wait_for_parts(output, command, rng.randint(1, 20))
            filler = fill_disk(disk)
            row.injected += 1
            code, message = command.wait(), command.read_output()
            filler.unlink()
            if code != 2 or "Traceback" in message or os.strerror(errno.ENOSPC) not in message:
                row.complaints.append(f"exit code {code}: {message[-1500:]}")
                continue
            command = start_restoration(source, output, folder)
            if command.wait() != 0:
                row.complaints.append(command.read_output()[-1500:])
                continue
            row.survived += 1
            row.runs += 1
            row.identical += compute_digest(output) == compute_digest(reference)
    return row
