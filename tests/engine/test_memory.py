"""The memory of a pass is measured exactly, and passes stay within their budget."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from src.engine.memory import (
    MAX_FRAMES_PER_PADDING,
    WORKSPACE_FACTOR,
    estimate_peak,
    fit_frames,
    fit_to_memory,
    measure_available,
)
from src.engine.options import InferenceOptions
from src.engine.stream import stream
from src.papers.wdvr import TSAS, WDVR3D


def network() -> WDVR3D:
    torch.manual_seed(0)
    return WDVR3D(trunk=TSAS(blocks=2, units=8), clip=2, padding=3)


def test_peak_counts_storages_alive_at_once():
    class Doubling(nn.Module):
        def forward(self, clip):
            first = clip + 1  # clip, first
            second = first * 2  # clip, first, second
            del first
            return second.view(-1)  # no storage of its own

    assert estimate_peak(Doubling(), (1, 2, 3, 8, 8)) == 3 * 2 * 3 * 8 * 8 * 4


@pytest.mark.parametrize("share", [1.0, 2.5])
def test_fit_frames_is_maximal(share):
    restorer = network()
    memory = int(share * WORKSPACE_FACTOR * estimate_peak(restorer, (1, 6 + 5, 3, 16, 20)))
    frames = fit_frames(restorer, 16, 20, memory)
    assert WORKSPACE_FACTOR * estimate_peak(restorer, (1, 6 + frames, 3, 16, 20)) <= memory
    assert WORKSPACE_FACTOR * estimate_peak(restorer, (1, 6 + frames + 1, 3, 16, 20)) > memory


def test_fit_frames_is_bounded():
    assert fit_frames(network(), 16, 20, 1) == 1
    assert fit_frames(network(), 16, 20, 2**60) == MAX_FRAMES_PER_PADDING * 3
    assert measure_available(torch.device("cpu")) > 2**20


def test_memory_sets_the_length_of_a_pass():
    lengths = []
    restorer = network()
    restorer.register_forward_hook(lambda module, inputs, output: output.is_meta or lengths.append(output.shape[1]))
    clip = torch.rand(11, 3, 16, 20)
    memory = int(WORKSPACE_FACTOR * estimate_peak(restorer, (1, 6 + 4, 3, 16, 20)))
    options = InferenceOptions(clip_length="auto")
    options = fit_to_memory(restorer, options, (16, 20), torch.device("cpu"), memory=memory)
    frames = list(stream(restorer, iter(clip), options))
    assert [int(time) for time, _ in frames] == list(range(11))
    assert lengths == [4, 4, 4]  # the last pass overlaps the one before
    fixed = [frame for _, frame in stream(restorer, iter(clip), clip_length=4)]
    assert all(torch.equal(a, b) for (_, a), b in zip(frames, fixed, strict=True))
    assert list(stream(restorer, [], options)) == []
