"""The loader: ranks share an epoch, interrupted epochs continue, dead and hanging workers are reported."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.loader import EpochSampler, Loader
from src.data.worker_pool import worker_context
from src.errors import UserError
from tests.data.test_datamodule import epoch_of


@pytest.mark.parametrize(("size", "world", "multiple"), [(24, 4, 2), (25, 4, 2), (7, 3, 1), (9, 1, 4), (64, 8, 8)])
def test_ranks_share_an_epoch(size: int, world: int, multiple: int) -> None:
    orders = []
    for epoch in (0, 1):
        ranks = [EpochSampler(size, seed=1, rank=r, world=world, batch=multiple) for r in range(world)]
        for sampler in ranks:
            sampler.set_epoch(epoch)
        keys = [list(sampler) for sampler in ranks]
        assert {len(k) for k in keys} == {len(ranks[0])} == {size // (world * multiple) * multiple}
        drawn = [index for k in keys for e, index, patch in k]
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(range(size))
        assert size - len(drawn) < world * multiple
        assert all(e == epoch and patch == 0 for k in keys for e, _, patch in k)
        orders.append(keys)
    assert orders[0] != orders[1]
    assert list(ranks[0]) == orders[1][0]


@st.composite
def samplers(draw: st.DrawFn) -> tuple[list[EpochSampler], int]:
    """Samplers of all ranks, and their batch size."""
    few, times = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    batch, patches = draw(st.sampled_from([(few, few * times), (few * times, few)]))
    options = {
        "size": draw(st.integers(1, 60)),
        "seed": draw(st.integers(0, 2**40)),
        "world": draw(st.integers(1, 4)),
        "batch": batch,
        "patches": patches,
        "mix": draw(st.integers(1, 4)),
    }
    return [EpochSampler(rank=rank, **options) for rank in range(options["world"])], batch


@given(samplers(), st.integers(0, 2**20), st.data())
@settings(max_examples=120)
def test_an_epoch_has_each_patch_at_most_once(drawn: tuple, epoch: int, data: st.DataObject) -> None:
    ranks, batch = drawn
    for sampler in ranks:
        sampler.set_epoch(epoch)
    keys = [list(sampler) for sampler in ranks]
    assert {len(some) for some in keys} == {len(ranks[0])}
    assert len(ranks[0]) > 0
    assert len(ranks[0]) % batch == 0
    first, everything = ranks[0], [key for some in keys for key in some]
    assert len(set(everything)) == len(everything)
    assert {e for e, _, _ in everything} == {epoch}
    indices = Counter(index for _, index, _ in everything)
    assert set(indices.values()) == {first.patches}  # all patches of each
    assert set(indices) <= set(range(first.padded_size))
    assert first.padded_size - len(indices) < first.multiple
    alone = EpochSampler(  # the same steps, on one rank
        first.padded_size,
        seed=first.seed,
        batch=batch * first.world,
        patches=first.patches,
        mix=first.mix,
    )
    alone.set_epoch(epoch)
    together = [key for start in range(0, len(first), batch) for some in keys for key in some[start : start + batch]]
    assert together == list(alone)
    for sampler, some in zip(ranks, keys, strict=True):
        sampler.skip = data.draw(st.integers(0, len(some)), "goes on behind")
        assert list(sampler) == some[sampler.skip :]
        sampler.set_epoch(epoch + 1)
        assert len(list(sampler)) == len(some)


class KeyDataset(torch.utils.data.Dataset):
    """Samples that contain their keys."""

    def __getitem__(self, key: tuple[int, int, int]) -> dict:
        return {"key": str(key)}


@given(samplers(), st.integers(0, 9), st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=80)
def test_batches_continue_after_repeated_interruptions(drawn: tuple, epoch: int, stops: list[int]) -> None:
    """``stops`` are the batches after which a run is interrupted, each counted from the interruption before."""
    (sampler, *_), batch_size = drawn

    def loader() -> Loader:
        return Loader(KeyDataset(), sampler=copy(sampler), batch_size=batch_size)

    running, epochs = loader(), range(epoch, epoch + len(stops) + 1)
    whole = [batch["key"] for e in epochs for batch in epoch_of(running, e)]
    seen: list[list[str]] = []
    running.sampler.set_epoch(epoch)
    for stop in stops:
        seen += [batch["key"] for batch in islice(iter(running), stop)]
        state, running = running.state_dict(), loader()
        running.load_state_dict(state)
    rest = [batch["key"] for batch in running]
    assert seen + rest == whole[: len(seen) + len(rest)]
    assert len(rest) > 0
    assert (len(seen) + len(rest)) % len(running) == 0  # the epoch's end


# --- Hanging and dying workers ---


def hold_interpreter_lock() -> None:
    """Hang in C code like a decoder, without releasing the interpreter's lock."""
    ctypes.PyDLL(None).sleep(1000)


