"""Corruptions of the pixels of a clip: downscaling, noise, compression.

Every corruption returns 8-bit values, like the files of published data sets.

Shapes: T frames, C channels, H and W pixels; a clip is (T, C, H, W) in [0, 1].
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Protocol

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from src.data.draws import Range, checked_range, draw_integer, format_range
from src.errors import UserError
from src.ops.resize import imresize

TIE = 1e-4  # grey levels, above the error of a float32 pixel: halves round up at every position of a crop


class Corruption(Protocol):
    """A function of the pixels of a clip.

    Attributes:
        kind: its name among the precomputed frames of a data set.
        scale: size of its input relative to its output.
        margin: input pixels around a patch that the patch depends on.
        alignment: period of its grid in input pixels; a patch must begin on that grid.
        group_size: frames of a whole clip that depend on each other, 1 if none do; with more, training degrades whole
            frames.
    """

    kind: ClassVar[str]

    @property
    def group_size(self) -> int: ...
    @property
    def scale(self) -> int: ...
    @property
    def margin(self) -> int: ...
    @property
    def alignment(self) -> int: ...
    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        """Return the corruptions of one clip, all frames alike, with no more than fields of noise left to draw.

        Drawing from what was drawn uses no random numbers and changes nothing.
        """
        ...

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor: ...


@dataclass(frozen=True)
class Bicubic:
    """MATLAB's antialiased bicubic downscaling, rounded to 8 bits like a published low-resolution PNG."""

    scale: int

    kind: ClassVar[str] = "bicubic"
    group_size: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise UserError(f"Bicubic downscaling needs a scale of 2 or more, got {self.scale}")

    @property
    def margin(self) -> int:
        return 2 * self.scale  # the antialiased cubic extends over two output pixels on either side

    @property
    def alignment(self) -> int:
        return self.scale

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        return (self,)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        return quantise(imresize(clip.double(), Fraction(1, self.scale))).to(clip.dtype)

    def __str__(self) -> str:
        return f"bicubic x{self.scale}"


@dataclass(frozen=True)
class Given:
    """Everything that happened to given inputs: the frames of ``data=paired``, which are never made from others.

    Args:
        scale: size of targets relative to inputs.
    """

    scale: int = 1

    kind: ClassVar[str] = "given"
    group_size: ClassVar[int] = 1
    margin: ClassVar[int] = 0

    @property
    def alignment(self) -> int:
        return self.scale

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        return (self,)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        raise UserError(
            "Given inputs are never made from targets: data=paired data.low=<inputs> data.high=<targets> reads them."
        )

    def __str__(self) -> str:
        return f"given inputs x{self.scale}"


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, then salt and pepper, clamped and rounded to 8 bits.

    The ZSM paper (section 4.3.1) adds "a mixture of Gaussian noise and 10% salt-and-pepper noise" like ToFlow, without
    a level for the first; ToFlow's is a standard deviation of 0.1.

    Args:
        gaussian: standard deviation, for pixels in [0, 1].
        salt_pepper: fraction of the values set to 0 or 1, half of them each; channels are independent, as in MATLAB's
            ``imnoise``.
    """

    gaussian: float = 0.1
    salt_pepper: float = 0.1

    kind: ClassVar[str] = "noise"
    group_size: ClassVar[int] = 1
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 0
    alignment: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.gaussian < 0 or not 0 <= self.salt_pepper <= 1:
            raise UserError(f"Noise needs a standard deviation of 0 or more and a fraction within [0, 1], got {self}")

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        return (self,)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        shape = tuple(clip.shape)
        noisy = clip + self.gaussian * torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(clip)
        chance = torch.from_numpy(rng.random(shape, dtype=np.float32)).to(clip.device)
        noisy = noisy.masked_fill(chance < self.salt_pepper, 1.0)
        noisy = noisy.masked_fill(chance < self.salt_pepper / 2, 0.0)
        return quantise(noisy)

    def __str__(self) -> str:
        return f"noise gaussian={self.gaussian:g} salt_pepper={self.salt_pepper:g}"


@dataclass(frozen=True)
class Jpeg:
    """Compression of each frame by a real JPEG codec (libjpeg through Pillow).

    Args:
        quality: libjpeg's quality factor, 1 to 100; or a range of whole numbers to draw from once per clip.
        subsampling: chroma subsampling; 4:2:0 is libjpeg's default.
    """

    quality: Range
    subsampling: str = "4:2:0"

    kind: ClassVar[str] = "jpeg"
    group_size: ClassVar[int] = 1
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 16  # chroma is interpolated across coding units
    alignment: ClassVar[int] = 16  # the coding unit at 4:2:0

    def __post_init__(self) -> None:
        object.__setattr__(self, "quality", checked_range("A JPEG quality", self.quality, 1, 100, whole=True))

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        return (Jpeg(draw_integer(self.quality, rng), self.subsampling),)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        quality = draw_integer(self.quality, rng)
        levels = (quantise(clip) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()  # (T, H, W, C)
        decoded = np.stack([self._compress(frame, quality) for frame in levels])
        return (torch.from_numpy(decoded).permute(0, 3, 1, 2).to(clip) / 255).contiguous()

    def _compress(self, frame: np.ndarray, quality: int) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=quality, subsampling=self.subsampling)
        with Image.open(file) as image:
            return np.array(image)

    def __str__(self) -> str:
        return f"jpeg quality={format_range(self.quality)}"


@dataclass(frozen=True)
class Mpeg4:
    """Compression of a clip by a real MPEG-4 (Part 2) codec at 4:2:0, as in NTIRE 2019.

    Args:
        quantiser: the codec's scale, 1 (best) to 31, the same for all frames.
    """

    quantiser: int = 8

    kind: ClassVar[str] = "compression"
    group_size: ClassVar[int] = 12  # the codec's default distance of key frames
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 32
    alignment: ClassVar[int] = 16  # the coding unit

    def __post_init__(self) -> None:
        if not 1 <= self.quantiser <= 31:
            raise UserError(f"An MPEG-4 quantiser must be a number from 1 to 31, got {self.quantiser}")

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        return (self,)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        height, width = clip.shape[-2:]
        even = F.pad(quantise(clip), (0, width % 2, 0, height % 2), mode="replicate")
        levels = (even * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()  # (T, H, W, C)
        decoded = np.stack(list(self._compress(levels)))[:, :height, :width]
        return (torch.from_numpy(decoded).permute(0, 3, 1, 2).to(clip) / 255).contiguous()

    def _compress(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        encoder = av.CodecContext.create("mpeg4", "w")
        encoder.height, encoder.width = frames.shape[1:3]
        encoder.pix_fmt, encoder.time_base, encoder.gop_size = "yuv420p", Fraction(1, 24), self.group_size
        encoder.thread_count = 1  # the same bits on every machine
        encoder.options = {"qmin": str(self.quantiser), "qmax": str(self.quantiser), "bf": "0"}
        packets = []
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            picture.pts = i
            packets += encoder.encode(picture)
        packets += encoder.encode(None)
        decoder = av.CodecContext.create("mpeg4", "r")
        decoder.extradata = encoder.extradata
        for packet in [*packets, None]:
            for picture in decoder.decode(packet):
                yield picture.to_ndarray(format="rgb24")

    def __str__(self) -> str:
        return f"mpeg4 quantiser={self.quantiser}"


def quantise(clip: Tensor) -> Tensor:
    """Round to 8 bits, halves up like MATLAB, and clamp to [0, 1]."""
    return torch.floor(clip * 255 + (0.5 + TIE)).clamp(0, 255) / 255
