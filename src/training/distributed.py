"""Fail together: one failing rank ends the whole run within seconds and with its own error message."""

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

GRACE_SECONDS = 10.0  # for this process to fail by itself once another rank is gone
CLEAN_EXITS = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + getattr(signal, "SIGUSR1", signal.SIGTERM))
RANK_LOST = (
    "Another rank of this run died without an error message, perhaps killed for lack of memory. Lower data.workers or "
    "data.batch_size, and continue from the last checkpoint with resume=true."
)


@contextmanager
def fail_together(trainer: Trainer, directory: Path) -> Iterator[None]:
    """Guard a block that all ranks run: when one rank fails, the others fail with its error message.

    The first rank to fail leaves its message in ``failed.txt`` in the run's directory. No process hangs in a collective
    for more than some seconds after a failure: the launching process watches its ranks, and they watch it.

    Raises:
        UserError: another rank failed; the message is that rank's.
    """
    if trainer.world_size == 1:
        yield
        return
    note, done = directory / "failed.txt", threading.Event()
    if trainer.is_global_zero:
        note.unlink(missing_ok=True)  # from an earlier attempt
    watch = threading.Thread(target=_exit_with_parent, args=[os.getppid()], daemon=True)
    if not trainer.local_rank:
        watch = threading.Thread(target=_watch_ranks, args=[trainer, note, done], daemon=True)
    watch.start()
    try:
        yield
    except Exception as error:
        if _is_lost_peer(error):
            raise UserError(_read_note(note) or RANK_LOST) from error
        _write_note(note, f"Rank {trainer.global_rank} failed: {_summarise(error)}")
        raise
    finally:
        done.set()


def _watch_ranks(trainer: Trainer, note: Path, done: threading.Event) -> None:
    """End this process and its ranks when one of them fails and this process does not fail by itself."""
    ranks: list[subprocess.Popen[bytes]] = []
    while not done.wait(0.5):
        started: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        ranks += started
        started.clear()  # Lightning's own watch would kill this process without a message
        if all(rank.poll() in (None, *CLEAN_EXITS) for rank in ranks) or done.wait(GRACE_SECONDS):
            continue
        print(_read_note(note) or RANK_LOST, file=sys.stderr, flush=True)
        for rank in ranks:
            rank.kill()
        os._exit(1)


def _exit_with_parent(parent: int) -> None:
    """End this process when its parent is gone: it may hang in a collective with it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _is_lost_peer(error: BaseException) -> bool:
    """Return whether a collective failed because another rank does not answer."""
    text = str(error)
    is_distributed = isinstance(error, torch.distributed.DistError) or "gloo" in text or "NCCL" in text
    return isinstance(error, RuntimeError) and is_distributed


def _summarise(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}, see above"


def _write_note(note: Path, message: str) -> None:
    try:
        with note.open("x", encoding="utf-8") as stream:  # only the first failure counts
            stream.write(message)
    except OSError:
        return


def _read_note(note: Path) -> str:
    """Read the message of the failed rank, which may still be writing it; empty without one after two seconds."""
    for _ in range(10):
        if note.exists() and (text := note.read_text(encoding="utf-8")):
            return text
        time.sleep(0.2)
    return ""