class Worker(torch.utils.data.Dataset):
    """Writes its process' number into a folder, and calls ``do`` from epoch 1 on."""

    def __init__(self, place: Path, do: Callable[[], object]) -> None:
        self.place, self.do = place, do

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        (self.place / str(os.getpid())).touch()
        if key[0]:
            self.do()
        return {"inputs": torch.zeros(1), "targets": torch.zeros(1), "key": str(key)}


def loader_of(place: Path, do: Callable[[], object], timeout: float, workers: int = 2) -> Loader:
    """Return a loader at its epoch 1, with running workers."""
    loader = Loader(
        Worker(place, do),
        sampler=EpochSampler(8, seed=0),
        batch_size=1,
        num_workers=workers,
        multiprocessing_context=worker_context("src.data.samples"),
        persistent_workers=True,
    )
    assert len(list(loader)) == 8
    loader.time_limit = timeout
    loader.sampler.set_epoch(1)
    return loader


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep_forever() -> None:
    time.sleep(1000)


def sleep_briefly() -> None:
    time.sleep(1)


def list_alive(place: Path) -> list[int]:
    found = []
    for file in place.iterdir():
        with suppress(ProcessLookupError):
            os.kill(int(file.name), 0)
            found.append(int(file.name))
    return found


def wait_until_dead(place: Path) -> None:
    deadline = time.monotonic() + 60
    while list_alive(place):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.long
def test_a_killed_worker_is_reported_at_once(tmp_path: Path) -> None:
    loader, begin = loader_of(tmp_path, kill_itself, timeout=600), time.monotonic()
    with pytest.raises(UserError, match=r"^A data loading worker was killed.*Lower data.workers.*resume=true"):
        list(loader)
    assert time.monotonic() - begin < 60


@pytest.mark.long
@pytest.mark.parametrize("do", [sleep_forever, hold_interpreter_lock, stop_itself])
def test_a_hanging_worker_is_killed(tmp_path: Path, do: Callable[[], object]) -> None:
    loader, begin = loader_of(tmp_path, do, timeout=3), time.monotonic()
    with pytest.raises(UserError, match=r"^No training batch for 3 s.*doctor.read=true.*data.timeout"):
        list(loader)
    assert 3 < time.monotonic() - begin < 60
    wait_until_dead(tmp_path)


@pytest.mark.long
def test_slow_workers_are_waited_for(tmp_path: Path) -> None:
    loader = loader_of(tmp_path, sleep_briefly, timeout=60, workers=1)
    batches = iter(loader)  # an epoch abandoned while the worker reads the next samples
    assert next(batches)["key"][0].startswith("(1, ")
    loader.sampler.set_epoch(2)
    expected = [str((2, index, 0)) for _, index, _ in loader.sampler]
    assert [batch["key"][0] for batch in loader] == expected


@pytest.mark.long
def test_a_worker_that_dies_between_epochs_is_reported(tmp_path: Path) -> None:
    loader = loader_of(tmp_path, time.time, timeout=600)
    for number in list_alive(tmp_path):
        os.kill(number, signal.SIGKILL)
    wait_until_dead(tmp_path)
    begin = time.monotonic()
    with pytest.raises(UserError, match="was killed"):
        list(loader)
    assert time.monotonic() - begin < 30
