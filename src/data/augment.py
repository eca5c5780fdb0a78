"""Augmentation of training samples: flips, rotation, time reversal, colour jitter, noise.

Shapes: T frames, C channels, H and W pixels, S the side of a square patch; clips are (T, C, H, W) in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from kornia.enhance import adjust_brightness, adjust_contrast, adjust_saturation_with_gray_subtraction
from torch import Tensor

from src.errors import UserError


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
        """Jitter (T, 3, H, W) by draws in [-1, 1], relative to the four strengths."""
        brightness, contrast, saturation, hue = (float(draw) for draw in draws)
        if self.contrast:
            clip = adjust_contrast(clip, 1 + contrast * self.contrast, clip_output=False)
        if self.brightness:
            clip = adjust_brightness(clip, brightness * self.brightness, clip_output=False)
        if self.hue:
            clip = rotate_hue(clip, hue * self.hue)
        if self.saturation:  # last, since it clamps
            clip = adjust_saturation_with_gray_subtraction(clip, 1 + saturation * self.saturation)
        return clip.clamp(0, 1)


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

    Raises:
        UserError: ``noise`` is negative.
    """

    flip: bool = True
    flip_vertical: bool = False
    rotate: bool = True
    reverse: bool = False
    jitter: Jitter | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise UserError(f"data.noise must be a standard deviation of 0 or more (0 is off), got {self.noise}")

    def __call__(self, inputs: Tensor, targets: Tensor, rng: np.random.Generator, *more: Tensor) -> tuple[Tensor, ...]:
        """Augment float32 inputs (T, C, s, s), targets (T', C, S, S) and further clips equally, apart from noise.

        All draws happen in any case (noise last), so that switching one augmentation leaves the others unchanged.
        """
        flip, quarters, reverse = rng.random() < 0.5, int(rng.integers(4)), rng.random() < 0.5
        flip_vertical, colours = rng.random() < 0.5, rng.uniform(-1, 1, 4)
        inputs, *others = (
            orient(
                part,
                flip=self.flip and flip,
                flip_vertical=self.flip_vertical and flip_vertical,
                quarters=quarters if self.rotate else 0,
                reverse=self.reverse and reverse,
            )
            for part in (inputs, targets, *more)
        )
        if self.jitter is not None:
            inputs, *others = (self.jitter(part, colours) for part in (inputs, *others))
        if self.noise:
            normal = torch.from_numpy(rng.standard_normal(tuple(inputs.shape), dtype=np.float32))
            inputs = (inputs + self.noise * normal).clamp(0, 1)
        return inputs, *others


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


def rotate_hue(clip: Tensor, fraction: float) -> Tensor:
    """Rotate the colours of (..., 3, H, W) about the grey axis by a fraction of a circle; not clamped.

    Haeberli, "Matrix Operations for Image Processing" (1993). A third of a circle maps red to green, green to blue and
    blue to red, as in HSV.
    """
    angle = 2 * math.pi * fraction
    both, apart = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    return (1 - 2 * both) * clip + (both + apart) * clip.roll(1, -3) + (both - apart) * clip.roll(-1, -3)
