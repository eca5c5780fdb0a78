"""MATLAB's ``imresize``: the bicubic downsampling of super-resolution papers.

OpenCV, PIL and ``torch.nn.functional.interpolate`` have another kernel or no antialiasing, and differ by up to a
decibel or more in a benchmark.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def imresize(x: Tensor, scale: float | Fraction) -> Tensor:
    """Resize the last two axes by MATLAB's antialiased bicubic, ``imresize(x, scale)``.

    The kernel is Keys' cubic (a = -1/2), widened by 1/scale for downsampling; the border is mirrored. Values are not
    clamped: the kernel overshoots.

    Args:
        x: images ``(..., H, W)``, floating point, any range, any device.
        scale: factor on both axes, positive. A float within 1e-12 of a simple fraction counts as that fraction, so
            that 720 * (1 / 3) is 240 rows, never 241.

    Returns:
        ``(..., ceil(H * scale), ceil(W * scale))`` in the dtype of ``x``; differentiable. Sums run in float32 at
        least, regardless of autocast and of the precision of matrix products.

    Raises:
        ValueError: ``x`` is not floating point, is empty in H or W, or ``scale`` is not positive and finite.
    """
    if not x.is_floating_point() or x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"imresize needs floating point images (..., H, W), got {x.dtype} of shape {tuple(x.shape)}")
    ratio = _as_fraction(scale)
    height, width = x.shape[-2:]
    exact = _working_dtype(x.dtype)
    down = _weights(height, ratio.numerator, ratio.denominator, x.device, exact)  # (H', H)
    across = _weights(width, ratio.numerator, ratio.denominator, x.device, exact)  # (W', W)
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):  # autocast does not support meta
        return (down @ (x.to(exact) @ across.mT)).to(x.dtype)


def _as_fraction(scale: float | Fraction) -> Fraction:
    """Return the exact factor: 1/3 for the float 1 / 3."""
    if not math.isfinite(scale) or scale <= 0:
        raise ValueError(f"scale must be positive and finite, got {scale}")
    exact = Fraction(scale)
    simple = exact.limit_denominator(10_000)
    return simple if simple > 0 and abs(simple - exact) <= exact / 10**12 else exact


@torch.compiler.assume_constant_result
def _working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Choose float32, or float64 where float32 products would run in TF32 or bfloat16, with 8 to 11 bits."""
    single = dtype != torch.float64 and torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if single else torch.float64


@torch.compiler.assume_constant_result
def _weights(size: int, numerator: int, denominator: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Convert :func:`_matrix` to a tensor. The cache holds arrays: a tensor may be fake or in inference mode."""
    return torch.from_numpy(_matrix(size, Fraction(numerator, denominator))).to(device, dtype)


@lru_cache(maxsize=64)
def _matrix(size: int, scale: Fraction) -> np.ndarray:
    """Compute the weights of input samples in output samples of one axis: ``(ceil(size * scale), size)``, float64."""
    shrink = min(1.0, float(scale))  # antialiasing stretches the kernel over 1 / scale input samples
    count = math.ceil(size * scale)
    centre = (np.arange(count) + 0.5) / float(scale) - 0.5  # of each output sample, in input samples
    taps = math.ceil(4 / shrink) + 2
    index = np.floor(centre - 2 / shrink).astype(int)[:, None] + np.arange(taps)  # (count, taps)
    weight = _cubic((centre[:, None] - index) * shrink)
    weight /= weight.sum(axis=1, keepdims=True)
    index %= 2 * size  # mirrored with the border sample repeated: period 2 * size
    index = np.minimum(index, 2 * size - 1 - index)
    matrix = np.zeros((count, size))
    np.add.at(matrix, (np.arange(count)[:, None], index), weight)
    return matrix


def _cubic(x: np.ndarray) -> np.ndarray:
    """Evaluate Keys' cubic convolution kernel with a = -1/2, zero beyond 2."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
