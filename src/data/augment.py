"""Augmentation of training samples: flips, rotation, time reversal, colour jitter, noise.

Colours and noise change the patches of a sample, or the source frames that its inputs and targets are made of.

Shapes: T frames, C channels, H and W pixels, S the side of a square patch; clips are (T, C, H, W) in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.data.corruptions import quantise
from src.data.degradation import to_clip
from src.errors import UserError

GREY = (0.299, 0.587, 0.114)  # of red, green and blue


@dataclass(frozen=True)
class Jitter:
    """Colour jitter, equal for all frames of a sample: it changes the scene, not the task of the network.

    Each adjustment is a linear map of the three values of a pixel, independent of other pixels. It therefore commutes
    with the averaging and downscaling of frames, except for clamping to [0, 1] and for a gamma. For this reason,
    contrast does not refer to the mean of a frame, and saturation and hue are not those of HSV: HSV's hue rotation
    (kornia's ``adjust_hue``) by half a circle maps the average of red and green to a colour other than the average of
    the mapped red and green.

    Each adjustment is drawn uniformly and symmetrically about none.

    Args:
        brightness: largest offset, in [0, 1], for pixels in [0, 1].
        contrast: all values are multiplied by 1 -/+ at most this, in [0, 1].
        saturation: distances from a pixel's grey are multiplied by 1 -/+ at most this, in [0, 1].
        hue: largest rotation about the grey axis, as a fraction of a circle, in [0, 0.5].

    Raises:
        UserError: a strength is out of range.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            strength, most = getattr(self, field.name), 0.5 if field.name == "hue" else 1
            if not isinstance(strength, int | float) or not 0 <= strength <= most:
                raise UserError(f"data.jitter.{field.name} must be within [0, {most}] (0 is off), got {strength}")

    def __call__(self, clip: Tensor, draws: np.ndarray) -> Tensor:
        """Jitter (T, 3, H, W) by draws in [-1, 1], relative to the four strengths: contrast and brightness first."""
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        if not any(strengths):
            return clip
        brightness, contrast, saturation, hue = draws * strengths
        grey = np.broadcast_to(GREY, (3, 3))
        colours = ((1 + saturation) * np.eye(3) - saturation * grey) @ hue_rotation(hue)
        offset = torch.from_numpy(colours @ np.full(3, brightness)).to(clip)[:, None]  # (3, 1)
        factors = torch.from_numpy((1 + contrast) * colours).to(clip)
        count = len(clip)
        jittered = torch.baddbmm(offset.expand(count, 3, 1), factors.expand(count, 3, 3), clip.flatten(2))
        return jittered.view_as(clip).clamp_(0, 1)


class Draws(NamedTuple):
    """Random numbers of a sample's augmentation, except those of the noise."""

    flip: bool
    quarters: int
    reverse: bool
    flip_vertical: bool
    colours: np.ndarray  # within [-1, 1]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training sample. With all of them off, a sample is an unchanged crop of the video.

    Args:
        flip: flip half of the samples left to right.
        flip_vertical: flip half of them top to bottom.
        rotate: rotate them by a random multiple of 90 degrees.
        reverse: reverse half of them in time.
        jitter: random change of the colours of inputs and targets; ``None`` is off.
        noise: standard deviation of independent Gaussian noise on the inputs alone, for pixels in [0, 1]. The sum is
            clamped, but not rounded to 8 bits, unlike that of :class:`~src.data.corruptions.Noise`. The DSFN paper
            (Section 4.1) adds "N(0, 0.01)", interpreted as a standard deviation of 0.01: a variance of 0.01 would be a
            deviation of 0.1, and hide more than the blur does.
        source: jitter and noise act on the source frames, before these are averaged and reduced: as if the video had
            been augmented, in 8 bits. Noise then averages out over an exposure and in the reduction.

    Raises:
        UserError: ``noise`` is negative.
    """

    flip: bool = True
    flip_vertical: bool = False
    rotate: bool = True
    reverse: bool = False
    jitter: Jitter | None = None
    noise: float = 0.0
    source: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise UserError(f"data.noise must be a standard deviation of 0 or more (0 is off), got {self.noise}")

    def draw(self, rng: np.random.Generator) -> Draws:
        """Draw the augmentation of a sample.

        All draws happen in any case, so that switching one augmentation leaves the others unchanged.
        """
        flip, quarters, reverse = bool(rng.random() < 0.5), int(rng.integers(4)), bool(rng.random() < 0.5)
        return Draws(flip, quarters, reverse, bool(rng.random() < 0.5), rng.uniform(-1, 1, 4))

    def __call__(
        self, inputs: Tensor, targets: Tensor, rng: np.random.Generator, *more: Tensor, draws: Draws | None = None
    ) -> tuple[Tensor, ...]:
        """Augment float32 inputs (T, C, s, s), targets (T', C, S, S) and further clips equally, apart from noise.

        ``draws`` are those that changed the source frames: colours and noise are then left as they are.
        """
        drawn = self.draw(rng) if draws is None else draws
        inputs, *others = (
            orient(
                part,
                flip=self.flip and drawn.flip,
                flip_vertical=self.flip_vertical and drawn.flip_vertical,
                quarters=drawn.quarters if self.rotate else 0,
                reverse=self.reverse and drawn.reverse,
            )
            for part in (inputs, targets, *more)
        )
        if draws is not None:
            return inputs, *others
        if self.jitter is not None:
            inputs, *others = (self.jitter(part, drawn.colours) for part in (inputs, *others))
        if self.noise:
            inputs = self._add_noise(inputs, rng)
        return inputs, *others

    def change_source(self, frames: Tensor, draws: Draws, rng: np.random.Generator | None = None) -> Tensor:
        """Change the colours of source frames (N, H, W, C), and add noise if there is an ``rng`` to draw it.

        The result has 8 bits, as if the video had been augmented.
        """
        changed = []
        for frame in frames.unbind():  # one by one: they stay in the processor's cache
            pixels = to_clip(frame[None])
            if self.jitter is not None:
                pixels = self.jitter(pixels, draws.colours)
            if self.noise and rng is not None:
                pixels = self._add_noise(pixels, rng)
            changed.append(quantise(pixels)[0].mul(255).round().to(torch.uint8).permute(1, 2, 0))
        return torch.stack(changed)

    def _add_noise(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        normal = torch.from_numpy(rng.standard_normal(tuple(clip.shape), dtype=np.float32))
        return (clip + self.noise * normal).clamp(0, 1)


def orient(clip: Tensor, *, flip: bool, flip_vertical: bool, quarters: int, reverse: bool) -> Tensor:
    """Flip (T, C, S, S) left to right and top to bottom, rotate it by quarter turns, then reverse it in time."""
    axes = [axis for axis, enabled in ((-1, flip), (-2, flip_vertical)) if enabled]
    if axes:
        clip = clip.flip(axes)
    if quarters:
        clip = clip.rot90(quarters, (-2, -1))
    if reverse:
        clip = clip.flip(0)
    return clip.contiguous()


def hue_rotation(fraction: float) -> np.ndarray:
    """Return the matrix that rotates colours about the grey axis by a fraction of a circle, (3, 3).

    Haeberli, "Matrix Operations for Image Processing" (1993). A third of a circle maps red to green, green to blue and
    blue to red, as in HSV.
    """
    angle = 2 * math.pi * fraction
    both, apart = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    back, forth = both + apart, both - apart
    return np.array([[1 - 2 * both, forth, back], [back, 1 - 2 * both, forth], [forth, back, 1 - 2 * both]])
