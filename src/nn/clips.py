"""Fold time into the batch and back, and keep the memory layout that convolutions are fastest in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_fast_layout(x: Tensor) -> Tensor:
    """(N, C, H, W) in the order in memory that convolutions are fastest in, and which they keep.

    That is channels last. Where a CPU trains it is channels first, since it takes oneDNN up to four times as long to
    find a kernel's gradient channels last.
    """
    trains = x.device.type == "cpu" and torch.is_grad_enabled()
    return x.contiguous(memory_format=torch.contiguous_format if trains else torch.channels_last)


def weights_to_channels_last(network: nn.Module) -> None:
    """Lays a network's kernels out channels last, in place, as a GPU would otherwise do before every convolution."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def flatten_time(clip: Tensor) -> Tensor:
    """All frames of a clip as one batch: (B, T, C, H, W) to (B * T, C, H, W), laid out for convolutions."""
    return to_fast_layout(clip[0] if len(clip) == 1 else clip.flatten(0, 1))


def unflatten_time(frames: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`frames_of`: (B * T, ...) to (B, T, ...), the B and T of the clip ``like``.

    A lone clip goes another way there and back: flattening obscures from PyTorch how its frames lie in memory.
    """
    return frames.unsqueeze(0) if len(like) == 1 else frames.unflatten(0, like.shape[:2])


def stack_channels(clip: Tensor) -> Tensor:
    """All channels of a clip's frames as one frame's: (B, T, C, H, W) to (B, T * C, H, W), in the same order."""
    return torch.cat(clip.unbind(1), dim=1)


def cat_clips(clips: Sequence[Tensor], dim: int = 1) -> Tensor:
    """Clips (B, T, C, H, W) one behind the other in time, or with ``dim=0`` in the batch, in the same order in memory.

    PyTorch would leave channels last behind.
    """
    if len(clips) == 1:
        return clips[0]
    if clips[0].dim() != 5 or clips[0].stride(2) != 1:
        return torch.cat([*clips], dim)
    return torch.cat([clip.movedim(2, -1) for clip in clips], dim).movedim(-1, 2)


def map_frames(module: nn.Module, clip: Tensor) -> Tensor:
    """Applies ``module`` to every frame of a clip: (B, T, ...) to (B, T, ...), all frames in one batch."""
    return unflatten_time(module(flatten_time(clip)), clip)


def pad_to_multiple(clip: Tensor, multiple: int) -> Tensor:
    """Repeats the last row and column of (B, T, C, H, W) until H and W are multiples of ``multiple``."""
    height, width = clip.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    if not (right or bottom):
        return clip
    return F.pad(clip, (0, right, 0, bottom, 0, 0), mode="replicate")


def trim(x: Tensor, frames: int) -> Tensor:
    """(N, C, T, H, W) without the first and the last ``frames`` frames."""
    return x[:, :, frames : x.shape[2] - frames]
