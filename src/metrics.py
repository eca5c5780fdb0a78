"""How close an estimate is to its target, frame by frame, and how steady it is in time.

Functions first: :func:`psnr`, :func:`ssim`, :func:`temporal_difference_error` and :func:`psnr_oscillation`. The
classes gather their values over a data set, rightly on several processes too. Everything is measured as the papers
do it: on 8-bit pictures, with a peak of 255 that is never inferred from the data; sums run in float64.

Shapes: ... any leading axes, T frames, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from src.errors import UserError
from src.ops.color import luma as luma_of
from src.ops.resize import imresize

PEAK = 255
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03  # Wang et al., 2004, as in their MATLAB code


def psnr(estimate: Tensor, target: Tensor, luma: bool = False, crop: int = 0) -> Tensor:
    r"""Peak signal-to-noise ratio of each frame in dB, :math:`10 \log_{10}(255^2 / \mathrm{MSE})`.

    Args:
        estimate: clips or pictures ``(..., C, H, W)`` in [0, 1]; quantised to 8 bits first.
        target: the same shape, likewise quantised.
        luma: on the BT.601 limited-range luma of RGB (:func:`src.ops.color.luma`, not rounded) instead of all channels.
        crop: pixels of each border that do not count.

    Returns:
        ``(...)``, float64; infinite where both are identical.

    Raises:
        ValueError: shapes differ, or a tensor is not floating point.
        UserError: ``crop`` leaves nothing.
    """
    return _framewise(lambda x, y: _psnr(x - y), estimate, target, luma, crop)


def ssim(estimate: Tensor, target: Tensor, luma: bool = False, crop: int = 0) -> Tensor:
    """Structural similarity of each frame, at most 1: Wang et al., 2004, as in their MATLAB code.

    Gaussian window of 11 x 11 with standard deviation 1.5, only where it fits whole, K1 = 0.01, K2 = 0.03; several
    channels are averaged.

    Args:
        estimate, target, luma, crop: as for :func:`psnr`.

    Returns:
        ``(...)``, float64.

    Raises:
        ValueError: shapes differ, or a tensor is not floating point.
        UserError: a picture is smaller than the window once it is cropped.
    """
    return _framewise(_ssim, estimate, target, luma, crop)


def temporal_difference_error(estimate: Tensor, target: Tensor, luma: bool = False, crop: int = 0) -> Tensor:
    r"""Flicker: :math:`\mathrm{mean}\,|(e_t - e_{t-1}) - (g_t - g_{t-1})|`, in 8-bit levels.

    Zero for an estimate whose error stands still, however large; the error that PSNR cannot see and the eye does.

    Args:
        estimate: clips ``(..., T, C, H, W)`` in [0, 1]; quantised to 8 bits first.
        target: the same shape, likewise quantised.
        luma, crop: as for :func:`psnr`.

    Returns:
        ``(..., T - 1)``, float64, one value for each pair of neighbouring frames (none where T < 2).
    """
    if estimate.ndim < 4:
        raise ValueError(f"clips (..., T, C, H, W) are needed, got shape {tuple(estimate.shape)}")
    *lead, frames, channels, height, width = estimate.shape
    _check(estimate, target)
    values = []
    shape = (math.prod(lead), frames, channels, height, width)
    for clip, true in zip(estimate.reshape(shape), target.reshape(shape), strict=True):
        before: Tensor | None = None
        for x, y in zip(clip, true, strict=True):
            error = torch.sub(*_levels(x, y, luma, crop))
            if before is not None:
                values.append(_change(error, before))
            before = error
    return _stack(values, (*lead, max(0, frames - 1)))


def psnr_oscillation(values: Tensor) -> Tensor:
    """Mean absolute change of PSNR from one frame to the next, in dB: how a clip pulses.

    Args:
        values: ``(T,)``, PSNR of the frames of one clip in order.

    Returns:
        Scalar of the same dtype; 0 for fewer than two frames. Two identical neighbours (infinite PSNR) do not
        differ; a finite beside an infinite one makes it infinite.
    """
    change = (values[1:] - values[:-1]).abs()
    change = torch.where(values[1:] == values[:-1], torch.zeros_like(change), change)
    return change.mean() if len(change) else values.new_zeros(())


def _framewise(
    measure: Callable[[Tensor, Tensor], Tensor], estimate: Tensor, target: Tensor, luma: bool, crop: int
) -> Tensor:
    """One value a frame. Frames go one by one: a long clip in float64, several times over, would not fit."""
    _check(estimate, target)
    *lead, channels, height, width = estimate.shape
    shape = (math.prod(lead), channels, height, width)
    pairs = zip(estimate.reshape(shape), target.reshape(shape), strict=True)
    return _stack([measure(*_levels(x, y, luma, crop)) for x, y in pairs], tuple(lead))


def _stack(values: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    return torch.stack(values).reshape(shape) if values else torch.zeros(shape, dtype=torch.float64)


def _check(estimate: Tensor, target: Tensor) -> None:
    if estimate.shape != target.shape or estimate.ndim < 3:
        raise ValueError(
            f"estimate and target (..., C, H, W) must agree, got {tuple(estimate.shape)} and {tuple(target.shape)}"
        )
    if not (estimate.is_floating_point() and target.is_floating_point()):
        raise ValueError(f"values lie in [0, 1], floating point, got {estimate.dtype} and {target.dtype}")


def _levels(estimate: Tensor, target: Tensor, luma: bool, crop: int) -> tuple[Tensor, Tensor]:
    """What is compared of one frame (C, H, W): its 8-bit levels, or their luma, without the border. New tensors."""
    height, width = (size - 2 * crop for size in estimate.shape[-2:])
    if crop < 0 or min(height, width) < 1:
        raise UserError(
            f"Cropping {crop} pixels from each border leaves nothing of a frame of "
            f"{estimate.shape[-1]}x{estimate.shape[-2]}: choose a protocol with a smaller crop."
        )
    pair = []
    for frame in (estimate, target):
        frame = frame[..., crop : crop + height, crop : crop + width].detach()
        frame = frame.cpu() if frame.device.type == "mps" else frame  # which has no float64 for the sums
        frame = frame if frame.dtype == torch.float64 else frame.float()
        frame = frame.clamp(0, 1).mul_(PEAK).round_().float()
        pair.append(luma_of(frame.div_(PEAK)).mul_(PEAK) if luma else frame)
    return pair[0], pair[1]


def _psnr(error: Tensor) -> Tensor:
    return 10 * torch.log10(PEAK**2 / error.square().mean(dtype=torch.float64))


def _change(error: Tensor, before: Tensor) -> Tensor:
    return (error - before).abs_().mean(dtype=torch.float64)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity of two frames (C, H, W) in 8-bit levels."""
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise UserError(
            f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, and {x.shape[-1]}x{x.shape[-2]} are "
            "left: evaluate on larger frames, or with a smaller crop."
        )
    c1, c2 = (SSIM_K1 * PEAK) ** 2, (SSIM_K2 * PEAK) ** 2
    # Variances do not mind a shift. Taken around mid-grey, single precision keeps them: the result is within 1e-7 of
    # float64 on natural frames and 2e-6 on flat ones (not 6e-5), at a third of the time.
    grey = (PEAK + 1) / 2
    means = []
    for a, b in zip(x - grey, y - grey, strict=True):  # channel by channel, which the cache can hold
        # The two variances only occur as their sum, so four filtered maps do instead of five.
        product, squares = _gaussian(a * b), _gaussian((a * a).addcmul_(b, b))
        a, b = _gaussian(a), _gaussian(b)
        covariance = product.addcmul_(a, b, value=-1)
        variances = squares.addcmul_(a, a, value=-1).addcmul_(b, b, value=-1)
        a, b = a.add_(grey), b.add_(grey)
        structure = covariance.mul_(2).add_(c2).div_(variances.add_(c2))
        brightness = (a * b).mul_(2).add_(c1).div_((a * a).addcmul_(b, b).add_(c1))
        means.append(structure.mul_(brightness).mean(dtype=torch.float64))
    return torch.stack(means).mean()


