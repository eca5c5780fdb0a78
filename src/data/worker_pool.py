"""A worker pool that survives decoder crashes and hangs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import torch

J = TypeVar("J")
T = TypeVar("T")

HEARTBEAT = 1.0  # seconds from one sign of life to the next
STARTUP = 60.0  # additional seconds before the first


def worker_context(preload: str) -> Any:
    """Return a multiprocessing context that never forks this process: decord hangs in the child of one that used it.

    Args:
        preload: a module, imported once by the clean server process that forks the workers.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, preload])  # this module loads torch, even if the other fails
    return context


def exit_with_parent(number: int = 0) -> None:
    """End this process as soon as the main process is gone, for any reason. Call it first in a worker.

    The operating system's parent is the server process that forked this one; it lives as long as its workers.

    Args:
        number: number of the loader's worker; not used.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def map_isolated(
    work: Callable[[J], T],
    jobs: Sequence[J],
    processes: int,
    *,
    on_loss: Callable[[J, str], T],
    time_limit: float = 120,
) -> Iterator[T]:
    """Yield the results of ``work`` for all jobs, as they finish, from several processes.

    A job that kills its process costs that process and no other job. So does a job without a sign of life, e.g. in C
    code that holds the interpreter's lock, out of reach of any Python thread.

    Args:
        work: a function that can be pickled.
        jobs: its arguments; can be pickled, too.
        processes: at most.
        on_loss: returns the result for a job that killed its process, from the job and the reason.
        time_limit: seconds without a sign of life.
    """
    context = worker_context(getattr(work, "func", work).__module__)
    workers: dict[Connection, _Worker[J]] = {}
    waiting = list(reversed(jobs))
    try:
        while waiting or workers:
            while waiting and len(workers) < max(1, processes):
                worker = _Worker[J](context, work)
                workers[worker.pipe] = worker
                worker.assign(waiting.pop())
            for pipe in wait([*workers], timeout=HEARTBEAT):
                worker = workers[pipe]  # type: ignore[index]
                message = worker.receive()
                if message is None:
                    continue
                job, reason = worker.job, ""
                if message and waiting:
                    worker.assign(waiting.pop())
                else:
                    del workers[worker.pipe]
                    reason = worker.stop(0 if message else 10 * HEARTBEAT)
                yield message[0] if message else on_loss(job, reason)
            for worker in [w for w in workers.values() if time.monotonic() - w.last_sign > time_limit]:
                del workers[worker.pipe]
                worker.stop()
                yield on_loss(worker.job, f"gave no sign of life for {time_limit:g} s")
    finally:
        for worker in workers.values():
            worker.stop()


class _Worker(Generic[J]):
    """A process and its current job."""

    def __init__(self, context: Any, work: Callable[[J], Any]) -> None:
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=_serve, args=(child_pipe, work), daemon=True)
        self.process.start()
        child_pipe.close()
        self.last_sign = time.monotonic() + STARTUP

    def assign(self, job: J) -> None:
        self.job, self.last_sign = job, max(self.last_sign, time.monotonic())
        with suppress(OSError):  # ``receive`` detects a dead process
            self.pipe.send(job)

    def receive(self) -> tuple[Any, ...] | None:
        """Return the job's result in a tuple, ``None`` for a sign of life, an empty tuple for a dead process."""
        try:
            message: tuple[Any, ...] | None = self.pipe.recv()
        except (EOFError, OSError):
            return ()
        self.last_sign = time.monotonic()
        return message

    def stop(self, grace: float = 0) -> str:
        """Kill the process unless it ends within ``grace`` seconds. Return the reason for its end."""
        self.process.join(grace)
        code = self.process.exitcode
        self.process.kill()
        self.process.join(HEARTBEAT)
        self.pipe.close()
        if code == -9:
            return "was killed, most likely because memory ran out"
        return f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"exited with code {code}"


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, and that ends this one
    torch.set_num_threads(1)
    lock = threading.Lock()

    def send(message: object) -> None:
        with lock:
            pipe.send(message)

    def send_heartbeats() -> None:
        while True:
            time.sleep(HEARTBEAT)
            try:
                send(None)
            except OSError:  # the main process is gone
                os._exit(1)

    threading.Thread(target=send_heartbeats, daemon=True).start()
    send(None)
    with suppress(EOFError):
        while True:
            send((work(pipe.recv()),))
