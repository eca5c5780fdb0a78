"""What can happen to the pixels of a clip on its way to a network: reduction, noise, compression.

Every step returns 8-bit values, as the files of published data sets do.

Shapes: T frames, C channels, H and W pixels; a clip is (T, C, H, W) in [0, 1].
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Protocol

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from src.errors import UserError
from src.ops.resize import imresize

TIE = 1e-4  # of a grey level: more than a float32 pixel is off, so that halves round up wherever a crop begins


class Corruption(Protocol):
    """One thing that happens to the pixels of a clip.

    Attributes:
        kind: what data sets that bring frames to which it has happened call it.
        scale: how many times smaller the result is.
        margin: pixels of its input around a patch that a step must see to treat the patch as in the whole frame.
        alignment: pixels of its input after which its grid repeats; a patch must begin on that grid.
        together: frames of a whole clip that it must be given at a time, 1 where each is treated by itself.
    """

    kind: ClassVar[str]
    together: ClassVar[int]

    @property
    def scale(self) -> int: ...
    @property
    def margin(self) -> int: ...
    @property
    def alignment(self) -> int: ...
    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor: ...


@dataclass(frozen=True)
class Bicubic:
    """MATLAB's antialiased bicubic reduction, rounded to 8 bits as a published low-resolution PNG is."""

    scale: int

    kind: ClassVar[str] = "bicubic"
    together: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise UserError(f"a bicubic reduction needs a scale of 2 or more, got {self.scale}")

    @property
    def margin(self) -> int:
        return 2 * self.scale  # the antialiased cubic reaches two output pixels to either side

    @property
    def alignment(self) -> int:
        return self.scale

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        return quantise(imresize(clip.double(), Fraction(1, self.scale))).to(clip.dtype)

    def __str__(self) -> str:
        return f"bicubic x{self.scale}"


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, then salt and pepper, clamped and rounded to 8 bits.

    The ZSM paper (section 4.3.1) adds "a mixture of Gaussian noise and 10% salt-and-pepper noise" as ToFlow does and
    gives no level for the first; ToFlow's is a standard deviation of 0.1.

    Args:
        gaussian: standard deviation, for pixels in [0, 1].
        salt_pepper: fraction of the values (each channel by itself, like MATLAB's ``imnoise``) that become 0 or 1,
            half of them each.
    """

    gaussian: float = 0.1
    salt_pepper: float = 0.1

    kind: ClassVar[str] = "noise"
    together: ClassVar[int] = 1
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 0
    alignment: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.gaussian < 0 or not 0 <= self.salt_pepper <= 1:
            raise UserError(f"noise needs a standard deviation of 0 or more and a fraction within [0, 1], got {self}")

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
    """Compression by a real JPEG codec (libjpeg through Pillow), every frame an image by itself.

    Args:
        quality: libjpeg's quality factor, 1 to 100; or two of them, between which one is drawn for each call
            (a training clip; in evaluation, where frames come one by one, a frame).
        subsampling: of the chroma; 4:2:0 is what libjpeg does unless told otherwise.
    """

    quality: int | Sequence[int]
    subsampling: str = "4:2:0"

    kind: ClassVar[str] = "jpeg"
    together: ClassVar[int] = 1
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 16  # chroma is interpolated across the border of a coding unit
    alignment: ClassVar[int] = 16  # the coding unit at 4:2:0

    def __post_init__(self) -> None:
        if not isinstance(self.quality, int):
            object.__setattr__(self, "quality", tuple(self.quality))
        low, high = self._range
        if not 1 <= low <= high <= 100:
            raise UserError(f"a JPEG quality is a number from 1 to 100, or two of them, ascending; got {self.quality}")

    @property
    def _range(self) -> tuple[int, int]:
        if isinstance(self.quality, int):
            return self.quality, self.quality
        if len(self.quality) != 2:
            raise UserError(f"a JPEG quality is one number or two, got {self.quality}")
        return self.quality[0], self.quality[1]

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        low, high = self._range
        quality = low if low == high else int(rng.integers(low, high + 1))
        levels = (quantise(clip) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()  # (T, H, W, C)
        decoded = np.stack([self._code(frame, quality) for frame in levels])
        return (torch.from_numpy(decoded).permute(0, 3, 1, 2).to(clip) / 255).contiguous()

    def _code(self, frame: np.ndarray, quality: int) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=quality, subsampling=self.subsampling)
        with Image.open(file) as image:
            return np.array(image)

    def __str__(self) -> str:
        low, high = self._range
        return f"jpeg quality={low}" if low == high else f"jpeg quality={low}..{high}"


@dataclass(frozen=True)
class Mpeg4:
    """Compression by a real MPEG-4 (Part 2) codec at 4:2:0, the frames of a clip one video: NTIRE 2019's artefacts.

    A patch is coded by itself, with what lies a little around it: motion that comes from further away is coded as
    something new, which in a whole frame it is not.

    Args:
        quantiser: the codec's scale, 1 (best) to 31, the same for all frames.
    """

    quantiser: int = 8

    kind: ClassVar[str] = "compression"
    together: ClassVar[int] = 12  # the codec's own distance between frames that stand by themselves
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 32
    alignment: ClassVar[int] = 16  # the coding unit

    def __post_init__(self) -> None:
        if not 1 <= self.quantiser <= 31:
            raise UserError(f"an MPEG-4 quantiser is a number from 1 to 31, got {self.quantiser}")

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        height, width = clip.shape[-2:]
        even = F.pad(quantise(clip), (0, width % 2, 0, height % 2), mode="replicate")
        levels = (even * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()  # (T, H, W, C)
        decoded = np.stack(list(self._code(levels)))[:, :height, :width]
        return (torch.from_numpy(decoded).permute(0, 3, 1, 2).to(clip) / 255).contiguous()

    def _code(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        encoder = av.CodecContext.create("mpeg4", "w")
        encoder.height, encoder.width = frames.shape[1:3]
        encoder.pix_fmt, encoder.time_base, encoder.gop_size = "yuv420p", Fraction(1, 24), self.together
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
    """The nearest of the 256 values that an 8-bit file can hold, halves up as MATLAB rounds, clamped to [0, 1]."""
    return torch.floor(clip * 255 + (0.5 + TIE)).clamp(0, 255) / 255
