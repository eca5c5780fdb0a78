"""Tiles of a frame: restored one at a time, they need a fraction of the memory and blend to the whole frame.

Near its edges, within the receptive field, the output of a tile is wrong. Of the pixels that two neighbours share, each
therefore contributes those on its own side of the middle, with a narrow ramp there. If the receptive field reaches no
further than three eighths of the overlap, the result equals that of the whole frame. Tiles start at multiples of
``GRID``, so that their pyramids align with those of the whole frame.

Shapes: H, W height and width of a frame, s the network's scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

GRID = 32  # input pixels; the coarsest level of any network here is a 32nd (VTSR's encoder)
RAMP = 0.25  # width of the blending ramp, as a share of the overlap


class Tiles:
    """A tiling of frames of one size.

    Args:
        size: ``(H, W)`` of the input frames.
        side: of the square tiles, in input pixels.
        overlap: minimum overlap of neighbouring tiles, in input pixels.

    Attributes:
        spans: start and end of the tiles along each axis.
        boxes: ``((top, bottom), (left, right))`` of each tile.

    Raises:
        ValueError: the tiles are not larger than their overlap by at least ``GRID``.
    """

    def __init__(self, size: Sequence[int], side: int, overlap: int) -> None:
        if side < overlap + GRID or overlap < 0:
            raise ValueError(
                f"tiles of {side} pixels cannot overlap by {overlap}: use at least {overlap + GRID} pixels"
            )
        self.spans = [_compute_spans(length, side, overlap) for length in size]
        self.boxes = list(product(*self.spans))

    def __len__(self) -> int:
        return len(self.boxes)

    def cut(self, frame: Tensor, number: int) -> Tensor:
        """Cut tile ``number`` out of a frame (..., H, W)."""
        (top, bottom), (left, right) = self.boxes[number]
        return frame[..., top:bottom, left:right]

    def join(self, tiles: Sequence[Tensor]) -> Tensor:
        """Blend restored tiles to a frame (..., s*H, s*W)."""
        (first, last), _ = self.boxes[0]
        scale = tiles[0].shape[-2] // (last - first)
        weights = product(*(_compute_weights(spans, scale) for spans in self.spans))
        height, width = (scale * spans[-1][1] for spans in self.spans)
        frame = tiles[0].new_zeros(*tiles[0].shape[:-2], height, width)
        for tile, ((top, bottom), (left, right)), (down, across) in zip(tiles, self.boxes, weights, strict=True):
            weight = (down[:, None] * across).to(tile)
            frame[..., scale * top : scale * bottom, scale * left : scale * right] += tile * weight
        return frame


def shrink_side(size: Sequence[int], side: int | None, overlap: int) -> int | None:
    """Return the next smaller side of tiles, about half of ``side`` or of the frame; None if there is none."""
    half = GRID * math.ceil(min(side or max(size), max(size)) / 2 / GRID)
    half = max(half, overlap + GRID)
    return half if half < min(side or max(size), max(size)) else None


def _compute_spans(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    """Return start and end of the tiles along one axis; the last also covers the remainder beyond the grid."""
    last = max(0, length - side) // GRID  # start of the last tile, in units of the grid
    steps = math.ceil(last / ((side - overlap) // GRID))
    starts = [GRID * (k * last // steps) for k in range(steps)]
    return [*((start, start + side) for start in starts), (GRID * last, length)]


def _compute_weights(spans: Sequence[tuple[int, int]], scale: int) -> list[Tensor]:
    """Return the weight of each output pixel of each tile along one axis; the weights of all tiles add up to 1."""
    length = scale * spans[-1][1]
    total, weights = torch.zeros(length, dtype=torch.float64), []
    for number, (start, end) in enumerate(spans):
        position = torch.arange(scale * (end - start), dtype=torch.float64) + 0.5
        weight = torch.ones_like(position)
        if number:
            weight *= _ramp(position, scale * (spans[number - 1][1] - start))
        if number + 1 < len(spans):
            weight *= _ramp(position.flip(0), scale * (end - spans[number + 1][0]))
        weights.append(weight)
        total[scale * start : scale * end] += weight
    return [weight / total[scale * start : scale * end] for weight, (start, end) in zip(weights, spans, strict=True)]


def _ramp(distance: Tensor, overlap: int) -> Tensor:
    """Ramp from 0 to 1 around the middle of the overlap, by the distance from the tile's edge."""
    width = max(1.0, RAMP * overlap)
    return ((distance - overlap / 2) / width + 0.5).clamp(1e-9 if overlap == 0 else 0, 1)
