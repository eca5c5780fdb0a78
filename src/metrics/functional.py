"""Fidelity and temporal stability of an estimate, frame by frame.

As in the papers, images are quantised to 8 bits, and the peak is 255, never inferred from the data. Sums run in
float64.

Shapes: ... any leading axes, T frames, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from src.errors import UserError
from src.ops.color import luma as luma_of

PEAK = 255
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03  # Wang et al., 2004, as in their MATLAB code
BAND = 2**15  # pixels of a channel that SSIM processes at a time on a CPU: they fit into the cache


def psnr(estimate: Tensor, target: Tensor, luma: bool = False, crop: int = 0, *, per_channel: bool = False) -> Tensor:
    r"""Compute the peak signal-to-noise ratio of each frame in dB, :math:`10 \log_{10}(255^2 / \mathrm{MSE})`.

    Args:
        estimate: clips or images ``(..., C, H, W)`` in [0, 1], quantised to 8 bits first.
        target: the same shape, quantised too.
        luma: use BT.601 limited-range luma (:func:`src.ops.color.luma`, not rounded) instead of all channels.
        crop: pixels to leave out at each border.
        per_channel: average the PSNR of the channels (see :func:`psnr_of_error`) instead of their squared errors.

    Returns:
        ``(...)``, float64; infinite for identical frames.

    Raises:
        ValueError: the shapes differ, or a tensor is not floating point.
        UserError: ``crop`` leaves no pixels.
    """
    return _map_frames(lambda x, y: psnr_of_error(x - y, per_channel), estimate, target, luma, crop)


def ssim(estimate: Tensor, target: Tensor, luma: bool = False, crop: int = 0) -> Tensor:
    """Compute the structural similarity of each frame, at most 1: Wang et al., 2004, as in their MATLAB code.

    Gaussian window of 11 x 11 with standard deviation 1.5, without padding; K1 = 0.01, K2 = 0.03; averaged over
    channels.

    Args:
        estimate, target, luma, crop: as for :func:`psnr`.

    Returns:
        ``(...)``, float64.

    Raises:
        ValueError: the shapes differ, or a tensor is not floating point.
        UserError: the cropped image is smaller than the window.
    """
    return _map_frames(ssim_of_levels, estimate, target, luma, crop)


def temporal_difference_error(estimate: Tensor, target: Tensor, luma: bool = False, crop: int = 0) -> Tensor:
    r"""Compute flicker, :math:`\mathrm{mean}\,|(e_t - e_{t-1}) - (g_t - g_{t-1})|`, in 8-bit levels.

    Visible to the eye but not to PSNR. It is zero for a constant error of any size.

    Args:
        estimate: clips ``(..., T, C, H, W)`` in [0, 1], quantised to 8 bits first.
        target: the same shape, quantised too.
        luma, crop: as for :func:`psnr`.

    Returns:
        ``(..., T - 1)``, float64, one value for each pair of neighbouring frames (empty for T < 2).

    Raises:
        ValueError: ``estimate`` has no time axis, the shapes differ, or a tensor is not floating point.
        UserError: ``crop`` leaves no pixels.
    """
    if estimate.ndim < 4:
        raise ValueError(f"expected clips (..., T, C, H, W), got shape {tuple(estimate.shape)}")
    *lead, frames, channels, height, width = estimate.shape
    check_pair(estimate, target)
    values = []
    shape = (math.prod(lead), frames, channels, height, width)
    for clip, truth in zip(estimate.reshape(shape), target.reshape(shape), strict=True):
        previous: Tensor | None = None
        for x, y in zip(clip, truth, strict=True):
            error = torch.sub(*to_levels(x, y, luma, crop))
            if previous is not None:
                values.append(mean_difference(error, previous))
            previous = error
    return _stack(values, (*lead, max(0, frames - 1)))


def psnr_oscillation(values: Tensor) -> Tensor:
    """Compute the mean absolute change of PSNR from frame to frame, in dB: the pulsing of a clip.

    Args:
        values: ``(T,)``, PSNR of the frames of one clip in order.

    Returns:
        Scalar of the same dtype; 0 for no change. Changes from or to an infinite value are left out, as infinite values
        are left out of means.
    """
    change = (values[1:] - values[:-1]).abs()  # between two infinite values it is NaN
    change = change[change.isfinite()]
    return change.mean() if len(change) else values.new_zeros(())


def _map_frames(
    measure: Callable[[Tensor, Tensor], Tensor], estimate: Tensor, target: Tensor, luma: bool, crop: int
) -> Tensor:
    """Apply ``measure`` frame by frame: several copies of a long clip in float64 would not fit into memory."""
    check_pair(estimate, target)
    *lead, channels, height, width = estimate.shape
    shape = (math.prod(lead), channels, height, width)
    pairs = zip(estimate.reshape(shape), target.reshape(shape), strict=True)
    return _stack([measure(*to_levels(x, y, luma, crop)) for x, y in pairs], tuple(lead))


def _stack(values: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    return torch.stack(values).reshape(shape) if values else torch.zeros(shape, dtype=torch.float64)


def check_pair(estimate: Tensor, target: Tensor) -> None:
    """Raise a ValueError unless both are floating point frames (..., C, H, W) of the same shape."""
    if estimate.shape != target.shape or estimate.ndim < 3:
        raise ValueError(
            f"estimate and target must have the same shape (..., C, H, W), got {tuple(estimate.shape)} and "
            f"{tuple(target.shape)}"
        )
    if not (estimate.is_floating_point() and target.is_floating_point()):
        raise ValueError(f"estimate and target must be floating point, got {estimate.dtype} and {target.dtype}")


def to_levels(estimate: Tensor, target: Tensor, luma: bool, crop: int) -> tuple[Tensor, Tensor]:
    """Crop the border of two frames (C, H, W) and convert them to 8-bit levels, or to the luma of these; copies."""
    height, width = (size - 2 * crop for size in estimate.shape[-2:])
    if crop < 0 or min(height, width) < 1:
        raise UserError(
            f"Cropping {crop} pixels at each border leaves no pixels of a frame of "
            f"{estimate.shape[-1]}x{estimate.shape[-2]}: choose a protocol with a smaller crop."
        )
    pair = []
    for frame in (estimate, target):
        frame = frame[..., crop : crop + height, crop : crop + width].detach()
        frame = frame.cpu() if frame.device.type == "mps" else frame  # MPS has no float64 for the sums
        frame = frame if frame.dtype == torch.float64 else frame.float()
        frame = frame.clamp(0, 1).mul_(PEAK).round_().float()
        pair.append(luma_of(frame.div_(PEAK)).mul_(PEAK) if luma else frame)
    return pair[0], pair[1]


def psnr_of_error(error: Tensor, per_channel: bool = False) -> Tensor:
    """Compute PSNR in dB from the difference of two frames (C, H, W) in 8-bit levels.

    Args:
        error: the difference.
        per_channel: average the PSNR of each channel; a channel without any error does not count, unless all are.
    """
    if not per_channel:
        return 10 * torch.log10(PEAK**2 / error.square().mean(dtype=torch.float64))
    values = 10 * torch.log10(PEAK**2 / error.square().mean(dim=(-2, -1), dtype=torch.float64))
    finite = values.isfinite()
    return values[finite].mean() if finite.any() else values.amax()


def mean_difference(error: Tensor, previous: Tensor) -> Tensor:
    """Compute the mean absolute difference of two errors."""
    return (error - previous).abs_().mean(dtype=torch.float64)


def ssim_of_levels(x: Tensor, y: Tensor) -> Tensor:
    """Compute the mean structural similarity of two frames (C, H, W) in 8-bit levels.

    Raises:
        UserError: the frames are smaller than the window.
    """
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise UserError(
            f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels after cropping, got "
            f"{x.shape[-1]}x{x.shape[-2]}: evaluate on larger frames, or with a smaller crop."
        )
    rows, width = x.shape[-2] - SSIM_WINDOW + 1, x.shape[-1]
    band = max(SSIM_WINDOW, BAND // width) if x.device.type == "cpu" else rows
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for a, b in zip(x, y, strict=True):
        for top in range(0, rows, band):
            bottom = min(rows, top + band) + SSIM_WINDOW - 1
            total += _similarity(a[top:bottom].double(), b[top:bottom].double()).sum()
    return total / (len(x) * rows * (width - SSIM_WINDOW + 1))


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Compute the structural similarity of each window of a channel (H, W), float64.

    A variance is a small difference of large squares: in single precision flat frames would be off by up to 6e-5, and
    above 1.
    """
    c1, c2 = (SSIM_K1 * PEAK) ** 2, (SSIM_K2 * PEAK) ** 2
    # Only the sum of the two variances is needed: four filtered maps instead of five.
    product, squares = _gaussian(a * b), _gaussian((a * a).addcmul_(b, b))
    a, b = _gaussian(a), _gaussian(b)
    covariance = product.addcmul_(a, b, value=-1)
    variances = squares.addcmul_(a, a, value=-1).addcmul_(b, b, value=-1)
    structure = covariance.mul_(2).add_(c2).div_(variances.add_(c2))
    brightness = (a * b).mul_(2).add_(c1).div_((a * a).addcmul_(b, b).add_(c1))
    return structure.mul_(brightness)


def _gaussian(x: Tensor) -> Tensor:
    """Apply the Gaussian window over the last two axes, (..., H, W) to (..., H - 10, W - 10).

    Separable shifted sums are several times as fast on a CPU as a convolution with one channel.
    """
    half = SSIM_WINDOW // 2
    kernel = [math.exp(-((k - half) ** 2) / (2 * SSIM_SIGMA**2)) for k in range(SSIM_WINDOW)]
    kernel = [value / sum(kernel) for value in kernel]
    for axis in (-2, -1):
        size = x.shape[axis] - 2 * half
        total = x.narrow(axis, half, size) * kernel[half]
        for k in range(half):
            total.add_(x.narrow(axis, k, size), alpha=kernel[k])
            total.add_(x.narrow(axis, 2 * half - k, size), alpha=kernel[k])
        x = total
    return x
