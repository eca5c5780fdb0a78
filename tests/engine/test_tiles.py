"""Tiles put together are the whole frame, where what they share covers the receptive field."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import nn

from src.engine.stream import stream
from src.engine.tiles import GRID, Tiles, smaller
from src.geometry import Geometry


@pytest.mark.parametrize("size", [(64, 64), (96, 130), (161, 121), (300, 401), (20, 500)])
@pytest.mark.parametrize(("side", "overlap"), [(64, 0), (64, 16), (64, 32), (128, 32), (96, 64)])
@pytest.mark.parametrize("scale", [1, 4])
def test_cut_and_joined_is_the_frame(size, side, overlap, scale):
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
    """The mean over a neighbourhood in three frames, twice the size; its receptive field has a radius of 8 pixels."""

    geometry = Geometry(2, 3, (Fraction(1),))

    def forward(self, clip):
        blurred = nn.functional.avg_pool2d(clip.mean(1), 17, stride=1, padding=8, count_include_pad=False)
        return nn.functional.interpolate(blurred, scale_factor=2)[:, None]


def test_tiled_equals_whole():
    video = torch.rand(4, 3, 150, 201)
    whole = dict(stream(Blur(), video))
    tiled = dict(stream(Blur(), video, tiles=(64, 32)))
    assert whole.keys() == tiled.keys()
    assert max((whole[time] - tiled[time]).abs().max() for time in whole) < 1e-3
    seams = dict(stream(Blur(), video, tiles=(64, 0)))
    assert max((whole[time] - seams[time]).abs().max() for time in whole) > 1e-2  # the claim above is not an empty one


def test_smaller_tiles_end():
    side, sides = None, []
    while (side := smaller((480, 720), side, 32)) is not None:
        sides.append(side)
    assert sides == [384, 192, 96, 64]
    assert smaller((40, 50), None, 32) is None


def test_tiles_move_on():
    with pytest.raises(ValueError, match="cannot share"):
        Tiles((100, 100), 64, 48)
