"""Reconstruction of frames from features.

Shapes: N batch, C channels, H height, W width, s scale.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nn.blocks import SLOPE, conv3x3, leaky, trunk
from src.nn.warm_start import (
    FAINT,
    MIDDLE,
    RGB,
    NearIdentity,
    check_width,
    init_near_identity,
    pass_through,
)

STEPS: dict[int, list[int]] = {1: [], 2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}


class Reconstruct(nn.Module, NearIdentity):
    """Residual blocks, sub-pixel upscaling step by step, two convolutions. (N, C, H, W) to (N, 3, s*H, s*W).

    The last step and the convolution after it have 64 channels for any C, as in EDVR and Zooming SlowMo.

    Args:
        channels: C.
        blocks: number of EDSR's residual blocks.
        scale: s.
        head: channels of the last step.
        body: module in place of the residual blocks, (N, C, H, W) to the same.
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

    @torch.no_grad()
    def init_near_identity(self, count: int) -> int:
        """Make almost nothing of any features, and enlarge that step by step, by quadratic interpolation.

        The first convolution is faint, not zero: leaky ReLUs pass a faint channel or its negative whole, but at exactly
        zero both only with their slope, and almost no gradient returns through several of them.
        """
        given = count = init_near_identity(self.trunk, count)
        level = 0.0  # the bias that centres a channel about zero
        steps = list(zip(self.upscale, self.steps, strict=True))
        enter = self.upscale[0] if steps else self.refine
        assert isinstance(enter, nn.Conv2d)
        faint = FAINT / 2 * enter.weight  # of features that a shortcut adds to
        while count > RGB:  # pixel shuffle restores the pixels of an encoder that turned them into channels
            conv, step = steps.pop(0)
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            pass_through(conv, [1.0], count)
            conv.bias[:count] = level + MIDDLE  # leaky ReLU leaves values above zero undistorted
            level, count = -MIDDLE, count // step**2
        sources = [(1.0, 0)]  # (factor, first channel) of the channels that add up to an identity channel
        for conv, step in [*steps, (self.refine, 1)]:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            check_width(conv.out_channels // step**2, 2 * RGB)
            taps = _quadratic_taps(step)
            conv.weight[: 2 * RGB * step**2] = 0
            for sign, first in ((1, 0), (-1, RGB)):  # the channel and its negative
                for channel in range(RGB):
                    rows = slice((first + channel) * step**2, (first + channel + 1) * step**2)
                    for factor, source in sources:
                        conv.weight[rows, source + channel] = sign * factor * taps
                    conv.bias[rows] = sign * level
            sources, level = [(1 / (1 + SLOPE), 0), (-1 / (1 + SLOPE), RGB)], 0.0
        assert self.last.bias is not None
        self.last.weight.zero_()
        for channel in range(RGB):
            for factor, source in sources:
                self.last.weight[channel, source + channel, 1, 1] = factor
        self.last.bias.zero_()
        made = given if given > RGB else RGB * (self.steps[0] if self.steps else 1) ** 2  # channels before negatives
        enter.weight[:made] = faint[:made]
        if given == RGB:
            enter.weight[made : 2 * made] = -faint[:made]
        return RGB


def _quadratic_taps(step: int) -> Tensor:
    """Return weights (step * step, 3, 3) of the 3x3 pixels around each new one, by Lagrange's quadratic polynomial."""
    place = (torch.arange(step) + 0.5) / step - 0.5  # of the new pixels, in old ones
    taps = torch.stack([place * (place - 1) / 2, 1 - place**2, place * (place + 1) / 2], dim=1)
    return torch.einsum("ai,bj->abij", taps, taps).flatten(0, 1)
