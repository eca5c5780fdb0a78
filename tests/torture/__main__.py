"""Inject real faults into trainings and restorations at random moments, and compare the results: make torture.

A fault is a signal to a process, a full disk or a damaged file. The same command is then repeated until it completes.
The result must equal that of an undisturbed run to the last bit: weights, their average, the optimiser, all counters,
the rows of metrics.csv, scores, files.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from src.atomic import atomic_write
from tests.tasks.test_restore import film
from tests.torture import restorations, trainings
from tests.torture.commands import Row


def inject_faults(folder: Path, kills: int, others: int, seed: int) -> Iterator[Row]:
    """Yield a row for each kind of fault: ``kills`` times SIGKILL, ``others`` times each other fault."""
    rng = random.Random(seed)
    clips = folder / "clips"
    clips.mkdir(parents=True)
    for name in ("left", "right"):
        film(clips / f"{name}.mkv", frames=60)
    reference = trainings.Training(folder / "reference", clips)
    if reference.start().wait() != 0:
        raise RuntimeError(reference.log.read_text()[-3000:])
    yield trainings.send_signals(folder, clips, reference, "SIGKILL", kills, rng)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        yield trainings.send_signals(folder, clips, reference, name, others, rng)
    yield trainings.fill_disks(folder, clips, reference, others, rng)
    yield trainings.damage_checkpoints(folder, clips, reference, others, rng)
    for name, message in (
        ("SIGKILL", "A data loading worker was killed"),
        ("SIGSTOP", "No training batch for"),
    ):
        yield trainings.stop_workers(folder, clips, reference, name, message, others, rng)
    yield trainings.kill_ranks(folder, clips, others, rng)
    yield restorations.send_signals(folder, "SIGKILL", kills, rng)
    for name in ("SIGTERM", "SIGINT"):
        yield restorations.send_signals(folder, name, others, rng)
    yield restorations.fill_disks(folder, others, rng)


HEADER = """| fault | injected | survived | runs equal to an undisturbed one | repeated |
| --- | --- | --- | --- | --- |
"""


def format_table(rows: list[Row]) -> str:
    """Format the rows as Markdown."""
    lines = []
    for row in rows:
        steps = f"{sum(row.repeated) / len(row.repeated):.1f} steps per fault" if row.repeated else "unfinished parts"
        repeated = f"{steps}; {row.note}" if row.note else steps
        lines.append(f"| {row.fault} | {row.injected} | {row.survived} | {row.identical} of {row.runs} | {repeated} |")
    return HEADER + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="number of SIGKILLs, for trainings and for restorations")
    parser.add_argument("--others", type=int, default=6, help="number of each other fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for table.md and torture.json")
    options = parser.parse_args()
    rows: list[Row] = []
    folder = Path(tempfile.mkdtemp())  # a TemporaryDirectory would be deleted at the end of each forked process, too
    start = time.monotonic()
    try:
        for row in inject_faults(folder, options.kills, options.others, options.seed):
            rows.append(row)
            print(f"{time.monotonic() - start:5.0f} s  {asdict(row)}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(format_table(rows))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with atomic_write(options.out / "table.md") as stream:
            stream.write(format_table(rows))
        with atomic_write(options.out / "torture.json") as stream:
            stream.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if not all(row.is_passed for row in rows):
        sys.exit("A run was lost or differs, or a command failed unexpectedly: see above.")


if __name__ == "__main__":
    main()
