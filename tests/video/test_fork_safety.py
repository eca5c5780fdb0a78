"""Readers work in worker processes, whatever the parent has read."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from src.video.reader import open_video
from tests.video.clips import encode

pytestmark = pytest.mark.long


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_open_reader_works_in_workers(tmp_path: Path, backend: str) -> None:
    reader = open_video(encode(tmp_path / "clip.mp4", "libx264", {"g": "12"}), backend=backend)
    expected = reader.read(range(20))  # opens decoders
    copy = pickle.loads(pickle.dumps(reader))
    assert torch.equal(copy.read(range(20)), expected)

    class Frames(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> torch.Tensor:
            return reader.read([index])[0]

    loader = torch.utils.data.DataLoader(Frames(), batch_size=10, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(torch.cat(list(loader)), expected)
    assert torch.equal(reader.read([5]), expected[5:6])


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_forked_process_opens_its_own_decoders(tmp_path: Path, backend: str) -> None:
    """Fork from a new process: the one of the other tests already has threads."""
    path = encode(tmp_path / "clip.mp4", "libx264", {"g": "12"})
    process = multiprocessing.get_context("spawn").Process(target=read_and_fork, args=(path, backend))
    process.start()
    process.join()
    assert process.exitcode == 0


def read_and_fork(path: Path, backend: Literal["auto", "pyav"]) -> None:
    reader = open_video(path, backend=backend)
    frames = reader.frames()
    first, before = next(frames), reader.read([30])
    child = os.fork()
    if not child:
        second, again = next(frames).numpy(), reader.read([1, 30]).numpy()  # in numpy: OpenMP does not survive a fork
        same = np.array_equal(np.stack([second, before[0].numpy()]), again)
        frames.close()
        reader.close()
        del reader, frames
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(torch.stack([first, next(frames)]), reader.read([0, 1]))
