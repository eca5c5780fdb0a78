"""Aligned features of several frames into one.

Shapes: B batch, T frames, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nn.blocks import conv3x3, leaky, upsample2x
from src.nn.clips import map_frames, stack_channels


class ConvFuse(nn.Module):
    """One 1x1 convolution of all frames, concatenated: (B, T, C, H, W) to (B, C, H, W)."""

    def __init__(self, channels: int, *, frames: int) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(frames * channels, channels, 1)

    def forward(self, aligned: Tensor) -> Tensor:
        return self.fuse(stack_channels(aligned))


class TemporalAttention(nn.Module):
    """Frames weighed, pixel by pixel, by how alike they are to one of them (EDVR, Equations 5 and 6).

    (B, T, C, H, W) to the same. VTSR does likewise (thesis, Equations 3.10 and 3.11).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embed_reference = conv3x3(channels, channels)  # phi
        self.embed = conv3x3(channels, channels)  # theta

    def forward(self, frames: Tensor, reference: int) -> Tensor:
        """``reference``: the number of the frame that all are compared with."""
        sought = self.embed_reference(frames[:, reference]).unsqueeze(1)
        embedded = map_frames(self.embed, frames)
        return frames * (embedded * sought).sum(2, keepdim=True).sigmoid()  # by (B, T, 1, H, W)


class TemporalFuse(ConvFuse):
    """TSA's temporal half alone: frames weighed, then :class:`ConvFuse`. (B, T, C, H, W) to (B, C, H, W)."""

    def __init__(self, channels: int, *, frames: int) -> None:
        super().__init__(channels, frames=frames)
        self.weigh = TemporalAttention(channels)

    def forward(self, aligned: Tensor) -> Tensor:
        return super().forward(self.weigh(aligned, aligned.shape[1] // 2))


class TSA(nn.Module):
    """Temporal and spatial attention (EDVR, Section 3.3, Equations 5 to 7): (B, T, C, H, W) to (B, C, H, W).

    H and W are multiples of 4. The frame in the middle is the reference.
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


class SpatialAttention(nn.Module):
    """Where and in which channels to trust the fused features: Figure 4's pyramid, three levels.

    (B, T * C, H, W) to a mask (before its sigmoid) and a shift, (B, C, H, W) each.
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
    """Maximum and mean over 3x3 at every second place: (B, C, H, W) to (B, 2C, H/2, W/2)."""
    return torch.cat([F.max_pool2d(x, 3, stride=2, padding=1), F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
