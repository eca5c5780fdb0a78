"""VTSR: video temporal super-resolution halves the exposure and doubles the frame rate, recursively.

G. F. Torres Vanegas: "A Deep Learning Framework for Video Temporal Super-Resolution", Master's thesis, Tampere
University, 2020. Two frames, each exposed until the next begins, become the second half of the first exposure and the
first half of the second. Table 4.1's fusion blocks are choices of parts:

    baseline               align=Unaligned          attend=Equally
    + attention            align=Unaligned          attend=Attention
    + pre-alignment        align=AffineAlign        attend=Equally or Attention
    deformable, as the thesis suggests              align=DeformableAlign

Shapes: B batch, T input frames, N batch (clips times pairs of frames), C feature channels, H height, W width. A
*pyramid* is a list of features of C channels each at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size, finest first.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from src.geometry import Geometry, evenly
from src.nn.align import Pyramid, PyramidAlign
from src.nn.backbones import VGG16, MobileNetV2, load_imagenet, normalise_imagenet
from src.nn.blocks import SLOPE, conv3x3, leaky, upsample2x, upsample2x_conv
from src.nn.clips import cat_clips, flatten_time, pad_to_multiple, stack_channels, unflatten_time
from src.nn.fuse import TemporalAttention
from src.nn.losses import Perceptual, l1, sharpness
from src.nn.video_network import VideoNetwork
from src.nn.warm_start import (
    FAINT,
    RGB,
    NearIdentity,
    init_difference,
    init_near_identity,
    pass_signed,
    pass_through_weight,
)
from src.papers.restorer import Restorer

LEVELS = 5
STEEP = 3.0  # gain on differences between frames at a warm start
HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)
PAIR = Geometry(1, 2, (3 * QUARTER, 5 * QUARTER), exposures=(HALF, HALF))  # Equation 3.1


class FeaturePyramidEncoder(nn.Module, NearIdentity):
    """Five features of single frames (Section 3.2.1): (N, 3, H, W), multiples of 32, to a pyramid.

    A 1x1 convolution brings every level to the same number of channels, as in DeblurGAN-v2, the thesis's model; it
    states no numbers of channels.
    """

    def __init__(self, *, backbone: MobileNetV2, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in backbone.channels)

    def forward(self, frames: Tensor) -> Pyramid:
        features = self.backbone(normalise_imagenet(frames))
        return [lateral(level) for lateral, level in zip(self.lateral, features, strict=True)]

    @torch.no_grad()
    def init_near_identity(self, count: int) -> int:
        """Carry the colours at half the size in the first three channels of the finest feature."""
        self.backbone.init_with_colours()
        finest: Any = self.lateral[0]
        pass_through_weight(finest.weight, [1.0], RGB)
        finest.bias[:RGB] = 0
        return count


class Unaligned(nn.Module):
    """No alignment: each pyramid is used as it is."""

    def forward(self, first: Pyramid, second: Pyramid) -> tuple[Pyramid, Pyramid]:
        """Return the second pyramid aligned to the first, and the first aligned to the second."""
        return second, first


class SpatialTransformer(nn.Module):
    """An affine transformation of a feature by parameters predicted from it (Equations 3.8 and 3.9): (N, C, H, W).

    It starts as the identity. The thesis does not describe the localisation network; pooling to 4x4 accepts any size,
    and its result is divided by its fan-in, or a single optimiser step would shift the frame too far.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.look = conv3x3(channels, channels)
        self.place = nn.Linear(16 * channels, 6)
        nn.init.zeros_(self.place.weight)
        nn.init.zeros_(self.place.bias)

    def forward(self, x: Tensor) -> Tensor:
        seen = F.adaptive_avg_pool2d(leaky(self.look(x)), 4).flatten(1)
        theta = self.place(seen).view(-1, 2, 3) / seen.shape[1] + torch.eye(2, 3, device=x.device)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid.to(x.dtype), align_corners=False)


class AffineAlign(nn.Module):
    """Spatial pre-alignment (Section 3.2.2, Figure 3.6): an affine transformation of every level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.onto_first, self.onto_second = (
            nn.ModuleList(SpatialTransformer(channels) for _ in range(LEVELS)) for _ in range(2)
        )

    def forward(self, first: Pyramid, second: Pyramid) -> tuple[Pyramid, Pyramid]:
        """As :meth:`Unaligned.forward`."""
        return (
            [move(level) for move, level in zip(self.onto_first, second, strict=True)],
            [move(level) for move, level in zip(self.onto_second, first, strict=True)],
        )


class DeformableAlign(nn.Module):
    """Pre-alignment by deformable convolutions from coarse to fine, "less restrictive" (Section 4.2): EDVR's."""

    def __init__(self, channels: int, *, groups: int = 8) -> None:
        super().__init__()
        self.onto_first, self.onto_second = (PyramidAlign(channels, groups=groups, levels=LEVELS) for _ in range(2))

    def forward(self, first: Pyramid, second: Pyramid) -> tuple[Pyramid, Pyramid]:
        """As :meth:`Unaligned.forward`."""
        return self.onto_first.levels(second, first), self.onto_second.levels(first, second)


