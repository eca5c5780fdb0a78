"""Baselines: bicubic upscaling, with frames in between held or blended; and doing nothing.

:class:`Interpolation` is each of these at the output times of any network, so that both have the same frames to score.

Shapes: B batch, T input frames, H height, W width, s scale.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from src.geometry import Geometry, evenly
from src.nn.video_network import VideoNetwork
from src.ops.resize import imresize
from src.papers.zsm import interleave


class Bicubic(VideoNetwork):
    """MATLAB's bicubic upscaling, frame by frame. (B, T, 3, H, W) to (B, T, 3, s*H, s*W)."""

    def __init__(self, *, scale: int = 4) -> None:
        super().__init__()
        self.geometry = Geometry(scale, 1, evenly(0, 1, 1), elastic=True)

    def forward(self, clip: Tensor) -> Tensor:
        return imresize(clip, self.geometry.scale)


class Nothing(VideoNetwork):
    """Whole exposures in place of their halves ("doing nothing"). (B, 2, 3, H, W) to the same."""

    def __init__(self) -> None:
        super().__init__()
        half = Fraction(1, 2)
        self.geometry = Geometry(1, 2, evenly("3/4", half, 2), exposures=(half, half))

    def forward(self, clip: Tensor) -> Tensor:
        return clip


class Repeat(VideoNetwork):
    """Bicubic upscaling, every frame shown twice. (B, T, 3, H, W) to (B, 2T - 1, 3, s*H, s*W).

    With ``repeat_pixels``, each pixel becomes a square of s by s instead.
    """

    def __init__(self, *, scale: int = 4, frames: int = 4, repeat_pixels: bool = False) -> None:
        super().__init__()
        self.repeat_pixels = repeat_pixels
        self.geometry = Geometry(scale, frames, evenly(0, "1/2", 2 * frames - 1), stride=frames - 1, elastic=True)

    def forward(self, clip: Tensor) -> Tensor:
        scale = self.geometry.scale
        if self.repeat_pixels:
            existing = clip.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)
        else:
            existing = imresize(clip, scale)
        return interleave(existing, self.between(existing[:, :-1], existing[:, 1:], Fraction(1, 2)))

    def between(self, before: Tensor, after: Tensor, time: Fraction) -> Tensor:
        return before if time <= Fraction(1, 2) else after


class Blend(Repeat):
    """Bicubic upscaling, the mean of two frames in between them. (B, T, 3, H, W) to (B, 2T - 1, 3, s*H, s*W)."""

    def between(self, before: Tensor, after: Tensor, time: Fraction) -> Tensor:
        return torch.lerp(before, after, float(time))


class Interpolation(VideoNetwork):
    """Bicubic upscaling at the output times of another network, (B, T, 3, H, W) to (B, T', 3, s*H, s*W).

    An output between two frames blends them, and one within the exposure of a frame is that frame.

    Args:
        geometry: that of the other network.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    @property
    def name(self) -> str:
        """Its effect in words, for a table."""
        between = any(time.denominator > 1 for time in self.geometry.times) and not self.geometry.exposures
        parts = ["bicubic"] * (self.geometry.scale > 1) + ["blending"] * between
        return " and ".join(parts) or "doing nothing"

    def forward(self, clip: Tensor) -> Tensor:
        geometry, frames = self._fitted(clip.shape[1]), dict[int, Tensor]()

        def enlarge(number: int) -> Tensor:
            if number not in frames:
                frame = clip[:, number]
                frames[number] = frame if geometry.scale == 1 else imresize(frame, geometry.scale)
            return frames[number]

        outputs = []
        for time in geometry.times:
            whole, part = int(time), time % 1
            frame = enlarge(whole)
            blended = part and not geometry.exposures
            outputs.append(torch.lerp(frame, enlarge(whole + 1), float(part)) if blended else frame)
        return torch.stack(outputs, dim=1)

    def _fitted(self, frames: int) -> Geometry:
        """Return the geometry of a pass over this number of frames."""
        geometry = self.geometry
        if frames == geometry.window:
            return geometry
        covered = frames - geometry.lead - geometry.trail
        return geometry.lengthened(int((covered - 1) / geometry.spacing) + 1)
