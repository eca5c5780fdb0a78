"""Scores of whole clips: figures per frame, their means, and their collection over processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from src.metrics.functional import (
    PEAK,
    check_pair,
    mean_difference,
    psnr_of_error,
    psnr_oscillation,
    ssim_of_levels,
    to_levels,
)
from src.ops.resize import imresize

EXACT = "exact_frames"


@dataclass(frozen=True)
class FrameScore:
    """Figures of one output frame.

    Args:
        clip: index of the clip.
        time: time of the frame, in input frames of the clip.
        psnr: in dB, infinite for an exact (identical) frame.
        ssim: structural similarity.
        temporal_difference_error: against the previous frame of the clip, in 8-bit levels; None for the first.
        psnr_input_scale, ssim_input_scale: of the frame reduced to the size of the input; None if not measured.
    """

    clip: int
    time: Fraction
    psnr: float
    ssim: float
    temporal_difference_error: float | None = None
    psnr_input_scale: float | None = None
    ssim_input_scale: float | None = None


def summarise(frames: Sequence[FrameScore]) -> dict[str, float | None]:
    """Average the figures of the frames of one clip.

    Args:
        frames: in time order, without gaps.

    Returns:
        ``psnr``, ``ssim``, and the flicker measures ``psnr_oscillation`` and ``temporal_difference_error`` (None
        without two neighbouring frames). In addition:

        - ``exact_frames``, the number of frames of infinite PSNR, if there are any. They have no part in a mean of PSNR
          or in its changes, nor can they make one infinite; a mean over such frames alone is None. SSIM has them all;
        - ``psnr_existing``, ``ssim_existing``, ``psnr_interpolated`` and ``ssim_interpolated``, if some frames lie on
          input frames and others between them; ``psnr_balanced`` and ``ssim_balanced`` are the means of both kinds,
          which count alike (last column of DSFN's Table 1);
        - ``psnr_input_scale`` and ``ssim_input_scale``, if frames were measured at the size of the input;
        - ``psnr_swing`` and ``ssim_swing``, if no frame lies on an input frame but several share the exposure of one:
          the range, over the positions within an exposure, of the mean at each position (the pulsing in Figure 4.4 of
          VTSR's thesis).
    """
    values = torch.tensor([frame.psnr for frame in frames], dtype=torch.float64)
    finite = values.isfinite()
    # The previous frame of the first one does not count, even if the clip has one.
    changes = [f.temporal_difference_error for f in frames[1:] if f.temporal_difference_error is not None]
    figures: dict[str, float | None] = {
        "psnr": _mean(frame.psnr for frame in frames),
        "ssim": _mean(frame.ssim for frame in frames),
        "psnr_oscillation": psnr_oscillation(values).item() if (finite[1:] & finite[:-1]).any() else None,
        "temporal_difference_error": _mean(changes),
    }
    if exact := int((~finite).sum()):
        figures[EXACT] = exact
    existing = [frame for frame in frames if frame.time.denominator == 1]
    if 0 < len(existing) < len(frames):
        between = [frame for frame in frames if frame.time.denominator != 1]
        for kind, group in (("existing", existing), ("interpolated", between)):
            figures[f"psnr_{kind}"] = _mean(frame.psnr for frame in group)
            figures[f"ssim_{kind}"] = _mean(frame.ssim for frame in group)
        for name in ("psnr", "ssim"):
            kinds = [figures[f"{name}_{kind}"] for kind in ("existing", "interpolated")]
            known = [mean for mean in kinds if mean is not None]
            figures[f"{name}_balanced"] = _mean(known) if len(known) == len(kinds) else None
    positions: dict[Fraction, list[FrameScore]] = {}
    for frame in frames:
        positions.setdefault(frame.time % 1, []).append(frame)
    if not existing and len(positions) > 1:
        for name in ("psnr", "ssim"):
            means = [_mean(getattr(frame, name) for frame in group) for group in positions.values()]
            known = [mean for mean in means if mean is not None]
            figures[f"{name}_swing"] = max(known) - min(known) if len(known) > 1 else None
    for name in ("psnr_input_scale", "ssim_input_scale"):
        if reduced := [value for frame in frames if (value := getattr(frame, name)) is not None]:
            figures[name] = _mean(reduced)
    return figures


def average(clips: Iterable[dict[str, float | None]]) -> dict[str, float | None]:
    """Average each figure of :func:`summarise` over the clips that have it; None if no clip has it.

    The number of exact frames is added up.
    """
    columns: dict[str, list[float]] = {}
    for figures in clips:
        for name, value in figures.items():
            columns.setdefault(name, []).extend([] if value is None else [value])
    return {name: sum(values) if name == EXACT else _mean(values) for name, values in columns.items()}


def _mean(values: Iterable[float]) -> float | None:
    """Average finite values; None if there are none."""
    numbers = [value for value in values if math.isfinite(value)]
    return sum(numbers) / len(numbers) if numbers else None


class _Rows(Metric):
    """Table of float64 numbers, gathered from all processes; that of a process may be empty.

    Args:
        columns: width of the table.
        kwargs: options of :class:`torchmetrics.Metric`.
    """

    full_state_update = True  # an update depends on earlier ones
    rows: list[Tensor]

    def __init__(self, columns: int, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": partial(_gather_rows, columns=columns), **kwargs})
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def _append(self, keys: Sequence[float], *values: Tensor) -> None:
        """Append a row of keys and measured scalars."""
        numbers = torch.tensor(keys, dtype=torch.float64, device=values[0].device)
        row = torch.cat([numbers, torch.stack(values).double()])
        self.rows.append(row[None].to(self.device, self._row_dtype))

    @property
    def _row_dtype(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64

    def _list_rows(self) -> list[list[float]]:
        """Return the rows of this process, or within ``sync_context`` those of all processes."""
        rows = self.rows if isinstance(self.rows, Tensor) else torch.cat(self.rows) if self.rows else torch.empty(0)
        return rows.tolist()


def _gather_rows(rows: Tensor, group: Any = None, *, columns: int) -> list[Tensor]:
    """Gather the rows of every process.

    An empty process contributes zero rows of the same width and dtype. torchmetrics' own empty float32 vector would
    make the other processes hang or fail.
    """
    return gather_all_tensors(rows.double().reshape(rows.numel() // columns, columns), group)


class Scores(_Rows):
    """PSNR, SSIM and flicker of whole clips, frame by frame.

    A frame is identified by its clip and time. It counts once, even if a sampler or overlapping windows repeat it in
    the same or in another process.

    Args:
        luma, crop: as for :func:`src.metrics.psnr`.
        reduction: factor by which frames on input frames are reduced for a second measurement (MATLAB's bicubic, in
            8 bits), which isolates deblurring from super-resolution (DSFN, Section 5.1); 1: they are measured as they
            are; None: no second measurement.
        per_channel: as for :func:`src.metrics.psnr`.
        kwargs: options of :class:`torchmetrics.Metric`.
    """

    OPEN_CLIPS = 8  # clips with a remembered last frame, for callers that interleave clips

    def __init__(
        self, luma: bool = False, crop: int = 0, reduction: int | None = None, per_channel: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(columns=10, **kwargs)
        self.luma, self.crop, self.reduction, self.per_channel = luma, crop, reduction, per_channel
        self._seen: set[tuple[int, Fraction]] = set()
        self._last: dict[int, tuple[Fraction, Tensor]] = {}  # clip: time and error of its last frame

    def update(self, clip: int, time: Fraction, estimate: Tensor, target: Tensor) -> None:
        """Measure one frame, and the change of its error since the previous frame of the clip.

        Args:
            clip: index of the clip in its data set.
            time: time of the frame, in input frames from the first of the clip; ascending from call to call.
            estimate: ``(C, H, W)`` in [0, 1].
            target: the same shape.

        Raises:
            ValueError, UserError: as :func:`src.metrics.psnr` and :func:`src.metrics.ssim`.
        """
        time = Fraction(time)
        if (clip, time) in self._seen:
            return
        check_pair(estimate, target)
        x, y = to_levels(estimate, target, self.luma, self.crop)
        error = x - y
        previous, previous_error = self._last.pop(clip, (time, error))  # a first frame is its own predecessor
        change = mean_difference(error, previous_error)
        keys = (clip, time.numerator, time.denominator, previous.numerator, previous.denominator)
        reduced = self._measure_reduced(time, estimate, target)
        self._append(keys, psnr_of_error(error, self.per_channel), ssim_of_levels(x, y), change, *reduced)
        self._seen.add((clip, time))
        self._last[clip] = (time, error)
        if len(self._last) > self.OPEN_CLIPS:
            del self._last[next(iter(self._last))]  # the oldest

    def _measure_reduced(self, time: Fraction, estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute PSNR and SSIM at the size of the input; NaN without a reduction or between input frames."""
        if self.reduction is None or time.denominator != 1:
            nan = torch.tensor(math.nan, device=estimate.device)
            return nan, nan
        small = [
            imresize(frame / PEAK, Fraction(1, self.reduction))
            for frame in to_levels(estimate, target, luma=False, crop=0)
        ]
        x, y = to_levels(small[0], small[1], self.luma, math.ceil(self.crop / self.reduction))
        return psnr_of_error(x - y, self.per_channel), ssim_of_levels(x, y)

    def reset(self) -> None:
        """Discard all scores."""
        super().reset()
        self._seen, self._last = set(), {}

    def compute(self) -> dict[str, Tensor]:
        """Compute the figures of :func:`summarise` as means over clips, leaving out those without a value.

        If all frames are exact, their PSNR is infinite here, so that the best of all scores is not missed.
        """
        figures = average(summarise(frames) for frames in _group_by_clip(self._frame_scores()).values())
        if figures.get(EXACT) and figures["psnr"] is None:
            figures["psnr"] = math.inf
        return {
            name: torch.tensor(value, dtype=self._row_dtype, device=self.device)
            for name, value in figures.items()
            if value is not None
        }

    def frames(self) -> dict[int, list[FrameScore]]:
        """Return the scores of all processes by clip, in time order. All processes must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return _group_by_clip(self._frame_scores())

    def _frame_scores(self) -> list[FrameScore]:
        scores: dict[tuple[int, Fraction], FrameScore] = {}
        changes: dict[tuple[int, Fraction, Fraction], float] = {}
        for clip, *times, psnr, ssim, change, psnr_reduced, ssim_reduced in self._list_rows():
            time, previous = Fraction(int(times[0]), int(times[1])), Fraction(int(times[2]), int(times[3]))
            key = (int(clip), time)
            reduced = [None if math.isnan(value) else value for value in (psnr_reduced, ssim_reduced)]
            scores.setdefault(key, FrameScore(*key, psnr, ssim, None, *reduced))
            changes.setdefault((int(clip), previous, time), change)
        ordered = [scores[key] for key in sorted(scores)]
        for index in range(1, len(ordered)):
            before, frame = ordered[index - 1], ordered[index]
            if before.clip == frame.clip:  # a change counts between neighbours, not across a gap
                error = changes.get((frame.clip, before.time, frame.time))
                ordered[index] = replace(frame, temporal_difference_error=error)
        return ordered


def _group_by_clip(frames: Iterable[FrameScore]) -> dict[int, list[FrameScore]]:
    clips: dict[int, list[FrameScore]] = {}
    for frame in frames:
        clips.setdefault(frame.clip, []).append(frame)
    return clips
