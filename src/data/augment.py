"""What a training sample might as well have been: mirrored, turned, run backwards, in other colours, noisier.

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
    """Other colours, the same for all frames of a sample: it is the scene that changes, not what a network shall do.

    Each change maps the three values of a pixel linearly, whatever lies around it. It therefore makes no difference
    whether a scene is recoloured before its frames are averaged or reduced or after that, but for values that leave
    [0, 1] and are clamped, and for a gamma. This is why contrast is not about a picture's mean, and why neither
    saturation nor hue is HSV's: turned by half a circle there (kornia's ``adjust_hue``), the average of red and green
    is not that of what red and green become.

    Each change is drawn uniformly from both sides of none.

    Args:
        brightness: at most so much is added or taken away, in [0, 1], for pixels in [0, 1].
        contrast: values are multiplied by 1 -/+ at most this, in [0, 1].
        saturation: distances from a pixel's grey are multiplied by 1 -/+ at most this, in [0, 1].
        hue: colours are turned about the axis of greys by at most this part of a circle, in [0, 0.5].

    Raises:
        UserError: a strength is out of its range.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            strength, most = getattr(self, field.name), 0.5 if field.name == "hue" else 1
            if not isinstance(strength, int | float) or not 0 <= strength <= most:
                raise UserError(f"data.jitter.{field.name} is {strength}, but must lie within [0, {most}]; 0 is off")

    def __call__(self, clip: Tensor, draws: np.ndarray) -> Tensor:
        """Recolours (T, 3, H, W) by these parts, each in [-1, 1], of the four strengths."""
        lift, gain, purity, turn = (float(draw) for draw in draws)
        if self.contrast:
            clip = adjust_contrast(clip, 1 + gain * self.contrast, clip_output=False)
        if self.brightness:
            clip = adjust_brightness(clip, lift * self.brightness, clip_output=False)
        if self.hue:
            clip = turn_hue(clip, turn * self.hue)
        if self.saturation:  # the last, since it clamps
            clip = adjust_saturation_with_gray_subtraction(clip, 1 + purity * self.saturation)
        return clip.clamp(0, 1)


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training sample. With all of it off, a sample is what was cut from the video.

    Args:
        flip: mirror half of the samples left to right.
        flip_vertical: turn half of them upside down, as in a mirror below.
        rotate: turn them by a random multiple of 90 degrees.
        reverse: run half of them backwards.
        jitter: other colours, for inputs and targets alike; ``None`` for their own.
        noise: standard deviation of Gaussian noise on the inputs alone, for pixels in [0, 1]. Every value has its
            own; the sum is clamped, but not rounded to 8 bits, unlike that of :class:`~src.data.corruptions.Noise`. The
            DSFN paper (Section 4.1) adds "N(0, 0.01)", which is 0.01 here: were that the variance, the deviation
            would be 0.1, more than the blur itself hides.

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
            raise UserError(f"data.noise is {self.noise}, but a standard deviation is a number of 0 or more; 0 is off")

    def __call__(self, inputs: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Augments float32 inputs (T, C, s, s) and targets (T', C, S, S): the same way, apart from noise.

        Whatever is on, all is drawn (noise last): switching one thing on or off leaves the others as they were.
        """
        mirror, turns, backwards = rng.random() < 0.5, int(rng.integers(4)), rng.random() < 0.5
        upend, colours = rng.random() < 0.5, rng.uniform(-1, 1, 4)
        inputs, targets = (
            orient(
                part,
                mirror=self.flip and mirror,
                upend=self.flip_vertical and upend,
                turns=turns if self.rotate else 0,
                backwards=self.reverse and backwards,
            )
            for part in (inputs, targets)
        )
        if self.jitter is not None:
            inputs, targets = self.jitter(inputs, colours), self.jitter(targets, colours)
        if self.noise:
            normal = torch.from_numpy(rng.standard_normal(tuple(inputs.shape), dtype=np.float32))
            inputs = (inputs + self.noise * normal).clamp(0, 1)
        return inputs, targets


def orient(clip: Tensor, *, mirror: bool, upend: bool, turns: int, backwards: bool) -> Tensor:
    """Mirrors (T, C, S, S) left to right and top to bottom, then turns it by 90 degrees so often, runs it backwards."""
    axes = [axis for axis, wanted in ((-1, mirror), (-2, upend)) if wanted]
    if axes:
        clip = clip.flip(axes)
    if turns:
        clip = clip.rot90(turns, (-2, -1))
    if backwards:
        clip = clip.flip(0)
    return clip.contiguous()


def turn_hue(clip: Tensor, part: float) -> Tensor:
    """Turns the colours of (..., 3, H, W) about the axis of greys, which stay, by a part of a circle; not clamped.

    Haeberli, "Matrix Operations for Image Processing" (1993). A third of a circle makes red green, green blue and
    blue red, as it does in HSV.
    """
    angle = 2 * math.pi * part
    both, apart = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    return (1 - 2 * both) * clip + (both + apart) * clip.roll(1, -3) + (both - apart) * clip.roll(-1, -3)
