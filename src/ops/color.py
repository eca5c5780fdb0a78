"""From RGB to the one channel that the papers score."""

from __future__ import annotations

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
