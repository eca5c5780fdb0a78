"""Throughput of training data: samples per second, from the page cache and from the disk."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from src.data.datamodule import DataModule
from src.errors import UserError

BuildData = Callable[[Path, int], DataModule]  # from the root of the data set and a number of workers


def measure_throughput(
    build_data: BuildData,
    roots: Mapping[str, Path],
    *,
    workers: Sequence[int],
    batches: int = 8,
    repeats: int = 3,
    log: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Measure the training samples per second of several copies of a data set.

    Each measurement takes ``batches`` batches of a new loader, so that it opens files as an epoch does. The clock
    starts once every worker has delivered a batch. ``cold`` is measured with no page of the data set in the page cache,
    ``warm`` with as many as fit. Within a repeat the copies take turns, so that other load on the machine affects them
    alike.

    Args:
        build_data: builds a DataModule for a root and a number of workers.
        roots: the copies by name; the first is the reference.
        workers: numbers of workers.
        batches: measured batches; an epoch must hold them and one for each worker.
        repeats: measurements of each configuration.
        log: receives a line before each repeat.

    Returns:
        A row for each root, cache and number of workers: ``data``, ``cache``, ``workers``, ``samples_per_second`` (the
        median) and all of them as ``measured``, ``ratio`` to the first root (the median of the ratios within each
        repeat), and without workers ``cpu_seconds_per_sample``.

    Raises:
        UserError: an epoch has too few batches.
    """
    rows: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    files = {name: _list_files(root) for name, root in roots.items()}
    for count in workers:
        for repeat in range(repeats):
            log(f"{count} workers, {repeat + 1} of {repeats}")
            for name, root in roots.items():
                for cache, prepare in (("cold", drop_from_cache), ("warm", load_into_cache)):
                    prepare(files[name])
                    seconds, cpu_seconds, samples = read_batches(build_data(root, count), batches)
                    row = rows.setdefault((name, cache, count), {"rate": [], "cpu": []})
                    row["rate"].append(samples / seconds)
                    row["cpu"].append(cpu_seconds / samples)
    reference = next(iter(roots))
    return [
        {
            "data": name,
            "cache": cache,
            "workers": count,
            "samples_per_second": statistics.median(row["rate"]),
            "measured": row["rate"],
            "ratio": statistics.median(
                a / b for a, b in zip(row["rate"], rows[reference, cache, count]["rate"], strict=True)
            ),
            **({} if count else {"cpu_seconds_per_sample": statistics.median(row["cpu"])}),
        }
        for (name, cache, count), row in rows.items()
    ]


def read_batches(data: LightningDataModule, batches: int | None = None) -> tuple[float, float, int]:
    """Read training batches after one per worker has been read.

    Args:
        data: the data set.
        batches: number of batches; by default eight per worker, so that batches prefetched by then hardly matter.

    Returns:
        Wall-clock seconds, CPU seconds of this process, and the number of samples.

    Raises:
        UserError: an epoch has too few batches.
    """
    data.setup("fit")
    loader = data.train_dataloader()
    workers = loader.num_workers
    warmup = max(workers, 1)
    batches = 8 * warmup if batches is None else batches
    if len(loader) < warmup + batches:
        raise UserError(
            f"{getattr(data, 'root', 'This data set')} has {len(loader)} training batches, but the measurement needs "
            f"{warmup} + {batches}. Lower the number of batches or data.batch_size."
        )
    iterator = iter(loader)
    for _ in islice(iterator, workers):  # a worker has started once it has delivered a batch
        pass
    start, cpu_start = time.perf_counter(), time.process_time()
    samples = sum(len(batch["inputs"]) for batch in islice(iterator, batches))
    return time.perf_counter() - start, time.process_time() - cpu_start, samples


def drop_from_cache(files: Sequence[Path]) -> None:
    """Drop files from the page cache, so that they are read from the disk again.

    Raises:
        UserError: the system does not support it.
    """
    if not hasattr(os, "posix_fadvise"):
        raise UserError("Reading from a cold disk cannot be measured: this system has no posix_fadvise.")
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)  # unwritten pages cannot be dropped
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def load_into_cache(files: Sequence[Path]) -> None:
    """Read files once, so that the page cache holds as many of them as fit."""
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 20):
                pass


def _list_files(root: Path) -> list[Path]:
    return [Path(folder) / name for folder, _, names in os.walk(root, followlinks=True) for name in names]


def describe_machine() -> dict[str, Any]:
    """Return the number of cores, the system's load, and torch's version."""
    return {"cores": os.cpu_count(), "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None} | {
        "torch": torch.__version__
    }
