"""Joined tiles equal the whole frame if their overlap covers the receptive field."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from src.engine.stream import stream
from src.engine.tiles import GRID, Tiles, shrink_side
from src.geometry import Geometry


@pytest.mark.parametrize("size", [(64, 64), (96, 130), (161, 121), (300, 401), (20, 500)])
@pytest.mark.parametrize(("side", "overlap"), [(64, 0), (64, 16), (64, 32), (128, 32), (96, 64)])
@pytest.mark.parametrize("scale", [1, 4])
def test_cut_and_join_round_trips(size, side, overlap, scale):
    tiles = Tiles(size, side, overlap)
    frame = torch.rand(3, *size)
    large = frame.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    cut = [tiles.cut(frame, n).repeat_interleave(scale, -1).repeat_interleave(scale, -2) for n in range(len(tiles))]
    assert torch.allclose(tiles.join(cut), large, atol=1e-6)
    for (top, bottom), (left, right) in tiles.boxes:
        assert top % GRID == left % GRID == 0
        assert max(bottom - top, right - left) < side + GRID
    for spans in tiles.spans:
        assert all(end - after >= overlap for (_, end), (after, _) in pairwise(spans))


class Blur(nn.Module):
    """Averages a neighbourhood in three frames and upsamples by 2; its receptive field has a radius of 8 pixels."""

    geometry = Geometry(2, 3, (Fraction(1),))

    def forward(self, clip):
        blurred = nn.functional.avg_pool2d(clip.mean(1), 17, stride=1, padding=8, count_include_pad=False)
        return nn.functional.interpolate(blurred, scale_factor=2)[:, None]


def test_tiled_equals_whole():
    video = torch.rand(4, 3, 150, 201)
    whole = dict(stream(Blur(), video))
    tiled = dict(stream(Blur(), video, tile=64, overlap=32))
    assert whole.keys() == tiled.keys()
    assert max((whole[time] - tiled[time]).abs().max() for time in whole) < 1e-3
    seams = dict(stream(Blur(), video, tile=64, overlap=0))
    assert max((whole[time] - seams[time]).abs().max() for time in whole) > 1e-2  # without overlap, seams are visible


def test_shrink_side():
    side, sides = None, []
    while (side := shrink_side((480, 720), side, 32)) is not None:
        sides.append(side)
    assert sides == [384, 192, 96, 64]
    assert shrink_side((40, 50), None, 32) is None


def test_tiles_are_as_few_as_possible():
    assert Tiles((1080, 1920), 1056, 32).spans == [[(0, 1080)], [(0, 1056), (864, 1920)]]
    assert Tiles((1080, 1920), 544, 32).spans[0] == [(0, 544), (512, 1080)]


def test_too_much_overlap_is_refused():
    with pytest.raises(ValueError, match="cannot overlap"):
        Tiles((100, 100), 64, 48)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, int], int, int]:
    """Draw a valid frame size, tile side and overlap, on and off the grid."""
    overlap = draw(st.integers(0, 70))
    side = overlap + GRID + draw(st.integers(0, 70))
    return (draw(st.integers(1, 200)), draw(st.integers(1, 260))), side, overlap


@given(layouts(), st.integers(1, 4))
@settings(max_examples=80)
def test_any_tiling_covers_the_frame_and_blends_to_it(layout, scale):
    (height, width), side, overlap = layout
    tiles = Tiles(*layout)
    coverage = torch.zeros(height, width)
    for (top, bottom), (left, right) in tiles.boxes:
        assert top % GRID == left % GRID == 0
        assert max(bottom - top, right - left) < side + GRID
        coverage[top:bottom, left:right] += 1
    assert coverage.min() > 0
    for spans in tiles.spans:
        assert all(end - after >= overlap for (_, end), (after, _) in pairwise(spans))
        assert all(after > start for (start, _), (after, _) in pairwise(spans))  # no tile is repeated
    frame = torch.rand(1, height, width, generator=torch.Generator().manual_seed(side))
    large = frame.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    cut = [tiles.cut(frame, n).repeat_interleave(scale, -1).repeat_interleave(scale, -2) for n in range(len(tiles))]
    torch.testing.assert_close(tiles.join(cut), large, rtol=0, atol=1e-6)


def blur(frame: torch.Tensor, radius: int, scale: int) -> torch.Tensor:
    """Average a neighbourhood, zero-padded, and upsample by ``scale``."""
    mean = nn.functional.avg_pool2d(frame[None], 2 * radius + 1, stride=1, padding=radius)[0]
    return mean.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


@given(layouts(), st.integers(1, 3))
@settings(max_examples=80)
def test_any_tiling_equals_the_whole_within_the_receptive_field(layout, scale):
    tiles, (size, _, overlap) = Tiles(*layout), layout
    radius = overlap * 3 // 8  # a tile contributes from this distance to its edge
    frame = 1 + torch.rand(1, *size, generator=torch.Generator().manual_seed(overlap))
    tiled = tiles.join([blur(tiles.cut(frame, n), radius, scale) for n in range(len(tiles))])
    torch.testing.assert_close(tiled, blur(frame, radius, scale), rtol=0, atol=1e-5)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 96))
@settings(max_examples=100)
def test_shrink_side_terminates(height, width, overlap):
    side, before = None, max(height, width)
    while (side := shrink_side((height, width), side, overlap)) is not None:
        assert overlap + GRID <= side < before
        Tiles((height, width), side, overlap)
        before = side
