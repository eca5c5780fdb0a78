"""Training batches: their order, the loader, and the end of workers that hang or die."""

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
    "A data loading worker was killed, most likely because memory ran out (in a container: shared memory). Lower "
    "data.workers, data.batch_size or data.patches_per_read, and continue with resume=true. If it happens again, "
    "task=doctor doctor.read=true finds files that crash a decoder"
)
STUCK = (
    "No training batch for {:g} s: a decoder hangs, or the disk does not respond. task=doctor doctor.read=true finds "
    "files that hang a decoder; continue with resume=true, and raise data.timeout if reading is merely slow"
)


class EpochSampler(Sampler[tuple[int, int, int]]):
    """Keys of one rank, in an order that is a function of (seed, epoch).

    A key (epoch, index, patch) identifies one sample: ``index`` selects a source segment, and ``patch`` counts the
    crops of it. The keys of a step do not depend on the number of ranks. An incomplete last step is dropped; its
    indices differ from epoch to epoch. If a step needs more indices than there are, they repeat; an index of ``size``
    or more is the same segment with other random draws.

    Args:
        size: number of source segments.
        seed: random seed for the shuffle.
        rank, world: rank and number of ranks.
        batch: number of keys per batch of a rank.
        step: number of keys per step of all ranks, a multiple of ``batch * world``, the default.
        patches: number of patches per index.
        mix: number of consecutive indices whose patches are shuffled together, over all ranks; 1 keeps an index's
            patches adjacent.
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
        mix: int = 1,
    ) -> None:
        self.multiple = math.lcm(step or batch * world, patches) // patches  # indices per whole number of steps
        self.padded_size = size * -(-self.multiple // size)  # at least one step
        self.seed, self.rank, self.world, self.batch = seed, rank, world, batch
        self.patches, self.mix = patches, mix
        self.epoch, self.skip = 0, 0

    @property
    def _indices(self) -> int:
        return self.padded_size // self.multiple * self.multiple

    def __len__(self) -> int:
        return self._indices * self.patches // self.world

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(self.padded_size, generator=generator).tolist()[: self._indices]
        keys = []
        for first in range(0, len(order), self.mix):
            group = [(index, patch) for index in order[first : first + self.mix] for patch in range(self.patches)]
            if self.mix > 1:
                group = [group[k] for k in torch.randperm(len(group), generator=generator).tolist()]
            keys += group
        own = [key for position, key in enumerate(keys) if position // self.batch % self.world == self.rank]
        for index, patch in own[self.skip :]:
            yield self.epoch, index, patch


class Loader(DataLoader[Sample]):
    """A loader that resumes from a checkpoint, also in the middle of an epoch.

    Lightning stores ``state_dict()`` in its checkpoints and loads it before the first batch.

    Args:
        damaged: record of the damaged clips reported by samples; ``None`` allows none.
        on_damage: function called when their number grows.
        time_limit: seconds without a batch after which the workers are killed.
        arguments, options: arguments of torch's loader; with workers, pass ``persistent_workers=True``, otherwise the
            time limit has no workers to kill.

    Attributes:
        waited: total time spent waiting for batches, in seconds.
    """

    sampler: EpochSampler

    def __init__(
        self,
        *arguments: Any,
        damaged: DamagedClips | None = None,
        on_damage: Callable[[], None] = lambda: None,
        time_limit: float = 600,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._batches = 0  # of this epoch, so far
        self._damaged, self._on_damage = DamagedClips() if damaged is None else damaged, on_damage
        self.time_limit = time_limit
        self.waited = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._batches = self.sampler.skip // (self.batch_size or 1)
        with self._limit_time():
            batches = super().__iter__()  # workers start to read here, not at the first batch
        return self._iterate(batches)

    def _iterate(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                with self._limit_time():
                    batch = next(batches)
            except StopIteration:
                return
            except UserError as error:  # torch puts a worker's message at the end of its traceback
                message = str(error).strip().splitlines()[-1]
                raise type(error)(message.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
            self._count_damaged(batch.pop("damaged", {}))
            self._batches += 1
            yield batch

    @contextmanager
    def _limit_time(self) -> Iterator[None]:
        """Kill the workers after the time limit. Raise a ``UserError`` if they were killed or have died.

        torch's own time limit fails if a worker announces a batch and does not send it.
        """
        expired = threading.Event()

        def workers() -> list[Any]:
            return getattr(self._iterator, "_workers", [])

        def kill_workers() -> None:
            expired.set()
            for process in workers():
                process.kill()

        timer = threading.Timer(self.time_limit, kill_workers)
        timer.daemon = True
        if self.num_workers:
            timer.start()
        start = time.perf_counter()
        try:
            yield
            self.waited += time.perf_counter() - start
        except (RuntimeError, OSError, EOFError) as error:
            if expired.is_set():
                raise UserError(STUCK.format(self.time_limit)) from error
            cut_off = isinstance(error, (EOFError, ConnectionError, FileNotFoundError))  # while sending a batch
            if str(error).startswith("DataLoader worker") or (cut_off and _any_exited(workers())):
                raise UserError(KILLED) from error
            raise
        finally:
            timer.cancel()

    def _count_damaged(self, damaged: Mapping[str, str]) -> None:
        before = len(self._damaged)
        for path, message in damaged.items():
            self._damaged.skip(path, message)
        if len(self._damaged) > before:
            self._on_damage()

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "batches": self._batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        epoch_is_over = state["batches"] >= len(self)
        self.sampler.set_epoch(state["epoch"] + epoch_is_over)
        self.sampler.skip = 0 if epoch_is_over else state["batches"] * (self.batch_size or 1)
        self._batches = 0 if epoch_is_over else state["batches"]


def _any_exited(processes: Sequence[Any]) -> bool:
    """Return ``True`` if a process has exited; the system may report it with a short delay."""
    return bool(wait([process.sentinel for process in processes], timeout=5))
