"""Encoders of single frames.

Shapes: N batch (clips times frames), C feature channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.nn.blocks import ResidualBlock, conv3x3, leaky, trunk, upsample2x
from src.nn.warm_start import NearIdentity, check_width, init_near_identity, pass_through


class FrameEncoder(nn.Module, NearIdentity):
    """Features of single frames: conv 3 to C, LeakyReLU, residual blocks.

    (N, 3, H, W) to (N, C, H / shrink, W / shrink).

    Args:
        channels: C.
        blocks: number of residual blocks.
        shrink: divisor of height and width, applied by strided convolutions before the blocks (EDVR, Section 3.1): 4
            for a network that keeps the size, 1 for one that enlarges.
    """

    def __init__(self, channels: int, *, blocks: int, shrink: int = 1) -> None:
        super().__init__()
        self.shrink = shrink
        self.conv = conv3x3(3, channels)
        self.down = _shrink_convs(channels, shrink)
        self.trunk = trunk(channels, blocks)

    def forward(self, frames: Tensor) -> Tensor:
        features = leaky(self.conv(frames))
        for conv in self.down:
            features = leaky(conv(features))
        return self.trunk(features)

    def init_near_identity(self, count: int) -> int:
        """Copy the colours of the frames, and the pixels that a smaller size merges, into the identity channels."""
        pass_through(self.conv, [1.0], count)
        for conv in self.down:
            count = _unshuffle_pixels(conv, count)
        return init_near_identity(self.trunk, count)


class PreDeblur(nn.Module, NearIdentity):
    """Sharpen features at three sizes before alignment (EDVR, Figure 2).

    (N, 3, H, W) to (N, C, H / shrink, W / shrink).

    Args:
        channels: C.
        shrink: divisor of height and width, applied first by strided convolutions: 4 for a network that keeps the
            size, 1 for one that enlarges.
    """

    def __init__(self, channels: int, *, shrink: int = 1) -> None:
        super().__init__()
        self.first = conv3x3(3, channels)
        self.shrink = _shrink_convs(channels, shrink)
        self.down = nn.ModuleList(conv3x3(channels, channels, stride=2) for _ in range(2))
        self.at_quarter = ResidualBlock(channels)
        self.at_half = nn.ModuleList(ResidualBlock(channels) for _ in range(2))
        self.at_full = nn.ModuleList(ResidualBlock(channels) for _ in range(5))

    def forward(self, frames: Tensor) -> Tensor:
        full = leaky(self.first(frames))
        for conv in self.shrink:
            full = leaky(conv(full))
        half = leaky(self.down[0](full))
        quarter = leaky(self.down[1](half))
        half = self.at_half[1](self.at_half[0](half) + upsample2x(self.at_quarter(quarter)))
        full = self.at_full[1](self.at_full[0](full)) + upsample2x(half)
        for block in self.at_full[2:]:
            full = block(full)
        return full

    def init_near_identity(self, count: int) -> int:
        """Turn the pixels that a smaller size merges into identity channels; add nothing from coarser sizes."""
        pass_through(self.first, [1.0], count)
        for conv in self.shrink:
            count = _unshuffle_pixels(conv, count)
        for conv in self.down:
            pass_through(conv, [0.0], count)
        for blocks in (self.at_quarter, self.at_half, self.at_full):
            init_near_identity(blocks, count)
        return count


class BlurredFrameEncoder(nn.Module, NearIdentity):
    """Features of single blurred frames: PreDeblur, a 1x1 convolution, residual blocks.

    (N, 3, H, W) to (N, C, H / shrink, W / shrink).
    """

    def __init__(self, channels: int, *, blocks: int, shrink: int = 1) -> None:
        super().__init__()
        self.shrink = shrink
        self.predeblur = PreDeblur(channels, shrink=shrink)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.trunk = trunk(channels, blocks)

    def forward(self, frames: Tensor) -> Tensor:
        return self.trunk(self.mix(self.predeblur(frames)))

    def init_near_identity(self, count: int) -> int:
        """Pass the identity channels of :class:`PreDeblur` through."""
        count = self.predeblur.init_near_identity(count)
        pass_through(self.mix, [1.0], count)
        return init_near_identity(self.trunk, count)


def _shrink_convs(channels: int, shrink: int) -> nn.ModuleList:
    """Return strided convolutions that divide height and width by ``shrink``: 1, 2 or 4."""
    return nn.ModuleList(conv3x3(channels, channels, stride=2) for _ in range({1: 0, 2: 1, 4: 2}[shrink]))


@torch.no_grad()
def _unshuffle_pixels(conv: nn.Module, count: int) -> int:
    """Turn 2x2 pixels of each identity channel into four channels, in the order of pixel shuffle; return the count."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    check_width(conv.out_channels, 4 * count)
    conv.weight[: 4 * count] = 0
    conv.bias[: 4 * count] = 0
    for channel in range(4 * count):
        conv.weight[channel, channel // 4, 1 + channel % 4 // 2, 1 + channel % 2] = 1
    return 4 * count
