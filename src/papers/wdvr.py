"""WDVR: wide-activated 2D and 3D convolutions for video restoration.

Y. Fan, J. Yu, D. Liu, T. S. Huang: "An Empirical Investigation of Efficient Spatio-Temporal Modeling in Video
Restoration". A window of frames becomes its restored middle one (2D), or a clip of any length becomes as many frames
(3D), four times the size or as large as before.

Shapes: B batch, T frames, U units (channels between blocks), A activations (channels at the ReLU), H height, W width.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from src.geometry import Geometry, evenly
from src.nn.clips import flatten_time, to_fast_layout, trim, unflatten_time
from src.nn.video_network import VideoNetwork
from src.nn.warm_start import FAINT, NearIdentity, init_bicubic

MEAN = 0.5  # taken from the input, added to the output

Layer = tuple[str, str, tuple[int, ...]]  # channels in and out, by name; kernel over (time,) height, width


def make_conv(inputs: int, outputs: int, kernel: tuple[int, ...]) -> Any:
    """Return a weight-normalised convolution of the same size: zero padding in space, replicate padding in time."""
    if len(kernel) == 2:
        return weight_norm(nn.Conv2d(inputs, outputs, kernel, padding=kernel[0] // 2))
    return weight_norm(ReplicatedConv3d(inputs, outputs, kernel))


class ReplicatedConv3d(nn.Conv3d):
    """(N, C, T, H, W) to the same size; space is padded by zeros, time by replication.

    A kernel over space alone, or over time alone, runs as a 2D convolution, several times faster on a CPU: over frames,
    or over pictures with a row for each point in time.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, ...]) -> None:
        time, height, width = kernel
        super().__init__(inputs, outputs, (time, height, width), padding=(0, height // 2, width // 2))
        self.reach = time // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.reach:
            x = torch.cat([x[:, :, :1]] * self.reach + [x] + [x[:, :, -1:]] * self.reach, dim=2)
        time, height, width = self.kernel_size
        if time == 1:
            frames = x.transpose(1, 2)  # (N, T, C, H, W)
            found = F.conv2d(flatten_time(frames), self.weight[:, :, 0], self.bias, padding=self.padding[1:])
            return unflatten_time(found, frames).transpose(1, 2)
        if height == width == 1:
            kernel = to_fast_layout(
                self.weight[..., 0]
            )  # of a single clip alone the order could not be told from its strides
            found = F.conv2d(to_fast_layout(x.flatten(3)), kernel, self.bias)  # (N, C, T, H * W)
            return found.unflatten(3, x.shape[3:])
        return super().forward(x.contiguous())


class Wide(nn.Module, NearIdentity):
    """Wide-activated residual blocks in a row (Figures 3 and 4), each scaled by 1 / sqrt(blocks).

    (N, U, T, H, W) to (N, U, T - 2 * margin, H, W); without T for the 2D design. A subclass is a design.

    Args:
        blocks: how many.
        units: U.
        activations: A; by default the least that costs ``budget``.
        budget: parameters of a block; by default those of a TSAS block with 23/6 as many activations as units, so that
            designs of as many units cost the same (for 32 units: IAI 43, IAS 64, STAS 88, TSAS 122, 2D 128; Table 2 has
            42 for IAI, 2 % cheaper than STAS).

    Raises:
        ValueError: both ``activations`` and ``budget`` are given.
    """

    before: ClassVar[list[Layer]]  # the ReLU
    after: ClassVar[list[Layer]]

    def __init__(self, *, blocks: int, units: int, activations: int | None = None, budget: int | None = None) -> None:
        super().__init__()
        if activations is not None and budget is not None:
            raise ValueError(
                f"activations={activations} and budget={budget} exclude each other: set one of them to null"
            )
        if activations is None:
            activations = self.activations_for(units, TSAS.cost(units, 23 * units // 6) if budget is None else budget)
        self.units, self.activations = units, activations
        size = {"units": units, "activations": activations}

        def layers(some: list[Layer]) -> list[nn.Module]:
            return [make_conv(size[inputs], size[outputs], kernel) for inputs, outputs, kernel in some]

        self.blocks = nn.ModuleList(
            nn.Sequential(*layers(self.before), nn.ReLU(inplace=True), *layers(self.after)) for _ in range(blocks)
        )
        self.reach = sum(kernel[0] // 2 for *_, kernel in self.before + self.after if len(kernel) == 3)  # of a block

    def forward(self, x: Tensor, margin: int = 0) -> Tensor:
        """``margin``: frames at either end that are context only; each goes as soon as no block needs it any more."""
        for left, block in zip(reversed(range(len(self.blocks))), self.blocks, strict=True):
            x = torch.add(x, block(x), alpha=1 / math.sqrt(len(self.blocks)))
            needed = min(margin, left * self.reach)
            x, margin = trim(x, margin - needed), needed
        return x

    @torch.no_grad()
    def init_near_identity(self, count: int) -> int:
        """Add almost nothing to the identity channels."""
        for block in self.blocks:
            last: Any = block[-1]  # type: ignore[index]
            weight = last.weight.clone()
            weight[:count] *= FAINT
            last.weight = weight
            last.bias[:count] = 0
        return count

    @classmethod
    def cost(cls, units: int, activations: int) -> int:
        """Parameters of a block: kernels, and for each output channel a bias and the norm of its kernel."""
        size = {"units": units, "activations": activations}
        return sum(size[o] * (size[i] * math.prod(kernel) + 2) for i, o, kernel in cls.before + cls.after)

    @classmethod
    def activations_for(cls, units: int, budget: int) -> int:
        """Return the fewest activations with at least ``budget`` parameters a block."""
        activations = 1
        while cls.cost(units, activations) < budget:
            activations += 1
        return activations

    @property
    def temporal_share(self) -> float:
        """Weights of kernels that reach over time as a share of all kernels' (Table 2 prints another for two)."""
        size = {"units": self.units, "activations": self.activations}
        weights = [(size[i] * size[o] * math.prod(kernel), kernel) for i, o, kernel in self.before + self.after]
        temporal = sum(weight for weight, kernel in weights if len(kernel) == 3 and kernel[0] > 1)
        return temporal / sum(weight for weight, _ in weights)


class Wide2D(Wide):
    """Figure 4 (a)."""

    before: ClassVar = [("units", "activations", (3, 3))]
    after: ClassVar = [("activations", "units", (3, 3))]


class IAI(Wide):
    """Inflated, activation, inflated: Figure 4 (b)."""

    before: ClassVar = [("units", "activations", (3, 3, 3))]
    after: ClassVar = [("activations", "units", (3, 3, 3))]


class IAS(Wide):
    """Inflated, activation, spatial: Figure 4 (c)."""

    before: ClassVar = [("units", "activations", (3, 3, 3))]
    after: ClassVar = [("activations", "units", (1, 3, 3))]


class STAS(Wide):
    """Spatial, temporal, activation, spatial: Figure 4 (d)."""

    before: ClassVar = [("units", "activations", (1, 3, 3)), ("activations", "activations", (3, 1, 1))]
    after: ClassVar = [("activations", "units", (1, 3, 3))]


class TSAS(Wide):
    """Temporal, spatial, activation, spatial: Figure 4 (e)."""

    before: ClassVar = [("units", "units", (3, 1, 1)), ("units", "activations", (1, 3, 3))]
    after: ClassVar = [("activations", "units", (1, 3, 3))]


class WDVR2D(VideoNetwork):
    """Frames stacked over channels (Section 3.1). (B, T, 3, H, W) to (B, 1, 3, s*H, s*W).

    Args:
        trunk: blocks of the 2D design.
        frames: T, odd; the middle one is restored.
        scale: s.
        warm_start: start as bicubic enlargement of the middle frame instead of at random.
    """

    def __init__(self, *, trunk: Wide, frames: int = 5, scale: int = 4, warm_start: bool = False) -> None:
        super().__init__()
        if frames % 2 == 0:
            raise ValueError(f"the number of frames must be odd, so that there is a middle frame, got {frames}")
        outputs = 3 * scale**2
        self.head = make_conv(3 * frames, trunk.units, (3, 3))
        self.trunk = trunk
        self.tail = make_conv(trunk.units, outputs, (3, 3))
        self.skip = make_conv(3 * frames, outputs, (5, 5))
        self.geometry = Geometry(scale, frames, (Fraction(frames // 2),))
        if warm_start:
            init_bicubic(self.skip, self.tail, scale)

    def forward(self, clip: Tensor) -> Tensor:
        stacked = to_fast_layout(clip.transpose(1, 2).flatten(1, 2) - MEAN)  # (B, 3*T, H, W)
        restored = self.tail(self.trunk(self.head(stacked))) + self.skip(stacked)
        return F.pixel_shuffle(restored + MEAN, self.geometry.scale).unsqueeze(1)


class WDVR3D(VideoNetwork):
    """Convolutions over time (Section 3.2). (B, T + 2 * padding, 3, H, W) to (B, T, 3, s*H, s*W), any T.

    Args:
        trunk: blocks of a 3D design.
        clip: frames restored in one pass by default.
        padding: input frames of context on either side of them by default.
        scale: s.
        warm_start: start as bicubic enlargement of each frame instead of at random.
    """

    def __init__(
        self, *, trunk: Wide, clip: int = 4, padding: int = 8, scale: int = 4, warm_start: bool = False
    ) -> None:
        super().__init__()
        outputs = 3 * scale**2
        self.head = make_conv(3, trunk.units, (1, 3, 3))
        self.trunk = trunk
        self.tail = make_conv(trunk.units, outputs, (1, 3, 3))
        self.skip = make_conv(3, outputs, (5, 5, 5))
        self.temporal_padding: int = padding
        self.geometry = Geometry(scale, clip + 2 * padding, evenly(padding, 1, clip), stride=clip, elastic=True)
        if warm_start:
            init_bicubic(self.skip, self.tail, scale)

    def forward(self, clip: Tensor, padding: int | None = None) -> Tensor:
        padding = self.temporal_padding if padding is None else padding
        if clip.shape[1] <= 2 * padding:
            raise ValueError(
                f"a clip of {clip.shape[1]} frames is too short: padding={padding} needs at least {2 * padding + 1}"
            )
        x = clip.transpose(1, 2) - MEAN  # (B, 3, T + 2 * padding, H, W)
        near = min(padding, self.skip.reach)
        beside = trim(self.skip(trim(x, padding - near)), near)
        restored = self.tail(self.trunk(self.head(x), padding)) + beside
        return F.pixel_shuffle((restored + MEAN).transpose(1, 2), self.geometry.scale)
