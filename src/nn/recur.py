"""Recurrence over the frames of a clip.

Shapes: B batch, T frames, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from src.nn.align import PairAlign
from src.nn.blocks import Blend, conv3x3
from src.nn.clips import cat_clips, flatten_time, unflatten_time


class ConvLSTM(nn.Module):
    """Convolutional LSTM with a zero initial state. (B, T, C, H, W) to hidden states of the same shape.

    One 3x3 convolution computes the gates, in the order input, forget, output, candidate.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = conv3x3(2 * channels, 4 * channels)

    def forward(self, features: Tensor) -> Tensor:
        hidden = cell = torch.zeros_like(features[:, 0])
        states = []
        for x, context in zip(features.unbind(1), self.contexts(features), strict=True):
            hidden, cell = self.align_state(context, hidden, cell)
            i, f, o, g = self.gates(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            states.append(hidden.unsqueeze(1))
        return cat_clips(states)

    def contexts(self, features: Tensor) -> Iterator[Any]:
        """Yield the input of :meth:`align_state` for each frame, computed for all frames in one batch; here None."""
        return iter([None] * features.shape[1])

    def align_state(self, context: Any, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Align the state of the last frame, (B, C, H, W) each, with the current frame; here leave it as it is."""
        return hidden, cell


class DeformableConvLSTM(ConvLSTM):
    """ConvLSTM that aligns hidden and cell state with the current frame (Zooming SlowMo, Equation 6)."""

    def __init__(self, channels: int, *, groups: int = 8) -> None:
        super().__init__(channels)
        self.align_hidden = PairAlign(channels, groups=groups)
        self.align_cell = PairAlign(channels, groups=groups)

    def contexts(self, features: Tensor) -> Iterator[Any]:
        frames = flatten_time(features)
        pyramids = [align.pyramid(frames) for align in (self.align_hidden, self.align_cell)]
        levels = [[unflatten_time(level, features).unbind(1) for level in pyramid] for pyramid in pyramids]
        for t in range(features.shape[1]):
            yield [[level[t] for level in pyramid] for pyramid in levels]

    def align_state(self, context: Any, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        for_hidden, for_cell = context
        hidden = self.align_hidden(for_hidden, self.align_hidden.pyramid(hidden))
        cell = self.align_cell(for_cell, self.align_cell.pyramid(cell))
        return hidden, cell


class Bidirectional(nn.Module):
    """Recurrence forwards and backwards in time with shared weights, joined by a 1x1 convolution.

    Both directions run in one batch. (B, T, C, H, W) to the same shape.
    """

    def __init__(self, recurrence: nn.Module, channels: int) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.join = Blend(channels)

    def forward(self, features: Tensor) -> Tensor:
        states = self.recurrence(cat_clips([features, flip_time(features)], 0))
        forwards, backwards = states.chunk(2)
        both = self.join(flatten_time(forwards), flatten_time(flip_time(backwards)))
        return unflatten_time(both, features)


def flip_time(clip: Tensor) -> Tensor:
    """Reverse the order of the frames of (B, T, C, H, W)."""
    return cat_clips(clip.split(1, dim=1)[::-1])
