"""Reshape clips for convolutions: fold time into the batch and back, in the fastest memory layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_fast_layout(x: Tensor) -> Tensor:
    """Return (N, C, H, W) in the memory format in which convolutions are fastest: channels last.

    For training on a CPU it is channels first: oneDNN is up to four times slower at a kernel's gradient in channels
    last. Convolutions keep the format of their input.
    """
    trains = x.device.type == "cpu" and torch.is_grad_enabled()
    return x.contiguous(memory_format=torch.contiguous_format if trains else torch.channels_last)


def weights_to_channels_last(network: nn.Module) -> None:
    """Convert the kernels of a network to channels last, in place, which saves a GPU a conversion per convolution."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def flatten_time(clip: Tensor) -> Tensor:
    """Fold time into the batch: (B, T, C, H, W) to (B * T, C, H, W), in the layout of :func:`to_fast_layout`."""
    return to_fast_layout(clip[0] if len(clip) == 1 else clip.flatten(0, 1))


def unflatten_time(frames: Tensor, like: Tensor) -> Tensor:
    """Invert :func:`flatten_time`: (B * T, ...) to (B, T, ...), with B and T of the clip ``like``.

    Both treat a batch of one clip separately, because flattening hides the memory layout of its frames from PyTorch.
    """
    return frames.unsqueeze(0) if len(like) == 1 else frames.unflatten(0, like.shape[:2])


def stack_channels(clip: Tensor) -> Tensor:
    """Concatenate the channels of all frames: (B, T, C, H, W) to (B, T * C, H, W)."""
    return torch.cat(clip.unbind(1), dim=1)


def cat_clips(clips: Sequence[Tensor], dim: int = 1) -> Tensor:
    """Concatenate clips (B, T, C, H, W) in time, or with ``dim=0`` in the batch.

    Keeps the channels-last layout, which :func:`torch.cat` loses in five dimensions.
    """
    if len(clips) == 1:
        return clips[0]
    if clips[0].dim() != 5 or clips[0].stride(2) != 1:
        return torch.cat([*clips], dim)
    return torch.cat([clip.movedim(2, -1) for clip in clips], dim).movedim(-1, 2)


def map_frames(module: nn.Module, clip: Tensor) -> Tensor:
    """Apply ``module`` to every frame of a clip, (B, T, ...) to (B, T, ...), in one batch."""
    return unflatten_time(module(flatten_time(clip)), clip)


def pad_to_multiple(clip: Tensor, multiple: int) -> Tensor:
    """Replicate the last row and column of (B, T, C, H, W) up to H and W that are multiples of ``multiple``."""
    height, width = clip.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    if not (right or bottom):
        return clip
    return F.pad(clip, (0, right, 0, bottom, 0, 0), mode="replicate")


def trim(x: Tensor, frames: int) -> Tensor:
    """Remove the first and the last ``frames`` frames of (N, C, T, H, W)."""
    return x[:, :, frames : x.shape[2] - frames]
