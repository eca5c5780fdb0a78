"""Colour: luma, the channel that papers score, and colour coding of optical flow."""

from __future__ import annotations

import math

import torch
from kornia.color import hsv_to_rgb
from torch import Tensor


def luma(rgb: Tensor) -> Tensor:
    """Compute BT.601 limited-range luma, MATLAB's ``rgb2ycbcr``, the channel of most super-resolution scores.

    Y of Kornia and OpenCV is full-range; its PSNR is 1.3 dB lower.

    Args:
        rgb: images ``(..., 3, H, W)`` in [0, 1], floating point.

    Returns:
        ``(..., 1, H, W)`` in [16/255, 235/255], not rounded; differentiable.

    Raises:
        ValueError: ``rgb`` is not floating point or has no three channels on axis -3.
    """
    if not rgb.is_floating_point() or rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f"luma needs floating point RGB (..., 3, H, W), got {rgb.dtype} of shape {tuple(rgb.shape)}")
    red, green, blue = rgb.unbind(-3)
    return ((65.481 * red + 128.553 * green + 24.966 * blue + 16) / 255).unsqueeze(-3)


def flow_picture(flow: Tensor, longest: Tensor | float) -> Tensor:
    """Draw optical flow: hue is its direction, saturation its length.

    Args:
        flow: ``(..., 2, H, W)``, dy before dx, in pixels.
        longest: least length of full saturation; broadcasts against ``(..., H, W)``.

    Returns:
        RGB ``(..., 3, H, W)`` in [0, 1]: red to the right, yellow-green down, cyan to the left, violet up.
    """
    down, right = flow.unbind(-3)
    hue = torch.atan2(down, right) % (2 * math.pi)
    saturation = (torch.hypot(down, right) / longest).clamp(0, 1)
    return hsv_to_rgb(torch.stack([hue, saturation, torch.ones_like(hue)], dim=-3))
