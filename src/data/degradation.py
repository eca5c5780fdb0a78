"""Forward models: degraded network inputs from the frames of a video.

A degradation is an exposure (the source frames averaged for an input frame) and an ordered tuple of corruptions of
pixels (:mod:`src.data.corruptions`). For networks that restore exposures, the shutter stays open until the next input
frame begins, and targets are means of source frames, too (VTSR thesis, Equation 3.2).

Source frames are uint8, or int32 with values of 16 bits; corruptions return values of 8 bits, like published inputs.

Shapes: T frames, C channels, H and W source pixels, h and w input pixels; a clip is (T, C, H, W) in [0, 1].
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.corruptions import TIE, Bicubic, Corruption, Given
from src.errors import UserError
from src.geometry import Geometry

log = logging.getLogger(__name__)

PEAKS = {torch.uint8: 255, torch.int32: 65535}  # white of source frames: of 8 bits, or of images with more


class SampleFrames(NamedTuple):
    """The source frames of a sample, counted from the first frame of its first input."""

    inputs: list[range]  # averaged for each input
    targets: list[range]  # averaged for each target
    every: int  # source frames from one input to the next

    @property
    def first(self) -> int:
        return min(frames[0] for frames in (*self.inputs, *self.targets))

    @property
    def extent(self) -> int:
        return max(frames[-1] for frames in (*self.inputs, *self.targets)) + 1 - self.first

    def neighbours(self, start: int, stop: int, count: int) -> tuple[list[range], list[range]]:
        """Return up to ``count`` inputs before and as many after those of the sample, within frames [start, stop)."""

        def shift(frames: range, by: int) -> range:
            return range(frames.start + by * self.every, frames.stop + by * self.every)

        before = [shift(self.inputs[0], -k) for k in range(count, 0, -1)]
        after = [shift(self.inputs[-1], k) for k in range(1, count + 1)]
        return [r for r in before if r.start >= start], [r for r in after if r.stop <= stop]


@dataclass(frozen=True)
class Timeline:
    """The source frames of inputs and targets.

    Args:
        every: source frames from one input frame to the next.
        exposure: source frames averaged for an input frame. For networks that restore instants, the input frame's time
            is that of the middle source frame of its exposure.
        target_exposure: source frames averaged for a target of networks that restore instants, around its time.
    """

    every: int
    exposure: int = 1
    target_exposure: int = 1

    def input_frames(self, i: int) -> range:
        """Return the source frames averaged for input frame ``i``."""
        return range(i * self.every, i * self.every + self.exposure)

    def centre(self, i: int) -> int:
        """Return the source frame at the time of input frame ``i``."""
        return self.input_frames(i)[self.exposure // 2]

    def target(self, time: Fraction | int) -> int:
        """Return the source frame at ``time`` (in input frames).

        Raises:
            UserError: there is no source frame at this time.
        """
        position = Fraction(time) * self.every
        if position.denominator != 1:
            raise UserError(
                f"The network outputs a frame at time {time} of its input frames. With every={self.every} source "
                f"frames per input frame, no source frame lies there: set degradation.every to a multiple of "
                f"{Fraction(time).denominator}"
            )
        return int(position) + self.exposure // 2

    def target_frames(self, time: Fraction, exposure: Fraction | None = None) -> range:
        """Return the source frames averaged for the target at ``time``: those of an exposure, or around an instant."""
        if exposure is None:
            first = self.target(time) - self.target_exposure // 2
            return range(first, first + self.target_exposure)
        begin, end = ((time + half) * self.every for half in (-exposure / 2, exposure / 2))
        return range(int(begin), int(end))

    def sample_frames(self, geometry: Geometry) -> SampleFrames:
        """Return the frames of one pass of a network with this geometry."""
        outputs = zip(geometry.times, geometry.exposures or (None,) * len(geometry.times), strict=True)
        inputs = [self.input_frames(i) for i in range(geometry.window)]
        return SampleFrames(inputs, [self.target_frames(*output) for output in outputs], self.every)

    def count_inputs(self, sources: int) -> int:
        """Return the number of input frames from ``sources`` source frames."""
        return max(0, (sources - self.exposure) // self.every + 1)


class PixelRange(NamedTuple):
    """A range of pixels along one axis."""

    start: int
    stop: int

    def within(self, outer: PixelRange) -> slice:
        """Return the slice of this range in an array of the pixels of ``outer``."""
        return slice(self.start - outer.start, self.stop - outer.start)


@dataclass(frozen=True)
class Degradation:
    """An exposure and an ordered composition of corruptions.

    Args:
        steps: the corruptions, in order.
        every: source frames from one input frame to the next; ``None`` is the smallest number with a source frame for
            each output of the network (2 for Zooming SlowMo: its inputs are the odd frames). For networks that restore
            exposures, it equals ``exposure``.
        exposure: source frames averaged for an input frame: an odd number, with the middle one as the target. For
            networks that restore exposures, a multiple of their outputs per input; each target is the mean of its part.
        gamma: gamma of the decoding to linear light, in which frames are averaged; 1 averages pixel values.
        blurred_targets: for networks that restore instants: targets are exposed like inputs, so that a network learns
            to enlarge or to interpolate, but not to deblur.
        mixed: for networks that restore exposures: the exposure of each training sample is drawn from these; values not
            divisible by ``geometry.subdivision`` are skipped with a warning. Evaluation uses ``exposure``.
    """

    steps: Sequence[Corruption] = ()
    every: int | None = None
    exposure: int = 1
    gamma: float = 1.0
    mixed: Sequence[int] | None = None
    blurred_targets: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "mixed", None if self.mixed is None else tuple(self.mixed))
        if self.every is not None and self.every < 1:
            raise UserError(f"degradation.every must be 1 or more source frames per input frame, got {self.every}")
        if min((self.exposure, *(self.mixed or ()))) < 1:
            raise UserError(
                "degradation.exposure and the entries of degradation.mixed must be 1 or more source frames, got "
                f"{', '.join(map(str, (self.exposure, *(self.mixed or ()))))}"
            )
        if not self.gamma > 0:
            raise UserError(f"degradation.gamma must be greater than 0, got {self.gamma}")

    @property
    def scale(self) -> int:
        """Size of the source frames relative to the input frames."""
        return math.prod(step.scale for step in self.steps)

    @property
    def scaling(self) -> Degradation:
        """This degradation without exposure and with those steps only that reduce the size of frames.

        For given inputs, it is bicubic.
        """
        steps = [step for step in self.steps if step.scale > 1]
        return Degradation([Bicubic(step.scale) if isinstance(step, Given) else step for step in steps])

    def timeline(self, geometry: Geometry) -> Timeline:
        """Return the positions of a network's frames among the source frames.

        Raises:
            UserError: an output would lie between source frames, or begin or end within one.
        """
        if geometry.exposures is None:
            self._check_instants()
            target_exposure = self.exposure if self.blurred_targets else 1
            timeline = Timeline(self.every or geometry.subdivision, self.exposure, target_exposure)
            timeline.sample_frames(geometry)
            return timeline
        if self.blurred_targets:
            raise UserError("degradation.blurred_targets is for networks that restore instants: set it to false")
        if self.every not in (None, self.exposure):
            raise UserError(
                f"degradation.every={self.every} and degradation.exposure={self.exposure} differ, but the inputs of "
                "this network are exposed until the next begins: set degradation.every=null"
            )
        if self.exposure % geometry.subdivision:
            raise UserError(
                f"degradation.exposure={self.exposure} source frames cannot be divided into the "
                f"{geometry.subdivision} equal exposures of this network: set it to a multiple of "
                f"{geometry.subdivision}"
            )
        return Timeline(self.exposure, self.exposure)

    def _check_instants(self) -> None:
        """Refuse options for networks that restore exposures."""
        if self.mixed is not None:
            raise UserError(
                "degradation.mixed is for networks that restore exposures; this network restores instants: choose "
                "another degradation"
            )
        if self.exposure % 2 == 0:
            raise UserError(
                f"degradation.exposure must be odd (3, 5, 7, ...) to have a middle frame, got {self.exposure}"
            )

    def variants(self, geometry: Geometry) -> tuple[Degradation, ...]:
        """Return the degradations to draw from for each training sample: one per mixed exposure, or only itself.

        Raises:
            UserError: no mixed exposure suits the network.
        """
        if self.mixed is None or geometry.exposures is None:
            return (self,)
        fitting = [exposure for exposure in self.mixed if exposure % geometry.subdivision == 0]
        if not fitting:
            raise UserError(
                f"No entry of degradation.mixed=[{', '.join(map(str, self.mixed))}] can be divided into the "
                f"{geometry.subdivision} equal exposures of this network's training: add a multiple of "
                f"{geometry.subdivision}"
            )
        for exposure in set(self.mixed).difference(fitting):
            log.warning("degradation.mixed: %d is no multiple of %d; excluded", exposure, geometry.subdivision)
        return tuple(replace(self, exposure=exposure, every=None, mixed=None) for exposure in fitting)

    def check(self, geometry: Geometry) -> None:
        """Refuse a network that this degradation contradicts, before any data is read.

        Raises:
            UserError: the scales differ, or the network's outputs have no whole source frames.
        """
        if geometry.scale != self.scale:
            fitting = (
                f"bicubic_x{geometry.scale}" if geometry.scale > 1 else "exposure" if geometry.exposures else "blur"
            )
            raise UserError(
                f"The network upscales by {geometry.scale}, but the degradation ({self}) downscales by {self.scale}: "
                f"choose another degradation, e.g. degradation={fitting}, or a model of scale {self.scale}"
            )
        self.timeline(geometry)

    def draw(self, rng: np.random.Generator) -> Degradation:
        """Return the degradation of one clip, all frames alike; only noise still differs from frame to frame."""
        return replace(self, steps=tuple(chain.from_iterable(step.draw(rng) for step in self.steps)))

    @property
    def group_size(self) -> int:
        """Frames of a whole clip to degrade at a time."""
        return max((step.group_size for step in self.steps), default=1)

    def remaining_after(self, corruptions: Sequence[str], factor: int) -> Degradation | None:
        """Return the degradation still to apply to frames that already carry ``corruptions``.

        Args:
            corruptions: ``blur`` for an exposure, then kinds of steps.
            factor: source size divided by precomputed size.

        Returns:
            ``None`` if this degradation does not begin with exactly these corruptions.
        """
        kinds = [*(["blur"] if self.exposure > 1 else []), *(step.kind for step in self.steps)]
        blurred = len(kinds) - len(self.steps)
        count = len(corruptions) - blurred
        if list(corruptions) != kinds[: len(corruptions)] or count < 0:
            return None
        if math.prod(step.scale for step in self.steps[:count]) != factor:
            return None
        return replace(self, steps=self.steps[count:], exposure=1)

    def expose(self, frames: Tensor) -> Tensor:
        """Average frames (N, H, W, C) in linear light, rounded: (H, W, C)."""
        if len(frames) == 1:
            return frames[0]
        peak = PEAKS[frames.dtype]
        light = frames.to(torch.float32).div(peak).pow(self.gamma).mean(0).pow(1 / self.gamma)
        return light.mul(peak).add(0.5 + TIE).floor().clamp(0, peak).to(frames.dtype)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        """Degrade whole frames of one clip: (T, C, H, W) -> (T, C, h, w)."""
        for step in self.draw(rng).steps:
            clip = step(clip, rng)
        return clip

    def degrade_frames(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """Degrade whole frames of one clip: (T, H, W, C) -> uint8 (T, h, w, C)."""
        return self(to_clip(frames), rng).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def degrade_patch(
        self,
        frames: Tensor,
        top: int,
        left: int,
        side: int,
        rng: np.random.Generator,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Degrade a patch.

        Equal to cropping the degraded full frame (except for noise and video codecs), but computes only the patch.

        Args:
            frames: (T, H, W, C), H and W multiples of ``scale``.
            top, left, side: position and side of the patch, in pixels of the result.
            rng: generator for random corruptions.
            prepare: applied to the cut of ``frames``, the patch and its margin, before the corruptions; keeps H and W.

        Returns:
            float32 (T, C, side, side) in [0, 1].
        """
        drawn = self.draw(rng)
        rows = drawn._pixel_ranges(PixelRange(top, top + side), frames.shape[1])
        columns = drawn._pixel_ranges(PixelRange(left, left + side), frames.shape[2])
        cut = frames[:, slice(*rows[0]), slice(*columns[0])]
        clip = to_clip(cut if prepare is None else prepare(cut))
        for k, step in enumerate(drawn.steps):
            clip = step(clip, rng)
            outer = [PixelRange(r.start // step.scale, r.stop // step.scale) for r in (rows[k], columns[k])]
            clip = clip[..., rows[k + 1].within(outer[0]), columns[k + 1].within(outer[1])]
        return clip.contiguous()

    def _pixel_ranges(self, result: PixelRange, size: int) -> list[PixelRange]:
        """Return the input range of each step along an axis of ``size`` source pixels, then the range of the result."""
        length = size // self.scale
        ranges = [result]
        for step in reversed(self.steps):
            length *= step.scale
            start, stop = ranges[0].start * step.scale - step.margin, ranges[0].stop * step.scale + step.margin
            start -= start % step.alignment
            stop += -stop % step.alignment
            ranges.insert(0, PixelRange(max(0, start), min(length, stop)))
        return ranges

    def __str__(self) -> str:
        light = f" gamma={self.gamma:g}" if self.gamma != 1 else ""
        exposure = [f"exposure {self.exposure}{light}"] if self.exposure > 1 else []
        return ", ".join([*exposure, *map(str, self.steps)]) or "none"


def unify_depth(frames: Tensor, depth: int) -> Tensor:
    """Return uint8 frames as they are, and those of more bits as int32 of 16 bits, white to white."""
    if frames.dtype == torch.uint8:
        return frames
    peak = 2**depth - 1
    return (frames.to(torch.int64) * PEAKS[torch.int32] + peak // 2).div(peak, rounding_mode="floor").to(torch.int32)


def to_clip(frames: Tensor) -> Tensor:
    """Convert (T, H, W, C) to float32 (T, C, H, W) in [0, 1]."""
    return frames.permute(0, 3, 1, 2).to(torch.float32).div(PEAKS[frames.dtype]).contiguous()


def resize_frames(frames: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (T, H, W, C) to (height, width): bilinear, antialiased, rounded."""
    pixels = frames.permute(0, 3, 1, 2).to(torch.float32)
    pixels = F.interpolate(pixels, list(size), mode="bilinear", antialias=True, align_corners=False)
    pixels = pixels.round().clamp(0, PEAKS[frames.dtype])
    return pixels.to(frames.dtype).permute(0, 2, 3, 1).contiguous()


def crop_to_multiple(frames: Tensor, scale: int) -> Tensor:
    """Crop (T, H, W, C) at the bottom and right, so that H and W are multiples of ``scale``."""
    height, width = frames.shape[1:3]
    return frames[:, : height - height % scale, : width - width % scale]
