"""Forward models: how the frames that a network is given come about from the frames that it shall return.

A degradation is an exposure (which source frames make an input frame) and a tuple of steps (:mod:`src.data.steps`: what
happens to its pixels), in the order in which they happen.

Shapes: T frames, C channels, H and W source pixels, h and w input pixels; a clip here is (T, C, H, W) in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.data.steps import TIE, Step
from src.errors import Problem
from src.geometry import Geometry


@dataclass(frozen=True)
class Timeline:
    """Which source frames make the input frames, and where outputs find theirs.

    Args:
        every: source frames from one input frame to the next.
        exposure: source frames that are averaged for an input frame, which lies at the middle one's time.
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
            Problem: no source frame lies there.
        """
        place = Fraction(time) * self.every
        if place.denominator != 1:
            raise Problem(
                f"the network returns a frame at time {time} of its input frames, where no source frame lies with "
                f"every={self.every} (source frames from one input to the next): set degradation.every to a multiple "
                f"of {Fraction(time).denominator}"
            )
        return int(place) + self.exposure // 2

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
            the network has a source frame (2 for Zooming SlowMo: it is given the odd frames only).
        exposure: source frames that are averaged for an input frame, an odd number; the target is the middle one.
        gamma: exponent that makes light of pixel values before they are averaged: 1 averages them as they are.
    """

    steps: Sequence[Step] = ()
    every: int | None = None
    exposure: int = 1
    gamma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if self.every is not None and self.every < 1:
            raise Problem(f"degradation.every counts source frames from one input to the next, got {self.every}")
        if self.exposure < 1 or self.exposure % 2 == 0:
            raise Problem(
                f"degradation.exposure is {self.exposure}, but must be odd, so that one frame lies in its middle: "
                "3, 5, 7, ..."
            )
        if not self.gamma > 0:
            raise Problem(f"degradation.gamma must be greater than 0, got {self.gamma}")

    @property
    def scale(self) -> int:
        """How many times smaller than the source frames the input frames are."""
        return math.prod(step.scale for step in self.steps)

    def timeline(self, geometry: Geometry) -> Timeline:
        """Where the frames of a network with this geometry lie among the source frames.

        Raises:
            Problem: an output would lie between source frames.
        """
        timeline = Timeline(self.every or geometry.subdivision, self.exposure)
        for time in geometry.times:
            timeline.target(time)
        return timeline

    def check(self, geometry: Geometry) -> None:
        """Refuses what contradicts the network, before any data is read.

        Raises:
            Problem: the network's scale is not the degradation's, or an output would lie between source frames.
        """
        if geometry.scale != self.scale:
            fitting = f"bicubic_x{geometry.scale}" if geometry.scale > 1 else "blur"
            raise Problem(
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
