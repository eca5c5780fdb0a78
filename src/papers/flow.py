"""Frames in between that follow optical flow, at any time between two frames: a baseline without weights.

Bicubic upscaling comes first, then interpolation: the other order warps less, but what it makes is enlarged twice as
blurred (experiments/flow).

Shapes: B batch, T input frames, H height, W width, s scale, n output frames for each input frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from src.errors import UserError
from src.geometry import Geometry, evenly
from src.nn.video_network import VideoNetwork
from src.ops.color import flow_picture
from src.ops.optical_flow import FramePair, Preset, load_opencv
from src.ops.resize import imresize
from src.wording import number_of

MOST_TIMES = 16


class Flow(VideoNetwork):
    """Bicubic upscaling and interpolation along optical flow. (B, T, 3, H, W) to (B, n(T - 1) + 1, 3, s*H, s*W).

    Args:
        scale: of the frames.
        times: output frames for each input frame, 2 to 16.
        preset: of the flow (:func:`src.ops.optical_flow.estimate_flow`); ``finest`` takes several times as long.

    Raises:
        UserError: OpenCV is not installed, or ``times`` is out of range.
    """

    tile_overlap = 256

    def __init__(self, *, scale: int = 4, times: int = 2, preset: Preset = "medium") -> None:
        super().__init__()
        load_opencv()
        if not 2 <= times <= MOST_TIMES:
            raise UserError(
                f"model.network.times={times} must be 2 to {MOST_TIMES}, output frames for each input frame."
            )
        self.times, self.preset = times, preset
        self.geometry = Geometry(scale, 2, evenly(0, Fraction(1, times), times + 1), elastic=True)
        self._fallbacks: Counter[str] = Counter()
        self._pairs = 0

    def forward(self, clip: Tensor) -> Tensor:
        scale = self.geometry.scale
        frames = (clip if scale == 1 else imresize(clip, scale)).clamp(0, 1)
        outputs = [frames[:, 0]]
        for before, after in zip(frames.unbind(1), frames[:, 1:].unbind(1), strict=False):
            made = self._interpolate(before, after, [k / self.times for k in range(1, self.times)])
            outputs += [*made, after]
        return torch.stack(outputs, dim=1)

    def between(self, before: Tensor, after: Tensor, time: Fraction) -> Tensor:
        return self._interpolate(before, after, [float(time)])[0]

    def _interpolate(self, before: Tensor, after: Tensor, times: list[float]) -> list[Tensor]:
        """Make frames (B, 3, H, W) at times between two frames."""
        samples = []
        for pair in self._measure(before, after):
            samples.append([torch.from_numpy(pair.at(time)).permute(2, 0, 1) for time in times])
            self._fallbacks[pair.fallback] += 1
            self._pairs += 1
        return [torch.stack(made).to(before) for made in zip(*samples, strict=True)]

    def _measure(self, before: Tensor, after: Tensor) -> Iterator[FramePair]:
        for pair in zip(before, after, strict=True):
            frames = [np.ascontiguousarray(frame.detach().float().permute(1, 2, 0).cpu().numpy()) for frame in pair]
            yield FramePair(frames[0], frames[1], self.preset)

    def remarks(self) -> list[str]:
        lost = self._pairs - self._fallbacks[""]
        kinds = {"blend": "blended", "nearest": "held"}
        how = " and ".join(f"{self._fallbacks[kind]} {word}" for kind, word in kinds.items() if self._fallbacks[kind])
        pairs = number_of(self._pairs, "pair")
        self._fallbacks.clear()
        self._pairs = 0
        return [f"Motion could not be followed in {lost} of {pairs} of frames: {how}."] if lost else []

    def motion(self) -> VideoNetwork:
        """Return a network of pictures of the flow from each frame to the next."""
        return FlowPictures(self)


class FlowPictures(VideoNetwork):
    """The flow from each frame to the next, at the size of the input. (B, T, 3, H, W) to (B, T - 1, 3, H, W)."""

    def __init__(self, network: Flow) -> None:
        super().__init__()
        self.network = network
        self.geometry = Geometry(1, 2, (Fraction(0),), elastic=True)

    def forward(self, clip: Tensor) -> Tensor:
        pictures = []
        for before, after in zip(clip.unbind(1), clip[:, 1:].unbind(1), strict=False):
            pairs = self.network._measure(before, after)
            flows = torch.stack([torch.from_numpy(pair.flow).permute(2, 0, 1) for pair in pairs])  # (B, 2, H, W)
            longest = flows.norm(dim=1).amax((1, 2), keepdim=True).clamp(min=0.5)
            pictures.append(flow_picture(flows.flip(1), longest).to(clip))
        return torch.stack(pictures, dim=1)
