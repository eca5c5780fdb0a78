"""A pool of readers that survives their crashes, hangs and memory growth, and names the case responsible."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tests.fuzz.reading import FAILURES, MEMORY_LIMIT, Case, Outcome, read_memory, run_worker
from tests.fuzz.seeds import Seed

TIME_LIMIT = 60.0  # seconds for one file
STARTUP_SECONDS = 60.0  # for the imports of a worker
STARTUP_MEMORY = 400 << 20  # bytes of a worker that has read nothing
FILES_PER_WORKER = 200


class _Worker:
    """A process that reads one case at a time."""

    def __init__(self, seeds: list[Seed], seed: int, log: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, remote = context.Pipe()
        self.log = log
        self.process = context.Process(target=run_worker, args=(remote, seeds, seed, log), daemon=True)
        self.process.start()
        remote.close()
        self.number: int | None = None
        self.finished = 0

    def assign(self, job: int | Case) -> None:
        """Send a case or its number."""
        self.number = job if isinstance(job, int) else job.number
        self.start = time.monotonic()
        self.baseline = read_memory(self.process.pid or 0) if self.finished else STARTUP_MEMORY
        with contextlib.suppress(OSError):  # a worker that the last case killed is noticed by poll
            self.pipe.send(job)

    def poll(self) -> Outcome | None:
        """Return the outcome, or a failure if the process died or exceeds a limit; None while it is running."""
        assert self.number is not None
        seconds = time.monotonic() - self.start
        if self.pipe.poll():
            try:
                outcome = self.pipe.recv()
            except (EOFError, OSError):
                self.process.join()
                code = self.process.exitcode or 0
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
                return Outcome(self.number, "crash", f"{name}: {' | '.join(lines[:12])}", seconds=seconds)
            self.finished += 1
            return outcome
        growth = read_memory(self.process.pid or 0) - self.baseline
        if growth > MEMORY_LIMIT:
            return Outcome(self.number, "memory", "killed while growing", seconds=seconds, memory=growth)
        if seconds > TIME_LIMIT + (0 if self.finished else STARTUP_SECONDS):
            return Outcome(self.number, "hang", "killed", seconds=seconds)
        return None

    def kill(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_cases(
    seeds: list[Seed], seed: int, jobs: Iterable[int | Case], workers: int = 1, files_per_worker: int = FILES_PER_WORKER
) -> Iterator[Outcome]:
    """Read cases in worker processes and yield the outcomes as they arrive."""
    jobs, pool = iter(jobs), list[_Worker]()
    with tempfile.TemporaryDirectory() as logs:

        def start_worker(job: int | Case) -> None:
            pool.append(worker := _Worker(seeds, seed, Path(logs) / f"{time.monotonic_ns()}"))
            worker.assign(job)

        try:
            for job in islice(jobs, workers):
                start_worker(job)
            while pool:
                wait([worker.pipe for worker in pool], timeout=0.1)
                for worker in list(pool):
                    if (outcome := worker.poll()) is None:
                        continue
                    yield outcome
                    is_spent = worker.finished >= files_per_worker or outcome.kind in FAILURES or outcome.timed_out
                    job = next(jobs, None)
                    if job is not None and not is_spent:
                        worker.assign(job)
                        continue
                    pool.remove(worker)
                    worker.kill()
                    if job is not None:
                        start_worker(job)
        finally:
            for worker in pool:
                worker.kill()


def summarize(results: Sequence[tuple[Case, Outcome]]) -> dict[str, Any]:
    """Count outcomes in total and by seed file, mutation and mode; list failures and the slowest and largest cases."""
    counts: dict[str, dict[str, Counter[str]]] = {"seed": {}, "mutation": {}, "mode": {}}
    for case, outcome in results:
        for name in counts:
            for value in getattr(case, name).split("+"):
                counts[name].setdefault(value, Counter())[outcome.kind] += 1
    return {
        "count": len(results),
        "outcomes": dict(Counter(outcome.kind for _, outcome in results)),
        "timed_out": sum(outcome.timed_out for _, outcome in results),
        "random_differs": [case.number for case, outcome in results if outcome.random_differs],
        "max_memory": max((outcome.memory for _, outcome in results), default=0),
        "max_baseline": max((outcome.baseline for _, outcome in results), default=0),
        "max_seconds": max((outcome.seconds for _, outcome in results), default=0.0),
        **{f"by_{name}": {key: dict(counts[name][key]) for key in sorted(counts[name])} for name in counts},
        "failures": [_describe(*result) for result in results if result[1].kind in FAILURES],
        "slowest": [_describe(*result) for result in sorted(results, key=lambda result: -result[1].seconds)[:10]],
        "largest": [_describe(*result) for result in sorted(results, key=lambda result: -result[1].memory)[:10]],
    }


def _describe(case: Case, outcome: Outcome) -> dict[str, Any]:
    return {"seed": case.seed, "mutation": case.mutation, "mode": case.mode, **asdict(outcome)}
