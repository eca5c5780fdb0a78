"""Forward models: how the frames that a network is given come about from the frames that it shall return.

A degradation is an exposure (which source frames make an input frame) and a tuple of corruptions of pixels
(:mod:`src.data.corruptions`), in the order in which they happen. For networks that restore exposures the shutter is
open until the next input frame begins, and targets are means of source frames, too (VTSR thesis, Equation 3.2).

Shapes: T frames, C channels, H and W source pixels, h and w input pixels; a clip here is (T, C, H, W) in [0, 1].
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.corruptions import TIE, Corruption
from src.errors import UserError
from src.geometry import Geometry

log = logging.getLogger(__name__)


class SampleFrames(NamedTuple):
    """The source frames of a sample, counted from the first that its first input is made of."""

    inputs: list[range]  # of which each input is the mean
    targets: list[range]  # of which each target is the mean

    @property
    def first(self) -> int:
        return min(frames[0] for frames in (*self.inputs, *self.targets))

    @property
    def extent(self) -> int:
        return max(frames[-1] for frames in (*self.inputs, *self.targets)) + 1 - self.first


@dataclass(frozen=True)
class Timeline:
    """Which source frames make the input frames, and which the targets.

    Args:
        every: source frames from one input frame to the next.
        exposure: source frames that are averaged for an input frame. Where frames are instants, it lies at the middle
            one's time.
    """

    every: int
    exposure: int = 1

    def frames(self, i: int) -> range:
        """Source frames that input frame ``i`` is made of."""
        return range(i * self.every, i * self.every + self.exposure)

    def source(self, i: int) -> int:
        """The source frame at whose time input frame ``i`` lies."""
        return self.frames(i)[self.exposure // 2]

    def target(self, time: Fraction | int) -> int:
        """The source frame at ``time`` (in input frames).

        Raises:
            UserError: no source frame lies there.
        """
        place = Fraction(time) * self.every
        if place.denominator != 1:
            raise UserError(
                f"the network returns a frame at time {time} of its input frames, where no source frame lies with "
                f"every={self.every} (source frames from one input to the next): set degradation.every to a multiple "
                f"of {Fraction(time).denominator}"
            )
        return int(place) + self.exposure // 2

    def target_frames(self, time: Fraction, exposure: Fraction | None = None) -> range:
        """Source frames whose mean is the target of an output at ``time``, exposed so long; one for an instant."""
        if exposure is None:
            return range(self.target(time), self.target(time) + 1)
        begin, end = ((time + half) * self.every for half in (-exposure / 2, exposure / 2))
        return range(int(begin), int(end))

    def take(self, geometry: Geometry) -> SampleFrames:
        """What one pass of a network with this geometry takes."""
        outputs = zip(geometry.times, geometry.exposures or (None,) * len(geometry.times), strict=True)
        inputs = [self.frames(i) for i in range(geometry.window)]
        return SampleFrames(inputs, [self.target_frames(*output) for output in outputs])

    def inputs(self, sources: int) -> int:
        """How many input frames come of ``sources`` source frames."""
        return max(0, (sources - len(self.frames(0))) // self.every + 1)


class Span(NamedTuple):
    """A stretch of pixels along one axis."""

    start: int
    stop: int

    def within(self, outer: Span) -> slice:
        """Where it lies in what begins at ``outer``."""
        return slice(self.start - outer.start, self.stop - outer.start)


@dataclass(frozen=True)
class Degradation:
    """An exposure and an ordered composition of steps.

    Args:
        steps: what happens to the pixels, in this order.
        every: source frames from one input frame to the next; ``None`` takes the least with which each output of
            the network has a source frame (2 for Zooming SlowMo: it is given the odd frames only). For networks that
            restore exposures it is the exposure.
        exposure: source frames that are averaged for an input frame: an odd number, whose middle one is the target; for
            networks that restore exposures one that divides into them, each of which is averaged for its target.
        gamma: exponent that makes light of pixel values before they are averaged: 1 averages them as they are.
        mixed: exposures between which each training sample of such a network draws; those that do not divide into what
            its training asks for are left out. Evaluation is of ``exposure``.
    """

    steps: Sequence[Corruption] = ()
    every: int | None = None
    exposure: int = 1
    gamma: float = 1.0
    mixed: Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "mixed", None if self.mixed is None else tuple(self.mixed))
        if self.every is not None and self.every < 1:
            raise UserError(f"degradation.every counts source frames from one input to the next, got {self.every}")
        if min((self.exposure, *(self.mixed or ()))) < 1:
            raise UserError(
                "degradation.exposure and those of degradation.mixed count source frames that are averaged, got "
                f"{', '.join(map(str, (self.exposure, *(self.mixed or ()))))}"
            )
        if not self.gamma > 0:
            raise UserError(f"degradation.gamma must be greater than 0, got {self.gamma}")

    @property
    def scale(self) -> int:
        """How many times smaller than the source frames the input frames are."""
        return math.prod(step.scale for step in self.steps)

    def timeline(self, geometry: Geometry) -> Timeline:
        """Where the frames of a network with this geometry lie among the source frames.

        Raises:
            UserError: an output would lie between source frames, or begin or end within one.
        """
        if geometry.exposures is None:
            self._check_instants()
            timeline = Timeline(self.every or geometry.subdivision, self.exposure)
            timeline.take(geometry)
            return timeline
        if self.every not in (None, self.exposure):
            raise UserError(
                f"degradation.every is {self.every} and degradation.exposure {self.exposure}, but this network takes "
                "frames that are exposed until the next begins: set degradation.every=null"
            )
        if self.exposure % geometry.subdivision:
            raise UserError(
                f"inputs averaged of degradation.exposure={self.exposure} source frames cannot be divided into "
                f"{geometry.subdivision} equal exposures, as this network does: set degradation.exposure to a multiple "
                f"of {geometry.subdivision}"
            )
        return Timeline(self.exposure, self.exposure)

    def _check_instants(self) -> None:
        """Refuses what only networks that restore exposures can be given."""
        if self.mixed is not None:
            raise UserError(
                "degradation.mixed is for networks that restore exposures, and this one restores instants: choose "
                "another degradation"
            )
        if self.exposure % 2 == 0:
            raise UserError(
                f"degradation.exposure is {self.exposure}, but must be odd, so that one frame lies in its middle: "
                "3, 5, 7, ..."
            )

    def variants(self, geometry: Geometry) -> tuple[Degradation, ...]:
        """The degradations between which each training sample of a network draws, itself alone where none are mixed.

        Raises:
            UserError: none of the mixed exposures suits the network.
        """
        if self.mixed is None or geometry.exposures is None:
            return (self,)
        fitting = [exposure for exposure in self.mixed if exposure % geometry.subdivision == 0]
        if not fitting:
            raise UserError(
                f"none of degradation.mixed=[{', '.join(map(str, self.mixed))}] can be divided into "
                f"{geometry.subdivision} equal exposures, as training this network does: add a multiple of "
                f"{geometry.subdivision}"
            )
        for exposure in set(self.mixed).difference(fitting):
            log.warning("degradation.mixed: %d does not divide by %d and is left out", exposure, geometry.subdivision)
        return tuple(replace(self, exposure=exposure, every=None, mixed=None) for exposure in fitting)

    def check(self, geometry: Geometry) -> None:
        """Refuses what contradicts the network, before any data is read.

        Raises:
            UserError: the network's scale is not the degradation's, or its outputs would not have whole source frames.
        """
        if geometry.scale != self.scale:
            fitting = (
                f"bicubic_x{geometry.scale}" if geometry.scale > 1 else "exposure" if geometry.exposures else "blur"
            )
            raise UserError(
                f"the network enlarges {geometry.scale} times but the degradation ({self}) makes frames {self.scale} "
                f"times smaller: choose another degradation, such as {fitting}, or a model of scale {self.scale}"
            )
        self.timeline(geometry)

    @property
    def together(self) -> int:
        """Frames of a whole clip that must be degraded at a time."""
        return max((step.together for step in self.steps), default=1)

    def after(self, done: Sequence[str], factor: int) -> Degradation | None:
        """What remains to be done to frames that a data set brings ready-made.

        Args:
            done: what has happened to them: ``blur`` for an exposure, then kinds of steps.
            factor: how many times smaller than the source frames they are.

        Returns:
            ``None`` where this degradation does not begin with that very thing.
        """
        begins = [*(["blur"] if self.exposure > 1 else []), *(step.kind for step in self.steps)]
        blurred = len(begins) - len(self.steps)
        count = len(done) - blurred
        if list(done) != begins[: len(done)] or count < 0 or math.prod(s.scale for s in self.steps[:count]) != factor:
            return None
        return replace(self, steps=self.steps[count:], exposure=1)

    def expose(self, frames: Tensor) -> Tensor:
        """The mean of uint8 frames (N, H, W, C) as light, rounded: uint8 (H, W, C)."""
        if len(frames) == 1:
            return frames[0]
        light = frames.to(torch.float32).div(255).pow(self.gamma).mean(0).pow(1 / self.gamma)
        return light.mul(255).add(0.5 + TIE).floor().clamp(0, 255).to(torch.uint8)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        """Degrades whole frames: (T, C, H, W) -> (T, C, h, w)."""
        for step in self.steps:
            clip = step(clip, rng)
        return clip

    def patch(self, frames: Tensor, top: int, left: int, side: int, rng: np.random.Generator) -> Tensor:
        """What degrading whole frames and then cropping would give, noise apart, at the cost of the patch alone.

        Args:
            frames: uint8 (T, H, W, C), H and W multiples of ``scale``.
            top, left, side: the patch, in pixels of the result.
            rng: for the steps that draw something.

        Returns:
            float32 (T, C, side, side) in [0, 1].
        """
        rows = self._spans(Span(top, top + side), frames.shape[1])
        columns = self._spans(Span(left, left + side), frames.shape[2])
        clip = as_clip(frames[:, slice(*rows[0]), slice(*columns[0])])
        for k, step in enumerate(self.steps):
            clip = step(clip, rng)
            have = [Span(s.start // step.scale, s.stop // step.scale) for s in (rows[k], columns[k])]
            clip = clip[..., rows[k + 1].within(have[0]), columns[k + 1].within(have[1])]
        return clip.contiguous()

    def _spans(self, wanted: Span, size: int) -> list[Span]:
        """Along one axis of ``size`` source pixels: what each step must be given, then what is wanted at the end."""
        room = size // self.scale
        spans = [wanted]
        for step in reversed(self.steps):
            room *= step.scale
            start, stop = spans[0].start * step.scale - step.margin, spans[0].stop * step.scale + step.margin
            start -= start % step.alignment
            stop += -stop % step.alignment
            spans.insert(0, Span(max(0, start), min(room, stop)))
        return spans

    def __str__(self) -> str:
        light = f" gamma={self.gamma:g}" if self.gamma != 1 else ""
        exposure = [f"exposure {self.exposure}{light}"] if self.exposure > 1 else []
        return ", ".join([*exposure, *map(str, self.steps)]) or "none"


def as_clip(frames: Tensor) -> Tensor:
    """uint8 (T, H, W, C) -> float32 (T, C, H, W) in [0, 1]."""
    return frames.permute(0, 3, 1, 2).to(torch.float32).div(255).contiguous()


def resized(frames: Tensor, size: Sequence[int]) -> Tensor:
    """uint8 (T, H, W, C) at another (height, width): bilinear, antialiased, rounded."""
    pixels = frames.permute(0, 3, 1, 2).to(torch.float32)
    pixels = F.interpolate(pixels, list(size), mode="bilinear", antialias=True, align_corners=False)
    return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def crop_to_multiple(frames: Tensor, scale: int) -> Tensor:
    """Crop (T, H, W, C) at the bottom and right, so that H and W are multiples of ``scale``."""
    height, width = frames.shape[1:3]
    return frames[:, : height - height % scale, : width - width % scale]
