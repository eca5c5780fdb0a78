"""Size of source frames: videos reduced before anything else is made of them, in training and evaluation alike.

The kernel is the antialiased bicubic in 8 bits, within a grey level of Pillow's ``BICUBIC``. That of networks' inputs
is MATLAB's, :class:`src.data.corruptions.Bicubic`.

Shapes: T frames, H and W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.degradation import PEAKS, crop_to_multiple
from src.errors import UserError

STRETCH = 1.1  # largest change of the ratio of width to height; from 1280x720 to 640x352 it is 1.02


@dataclass(frozen=True)
class SourceSize:
    """The size to which the frames of a file are reduced.

    Frames within ``size`` keep theirs, since nothing is enlarged; those of that size are unchanged to the last bit. For
    upright videos, ``size`` is turned by 90 degrees.

    Args:
        size: (height, width) after reduction; ``None`` keeps the size of the file.
        reduction: further factor on height and width: networks of scale 1 are trained and tested on frames of the size
            that others enlarge. The option ``data.crop`` counts pixels before this reduction.

    Raises:
        UserError: these are no sizes.
    """

    size: tuple[int, int] | None = None
    reduction: int = 1

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise UserError(f"data.source_size must be [height, width], got {[*self.size]}")
        if self.reduction < 1:
            raise UserError(f"data.source_reduction must be a factor of 1 or more, got {self.reduction}")

    @classmethod
    def of(cls, size: Sequence[int] | None, reduction: int = 1) -> SourceSize:
        """Build from options."""
        return cls(None if size is None else tuple(size), reduction)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return self != SourceSize()

    def describe(self) -> dict[str, object]:
        """Describe it for ``results.json``; empty if frames keep their size."""
        size = {"source_size": f"at most {self.size[1]}x{self.size[0]}"} if self.size else {}
        return size | ({"source_reduction": self.reduction} if self.reduction > 1 else {})

    def reduced(self, height: int, width: int, path: Path) -> tuple[int, int]:
        """Return the (height, width) of frames of ``height`` and ``width`` after reduction.

        Raises:
            UserError: the frames have another shape than ``size``.
        """
        height, width = self._fit(height, width, path)
        return height // self.reduction, width // self.reduction

    def reduce(self, frames: Tensor, path: Path) -> Tensor:
        """Reduce frames (T, H, W, C) of the file ``path``.

        Raises:
            UserError: as :meth:`reduced`.
        """
        size = self._fit(frames.shape[1], frames.shape[2], path)
        frames = crop_to_multiple(_resize(frames, size), self.reduction)
        return _resize(frames, (size[0] // self.reduction, size[1] // self.reduction))

    def _fit(self, height: int, width: int, path: Path) -> tuple[int, int]:
        if self.size is None:
            return height, width
        upright = (height > width) != (self.size[0] > self.size[1]) and height != width
        target = self.size[::-1] if upright else self.size
        if height <= target[0] and width <= target[1]:
            return height, width
        stretch = (target[1] / target[0]) / (width / height)
        if not 1 / STRETCH <= stretch <= STRETCH:
            raise UserError(
                f"{path} has frames of {width}x{height}, of another shape than data.source_size={[*self.size]}: set "
                f"data.source_size=[{round(target[1] * height / width)},{target[1]}], or null to keep their size"
            )
        return target


def _resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (T, H, W, C) by antialiased bicubic; frames of that size are unchanged."""
    if frames.shape[1:3] == size:
        return frames
    pixels = frames.permute(0, 3, 1, 2)
    if frames.dtype == torch.uint8:
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True)
    else:
        pixels = F.interpolate(pixels.to(torch.float32), size, mode="bicubic", antialias=True)
        pixels = pixels.round().clamp(0, PEAKS[frames.dtype]).to(frames.dtype)
    return pixels.permute(0, 2, 3, 1).contiguous()
