"""Fusion of the aligned features of several frames.

Shapes: B batch, T frames, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nn.blocks import conv3x3, leaky, upsample2x
from src.nn.clips import map_frames, stack_channels

LIFT = 1.0  # raises fused features before a leaky ReLU, so that negative ones pass undistorted


class ConvFuse(nn.Module):
    """1x1 convolution of all frames, concatenated: (B, T, C, H, W) to (B, C, H, W)."""

    def __init__(self, channels: int, *, frames: int) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(frames * channels, channels, 1)

    def forward(self, aligned: Tensor) -> Tensor:
        return self.fuse(stack_channels(aligned))


class TemporalAttention(nn.Module):
    """Weigh frames pixel by pixel by their similarity to a reference frame. (B, T, C, H, W) to the same.

    EDVR, Equations 5 and 6; VTSR (thesis, Equations 3.10 and 3.11).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embed_reference = conv3x3(channels, channels)  # phi
        self.embed = conv3x3(channels, channels)  # theta

    def forward(self, frames: Tensor, reference: int) -> Tensor:
        """Weigh ``frames`` by similarity to the frame with index ``reference``."""
        return frames * self.weights(frames, reference)

    def weights(self, frames: Tensor, reference: int) -> Tensor:
        """Return the attention maps (B, T, 1, H, W), in [0, 1]."""
        target = self.embed_reference(frames[:, reference]).unsqueeze(1)
        embedded = map_frames(self.embed, frames)
        return (embedded * target).sum(2, keepdim=True).sigmoid()


class TemporalFuse(ConvFuse):
    """The temporal half of TSA: temporal attention, then :class:`ConvFuse`. (B, T, C, H, W) to (B, C, H, W)."""

    def __init__(self, channels: int, *, frames: int) -> None:
        super().__init__(channels, frames=frames)
        self.weigh = TemporalAttention(channels)

    def forward(self, aligned: Tensor) -> Tensor:
        return super().forward(self.weigh(aligned, aligned.shape[1] // 2))


class TSA(nn.Module):
    """Temporal and spatial attention (EDVR, Section 3.3, Equations 5 to 7): (B, T, C, H, W) to (B, C, H, W).

    H and W are multiples of 4. The middle frame is the reference.
    """

    def __init__(self, channels: int, *, frames: int) -> None:
        super().__init__()
        self.weigh = TemporalAttention(channels)
        self.fuse = nn.Conv2d(frames * channels, channels, 1)
        self.attend = SpatialAttention(channels, frames=frames)

    def forward(self, aligned: Tensor) -> Tensor:
        weighted = stack_channels(self.weigh(aligned, aligned.shape[1] // 2))  # (B, T * C, H, W)
        mask, shift = self.attend(weighted)
        return leaky(self.fuse(weighted)) * mask.sigmoid() * 2 + shift  # Equation 7, modulated

    @torch.no_grad()
    def init_as_convolution(self) -> None:
        """Make attention uniform in time and space, so that the part computes the plain convolution ``fuse``."""
        fuse: Any = self.fuse
        mask: Any = self.attend.mask
        shift: Any = self.attend.shift[-1]
        for conv in (mask, shift):
            conv.weight.zero_()
            conv.bias.zero_()
        nn.init.zeros_(self.weigh.embed_reference.weight)
        nn.init.zeros_(self.weigh.embed_reference.bias)  # type: ignore[arg-type]
        fuse.weight *= 2  # the weights of frames are one half then
        fuse.bias += LIFT
        shift.bias -= LIFT


class SpatialAttention(nn.Module):
    """Mask and shift of fused features, per pixel and channel, by a pyramid of three levels (EDVR, Figure 4).

    (B, T * C, H, W) to the mask (before its sigmoid) and the shift, (B, C, H, W) each.
    """

    def __init__(self, channels: int, *, frames: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(frames * channels, channels, 1)
        self.pooled = nn.Conv2d(2 * channels, channels, 1)
        self.coarse_enter = nn.Conv2d(channels, channels, 1)
        self.coarse_pooled = conv3x3(2 * channels, channels)
        self.coarse_leave = conv3x3(channels, channels)
        self.skip = conv3x3(channels, channels)
        self.join = nn.Conv2d(channels, channels, 1)
        self.mask = conv3x3(channels, channels)
        self.shift = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(2))

    def forward(self, weighted: Tensor) -> tuple[Tensor, Tensor]:
        half = leaky(self.pooled(_pools(leaky(self.enter(weighted)))))
        quarter = leaky(self.coarse_pooled(_pools(leaky(self.coarse_enter(half)))))
        coarse = upsample2x(leaky(self.coarse_leave(quarter)))
        mask = self.mask(upsample2x(leaky(self.join(leaky(self.skip(half)) + coarse))))
        first, last = self.shift
        return mask, last(leaky(first(mask)))


def _pools(x: Tensor) -> Tensor:
    """Concatenate maximum and average pooling over 3x3 with stride 2: (B, C, H, W) to (B, 2C, H/2, W/2)."""
    return torch.cat([F.max_pool2d(x, 3, stride=2, padding=1), F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)


def init_attention(network: nn.Module, loaded: Collection[str]) -> None:
    """Initialise attention as plain fusion in every TSA that got the weights of a :class:`ConvFuse`, in place.

    Args:
        network: the network, with the weights loaded.
        loaded: names of the loaded weights.
    """
    for name, part in network.named_modules():
        if isinstance(part, TSA) and f"{name}.fuse.weight" in loaded and f"{name}.weigh.embed.weight" not in loaded:
            part.init_as_convolution()