class Equally(nn.Module):
    """Equal weights for both frames' features."""

    def forward(self, own: Tensor, other: Tensor, side: int, level: int) -> Tensor:
        """Concatenate features of a frame and aligned ones of the other, (N, C, H, W) each, to (N, 2C, H, W)."""
        return torch.cat([own, other], dim=1)


class Attention(nn.Module):
    """Spatio-temporal attention (Section 3.2.2, Figure 3.7, Equations 3.10 and 3.11), by weights of every level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.ModuleList(
            nn.ModuleList(TemporalAttention(channels) for _ in range(LEVELS)) for _ in ("first", "second")
        )

    def forward(self, own: Tensor, other: Tensor, side: int, level: int) -> Tensor:
        """As :meth:`Equally.forward`; ``side`` is 0 for the first of the two frames."""
        return stack_channels(self.weigh[side][level](cat_clips([own.unsqueeze(1), other.unsqueeze(1)]), 0))  # type: ignore[index]


class Change(nn.Module, NearIdentity):
    """The residual of one of two frames (Sections 3.2.2 to 3.2.4): five levels (N, 2C, ., .) to (N, 3, H, W).

    Fusion convolutions (Equation 3.7), decoder (Equation 3.12) and aggregation block with its tanh. The thesis does not
    state the number of fusion convolutions ("some"); here it is two.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fuse = nn.ModuleList(
            nn.Sequential(
                conv3x3(2 * channels, channels),
                nn.LeakyReLU(SLOPE, inplace=True),
                conv3x3(channels, channels),
                nn.LeakyReLU(SLOPE),
            )
            for _ in range(LEVELS)
        )
        self.decode = nn.ModuleList(conv3x3(channels, channels) for _ in range(LEVELS - 1))
        self.aggregate = conv3x3(LEVELS * channels, channels)
        self.residual = conv3x3(channels, 3)

    def forward(self, seen: Pyramid) -> Tensor:
        fused = [fuse(level) for fuse, level in zip(self.fuse, seen, strict=True)]
        decoded = [
            leaky(decode(level + upsample2x(coarser)))
            for decode, level, coarser in zip(self.decode, fused, fused[1:], strict=False)
        ]
        size = fused[0].shape[-2:]
        enlarged = [
            F.interpolate(level, size, mode="bilinear", align_corners=False) for level in [*decoded[1:], fused[-1]]
        ]
        aggregated = leaky(self.aggregate(torch.cat([decoded[0], *enlarged], dim=1)))
        return upsample2x_conv(self.residual, aggregated).tanh()

    @torch.no_grad()
    def init_near_identity(self, count: int) -> int:
        """Change almost nothing, and carry differences between the frames to the last convolution.

        Features that are the same whether anything moves or not teach it nothing: where nothing moves, in most of a
        video, the loss holds any change at zero. Through random convolutions differences arrive blurred.
        """
        for fuse in self.fuse:
            init_difference(fuse[0], STEEP)  # type: ignore[index]
            pass_signed(fuse[2], SLOPE)  # type: ignore[index]
        for conv in (*self.decode, self.aggregate):
            pass_signed(conv, SLOPE)
        self.residual.weight *= FAINT
        nn.init.zeros_(self.residual.bias)  # type: ignore[arg-type]
        return count


