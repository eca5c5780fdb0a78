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

MOST_TIMES, MOST_EVERY = 16, 8
PLANES = 60  # single-precision values for each pixel of the output that the flow of a pair takes at its peak


class Flow(VideoNetwork):
    """Bicubic upscaling and interpolation along optical flow. (B, T, 3, H, W) to (B, floor(n(T - 1)) + 1, 3, s*H, s*W).

    Args:
        scale: of the frames.
        times: n output frames for each input frame, 1 to 16; 2.5 makes 60 frames a second of 24.
        preset: of the flow (:func:`src.ops.optical_flow.estimate_flow`); ``finest`` takes several times as long.

    Raises:
        UserError: OpenCV is not installed, or ``times`` is out of range, or no fraction of small numbers.
    """

    tile_overlap = 256

    def __init__(self, *, scale: int = 4, times: float = 2, preset: Preset = "medium") -> None:
        super().__init__()
        load_opencv()
        self.times, self.preset = Fraction(str(times)), preset
        count, every = self.times.as_integer_ratio()
        if not 1 < self.times <= MOST_TIMES or every > MOST_EVERY:
            raise UserError(
                f"model.network.times={times} must be above 1 and at most {MOST_TIMES} output frames for each input "
                f"frame: a whole number, or a fraction of at most {MOST_EVERY} input frames, such as 2.5."
            )
        self.geometry = Geometry(scale, every + 1, evenly(0, 1 / self.times, count + 1), stride=every, elastic=True)
        self._fallbacks: Counter[str] = Counter()
        self._pairs = 0

    def forward(self, clip: Tensor) -> Tensor:
        scale = self.geometry.scale
        frames = (clip if scale == 1 else imresize(clip, scale)).clamp(0, 1).unbind(1)
        wanted = [k / self.times for k in range(int(self.times * (len(frames) - 1)) + 1)]
        made: dict[Fraction, Tensor] = {time: frames[int(time)] for time in wanted if time.denominator == 1}
        for number in range(len(frames) - 1):
            inner = [time for time in wanted if number < time < number + 1]
            if inner:
                parts = [float(time - number) for time in inner]
                made |= zip(inner, self._interpolate(frames[number], frames[number + 1], parts), strict=True)
        return torch.stack([made[time] for time in wanted], dim=1)

    def between(self, before: Tensor, after: Tensor, time: Fraction) -> Tensor:
        return self._interpolate(before, after, [float(time)])[0]

    def _interpolate(self, before: Tensor, after: Tensor, times: list[float]) -> list[Tensor]:
        """Make frames (B, 3, H, W) at times between two frames."""
        if before.is_meta:  # only memory is measured
            workspace = before.new_empty((PLANES, *before.shape[-2:]))
            return [torch.lerp(before, after, time) + 0 * workspace[0] for time in times]
        samples = []
        for pair in self._measure(before, after):
            samples.append([torch.from_numpy(pair.at(time)).permute(2, 0, 1) for time in times])
            if not np.array_equal(*pair.frames):  # as where a video is filled up beyond its ends
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
        if clip.is_meta:
            return clip[:, 1:] + 0 * clip.new_empty((PLANES, *clip.shape[-2:]))[0]
        pictures = []
        for before, after in zip(clip.unbind(1), clip[:, 1:].unbind(1), strict=False):
            pairs = self.network._measure(before, after)
            flows = torch.stack([torch.from_numpy(pair.flow).permute(2, 0, 1) for pair in pairs])  # (B, 2, H, W)
            longest = flows.norm(dim=1).amax((1, 2), keepdim=True).clamp(min=0.5)
            pictures.append(flow_picture(flows.flip(1), longest).to(clip))
        return torch.stack(pictures, dim=1)
