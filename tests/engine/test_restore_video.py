"""A whole video: shots apart, memory that does not suffice, and going on in the middle, to the last bit."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from src.engine.cascade import Cascade
from src.engine.memory import fit_to_memory
from src.engine.options import InferenceOptions
from src.engine.prefetch import DEPTH, BackgroundWriter, prefetch
from src.engine.restore_video import RecentFrames, ReplayedFrames, restore_scenes
from src.engine.scenes import AHEAD
from src.engine.stream import stream
from src.errors import UserError
from src.geometry import Geometry
from src.papers.baselines import Blend, Nothing, Repeat

CUT = 11


def film(frames=26, height=32, width=48):
    """Two shots: a texture that moves, then quite another one."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 6, 24, generator=generator) * torch.tensor([0.4, 0.4]).view(2, 1, 1, 1)
    coarse[1] += 0.6
    textures = nn.functional.interpolate(coarse, (height, 4 * width), mode="bicubic").clamp(0, 1)
    return [textures[int(k >= CUT), :, :, k : k + width].contiguous() for k in range(frames)]


class Mean(nn.Module):
    """The mean of a window, for its middle frame."""

    def __init__(self, window):
        super().__init__()
        self.geometry = Geometry(1, window, (Fraction(window // 2),))

    def forward(self, clip):
        return clip.mean(1, keepdim=True)


NETWORKS = {
    "mean": Mean(5),
    "blend": Blend(scale=2, frames=4),
    "nothing": Nothing(),
    "cascade": Cascade(stages={"mean": Mean(3), "blend": Blend(scale=2, frames=4)}),
}


def run(network, video, **options):
    source = lambda number: iter(video[number:])  # noqa: E731
    return list(restore_scenes(network, source, video[0].shape[-2:], **options))


@pytest.mark.parametrize("name", NETWORKS)
def test_shots_are_videos_of_their_own(name):
    network, video = NETWORKS[name], film()
    whole = run(network, video)
    assert [item.time for item in whole] == network.geometry.output_times(len(video))
    first, second = list(stream(network, video[:CUT])), list(stream(network, video[CUT:]))
    expected = {time: frame for time, frame in first} | {CUT + time: frame for time, frame in second}
    held = first[-1][1]
    assert all(torch.equal(item.frame, expected.get(item.time, held)) for item in whole)
    assert [item.scene for item in whole] == [CUT if item.time >= CUT else 0 for item in whole]


def test_a_cut_is_not_heeded_when_asked():
    video = film()
    whole = run(NETWORKS["blend"], video, cuts=False)
    between = next(item.frame for item in whole if item.time == CUT - Fraction(1, 2))
    assert torch.allclose(between, (whole[2 * CUT - 2].frame + whole[2 * CUT].frame) / 2, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_going_on_anywhere_gives_the_same_to_the_last_bit(name):
    network, video = NETWORKS[name], film()
    whole = run(network, video)
    for number, item in enumerate(whole):
        rest = run(network, video, after=item.time, scene=item.scene)
        assert [(a.time, a.scene) for a in rest] == [(b.time, b.scene) for b in whole[number + 1 :]]
        assert all(torch.equal(a.frame, b.frame) for a, b in zip(rest, whole[number + 1 :], strict=True))


class Short(Repeat):
    """Runs out of memory on the third window that is larger than it has room for."""

    def __init__(self, room):
        super().__init__(scale=2)
        self.room, self.passes = room, 0

    def forward(self, clip):
        self.passes += 1
        if self.passes > 2 and clip.shape[-1] * clip.shape[-2] > self.room:
            raise torch.OutOfMemoryError("no memory left")
        return super().forward(clip)


def test_memory_that_runs_out_loses_nothing():
    video = film(height=96, width=128)
    log = []
    source = ReplayedFrames(video, kept=30)
    options = InferenceOptions(overlap=16)
    shapes = list(restore_scenes(Short(room=64 * 64 + 1), source, (96, 128), options, log=log.append))
    expected = run(Repeat(scale=2), video)
    assert [item.time for item in shapes] == [item.time for item in expected]
    assert all(torch.allclose(a.frame, b.frame, atol=0.05) for a, b in zip(shapes, expected, strict=True))
    assert log == ["Out of memory: continuing in tiles of 64 pixels."]


def test_memory_that_never_suffices_is_one_sentence():
    with pytest.raises(UserError, match="Out of memory even with tiles of 64 pixels"):
        list(
            restore_scenes(
                Short(room=0), ReplayedFrames(film(height=96, width=128), kept=30), (96, 128), log=lambda _: None
            )
        )


def test_tiles_fit_the_memory():
    def tile(memory):
        options = InferenceOptions(tile=None)
        return fit_to_memory(Mean(5), options, (480, 640), torch.device("cpu"), memory=memory).tile

    assert tile(10**9) == 0
    assert 0 < tile(2 * 10**6) < tile(10**7)


def test_recent_frames_can_be_looked_at_again():
    video, window = film(), 1 + AHEAD + 2 * DEPTH
    recent = RecentFrames(lambda number: iter(video[number:]), max_delay=1)
    frames = recent(3)
    for _ in range(20):
        next(frames)
    assert torch.equal(recent[20], video[20])
    assert torch.equal(recent[0], video[23 - window])


def test_replay_keeps_so_many():
    source = ReplayedFrames(film(), kept=3)
    frames = source(0)
    first = [next(frames) for _ in range(6)]
    assert torch.equal(next(source(4)), first[4])
    with pytest.raises(RuntimeError, match="requested again"):
        source(1)


def test_reading_ahead_keeps_order_and_errors():
    def frames():
        yield from range(5)
        raise ValueError("the disk is gone")

    seen = []
    with pytest.raises(ValueError, match="the disk is gone"):
        seen.extend(iter(prefetch(frames(), depth=2)))
    for item in prefetch(frames()):
        seen.append(item)
        if item == 3:
            break
    assert seen[-4:] == [0, 1, 2, 3]


def test_writing_behind_keeps_order_and_errors():
    written = []
    with BackgroundWriter(written.append, depth=2) as behind:
        for item in range(20):
            behind.put(item)
    assert written == list(range(20))

    def fails(item):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"), BackgroundWriter(fails) as behind:
        for item in range(20):
            behind.put(item)
