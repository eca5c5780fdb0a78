"""How fast training data comes: samples a second, from files that the system has in memory and from the disk."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from src.data.datamodule import DataModule
from src.errors import UserError

Make = Callable[[Path, int], DataModule]  # from where the data set is, and a number of workers


def throughput(
    make: Make,
    roots: Mapping[str, Path],
    *,
    workers: Sequence[int],
    batches: int = 8,
    repeats: int = 3,
    tell: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Samples a second of the training batches of some copies of a data set, beside each other.

    Every figure is of ``batches`` batches of a loader that has just been made, so that files are opened in it as in an
    epoch; workers are started, and have given one batch each, before time is taken. ``cold`` is measured with no page
    of the data set in the system's memory, ``warm`` with all of them there that fit. In each repeat the copies take
    turns, so that what else the machine does meets them alike.

    Args:
        make: a DataModule for a root and a number of workers.
        roots: the copies by what to call them; the first is what others are compared with.
        workers: numbers of workers to measure with.
        batches: that count; there must be as many in an epoch beside those that start the workers.
        repeats: how often each is measured.
        tell: is given a line before each repeat.

    Returns:
        A row for each root, cache and number of workers: ``data``, ``cache``, ``workers``, ``samples_per_second`` (the
        median) and all of them as ``measured``, ``ratio`` to the first root (the median of that within each repeat),
        and without workers ``cpu_seconds_per_sample``.

    Raises:
        UserError: an epoch has too few batches.
    """
    rows: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    files = {name: _files(root) for name, root in roots.items()}
    for count in workers:
        for repeat in range(repeats):
            tell(f"{count} workers, {repeat + 1} of {repeats}")
            for name, root in roots.items():
                for cache in ("cold", "warm"):
                    (forget if cache == "cold" else remember)(files[name])
                    seconds, cpu, samples = read(make(root, count), batches)
                    row = rows.setdefault((name, cache, count), {"rate": [], "cpu": []})
                    row["rate"].append(samples / seconds)
                    row["cpu"].append(cpu / samples)
    first = next(iter(roots))
    return [
        {
            "data": name,
            "cache": cache,
            "workers": count,
            "samples_per_second": statistics.median(row["rate"]),
            "measured": row["rate"],
            "ratio": statistics.median(
                a / b for a, b in zip(row["rate"], rows[first, cache, count]["rate"], strict=True)
            ),
            **({} if count else {"cpu_seconds_per_sample": statistics.median(row["cpu"])}),
        }
        for (name, cache, count), row in rows.items()
    ]


def read(data: DataModule, batches: int | None = None) -> tuple[float, float, int]:
    """Reads ``batches`` training batches: seconds, this process' seconds of computing, and samples.

    By default so many that what workers have read before counts for little.

    Raises:
        UserError: an epoch has too few batches.
    """
    data.setup("fit")
    loader = data.train_dataloader()
    workers = loader.num_workers
    started = max(workers, 1)
    batches = 8 * started if batches is None else batches
    if len(loader) < started + batches:
        raise UserError(
            f"{data.root} has {len(loader)} training batches, and {started} + {batches} are measured: ask for fewer, "
            "or for smaller ones with data.batch_size"
        )
    given = iter(loader)
    for _ in islice(given, workers):  # each worker has started when it has given one
        pass
    begin, computing = time.perf_counter(), time.process_time()
    samples = sum(len(batch["inputs"]) for batch in islice(given, batches))
    return time.perf_counter() - begin, time.process_time() - computing, samples


def forget(files: Sequence[Path]) -> None:
    """Has the system drop what it keeps of these files in memory, so that they are read from the disk again.

    Raises:
        UserError: this system cannot be told to.
    """
    if not hasattr(os, "posix_fadvise"):
        raise UserError("reading from a cold disk cannot be measured here: the system drops no files from its memory")
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)  # what is not written yet cannot be dropped
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def remember(files: Sequence[Path]) -> None:
    """Reads the files, so that the system has them in memory as far as they fit."""
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 20):
                pass


def _files(root: Path) -> list[Path]:
    return [Path(folder) / name for folder, _, names in os.walk(root, followlinks=True) for name in names]


def machine() -> dict[str, Any]:
    """What a figure depends on beside the data."""
    return {"cores": os.cpu_count(), "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None} | {
        "torch": torch.__version__
    }
