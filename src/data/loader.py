"""Batches for training: their order, the loader, and the end of workers that hang or die."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from src.data.samples import Sample
from src.data.splits import DamagedClips
from src.errors import UserError

KILLED = (
    "a process that reads training data was killed, most likely because memory ran out (in a container shared memory): "
    "lower data.workers, data.batch_size or data.patches_per_read and go on with resume=true; where it happens again, "
    "task=doctor doctor.read=true finds files that crash a decoder"
)
STUCK = (
    "no training data has come for {:g} s: a decoder is stuck, which task=doctor doctor.read=true finds, or the disk "
    "does not answer; go on with resume=true, and with a larger data.timeout where reading is only slow"
)


class EpochSampler(Sampler[tuple[int, int, int]]):
    """Keys (epoch, index, patch) in an order that is a function of (seed, epoch), of which each rank takes its share.

    What a step is made of does not depend on the number of ranks. What makes no whole step is left out, something else
    each epoch. Where there are fewer indices than a step takes, they go round; an index beyond ``size`` is the same
    stretch with other draws.

    Args:
        size: number of indices.
        seed: of the order.
        rank, world: whose share.
        batch: keys that a rank takes at a time.
        step: keys that whole steps of all ranks take, a multiple of ``batch * world``; those by default.
        patches: of each index.
        mixed: indices whose patches come in random order, on all ranks; those of all others stay together.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        batch: int = 1,
        step: int | None = None,
        patches: int = 1,
        mixed: int = 1,
    ) -> None:
        self.multiple = math.lcm(step or batch * world, patches) // patches  # indices that whole steps take
        self.size = size * -(-self.multiple // size)
        self.seed, self.rank, self.world, self.batch = seed, rank, world, batch
        self.patches, self.mixed = patches, mixed
        self.epoch, self.skip = 0, 0

    @property
    def _indices(self) -> int:
        return self.size // self.multiple * self.multiple

    def __len__(self) -> int:
        return self._indices * self.patches // self.world

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(self.size, generator=generator).tolist()[: self._indices]
        keys = []
        for first in range(0, len(order), self.mixed):
            group = [(index, patch) for index in order[first : first + self.mixed] for patch in range(self.patches)]
            if self.mixed > 1:
                group = [group[k] for k in torch.randperm(len(group), generator=generator).tolist()]
            keys += group
        mine = [key for place, key in enumerate(keys) if place // self.batch % self.world == self.rank]
        for index, patch in mine[self.skip :]:
            yield self.epoch, index, patch


class Loader(DataLoader[Sample]):
    """A loader that goes on where a checkpoint left it, in the middle of an epoch too.

    Lightning keeps ``state_dict()`` in its checkpoints and gives it back before the first batch.

    Args:
        damaged: counts the clips that samples say are damaged; None: none may be.
        tell: is called when there are more of them.
        patience: seconds after which processes that give no batch are ended, whatever they are in.
        arguments, options: those of torch's; workers are persistent.

    Attributes:
        waited: seconds so far that it took to give batches, from when each was asked for.
    """

    sampler: EpochSampler

    def __init__(
        self,
        *arguments: Any,
        damaged: DamagedClips | None = None,
        tell: Callable[[], None] = lambda: None,
        patience: float = 600,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._given = 0  # batches of this epoch
        self._damaged, self._tell = DamagedClips() if damaged is None else damaged, tell
        self.patience = patience
        self.waited = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._given = self.sampler.skip // (self.batch_size or 1)
        with self._watched():
            batches = super().__iter__()  # workers begin to read here, not at the first batch
        return self._counted(batches)

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                with self._watched():
                    batch = next(batches)
            except StopIteration:
                return
            except UserError as problem:  # torch wraps a worker's message in its traceback, which ends with the message
                sentence = str(problem).strip().splitlines()[-1]
                raise type(problem)(
                    sentence.removeprefix(f"{type(problem).__module__}.{type(problem).__name__}: ")
                ) from None
            self._count(batch.pop("damaged", {}))
            self._given += 1
            yield batch

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Ends workers that are waited for too long, and says what a person can do where one is gone.

        torch's own time limit does not hold where a worker keeps back what it has announced.
        """
        stuck = threading.Event()

        def workers() -> list[Any]:
            return getattr(self._iterator, "_workers", [])

        def end() -> None:
            stuck.set()
            for process in workers():
                process.kill()

        timer = threading.Timer(self.patience, end)
        timer.daemon = True
        if self.num_workers:
            timer.start()
        start = time.perf_counter()
        try:
            yield
            self.waited += time.perf_counter() - start
        except (RuntimeError, OSError, EOFError) as error:
            if stuck.is_set():
                raise UserError(STUCK.format(self.patience)) from error
            cut = isinstance(error, (EOFError, ConnectionError, FileNotFoundError))  # while it handed something over
            if str(error).startswith("DataLoader worker") or (cut and _one_is_gone(workers())):
                raise UserError(KILLED) from error
            raise
        finally:
            timer.cancel()

    def _count(self, damaged: Mapping[str, str]) -> None:
        before = len(self._damaged)
        for path, sentence in damaged.items():
            self._damaged.skip(path, sentence)
        if len(self._damaged) > before:
            self._tell()

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        over = state["batches"] >= len(self)
        self.sampler.set_epoch(state["epoch"] + over)
        self.sampler.skip = 0 if over else state["batches"] * (self.batch_size or 1)
        self._given = 0 if over else state["batches"]


def _one_is_gone(processes: Sequence[Any]) -> bool:
    """Whether a process has ended, of which word may take a moment."""
    return bool(wait([process.sentinel for process in processes], timeout=5))
