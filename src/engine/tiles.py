"""Frames in tiles: restored one by one, they take a fraction of the memory and blend to what the whole frame gives.

What a network makes of a tile is wrong near the tile's edges, as far in as its receptive field reaches. Of the pixels
that two neighbours share, each gives therefore only what lies on its own side of the middle, but for a narrow ramp
there; where receptive fields reach no further than three eighths of what is shared, tiles are as good as whole. Tiles
begin at multiples of ``GRID``, so that pyramids in them lie as they do in the whole frame.

Shapes: H, W height and width of a frame, s the network's scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

GRID = 32  # input pixels; the coarsest level of any network here is a 32nd (VTSR's encoder)
RAMP = 0.25  # of what neighbours share is where one gives way to the other


class Tiles:
    """How frames of one size are cut into tiles and put together again.

    Args:
        size: ``(H, W)`` of the input frames.
        side: of the square tiles, in input pixels.
        overlap: pixels that neighbouring tiles share, at least.

    Raises:
        ValueError: the tiles would not move on.
    """

    def __init__(self, size: Sequence[int], side: int, overlap: int) -> None:
        if side < overlap + GRID or overlap < 0:
            raise ValueError(f"tiles of {side} pixels cannot share {overlap}: they must be {GRID} larger at least")
        self.spans = [_spans(length, side, overlap) for length in size]
        self.boxes = list(product(*self.spans))

    def __len__(self) -> int:
        return len(self.boxes)

    def cut(self, frame: Tensor, number: int) -> Tensor:
        """Tile ``number`` of a frame (..., H, W)."""
        (top, bottom), (left, right) = self.boxes[number]
        return frame[..., top:bottom, left:right]

    def join(self, tiles: Sequence[Tensor]) -> Tensor:
        """The frame (..., s*H, s*W) that restored tiles make."""
        (first, last), _ = self.boxes[0]
        scale = tiles[0].shape[-2] // (last - first)
        shares = product(*(_shares(spans, scale) for spans in self.spans))
        height, width = (scale * spans[-1][1] for spans in self.spans)
        whole = tiles[0].new_zeros(*tiles[0].shape[:-2], height, width)
        for tile, ((top, bottom), (left, right)), (down, across) in zip(tiles, self.boxes, shares, strict=True):
            share = (down[:, None] * across).to(tile)
            whole[..., scale * top : scale * bottom, scale * left : scale * right] += tile * share
        return whole


def smaller(size: Sequence[int], side: int | None, overlap: int) -> int | None:
    """The next smaller side of tiles, about half of ``side`` or of the frame; None where there is none."""
    half = GRID * math.ceil(min(side or max(size), max(size)) / 2 / GRID)
    half = max(half, overlap + GRID)
    return half if half < min(side or max(size), max(size)) else None


def _spans(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    """Where tiles along one axis begin and end; the last takes what the grid leaves over, too."""
    last = max(0, length - side) // GRID  # where the last begins, in steps of the grid
    moves = math.ceil(last / ((side - overlap) // GRID))
    starts = [GRID * (k * last // moves) for k in range(moves)]
    return [*((start, start + side) for start in starts), (GRID * last, length)]


def _shares(spans: Sequence[tuple[int, int]], scale: int) -> list[Tensor]:
    """What each tile along one axis contributes to every of its pixels; over all tiles that is 1."""
    length = scale * spans[-1][1]
    total, weights = torch.zeros(length, dtype=torch.float64), []
    for number, (start, end) in enumerate(spans):
        place = torch.arange(scale * (end - start), dtype=torch.float64) + 0.5
        weight = torch.ones_like(place)
        if number:
            weight *= _ramp(place, scale * (spans[number - 1][1] - start))
        if number + 1 < len(spans):
            weight *= _ramp(place.flip(0), scale * (end - spans[number + 1][0]))
        weights.append(weight)
        total[scale * start : scale * end] += weight
    return [weight / total[scale * start : scale * end] for weight, (start, end) in zip(weights, spans, strict=True)]


def _ramp(distance: Tensor, shared: int) -> Tensor:
    """From 0 to 1 about the middle of what is shared, by the distance from the tile's edge."""
    width = max(1.0, RAMP * shared)
    return ((distance - shared / 2) / width + 0.5).clamp(1e-9 if shared == 0 else 0, 1)
