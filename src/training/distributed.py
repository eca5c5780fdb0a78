"""Several processes of one run: one that fails takes the others down soon, and its own sentence is what is read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from src.errors import UserError

PATIENCE = 10.0  # seconds in which a rank that misses another one shall have failed by itself
ENDED = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + getattr(signal, "SIGUSR1", signal.SIGTERM))
LOST = (
    "Another process of this run ended without a word: it was killed, perhaps because memory ran out; fewer "
    "data.workers or a smaller data.batch_size take less, and resume=true goes on from the last checkpoint."
)


@contextmanager
def fail_together(trainer: Trainer, directory: Path) -> Iterator[None]:
    """Runs what all ranks run. Where one fails, the others fail with what it said, instead of what they miss it for.

    The first to fail leaves a note, ``failed.txt``, in the run's directory. Nothing outlives a failure for more than
    some seconds, whatever it waits for: who has started ranks watches them, and they watch that process.

    Raises:
        UserError: another rank failed; the sentence is its own.
    """
    if trainer.world_size == 1:
        yield
        return
    note, over = directory / "failed.txt", threading.Event()
    if trainer.is_global_zero:
        note.unlink(missing_ok=True)  # of an earlier attempt
    watch = threading.Thread(target=_end_with, args=[os.getppid()], daemon=True)
    if not trainer.local_rank:
        watch = threading.Thread(target=_watch, args=[trainer, note, over], daemon=True)
    watch.start()
    try:
        yield
    except Exception as error:
        if _misses_another(error):
            raise UserError(_read(note) or LOST) from error
        _write(note, f"Rank {trainer.global_rank} failed: {_sentence(error)}")
        raise
    finally:
        over.set()


def _watch(trainer: Trainer, note: Path, over: threading.Event) -> None:
    """Ends this process, if it does not by itself, where one of those that it has started fails."""
    ranks: list[subprocess.Popen[bytes]] = []
    while not over.wait(0.5):
        started: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        ranks += started
        started.clear()  # Lightning's own watch would kill this process without a word
        if all(rank.poll() in (None, *ENDED) for rank in ranks) or over.wait(PATIENCE):
            continue
        print(_read(note) or LOST, file=sys.stderr, flush=True)
        for rank in ranks:
            rank.kill()
        os._exit(1)


def _end_with(parent: int) -> None:
    """Ends this process when the one that has started it is gone: it may hang in what both take part in."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _misses_another(error: BaseException) -> bool:
    """Whether an error is that of a process whose counterpart does not answer."""
    text = str(error)
    of_distributed = isinstance(error, torch.distributed.DistError) or "gloo" in text or "NCCL" in text
    return isinstance(error, RuntimeError) and of_distributed


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}, see above"


def _write(note: Path, sentence: str) -> None:
    try:
        with note.open("x", encoding="utf-8") as stream:  # the first to fail is the one to blame
            stream.write(sentence)
    except OSError:
        return


def _read(note: Path) -> str:
    """What the rank that failed has left, which it may be about to write."""
    for _ in range(10):
        if note.exists() and (text := note.read_text(encoding="utf-8")):
            return text
        time.sleep(0.2)
    return ""