class VTSR(VideoNetwork):
    """The network f (Figure 3.4). (B, T, 3, H, W), T of 2 or more, to (B, 2T - 2, 3, H, W), any H and W.

    Every two neighbouring frames yield the second half of the first and the first half of the second; a frame with
    neighbours on both sides yields both halves.

    Args:
        encode: a frame's pyramid.
        align: aligns each of two frames' pyramids to the other.
        attend: weights and concatenates both.
        channels: C.
        warm_start: start by changing almost nothing instead of at random.
    """

    tile_overlap = 256  # input pixels; MobileNetV2 has a large receptive field

    def __init__(
        self,
        *,
        encode: FeaturePyramidEncoder,
        align: nn.Module,
        attend: nn.Module,
        channels: int,
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        self.encode, self.align, self.attend = encode, align, attend
        self.change = nn.ModuleList(Change(channels) for _ in ("first", "second"))
        self.geometry = PAIR
        if warm_start:
            for part in (encode, *self.change):
                init_near_identity(part, channels)

    def forward(self, clip: Tensor) -> Tensor:
        return self.decode_window(*self.encode_frames(clip))

    def encode_frames(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Return the frames themselves and their pyramids, (B, T, ...) each."""
        pyramid = self.encode(flatten_time(pad_to_multiple(clip, 2**LEVELS)))
        return clip, *(unflatten_time(level, clip) for level in pyramid)

    def decode_window(self, clip: Tensor, *pyramid: Tensor) -> Tensor:  # type: ignore[override]
        """Restore half exposures (B, 2T - 2, 3, H, W) from T frames and their pyramids."""
        height, width = clip.shape[-2:]
        own = [flatten_time(level[:, :-1]) for level in pyramid], [flatten_time(level[:, 1:]) for level in pyramid]
        other = self.align(*own)
        halves = []
        for side, frames in enumerate((clip[:, :-1], clip[:, 1:])):
            pairs = enumerate(zip(own[side], other[side], strict=True))
            change = self.change[side]([self.attend(a, b, side, level) for level, (a, b) in pairs])
            halves.append(frames + unflatten_time(change[..., :height, :width], frames))
        return torch.stack(halves, dim=2).flatten(1, 2)


class Basic:
    """Training on pairs of frames (Section 3.1)."""

    geometry = PAIR

    def __call__(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Run the network on ``inputs``: the outputs of ``geometry``, to be compared with their ground truth."""
        return network(inputs)


class Reconstruction(Basic):
    """Training on three frames: both halves of the middle one average to it (Equations 3.4 to 3.6).

    A sample holds two pairs with the middle frame's features in common.
    """

    geometry = Geometry(1, 3, evenly(3 * QUARTER, HALF, 4), exposures=(HALF,) * 4)


class Multilevel(Basic):
    """Training on halves, and on quarters made from the network's own halves (Section 3.1.2)."""

    geometry = Geometry(
        1, 2, (3 * QUARTER, 7 * QUARTER / 2, 9 * QUARTER / 2, 5 * QUARTER), exposures=(HALF, QUARTER, QUARTER, HALF)
    )

    def __call__(self, network: nn.Module, inputs: Tensor) -> Tensor:
        halves = network(inputs)
        return torch.cat([halves[:, :1], network(halves), halves[:, 1:]], dim=1)


class VTSRestorer(Restorer):
    """VTSR's training: weighted losses (Equation 3.13) under one of three schemes (Section 3.1.2).

    Args:
        scheme: the outputs that the loss compares.
        weights: of the losses ``l1``, ``sharpness``, ``perceptual``, ``reconstruction`` (that scheme's only) and
            ``temporal``: the change of the error from frame to frame, one answer to "a stronger loss that guarantees a
            smooth behaviour along the time" (Section 4.4), which is not the thesis's; without it, or 0: left out.
        imagenet: start the encoder from ImageNet weights, and use the perceptual loss, based on such weights, too.
        encoder_weights, vgg_weights: paths to torchvision's files; None: torch's cache, downloaded if necessary.
    """

    def __init__(
        self,
        *,
        scheme: Basic,
        weights: Mapping[str, float],
        imagenet: bool,
        encoder_weights: str | None = None,
        vgg_weights: str | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.scheme, self.weights = scheme, dict(weights)
        self.imagenet, self.files = imagenet, (encoder_weights, vgg_weights)
        self.terms = {"l1": l1, "sharpness": sharpness}

    @property
    def training_geometry(self) -> Geometry:
        return self.scheme.geometry

    def initialise(self, *, fresh: bool, pretrained: bool = True) -> None:
        if not self.imagenet:
            start = "The encoder starts at random, and" if fresh else "The encoder goes on from the checkpoint;"
            rank_zero_only(print)(f"{start} the loss has no perceptual term: model.imagenet=false.", flush=True)
            return
        if not pretrained:
            rank_zero_only(print)("Random weights in place of ImageNet's in the encoder and in the perceptual loss.")
        features = VGG16()
        options = ("model.encoder_weights", "model.vgg_weights")
        for backbone, file, option in zip((self.network.encode.backbone, features), self.files, options, strict=True):
            if pretrained and (fresh or backbone is features):
                without = (
                    f"or give {option}=<file>, or go on without it and the perceptual loss by model.imagenet=false"
                )
                load_imagenet(backbone, file, otherwise=without)
        self.terms["perceptual"] = Perceptual(features)

    def losses(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        estimate = self.scheme(self.network, inputs)
        terms = {name: self.weights[name] * term(estimate, targets) for name, term in self.terms.items()}
        if inputs.shape[1] > 2:  # the sample has both halves of the inner frames
            whole = (estimate[:, 1:-2:2] + estimate[:, 2:-1:2]) / 2  # Equation 3.6
            terms["reconstruction"] = self.weights["reconstruction"] * l1(whole, inputs[:, 1:-1])
        if weight := self.weights.get("temporal", 0):
            terms["temporal"] = weight * l1(estimate.diff(dim=1), targets.diff(dim=1))
        return terms
