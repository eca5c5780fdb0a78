"""DSFN: joint deblurring, super-resolution and frame interpolation.

G. Choi, H. Park: "Joint Video Enhancement with Deblurring, Super-Resolution, and Frame Interpolation Network". Four
blurry frames become three sharp ones, the middle two inputs and the one between them, four times the size.

Shapes: B batch, T input frames, H height, W width, s scale. A *map* is a frame of s*s*3 channels at the input's size;
periodic shuffling turns it into a picture.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.geometry import Geometry, evenly
from src.nn.blocks import SLOPE, ResidualBlock, conv3x3
from src.nn.clips import flatten_time, map_frames, stack_channels, to_fast_layout, unflatten_time
from src.nn.video_network import VideoNetwork
from src.nn.warm_start import FAINT, NearIdentity, init_near_identity, pass_through
from src.ops.color import flow_picture
from src.ops.deform_conv import deform_conv2d
from src.papers.restorer import Restorer

HALF = Fraction(1, 2)
FRAMES = 3  # restored by a level


class SubModule(nn.Sequential):
    """A convolution and two residual blocks (Figure 4). (N, inputs, H, W) to (N, channels, H, W)."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__(
            conv3x3(inputs, channels),
            nn.LeakyReLU(SLOPE, inplace=True),
            ResidualBlock(channels, slope=SLOPE),
            ResidualBlock(channels, slope=SLOPE),
        )


class Deformed(nn.Conv2d):
    """A deformable 3x3 convolution with given offsets (Equation 6), without a mask."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:  # type: ignore[override]
        return deform_conv2d(x, offset, self.weight, self.bias, padding=(1, 1))


class Level(nn.Module, NearIdentity):
    """One DSFN (Figure 3): three frames to maps of the middle one and of those half-way to the others.

    Args:
        inputs: input channels: 3 frames, or 5 maps of the level before.
        channels: of features; features of detail have twice as many.
        groups: deformable groups.
        scale: s.
        warm_start: start by adding almost nothing to the given maps, instead of at random.
    """

    def __init__(
        self,
        inputs: int,
        *,
        channels: int = 64,  # Section 4.3
        groups: int = 8,  # fits the 10.9 M of Table 3
        scale: int = 4,
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        wide = 2 * channels
        self.scale = scale
        self.encode = nn.Sequential(SubModule(inputs, channels), SubModule(channels, wide))
        self.restore = nn.Sequential(*(SubModule(wide, wide) for _ in range(3)))  # JDSR
        motion, frame = conv3x3(wide, 2 * 18 * groups), conv3x3(channels, 3 * scale**2)
        self.motion = nn.Sequential(SubModule(wide, wide), SubModule(wide, wide), motion)  # TFBFI
        self.warp = nn.ModuleList(Deformed(wide) for _ in range(2))  # to the previous frame, to the next
        self.decode = nn.Sequential(SubModule(wide, channels), frame)
        nn.init.zeros_(motion.weight)  # both offset fields start as no motion
        nn.init.zeros_(motion.bias)  # type: ignore[arg-type]
        if warm_start:
            self.init_near_identity(3 * FRAMES)

    @torch.no_grad()
    def init_near_identity(self, count: int) -> int:
        """Pass the colours of the three frames in the middle through all parts, and add almost nothing to the maps."""
        frame: Any = self.decode[-1]
        frame.weight *= FAINT
        nn.init.zeros_(frame.bias)
        enter, *further = (part[0] for part in (*self.encode, *self.restore, self.decode[0]))
        pixels = 1 if enter.in_channels == 3 * FRAMES else self.scale**2  # channels of one colour of one frame
        first = (enter.in_channels // pixels - count) // 2
        pass_through(enter, [0.0], count)
        for channel in range(count):
            enter.weight[channel, (first + channel) * pixels : (first + channel + 1) * pixels, 1, 1] = 1 / pixels
        for conv in (*further, *self.warp):
            pass_through(conv, [1.0], count)
        for parts in (self.encode, self.restore, self.motion, self.decode):
            init_near_identity(parts, count)  # their residual blocks
        return count

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """Refine maps (N, 3, s*s*3, H, W) by a residual from the input (N, inputs, H, W)."""
        features = self.encode(x)
        middle = self.restore(features)
        before, after = (warp(middle, field) for warp, field in zip(self.warp, self.offsets(features), strict=True))
        return base + map_frames(self.decode, torch.stack([before, middle, after], dim=1))

    def offsets(self, features: Tensor) -> tuple[Tensor, ...]:
        """Estimate the offset fields (N, 18 * groups, H, W) of the previous and the next frame (Equation 5)."""
        return self.motion(features).chunk(2, dim=1)

    def flows(self, x: Tensor) -> Tensor:
        """Return both offset fields as flow: means over taps and groups (Figure 8), (N, 2, 2, H, W), in pixels.

        The axes are (direction, (dy, dx)). Backward flow: at each pixel of the interpolated frame, the offset to the
        position in the middle frame that it is sampled from.
        """
        fields = torch.stack(self.offsets(self.encode(x)), dim=1)
        return fields.unflatten(2, (-1, 2)).mean(2)


def repeat_pixels(frames: Tensor, scale: int) -> Tensor:
    """Enlarge frames into maps by repeating pixels: (..., 3, H, W) to (..., s*s*3, H, W) (Equation 10)."""
    return frames.repeat_interleave(scale**2, dim=-3)


def first_maps(level: Level, clip: Tensor) -> Tensor:
    """Run a first level on every three neighbouring frames: (B, T, 3, H, W) to (B, T - 2, 3, s*s*3, H, W)."""
    before, middle, after = clip[:, :-2], clip[:, 1:-1], clip[:, 2:]
    triples = torch.cat([before, middle, after], dim=2)  # (B, T - 2, 9, H, W)
    base = repeat_pixels(torch.stack([(before + middle) / 2, middle, (middle + after) / 2], dim=2), level.scale)
    return unflatten_time(level(flatten_time(triples), base.flatten(0, 1)), triples)


class OffsetPictures(VideoNetwork):
    """Pictures of a level's offset fields as flow (Figure 8). (B, 3, 3, H, W) to (B, 1, 3, H, 3 * W).

    From left to right: the middle frame, the flow to it from the frame half-way before, and from the frame half-way
    after. The longest flow of a frame has the purest colour, unless all are shorter than half a pixel; lengths are
    comparable within a frame only. White is no motion, as everywhere in an untrained network.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.level = level
        self.geometry = Geometry(1, 3, (Fraction(1),))

    def forward(self, clip: Tensor) -> Tensor:
        flows = self.level.flows(to_fast_layout(stack_channels(clip)))
        longest = flows.norm(dim=2).amax((1, 2, 3), keepdim=True).clamp(min=0.5)
        before, after = flow_picture(flows, longest).unbind(1)
        return torch.cat([clip[:, 1], before, after], dim=-1).unsqueeze(1)


