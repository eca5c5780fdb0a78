"""From features to frames.

Shapes: N batch, C channels, H height, W width, s scale.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from src.nn.blocks import conv3x3, leaky, trunk

STEPS: dict[int, list[int]] = {1: [], 2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}


class Reconstruct(nn.Module):
    """Residual blocks, sub-pixel upscaling step by step, two convolutions. (N, C, H, W) to (N, 3, s*H, s*W).

    The last step and the convolution behind it have 64 channels whatever C is, as in EDVR and Zooming SlowMo.

    Args:
        channels: C.
        blocks: residual blocks of EDSR's kind.
        scale: s.
        head: channels of the last step.
        body: other blocks in their place, (N, C, H, W) to the same.
    """

    def __init__(
        self, channels: int, *, blocks: int = 0, scale: int = 4, head: int = 64, body: nn.Module | None = None
    ) -> None:
        super().__init__()
        if scale not in STEPS:
            raise ValueError(f"scale must be one of {list(STEPS)}, got {scale}")
        self.trunk = body or trunk(channels, blocks)
        self.steps = STEPS[scale]
        self.scale = math.prod(self.steps)
        widths = [channels] * len(self.steps) + [head] if self.steps else [channels]
        self.upscale = nn.ModuleList(
            conv3x3(a, b * step * step) for a, b, step in zip(widths, widths[1:], self.steps, strict=False)
        )
        self.refine = conv3x3(widths[-1], head)
        self.last = conv3x3(head, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        for conv, step in zip(self.upscale, self.steps, strict=True):
            x = leaky(F.pixel_shuffle(conv(x), step))
        return self.last(leaky(self.refine(x)))