def _gaussian(x: Tensor) -> Tensor:
    """Gaussian filter over the last two axes, (..., H, W) -> (..., H - 10, W - 10).

    Shifted sums, one axis after the other: several times as fast on a CPU as a convolution with one channel.
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


@dataclass(frozen=True)
class FrameScore:
    """The figures of one output frame.

    Args:
        clip: index of the clip.
        time: where the frame lies, in input frames of the clip.
        psnr: in dB, infinite for an identical frame.
        ssim: structural similarity.
        temporal_difference_error: against the frame before it in the clip, in 8-bit levels; None for a clip's first.
        psnr_input_scale, ssim_input_scale: of the frame reduced to the size of the input; None where not measured.
    """

    clip: int
    time: Fraction
    psnr: float
    ssim: float
    temporal_difference_error: float | None = None
    psnr_input_scale: float | None = None
    ssim_input_scale: float | None = None


def summarise(frames: Sequence[FrameScore]) -> dict[str, float | None]:
    """Figures of one clip: means over its frames, which are given in time order, without gaps.

    Returns:
        ``psnr``, ``ssim``, and the flicker measures ``psnr_oscillation`` and ``temporal_difference_error`` (None where
        there are no two neighbouring frames to compare). Where some frames lie on input frames and others between
        them, also ``psnr_existing``, ``ssim_existing``, ``psnr_interpolated`` and ``ssim_interpolated``. Where frames
        were measured at the size of the input, also ``psnr_input_scale`` and ``ssim_input_scale``. Where none lies on
        an input frame but several share one's exposure, also ``psnr_swing`` and ``ssim_swing``: the mean over input
        frames, by place within one, from the worst place to the best (what pulses in Figure 4.4 of VTSR's thesis).
    """
    values = torch.tensor([frame.psnr for frame in frames], dtype=torch.float64)
    # The first of these frames has nothing before it that counts, whatever the clip holds there.
    changes = [f.temporal_difference_error for f in frames[1:] if f.temporal_difference_error is not None]
    figures: dict[str, float | None] = {
        "psnr": _mean(frame.psnr for frame in frames),
        "ssim": _mean(frame.ssim for frame in frames),
        "psnr_oscillation": psnr_oscillation(values).item() if len(frames) > 1 else None,
        "temporal_difference_error": _mean(changes) if changes else None,
    }
    existing = [frame for frame in frames if frame.time.denominator == 1]
    if 0 < len(existing) < len(frames):
        between = [frame for frame in frames if frame.time.denominator != 1]
        for kind, part in (("existing", existing), ("interpolated", between)):
            figures[f"psnr_{kind}"] = _mean(frame.psnr for frame in part)
            figures[f"ssim_{kind}"] = _mean(frame.ssim for frame in part)
    places: dict[Fraction, list[FrameScore]] = {}
    for frame in frames:
        places.setdefault(frame.time % 1, []).append(frame)
    if not existing and len(places) > 1:
        for name in ("psnr", "ssim"):
            means = [_mean(getattr(frame, name) for frame in part) for part in places.values()]
            figures[f"{name}_swing"] = max(means) - min(means) if math.isfinite(max(means)) else None
    for name in ("psnr_input_scale", "ssim_input_scale"):
        if reduced := [value for frame in frames if (value := getattr(frame, name)) is not None]:
            figures[name] = _mean(reduced)
    return figures


def average(clips: Iterable[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean over clips of each figure of :func:`summarise`, over the clips that have it (None where none has)."""
    gathered: dict[str, list[float]] = {}
    for figures in clips:
        for name, value in figures.items():
            gathered.setdefault(name, []).extend([] if value is None else [value])
    return {name: _mean(values) if values else None for name, values in gathered.items()}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


class _Rows(Metric):
    """Rows of float64 numbers, gathered from all processes; a process may have none.

    Args:
        columns: numbers of one row.
        kwargs: options of :class:`torchmetrics.Metric`.
    """

    full_state_update = True  # an update looks at what came before it
    rows: list[Tensor]

    def __init__(self, columns: int, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": partial(_gather_rows, columns=columns), **kwargs})
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def _keep(self, keys: Sequence[float], *values: Tensor) -> None:
        """Adds a row: what it is kept under, then what was measured (scalars)."""
        numbers = torch.tensor(keys, dtype=torch.float64, device=values[0].device)
        row = torch.cat([numbers, torch.stack(values).double()])
        self.rows.append(row[None].to(self.device, self._real))

    @property
    def _real(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64  # which has no float64

    def _gathered(self) -> list[list[float]]:
        """All rows at hand: of this process, or of all where they are in sync."""
        rows = self.rows if isinstance(self.rows, Tensor) else torch.cat(self.rows) if self.rows else torch.empty(0)
        return rows.tolist()


def _gather_rows(rows: Tensor, group: Any = None, *, columns: int) -> list[Tensor]:
    """The rows of every process; one that has none takes part with no rows of the same width and type.

    Otherwise it would come with a vector in single precision, and the others would wait for ever, or worse.
    """
    return gather_all_tensors(rows.double().reshape(rows.numel() // columns, columns), group)


class Scores(_Rows):
    """PSNR, SSIM and flicker of whole clips, frame by frame.

    A frame is known by its clip and its time, and counts once, however often a sampler or overlapping windows
    repeat it, on whatever process.

    Args:
        luma, crop: as for :func:`psnr`.
        reduction: where it is more than 1, frames that lie on input frames are also measured reduced by it (MATLAB's
            bicubic, in 8 bits), which leaves of them what was deblurred (DSFN, Section 5.1).
        kwargs: options of :class:`torchmetrics.Metric`.
    """

    OPEN_CLIPS = 8  # whose last frame is remembered, for those who interleave clips

    def __init__(self, luma: bool = False, crop: int = 0, reduction: int = 1, **kwargs: Any) -> None:
        super().__init__(columns=10, **kwargs)
        self.luma, self.crop, self.reduction = luma, crop, reduction
        self._seen: set[tuple[int, Fraction]] = set()
        self._last: dict[int, tuple[Fraction, Tensor]] = {}  # clip: time and error of the frame it was given last

    def update(self, clip: int, time: Fraction, estimate: Tensor, target: Tensor) -> None:
        """Measures one frame, and its change since the frame of this clip that was given before it.

        Args:
            clip: index of the clip in its data set.
            time: where the frame lies, in input frames from the clip's first. Frames come in the order of time.
            estimate: ``(C, H, W)`` in [0, 1].
            target: the same shape.

        Raises:
            ValueError, UserError: as :func:`psnr` and :func:`ssim`.
        """
        time = Fraction(time)
        if (clip, time) in self._seen:
            return
        _check(estimate, target)
        x, y = _levels(estimate, target, self.luma, self.crop)
        error = x - y
        before, last = self._last.pop(clip, (time, error))  # itself: a first frame
        change = _change(error, last)
        times = (time.numerator, time.denominator, before.numerator, before.denominator)
        self._keep((clip, *times), _psnr(error), _ssim(x, y), change, *self._reduced(time, estimate, target))
        self._seen.add((clip, time))
        self._last[clip] = (time, error)
        if len(self._last) > self.OPEN_CLIPS:
            del self._last[next(iter(self._last))]  # the one that waited longest

    def _reduced(self, time: Fraction, estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """PSNR and SSIM at the size of the input; not a number where they are not asked for."""
        if self.reduction == 1 or time.denominator != 1:
            nothing = torch.tensor(math.nan, device=estimate.device)
            return nothing, nothing
        small = [
            imresize(frame / PEAK, Fraction(1, self.reduction))
            for frame in _levels(estimate, target, luma=False, crop=0)
        ]
        x, y = _levels(small[0], small[1], self.luma, math.ceil(self.crop / self.reduction))
        return _psnr(x - y), _ssim(x, y)

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self._seen, self._last = set(), {}

    def compute(self) -> dict[str, Tensor]:
        """Means over clips, each the mean over its frames: the figures of :func:`summarise` that exist."""
        figures = average(summarise(frames) for frames in _by_clip(self._frames()).values())
        return {
            name: torch.tensor(value, dtype=self._real, device=self.device)
            for name, value in figures.items()
            if value is not None
        }

    def frames(self) -> dict[int, list[FrameScore]]:
        """Every frame of every process, by clip and in the order of time. All processes must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return _by_clip(self._frames())

    def _frames(self) -> list[FrameScore]:
        scores: dict[tuple[int, Fraction], FrameScore] = {}
        changes: dict[tuple[int, Fraction, Fraction], float] = {}
        for clip, numerator, denominator, number, divisor, *values in self._gathered():
            time, before = Fraction(int(numerator), int(denominator)), Fraction(int(number), int(divisor))
            key = (int(clip), time)
            decibel, similarity, change, *reduced = values
            small = [None if math.isnan(value) else value for value in reduced]
            scores.setdefault(key, FrameScore(*key, decibel, similarity, None, *small))
            changes.setdefault((int(clip), before, time), change)
        ordered = [scores[key] for key in sorted(scores)]
        for index in range(1, len(ordered)):
            previous, frame = ordered[index - 1], ordered[index]
            if previous.clip == frame.clip:  # a change counts only between neighbours, not across a gap
                known = changes.get((frame.clip, previous.time, frame.time))
                ordered[index] = replace(frame, temporal_difference_error=known)
        return ordered


def _by_clip(frames: Iterable[FrameScore]) -> dict[int, list[FrameScore]]:
    clips: dict[int, list[FrameScore]] = {}
    for frame in frames:
        clips.setdefault(frame.clip, []).append(frame)
    return clips
