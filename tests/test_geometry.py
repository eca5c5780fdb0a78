"""Geometry of every network of the suite, as the papers have it."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from src.engine.stream import find_first_frame, stream
from src.engine.windows import slide_windows
from src.geometry import MOST_ROUNDS, Geometry, evenly

EDVR = Geometry(4, 5, (2,))
ZSM = Geometry(4, 4, evenly(0, "1/2", 7), stride=3, elastic=True)
DSFN = Geometry(4, 4, (1, Fraction(3, 2), 2))
HALVES = (Fraction(1, 2),) * 2
VTSR = Geometry(1, 2, (Fraction(3, 4), Fraction(5, 4)), exposures=HALVES)
WDVR = Geometry(4, 20, tuple(range(8, 12)), stride=4, elastic=True)
ALL = {"edvr": EDVR, "zsm": ZSM, "dsfn": DSFN, "vtsr": VTSR, "wdvr": WDVR}


@pytest.mark.parametrize(
    ("name", "lead", "trail", "spacing", "subdivision"),
    [
        ("edvr", 2, 2, Fraction(1), 1),
        ("zsm", 0, 0, Fraction(1, 2), 2),
        ("dsfn", 1, 1, Fraction(1, 2), 2),
        ("vtsr", 1, 1, Fraction(1, 2), 2),
        ("wdvr", 8, 8, Fraction(1), 1),
    ],
)
def test_derived_properties(name, lead, trail, spacing, subdivision):
    g = ALL[name]
    assert (g.lead, g.trail, g.spacing, g.subdivision) == (lead, trail, spacing, subdivision)


def test_output_times():
    assert ZSM.output_times(3) == [Fraction(0), Fraction(1, 2), Fraction(1), Fraction(3, 2), Fraction(2)]
    assert EDVR.output_times(3) == [0, 1, 2]
    assert VTSR.output_times(2) == [Fraction(k, 4) for k in (1, 3, 5, 7)]  # the centre of each half exposure
    assert ZSM.output_times(1) == [0]


def test_lengthened():
    three = ZSM.lengthened(3)
    assert (three.window, three.times, three.stride) == (2, (0, Fraction(1, 2), 1), 1)
    six = WDVR.lengthened(6)
    assert (six.window, six.times, six.stride) == (22, tuple(range(8, 14)), 6)
    with pytest.raises(ValueError, match="cannot output 4 frames"):
        ZSM.lengthened(4)
    with pytest.raises(ValueError, match="cannot output 1 frames"):
        ZSM.lengthened(1)  # the frames between would be lost
    with pytest.raises(ValueError, match="cannot output 3 frames"):
        EDVR.lengthened(3)


def test_padded():
    two = WDVR.padded(2)
    assert (two.window, two.times, two.stride) == (8, (2, 3, 4, 5), 4)
    none = WDVR.padded(0)
    assert (none.lead, none.trail, none.window) == (0, 0, 4)
    assert WDVR.padded(3).lengthened(1).window == 7


def test_invalid_values_raise():
    with pytest.raises(ValueError, match="ascend"):
        Geometry(4, 2, (1, 0))
    with pytest.raises(ValueError, match="at least 1"):
        Geometry(0, 2, (0,))


@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_recursive_halving(rounds):
    g, parts = VTSR.again(rounds), 2**rounds
    assert g.exposures == (Fraction(1, parts),) * len(g.times)
    assert g.spacing == Fraction(1, parts)
    assert g.output_times(3) == [Fraction(2 * k + 1, 2 * parts) for k in range(3 * parts)]
    assert g.subdivision == parts
    edges = [g.interval(k) for k in range(len(g.times))]
    assert all(before[1] == after[0] for before, after in pairwise(edges))  # without gap or overlap


def test_then():
    assert ZSM.then(ZSM).output_times(2) == [Fraction(k, 4) for k in range(5)]
    assert EDVR.then(ZSM).scale == 16
    shown = VTSR.then(Geometry(2, 1, (0,)))  # frame by frame, enlarged: as long exposed as before
    assert (shown.times, shown.exposures) == ((Fraction(3, 4), Fraction(5, 4)), HALVES)


def test_each_output_has_an_exposure():
    with pytest.raises(ValueError, match="needs an exposure"):
        Geometry(1, 2, VTSR.times, exposures=(Fraction(1, 2),))


@st.composite
def networks(draw: st.DrawFn, exposed: bool | None = None, on_frames: bool = False) -> Geometry:
    """Draw geometries that restore whole videos, with outputs for one stride or more.

    Outputs are instants from an input frame or any time on, or adjacent exposures, ``rate`` per input frame.
    """
    rate, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    count = stride * rate + draw(st.integers(0, 3))
    half = Fraction(1, 2 * rate)
    if draw(st.booleans()) if exposed is None else exposed:
        times = evenly(half + draw(st.integers(0, 2 * rate)) * 2 * half, 2 * half, count)
        exposures, end = (2 * half,) * count, math.ceil(times[-1] + half)
    else:
        first = draw(st.integers(0, 2)) if on_frames else draw(st.integers(0, 4 * rate)) * half
        times = evenly(first, 2 * half, count)
        exposures, end = None, math.ceil(times[-1]) + 1  # no output lies behind its window
    return Geometry(draw(st.integers(1, 3)), end + draw(st.integers(0, 2)), times, stride, exposures=exposures)


LENGTHS = st.integers(1, 9)  # of videos, in input frames
EXPOSED, ON_FRAMES = networks(exposed=True), networks(exposed=False, on_frames=True)


@given(networks(), LENGTHS)
@settings(max_examples=150)
def test_outputs_of_a_whole_video_are_complete(geometry, frames):
    times, step = geometry.output_times(frames), geometry.spacing
    assert all(after - before == step for before, after in pairwise(times))
    assert all((time - geometry.times[0]) % step == 0 for time in times)
    if geometry.exposures:  # adjacent, from begin to end of the video
        assert (times[0] - step / 2, times[-1] + step / 2) == (0, frames)
    else:
        assert -1 < times[0] <= 0
        assert frames - 1 <= times[-1] < frames
        assert geometry.times[0] % step or (times[0], times[-1]) == (0, frames - 1)


@given(networks(), LENGTHS)
@settings(max_examples=150)
def test_windows_cover_all_output_times(geometry, frames):
    """Every output time of the video lies in a window; frames beyond its ends repeat the first and the last frame."""
    times, covered = geometry.output_times(frames), set()
    starts = []
    for start, held in slide_windows(range(frames), geometry):
        assert held == [min(max(start + i, 0), frames - 1) for i in range(geometry.window)]
        starts.append(start)
        covered |= {start + time for time in geometry.times}
    assert starts == sorted(set(starts))
    assert starts[0] == -geometry.lead
    assert {after - before for before, after in list(pairwise(starts))[:-1]} <= {geometry.stride}
    assert covered >= set(times)


class Witness(nn.Module):
    """Output, for each time, the input frame shown at that time on the left and the mean of the window on the right."""

    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry

    def forward(self, clip):
        latest = clip[:, [math.floor(time) for time in self.geometry.times]]
        return torch.cat([latest[..., :1], clip.mean(1, keepdim=True)[..., 1:].expand_as(latest[..., 1:])], dim=-1)


@given(networks(), LENGTHS, st.data())
@settings(max_examples=200)
def test_streaming_equals_separate_windows(geometry, frames, data):
    geometry = replace(geometry, scale=1)
    network, video = Witness(geometry), torch.rand(frames, 3, 1, 2, generator=torch.Generator().manual_seed(frames))
    expected = {}
    for start, held in slide_windows(video, geometry):
        restored = network(torch.stack(held)[None])[0]
        for time, frame in zip(geometry.times, restored, strict=True):
            expected.setdefault(start + time, frame)
    whole = list(stream(network, video))
    assert [time for time, _ in whole] == geometry.output_times(frames)
    for time, frame in whole:
        assert torch.equal(frame, expected[time])
        assert torch.equal(frame[..., 0], video[min(max(math.floor(time), 0), frames - 1)][..., 0])
    place = len(whole) - data.draw(st.integers(1, len(whole)), "outputs to go")
    after = whole[place][0]
    rest = list(stream(network, video[find_first_frame(network, after) :], after=after))
    assert [time for time, _ in rest] == [time for time, _ in whole[place + 1 :]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rest, whole[place + 1 :], strict=True))


def passes_within(geometry: Geometry, frames: int) -> list[Fraction]:
    """List the output times of all windows within ``frames`` frames, ascending, without duplicates."""
    starts = range(0, frames - geometry.window + 1, geometry.stride)
    return sorted({start + time for start in starts for time in geometry.times})


@given(st.tuples(EXPOSED, EXPOSED) | st.tuples(ON_FRAMES, ON_FRAMES), LENGTHS)
@settings(max_examples=100)
def test_then_equals_one_network_after_the_other(pair, frames):
    first, second = pair
    both = first.then(second)
    between = passes_within(first, both.window)
    begin = first.interval(0)[0]  # of the exposure of the second network's first input
    times = [begin + first.spacing * time for time in passes_within(second, len(between))]
    assert both.times == tuple(times[: len(both.times)])
    assert both.scale == first.scale * second.scale
    assert both.spacing == first.spacing * second.spacing
    if both.window > first.window:  # no smaller window suffices
        assert len(passes_within(second, len(passes_within(first, both.window - first.stride)))) < len(both.times)
    of_all = second.output_times(len(first.output_times(frames)))
    assert both.output_times(frames) == [first.spacing * time for time in of_all]


@given(EXPOSED | ON_FRAMES, st.integers(1, MOST_ROUNDS))
@settings(max_examples=80)
def test_again_multiplies_the_number_of_frames(geometry, rounds):
    geometry = replace(geometry, scale=1)
    repeated = geometry.again(rounds)
    assert repeated.spacing == geometry.spacing**rounds
    factor = int(1 / repeated.spacing)
    if repeated.exposures:
        assert set(repeated.exposures) == {repeated.spacing}
    if factor > 1:
        assert geometry.rounds(factor) == rounds
    with pytest.raises(ValueError, match="factor may be"):
        geometry.rounds(factor**2 + 1)  # no power of the factor of one round


@given(ON_FRAMES, st.integers(0, 12), LENGTHS)
@settings(max_examples=150)
def test_windows_of_any_length_have_the_same_outputs(geometry, outputs, frames):
    try:
        longer = replace(geometry, elastic=True).lengthened(outputs)
    except ValueError:  # a fraction of a frame, or no more than the frame that neighbours share
        assert outputs < 1 or (outputs - 1) % (1 / geometry.spacing) or (outputs == 1 and geometry.spacing < 1)
        return
    assert len(longer.times) == outputs
    assert (longer.spacing, longer.lead, longer.trail) == (geometry.spacing, geometry.lead, geometry.trail)
    assert longer.output_times(frames) == geometry.output_times(frames)
    if outputs != len(geometry.times):
        with pytest.raises(ValueError, match="cannot output"):
            geometry.lengthened(outputs)


@given(ON_FRAMES, st.integers(0, 5), LENGTHS)
@settings(max_examples=100)
def test_context_changes_no_output(geometry, context, frames):
    padded = geometry.padded(context)
    assert (padded.lead, padded.trail, padded.spacing) == (context, context, geometry.spacing)
    assert padded.output_times(frames) == geometry.output_times(frames)


@given(st.lists(st.fractions(0, 4, max_denominator=6), min_size=1, max_size=5, unique=True), st.data())
@settings(max_examples=150)
def test_subdivision_is_the_least_that_fits(times, data):
    """This includes unevenly spaced outputs with different exposures, as in VTSR's training."""
    lengths = st.fractions(Fraction(1, 6), 1, max_denominator=6)
    exposures = data.draw(st.none() | st.lists(lengths, min_size=len(times), max_size=len(times)))
    geometry = Geometry(1, 5, tuple(sorted(times)), exposures=exposures and tuple(exposures))
    edges = [edge for k in range(len(times)) for edge in geometry.interval(k)]
    whole = [n for n in range(1, geometry.subdivision + 1) if all((n * edge).denominator == 1 for edge in edges)]
    assert whole == [geometry.subdivision]
