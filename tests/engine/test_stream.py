"""Streaming covers every output time of a video once, with what the network makes of the right frames."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import pytest
import torch
from torch import nn

from src.engine.cascade import apply_recursively
from src.engine.ensemble import Ensemble
from src.engine.stream import find_first_frame, stream
from src.engine.windows import slide_windows
from src.geometry import Geometry, evenly
from src.nn.video_network import VideoNetwork
from src.papers.baselines import Bicubic, Blend, Repeat
from tests.test_geometry import ALL


class Clock(nn.Module):
    """Returns, as pixel values, the time of each output frame, read off input frames that hold their own number."""

    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry

    def forward(self, clip):
        out = []
        for time in self.geometry.times:
            below = int(time)
            above = min(below + 1, clip.shape[1] - 1)
            out.append(torch.lerp(clip[:, below], clip[:, above], float(time - below)))
        return torch.stack(out, dim=1)


def numbered(frames):
    return [torch.full((3, 2, 2), float(i)) for i in range(frames)]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 7, 8, 11, 23])
def test_every_output_time_once(name, frames):
    geometry = ALL[name]
    out = list(stream(Clock(geometry), numbered(frames)))
    assert [time for time, _ in out] == geometry.output_times(frames)
    for time, frame in out:
        if name == "vtsr" and time % 1 == Fraction(1, 4):
            continue  # the second half of an exposure has no frame behind it that the clock could read
        shown = min(max(float(time), 0.0), frames - 1.0)
        assert frame[0, 0, 0] == pytest.approx(shown, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("frames", [1, 3, 4, 6, 7, 12])
@pytest.mark.parametrize("edges", ["replicate", "reflect", "new_info", "none"])
def test_going_on_gives_what_the_whole_gives(name, frames, edges):
    network, video = Clock(ALL[name]), numbered(frames)
    whole = list(stream(network, video, edges=edges))
    for number, (after, _) in enumerate(whole):
        begin = find_first_frame(network, after, edges=edges)
        rest = list(stream(network, video[begin:], after=after, edges=edges))
        assert [time for time, _ in rest] == [time for time, _ in whole[number + 1 :]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rest, whole[number + 1 :], strict=True))


@pytest.mark.parametrize("frames", [1, 5, 6, 9, 14])
def test_seams_are_dropped(frames):
    """With context each output is from the pass that has it farther from its ends."""

    class Ends(Clock):
        def forward(self, clip):
            count = len(self.geometry.lengthened(11).times)
            near = torch.tensor([min(k, count - 1 - k) for k in range(count)]).view(1, count, 1, 1, 1)
            return near.float().expand(1, count, 3, 2, 2)

    network = Ends(ALL["zsm"])
    options = {"clip_length": 11, "context": 1}
    whole = list(stream(network, numbered(frames), **options))
    assert [time for time, _ in whole] == ALL["zsm"].output_times(frames)
    inside = [int(frame[0, 0, 0]) for time, frame in whole if 1 < time < frames - 2]
    assert not inside or min(inside) >= 2
    for number, (after, _) in enumerate(whole):
        rest = list(
            stream(network, numbered(frames)[find_first_frame(network, after, **options) :], after=after, **options)
        )
        assert [time for time, _ in rest] == [time for time, _ in whole[number + 1 :]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rest, whole[number + 1 :], strict=True))


def test_edges_are_repeated_or_mirrored():
    first = {}
    for edges in ("replicate", "reflect"):
        read = list(windows_of(5, edges))
        first[edges] = [int(frame.mean()) for frame in read[0]]
        assert [int(frame.mean()) for frame in read[-1]] == [5 - n for n in first[edges]][::-1]
    assert first == {"replicate": [0, 0, 0, 1, 2], "reflect": [2, 1, 0, 1, 2]}


def test_windows_are_filled_up_from_their_other_end():
    """The windows of EDVR's published tests ("new_info"), at both ends of the video and in its middle."""
    read = [[int(frame.mean()) for frame in window] for window in windows_of(5, "new_info")]
    assert read == [
        [4, 3, 0, 1, 2],
        [4, 0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [1, 2, 3, 4, 5],
        [2, 3, 4, 5, 1],
        [3, 4, 5, 2, 1],
    ]
    assert all(0 <= frame.mean() <= 1 for window in windows_of(5, "new_info", frames=2) for frame in window)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("frames", [1, 3, 6, 12])
def test_without_filling_only_whole_windows_count(name, frames):
    geometry = ALL[name]
    network, video = Clock(geometry), numbered(frames)
    whole = dict(stream(network, video, edges="none"))
    starts = range(0, frames - geometry.window + 1)
    covered = {
        start + time
        for start in starts
        if start % geometry.stride == 0 or start == starts[-1]
        for time in geometry.times
    }
    assert [*whole] == sorted(covered) == geometry.output_times(frames, filled=False)
    filled = dict(stream(network, video))
    if geometry.stride == 1:
        assert all(torch.equal(frame, filled[time]) for time, frame in whole.items())


@pytest.mark.parametrize("frames", [2, 3, 5, 8])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_rounds_without_filling_stand_on_real_frames_alone(frames, rounds):
    """Each round makes two frames of every two neighbours of the round before."""
    network, video = Clock(ALL["vtsr"]), numbered(frames)
    rounded = apply_recursively(network, 2**rounds)
    seen = {}
    options = {"edges": "none", "watch": lambda stage, time, frame: seen.setdefault(stage, []).append(time)}
    last = list(stream(rounded, video, **options))
    seen[rounds - 1] = [time for time, _ in last]
    count = frames
    for stage in range(rounds):
        count = 2 * count - 2
        assert len(seen[stage]) == count
        assert seen[stage] == ALL["vtsr"].again(stage + 1).output_times(frames, filled=False)
        assert seen[stage][0] + seen[stage][-1] == frames  # as much is missing at either end
    for number, (after, _) in enumerate(last):
        begin = find_first_frame(rounded, after, edges="none")
        rest = list(stream(rounded, video[begin:], after=after, edges="none"))
        assert [time for time, _ in rest] == [time for time, _ in last[number + 1 :]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rest, last[number + 1 :], strict=True))


