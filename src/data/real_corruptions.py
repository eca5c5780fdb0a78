"""Corruptions of ordinary footage, drawn for each clip: blur, downscaling by several filters, resampling, sensor noise.

All frames of a clip share the draw (:meth:`~src.data.corruptions.Corruption.draw`). A corruption called with ranges
left draws from them first. No corruption moves the picture: pixel centres stay where they are.

Shapes: T frames, C channels, H and W pixels; a clip is (T, C, H, W) in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.corruptions import Bicubic, Corruption, quantise
from src.data.draws import (
    Range,
    Weights,
    bounds,
    checked_range,
    checked_weights,
    draw_name,
    draw_number,
    format_range,
    format_weights,
)
from src.errors import UserError

FILTERS = ("bicubic", "bilinear", "area")
GRID = 16  # factors of Resize are multiples of 1 / GRID, so that patches on this grid meet the samples of the whole


@dataclass(frozen=True)
class Sometimes:
    """A corruption of some clips; the others stay as they are.

    Args:
        step: the corruption, of scale 1.
        chance: fraction of the clips that it corrupts.
    """

    step: Corruption
    chance: float

    kind: ClassVar[str] = "sometimes"
    scale: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.chance <= 1:
            raise UserError(f"The chance of a corruption ({self.step}) must be within [0, 1], got {self.chance}")
        if self.step.scale > 1:
            raise UserError(f"All clips need the same size: {self.step} cannot be left to chance")

    @property
    def group_size(self) -> int:
        return self.step.group_size

    @property
    def margin(self) -> int:
        return self.step.margin

    @property
    def alignment(self) -> int:
        return self.step.alignment

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        return self.step.draw(rng) if rng.random() < self.chance else ()

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        for step in self.draw(rng):
            clip = step(clip, rng)
        return clip

    def __str__(self) -> str:
        return f"{self.chance:.0%} {self.step}"


@dataclass(frozen=True)
class Blur:
    """A generalised Gaussian point spread function: defocus, a soft lens, or motion along a line.

    The kernel is ``exp(-(r' S^-1 r) ** beta / 2)``, normalised (Real-ESRGAN, Section 3.1).

    Args:
        sigma: standard deviation along the wider axis, in pixels.
        ratio: that of the narrower axis, relative to it; 1 is isotropic.
        angle: direction of the wider axis, in degrees.
        beta: exponent: 1 is a Gaussian, less has longer tails, more is flatter, like a disc.
    """

    sigma: Range
    ratio: Range = 1.0
    angle: Range = (0.0, 180.0)
    beta: Range = 1.0

    kind: ClassVar[str] = "point_spread"
    group_size: ClassVar[int] = 1
    scale: ClassVar[int] = 1
    alignment: ClassVar[int] = 1

    def __post_init__(self) -> None:
        limits = {"sigma": (0.05, 20), "ratio": (0.05, 1), "angle": (-360, 360), "beta": (0.25, 16)}
        for name, (least, most) in limits.items():
            object.__setattr__(self, name, checked_range(f"The {name} of a blur", getattr(self, name), least, most))

    @property
    def margin(self) -> int:
        return math.ceil(3 * bounds(self.sigma)[1])

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        drawn = {name: draw_number(getattr(self, name), rng) for name in ("sigma", "ratio", "angle", "beta")}
        return (replace(self, **drawn),)

    def kernel(self) -> Tensor:
        """Return the weights of a drawn blur, float64 (2 * margin + 1, 2 * margin + 1), summing to 1."""
        sigma, ratio, angle, beta = (bounds(value)[0] for value in (self.sigma, self.ratio, self.angle, self.beta))
        offsets = torch.arange(-self.margin, self.margin + 1, dtype=torch.float64)
        y, x = torch.meshgrid(offsets, offsets, indexing="ij")
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        along, across = (x * cosine + y * sine) / sigma, (y * cosine - x * sine) / (sigma * ratio)
        weights = torch.exp(-((along**2 + across**2) ** beta) / 2)
        return weights / weights.sum()

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        (blur,) = self.draw(rng)
        assert isinstance(blur, Blur)
        planes = F.pad(clip, (blur.margin,) * 4, mode="replicate").flatten(0, 1)  # (T * C, H + margins, W + margins)
        kernels = blur.kernel().to(clip).expand(len(planes), 1, -1, -1)
        blurred = F.conv2d(planes[None], kernels, groups=len(planes))  # by depth: 10 times as fast as a batch of planes
        return quantise(blurred.reshape(clip.shape))

    def __str__(self) -> str:
        shape = "" if self.ratio == 1 else f" ratio={format_range(self.ratio)}"
        return f"blur sigma={format_range(self.sigma)}{shape}" + (
            "" if self.beta == 1 else f" beta={format_range(self.beta)}"
        )


@dataclass(frozen=True)
class Downscale:
    """Downscaling by an antialiased filter that is drawn for each clip, rounded to 8 bits.

    Args:
        scale: size of the input relative to the output.
        filters: one of bicubic (MATLAB's, :class:`~src.data.corruptions.Bicubic`), bilinear and area, or their weights.
    """

    scale: int
    filters: Weights = "bicubic"

    kind: ClassVar[str] = "downscale"
    group_size: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise UserError(f"Downscaling needs a scale of 2 or more, got {self.scale}")
        checked_weights("The filter of a downscaling", self.filters, FILTERS)

    @property
    def margin(self) -> int:
        return 2 * self.scale  # of the widest filter

    @property
    def alignment(self) -> int:
        return self.scale

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        name = draw_name(self.filters, rng)
        return (Bicubic(self.scale) if name == "bicubic" else replace(self, filters=name),)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        (step,) = self.draw(rng)
        if not isinstance(step, Downscale):
            return step(clip, rng)
        if step.filters == "area":
            small = F.avg_pool2d(clip.double(), self.scale)
        else:
            size = [length // self.scale for length in clip.shape[-2:]]
            small = F.interpolate(clip.double(), size, mode="bilinear", antialias=True)
        return quantise(small).to(clip.dtype)

    def __str__(self) -> str:
        return f"{format_weights(self.filters)} x{self.scale}"


@dataclass(frozen=True)
class Resize:
    """Resampling to another size and back to the own, as by an upload in another resolution, rounded to 8 bits twice.

    Args:
        factor: other size relative to the own, in steps of 1/16.
        filters: one of bicubic and bilinear, both antialiased, or their weights; drawn for each of the two directions.
    """

    factor: Range
    filters: Weights = "bicubic"
    back: str | None = field(default=None, init=False)  # the filter of the second direction, once drawn

    kind: ClassVar[str] = "resize"
    group_size: ClassVar[int] = 1
    scale: ClassVar[int] = 1
    alignment: ClassVar[int] = GRID

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", checked_range("The factor of a resize", self.factor, 0.125, 4))
        checked_weights("The filter of a resize", self.filters, FILTERS[:2])

    @property
    def margin(self) -> int:
        return math.ceil(4 / min(1, bounds(self.factor)[0])) + 1  # both cubics extend over two of the larger pixels

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        factor = round(draw_number(self.factor, rng) * GRID) / GRID
        there, back = (draw_name(self.filters, rng) for _ in range(2))
        drawn = replace(self, factor=factor, filters=there)
        object.__setattr__(drawn, "back", self.back or back)
        return (drawn,)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        (step,) = self.draw(rng)
        assert isinstance(step, Resize)
        assert isinstance(step.filters, str)
        assert isinstance(step.back, str)
        height, width = clip.shape[-2:]
        padded = F.pad(clip.double(), (0, -width % GRID, 0, -height % GRID), mode="replicate")
        own = padded.shape[-2:]
        other = [int(length * Fraction(bounds(step.factor)[0])) for length in own]
        resampled = quantise(F.interpolate(padded, other, mode=step.filters, antialias=True))
        resampled = quantise(F.interpolate(resampled, own, mode=step.back, antialias=True))
        return resampled[..., :height, :width].to(clip.dtype)

    def __str__(self) -> str:
        return f"resize factor={format_range(self.factor)} {format_weights(self.filters)}"


@dataclass(frozen=True)
class SensorNoise:
    """Noise of a sensor: its variance is ``gaussian ** 2 + shot ** 2 * value``, normally distributed.

    Shot noise is Poisson's in the normal approximation, as in Foi et al., "Practical Poissonian-Gaussian noise modeling
    and fitting for single-image raw-data", 2008. The field is new in each frame, the levels are those of the clip.

    Args:
        gaussian: standard deviation in black, for values in [0, 1].
        shot: standard deviation of the signal-dependent part in white.
        grey: fraction of the clips with the same noise in all channels, its level from their mean.
    """

    gaussian: Range
    shot: Range = 0.0
    grey: float = 0.0

    kind: ClassVar[str] = "sensor_noise"
    group_size: ClassVar[int] = 1
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 0
    alignment: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in ("gaussian", "shot"):
            object.__setattr__(self, name, checked_range(f"The {name} level of noise", getattr(self, name), 0, 1))
        if not 0 <= self.grey <= 1:
            raise UserError(f"The fraction of clips with grey noise must be within [0, 1], got {self.grey}")

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        gaussian, shot = draw_number(self.gaussian, rng), draw_number(self.shot, rng)
        grey = self.grey if self.grey in (0, 1) else float(rng.random() < self.grey)
        return (replace(self, gaussian=gaussian, shot=shot, grey=grey),)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        (step,) = self.draw(rng)
        assert isinstance(step, SensorNoise)
        signal = clip.mean(1, keepdim=True) if step.grey else clip  # (T, 1 or C, H, W)
        noise = torch.from_numpy(rng.standard_normal(tuple(signal.shape), dtype=np.float32)).to(clip)
        level = (bounds(step.gaussian)[0] ** 2 + bounds(step.shot)[0] ** 2 * signal).sqrt()
        return quantise(clip + level * noise)

    def __str__(self) -> str:
        return f"noise gaussian={format_range(self.gaussian)} shot={format_range(self.shot)} grey={self.grey:g}"