class SingleDSFN(VideoNetwork):
    """One level (Section 3.2 to 3.6). (B, 3, 3, H, W) to (B, 3, 3, s*H, s*W).

    Over a video, two windows make each frame half-way between two inputs: the result is their mean, as Section 3.7 has
    it for the maps between the levels.
    """

    average_overlaps = True

    def __init__(self, *, level: Level) -> None:
        super().__init__()
        self.level = level
        self.geometry = Geometry(level.scale, 3, evenly(HALF, HALF, 3))

    def forward(self, clip: Tensor) -> Tensor:
        return F.pixel_shuffle(first_maps(self.level, clip)[:, 0], self.level.scale)

    def motion(self) -> VideoNetwork:
        """Return a network of pictures of the offset fields."""
        return OffsetPictures(self.level)


class DSFN(VideoNetwork):
    """Two levels (Figure 2). (B, 4, 3, H, W) to (B, 3, 3, s*H, s*W).

    Over a video, two windows make each frame at an input's time: the result is their mean.

    Args:
        first: level for frames 0, 1, 2 and 1, 2, 3, with shared weights; a map that both make is their mean.
        second: level for the resulting five maps, 3 * 5 * s * s channels.
    """

    encode_window = 3
    average_overlaps = True

    def __init__(self, *, first: Level, second: Level) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.geometry = Geometry(first.scale, 4, evenly(1, HALF, 3))

    def forward(self, clip: Tensor) -> Tensor:
        return self.decode_window(*self.encode_frames(clip))

    @property
    def training_geometry(self) -> Geometry:
        """Five frames: the first level is supervised, too."""
        return Geometry(self.first.scale, 4, evenly(HALF, HALF, 5))

    def encode_frames(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Compute first-level maps of every three frames, (B, T - 2, 3, s*s*3, H, W)."""
        return (first_maps(self.first, clip),)

    def decode_window(self, maps: Tensor) -> Tensor:  # type: ignore[override]
        """Restore the three frames of a window from its two triples of first-level maps."""
        return self.levels(maps)[1]

    def motion(self) -> VideoNetwork:
        """Return a network of pictures of the first level's offset fields."""
        return OffsetPictures(self.first)

    def levels(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return five frames of the first level and three of the second, from the first-level maps of four frames."""
        one, two = maps[:, 0], maps[:, 1]
        five = torch.cat([one[:, :2], (one[:, 2:] + two[:, :1]) / 2, two[:, 1:]], dim=1)  # (B, 5, s*s*3, H, W)
        three = self.second(to_fast_layout(stack_channels(five)), five[:, 1:4])
        return F.pixel_shuffle(five, self.first.scale), F.pixel_shuffle(three, self.first.scale)


class DSFNRestorer(Restorer):
    """DSFN's training: the loss falls on both levels (Equation 12)."""

    def losses(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``targets``: the five frames of the first level, (B, 5, 3, s*H, s*W)."""
        first, second = self.network.levels(*self.network.encode_frames(inputs))
        return {"first_level": self.loss(first, targets), "second_level": self.loss(second, targets[:, 1:4])}
