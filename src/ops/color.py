"""Colours: the one channel that the papers score, and motion as a picture."""

from __future__ import annotations

import math

import torch
from kornia.color import hsv_to_rgb
from torch import Tensor


def luma(rgb: Tensor) -> Tensor:
    """BT.601 limited-range luma, MATLAB's ``rgb2ycbcr``, on which most super-resolution papers score.

    Kornia's and OpenCV's Y is full-range, and scores 1.3 dB lower.

    Args:
        rgb: pictures ``(..., 3, H, W)`` in [0, 1], floating point.

    Returns:
        ``(..., 1, H, W)`` in [16/255, 235/255], not rounded; differentiable.

    Raises:
        ValueError: ``rgb`` is not floating point or has no three channels on axis -3.
    """
    if not rgb.is_floating_point() or rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f"luma takes floating point RGB (..., 3, H, W), got {rgb.dtype} of shape {tuple(rgb.shape)}")
    red, green, blue = rgb.unbind(-3)
    return ((65.481 * red + 128.553 * green + 24.966 * blue + 16) / 255).unsqueeze(-3)


def flow_picture(flow: Tensor, longest: Tensor | float) -> Tensor:
    """Motion as a picture: its direction as the hue, its length as how far the colour is from white.

    Args:
        flow: ``(..., 2, H, W)``, dy before dx, in pixels.
        longest: the length that gets a pure colour; longer ones get it, too. It broadcasts against ``(..., H, W)``.

    Returns:
        RGB ``(..., 3, H, W)`` in [0, 1]. Motion to the right is red, down yellow-green, left cyan, up violet.
    """
    down, right = flow.unbind(-3)
    hue = torch.atan2(down, right) % (2 * math.pi)
    saturation = (torch.hypot(down, right) / longest).clamp(0, 1)
    return hsv_to_rgb(torch.stack([hue, saturation, torch.ones_like(hue)], dim=-3))
