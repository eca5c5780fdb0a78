"""Processes that read files: started clean, and ended where a file crashes a decoder or never lets go of it."""

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

SIGN = 1.0  # seconds from one sign of life to the next
START = 60.0  # seconds more until the first


def context(preload: str) -> Any:
    """How processes start: never by forking this one, since decord locks up in the child of one that has used it.

    Args:
        preload: a module, imported once by the clean process from which the others fork.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    clean = multiprocessing.get_context("forkserver")
    clean.set_forkserver_preload([__name__, preload])  # torch, whatever comes of the other
    return clean


def follow(number: int = 0) -> None:
    """Ends this process when the one that it works for is gone, however that went; to be called first thing in it.

    Its parent is the clean process from which it was forked, and that lives as long as any of these do.

    Args:
        number: of a loader's worker; it is not used.
    """
    master = multiprocessing.parent_process()
    if master is not None:
        threading.Thread(target=lambda: (wait([master.sentinel]), os._exit(1)), daemon=True).start()


def map_isolated(
    work: Callable[[J], T],
    jobs: Sequence[J],
    processes: int,
    *,
    lost: Callable[[J, str], T],
    patience: float = 120,
) -> Iterator[T]:
    """What ``work`` makes of each job, as it comes, while several processes work.

    A job of which a process dies costs that process, and no other job. So does one in which it gives no sign of life,
    as where C code keeps the interpreter's lock and no thread of Python can watch it.

    Args:
        work: a function that can be pickled.
        jobs: can be, too.
        processes: at most.
        lost: what is made of a job of which a process died, given how that ended.
        patience: seconds without a sign of life.
    """
    start = context(getattr(work, "func", work).__module__)
    hands: dict[Connection, _Worker[J]] = {}
    waiting = list(reversed(jobs))
    try:
        while waiting or hands:
            while waiting and len(hands) < max(1, processes):
                hand = _Worker[J](start, work)
                hands[hand.pipe] = hand
                hand.give(waiting.pop())
            for pipe in wait([*hands], timeout=SIGN):
                hand = hands[pipe]  # type: ignore[index]
                outcome = hand.hear()
                if outcome is None:
                    continue
                job, how = hand.job, ""
                if outcome and waiting:
                    hand.give(waiting.pop())
                else:
                    del hands[hand.pipe]
                    how = hand.end(0 if outcome else 10 * SIGN)
                yield outcome[0] if outcome else lost(job, how)
            for hand in [hand for hand in hands.values() if time.monotonic() - hand.heard > patience]:
                del hands[hand.pipe]
                hand.end()
                yield lost(hand.job, f"gave no sign of life for {patience:g} s")
    finally:
        for hand in hands.values():
            hand.end()


class _Worker(Generic[J]):
    """A process, and the job that it is at."""

    def __init__(self, start: Any, work: Callable[[J], Any]) -> None:
        self.pipe, theirs = start.Pipe()
        self.process = start.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()
        self.heard = time.monotonic() + START

    def give(self, job: J) -> None:
        self.job, self.heard = job, max(self.heard, time.monotonic())
        with suppress(OSError):  # that it is dead is heard next
            self.pipe.send(job)

    def hear(self) -> tuple[Any, ...] | None:
        """The outcome of the job; None of a sign of life, and nothing of a process that has died."""
        try:
            outcome: tuple[Any, ...] | None = self.pipe.recv()
        except (EOFError, OSError):
            return ()
        self.heard = time.monotonic()
        return outcome

    def end(self, patience: float = 0) -> str:
        """Ends the process, if it does not end by itself within ``patience`` seconds, and says how it did."""
        self.process.join(patience)
        code = self.process.exitcode
        self.process.kill()
        self.process.join(SIGN)
        self.pipe.close()
        if code == -9:
            return "was killed, most likely because memory ran out"
        return f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"left with code {code}"


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the command, which ends this
    torch.set_num_threads(1)
    turn = threading.Lock()

    def send(what: object) -> None:
        with turn:
            pipe.send(what)

    def live() -> None:
        while True:
            time.sleep(SIGN)
            try:
                send(None)
            except OSError:  # nobody listens any more
                os._exit(1)

    threading.Thread(target=live, daemon=True).start()
    send(None)
    with suppress(EOFError):
        while True:
            send((work(pipe.recv()),))
