"""Size of source frames: videos reduced before anything else is made of them, in training and evaluation alike.

Shapes: T frames, H and W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.corruptions import quantise
from src.data.degradation import crop_to_multiple, to_clip
from src.errors import UserError
from src.ops.resize import imresize

STRETCH = 1.1  # largest change of the ratio of width to height; from 1280x720 to 640x352 it is 1.02


@dataclass(frozen=True)
class SourceSize:
    """The size to which the frames of a file are reduced.

    Frames lower or narrower than ``size`` keep theirs, since nothing is enlarged; those of that size are unchanged to
    the last bit. For upright videos, ``size`` is turned by 90 degrees.

    Args:
        size: (height, width) after reduction; ``None`` keeps the size of the file. Antialiased bicubic in 8 bits,
            within a grey level of Pillow's ``BICUBIC``.
        reduction: further factor on height and width, MATLAB's antialiased bicubic, 8 bits: networks of scale 1 are
            trained and tested on frames of the size that others enlarge. The option ``data.crop`` counts pixels before
            this reduction.

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
        """Reduce uint8 frames (T, H, W, C) of the file ``path``.

        Raises:
            UserError: as :meth:`reduced`.
        """
        before = (frames.shape[1], frames.shape[2])
        size = self._fit(*before, path)
        if size != before:
            pixels = F.interpolate(frames.permute(0, 3, 1, 2), size, mode="bicubic", antialias=True)
            frames = pixels.permute(0, 2, 3, 1).contiguous()
        if self.reduction > 1:
            factor = Fraction(1, self.reduction)
            whole = crop_to_multiple(frames, self.reduction)
            small = [quantise(imresize(to_clip(frame[None]).double(), factor)) for frame in whole]
            frames = torch.cat(small).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return frames

    def _fit(self, height: int, width: int, path: Path) -> tuple[int, int]:
        if self.size is None:
            return height, width
        upright = (height > width) != (self.size[0] > self.size[1]) and height != width
        target = self.size[::-1] if upright else self.size
        if height < target[0] or width < target[1]:
            return height, width
        stretch = (target[1] / target[0]) / (width / height)
        if not 1 / STRETCH <= stretch <= STRETCH:
            raise UserError(
                f"{path} has frames of {width}x{height}, of another shape than data.source_size={[*self.size]}: set "
                f"data.source_size=[{round(target[1] * height / width)},{target[1]}], or null to keep their size"
            )
        return target