@pytest.mark.parametrize("frames", [1, 2, 5, 9])
def test_overlaps_are_averaged(frames):
    class Places(VideoNetwork):
        """Returns the place of each output within its window."""

        geometry = Geometry(1, 4, evenly(1, "1/2", 3))
        average_overlaps = True

        def forward(self, clip):
            return torch.arange(3.0).view(1, 3, 1, 1, 1).expand(1, 3, 3, 2, 2)

    network = Places()
    whole = list(stream(network, numbered(frames)))
    assert [time for time, _ in whole] == network.geometry.output_times(frames)
    places = [float(frame[0, 0, 0]) for _, frame in whole]
    assert places == [0, *[1] * (len(places) - 2), 2][: len(places)]  # both ends are made once, in one place
    edge = dict(stream(network, numbered(6), edges="none"))
    assert [float(frame[0, 0, 0]) for frame in edge.values()] == [0, 1, 1, 1, 1, 1, 2]
    for number, (after, _) in enumerate(whole):
        rest = list(stream(network, numbered(frames)[find_first_frame(network, after) :], after=after))
        assert [time for time, _ in rest] == [time for time, _ in whole[number + 1 :]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rest, whole[number + 1 :], strict=True))


def windows_of(window, edges, frames=6):
    """The windows that a network of so many frames is given of a video."""
    seen = []

    class Witness(nn.Module):
        geometry = Geometry(1, window, (Fraction(window // 2),))

        def forward(self, clip):
            seen.append(list(clip[0]))
            return clip[:, :1]

    list(stream(Witness(), numbered(frames), edges=edges))
    return seen


def test_last_window_is_moved_back_not_filled_up():
    starts = [start for start, _ in slide_windows(numbered(6), ALL["zsm"])]
    assert starts == [0, 2]
    assert [start for start, _ in slide_windows(numbered(7), ALL["zsm"])] == [0, 3]


def test_shorter_windows():
    assert len(list(slide_windows(numbered(5), ALL["zsm"].lengthened(3)))) == 4
    out = list(stream(Blend(scale=2, frames=4), numbered(5), clip_length=3))
    assert [time for time, _ in out] == ALL["zsm"].output_times(5)


def test_reads_no_further_than_needed():
    read = []

    def frames():
        for i, frame in enumerate(numbered(100)):
            read.append(i)
            yield frame

    outputs = stream(Clock(ALL["edvr"]), frames())
    next(outputs)
    assert len(read) == 3  # the frame itself and two behind it
    next(outputs)
    assert len(read) == 4


def test_memory_does_not_grow_with_length():
    def measure_peak(frames):
        tracemalloc.start()
        video = (torch.zeros(3, 8, 8) for _ in range(frames))
        for _ in stream(Clock(ALL["zsm"]), video):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    measure_peak(10)
    assert measure_peak(1200) < 1.2 * measure_peak(100) + 20_000


def test_nothing_in_nothing_out():
    assert list(stream(Bicubic(scale=4), [])) == []


def test_baselines():
    torch.manual_seed(0)
    clip = torch.rand(1, 3, 3, 6, 7)
    up = Bicubic(scale=4)(clip)
    assert up.shape == (1, 3, 3, 24, 28)
    repeat, blend = Repeat(scale=4)(clip), Blend(scale=4)(clip)
    for out in (repeat, blend):
        assert out.shape == (1, 5, 3, 24, 28)
        assert torch.equal(out[:, ::2], up)
    assert torch.equal(repeat[:, 1::2], up[:, :-1])
    assert torch.allclose(blend[:, 1::2], (up[:, :-1] + up[:, 1:]) / 2, atol=1e-6)
    assert Repeat(scale=4).geometry.output_times(2) == [0, Fraction(1, 2), 1]


class Corner(nn.Module):
    """Not symmetric in any way: weighs pixels by where they lie."""

    geometry = Geometry(1, 2, (Fraction(0), Fraction(1)), 1)

    def forward(self, clip):
        ramp = torch.arange(clip.shape[-1]) + 10.0 * torch.arange(clip.shape[-2])[:, None]
        return clip * ramp


@pytest.mark.parametrize("copies", [2, 4, 8])
def test_ensemble(copies):
    clip = torch.rand(1, 2, 3, 5, 5)
    symmetric = Bicubic(scale=4)
    assert torch.allclose(Ensemble(symmetric, copies=copies)(clip), symmetric(clip), atol=1e-6)
    averaged = Ensemble(Corner(), copies=copies)
    assert torch.allclose(averaged(clip.flip(-1)), averaged(clip).flip(-1), atol=1e-5)
    if copies == 8:
        turned = clip.transpose(-1, -2)
        assert torch.allclose(averaged(turned), averaged(clip).transpose(-1, -2), atol=1e-5)
    assert not torch.allclose(Corner()(clip.flip(-1)), Corner()(clip).flip(-1))


@pytest.mark.parametrize("copies", [2, 4, 8])
def test_streamed_ensemble(copies):
    clip = torch.rand(1, 5, 3, 4, 4)
    network = Corner()
    streamed = list(stream(network, clip[0], ensemble=copies))
    assert [time for time, _ in streamed] == [time for time, _ in stream(network, clip[0])]
    expected = [frame for _, frame in stream(Ensemble(network, copies=copies), clip[0])]
    assert torch.allclose(torch.stack([frame for _, frame in streamed]), torch.stack(expected), atol=1e-5)
