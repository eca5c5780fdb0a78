"""Recurrence over the frames of a clip.

Shapes: B batch, T frames, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from src.nn.align import PairAlign
from src.nn.blocks import Blend, conv3x3
from src.nn.clips import cat_clips, flatten_time, unflatten_time
from src.nn.warm_start import MIDDLE, IdentityChannels, NearIdentity, init_near_identity, pass_through

OPEN = 6.0  # bias of an open gate, sigmoid(6) = 0.998
SMALL = 0.15  # gain on identity channels before tanh, which is nearly linear there


class ConvLSTM(nn.Module, NearIdentity):
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

    @torch.no_grad()
    def init_near_identity(self, identity: IdentityChannels) -> IdentityChannels:
        """Pass on the identity channels of the current frame, smaller and centred; forget those of the state."""
        weight, bias = self.gates.weight, self.gates.bias
        assert bias is not None
        channels = len(bias) // 4
        candidate = -SMALL * identity.gain * (MIDDLE - identity.offset)
        for gate, start in enumerate((OPEN, -OPEN, OPEN, candidate)):  # input, forget, output, candidate
            rows = slice(gate * channels, gate * channels + identity.count)
            weight[rows], bias[rows] = 0, start
        for channel in range(identity.count):
            weight[3 * channels + channel, channel, 1, 1] = SMALL
        gain = SMALL * float(torch.tensor(OPEN).sigmoid()) ** 2 * identity.gain
        return replace(identity, gain=gain, offset=MIDDLE)


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

    def init_near_identity(self, identity: IdentityChannels) -> IdentityChannels:
        for align in (self.align_hidden, self.align_cell):
            init_near_identity(align, identity)
            pass_through(align.blend, [0.0, 0.0], identity.count)  # the current frame reaches the gates directly
        return super().init_near_identity(identity)


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
