"""Zooming SlowMo: space-time video super-resolution in one stage.

X. Xiang, Y. Tian, Y. Zhang, Y. Fu, J. P. Allebach, C. Xu: "Zooming SlowMo: An Efficient One-Stage Framework for
Space-Time Video Super-Resolution". T low-resolution frames become 2T - 1 high-resolution frames.

Every row of the paper's Table 5 is a choice of parts:

    (a) interpolate=NaiveInterpolation        aggregate=Identity
    (b) interpolate=DeformableInterpolation   aggregate=Identity
    (c)            "                          aggregate=ConvLSTM
    (d)            "                          aggregate=DeformableConvLSTM
    (e)            "                          aggregate=Bidirectional(DeformableConvLSTM)
    (f)            "                                      "              guide=GuidedSynthesis

Shapes: B batch, T input frames, C feature channels, H height, W width, s scale.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from src.geometry import Geometry, evenly
from src.nn.align import PairAlign
from src.nn.blocks import Blend, conv3x3, trunk
from src.nn.clips import cat_clips, flatten_time, map_frames, pad_to_multiple, unflatten_time
from src.nn.encode import FrameEncoder
from src.nn.upsample import Reconstruct
from src.nn.video_network import VideoNetwork
from src.nn.warm_start import RGB, init_near_identity
from src.papers.restorer import Restorer


class NaiveInterpolation(nn.Module):
    """Features between frames from those of the two frames by convolution alone: Table 5 (a).

    Equation 4 without deformable sampling. (B, T, C, H, W) to (B, T - 1, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blend = Blend(channels)

    def forward(self, features: Tensor) -> Tensor:
        before, after = features[:, :-1], features[:, 1:]
        return unflatten_time(self.blend(flatten_time(before), flatten_time(after)), before)


class DeformableInterpolation(nn.Module):
    """Features between frames, sampled deformably from both neighbours and blended: Section 3.2.

    (B, T, C, H, W) to (B, T - 1, C, H, W); all pairs in one batch.
    """

    def __init__(self, channels: int, *, groups: int = 8) -> None:
        super().__init__()
        self.pair = PairAlign(channels, groups=groups)

    def forward(self, features: Tensor) -> Tensor:
        levels = [unflatten_time(level, features) for level in self.pair.pyramid(flatten_time(features))]
        before = [flatten_time(level[:, :-1]) for level in levels]
        after = [flatten_time(level[:, 1:]) for level in levels]
        return unflatten_time(self.pair(before, after), features[:, 1:])


class GuidedSynthesis(nn.Module):
    """Low-resolution frames from features, only to guide training: rho of Equation 8.

    k3 residual blocks and a convolution. (N, C, H, W) to (N, 3, H, W).
    """

    def __init__(self, channels: int, *, blocks: int = 5) -> None:  # k3 is not given; as many as k1
        super().__init__()
        self.trunk = trunk(channels, blocks)
        self.last = conv3x3(channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(self.trunk(features))


class ZSM(VideoNetwork):
    """Zooming SlowMo (Figure 2). (B, T, 3, H, W) to (B, 2T - 1, 3, s*H, s*W), any T, H and W.

    Args:
        encode: features of single frames, k1 = 5 residual blocks.
        interpolate: features of the frames in between.
        aggregate: features of all 2T - 1 frames, made aware of one another.
        reconstruct: frames from features, k2 = 40 residual blocks.
        guide: low-resolution frames from interpolated features (Section 3.5), or None.
        frames: T of one pass over a longer video; training crops have 4 (Section 3.6).
        shortcut: add to the input frames, enlarged and blended, and add those frames' features, blended, to those of
            ``aggregate``; start by adding almost nothing (:mod:`src.nn.warm_start`), so that few steps suffice. The
            published network has none.
    """

    def __init__(
        self,
        *,
        encode: FrameEncoder,
        interpolate: nn.Module,
        aggregate: nn.Module,
        reconstruct: Reconstruct,
        guide: nn.Module | None = None,
        frames: int = 4,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.encode = encode
        self.interpolate = interpolate
        self.aggregate = aggregate
        self.reconstruct = reconstruct
        self.guide = guide
        self.shortcut = shortcut
        if shortcut:
            init_near_identity(reconstruct, init_near_identity(encode, RGB))
        times = evenly(0, "1/2", 2 * frames - 1)
        self.geometry = Geometry(reconstruct.scale, frames, times, stride=frames - 1, elastic=True)

    def forward(self, clip: Tensor) -> Tensor:
        return self.decode_window(*self.encode_frames(clip))

    def encode_frames(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames themselves and their features (B, T, C, H', W').

        H' and W' are the next multiples of 4, for the feature pyramid.
        """
        return clip, map_frames(self.encode, pad_to_multiple(clip, 4))

    def decode_window(self, clip: Tensor, existing: Tensor) -> Tensor:  # type: ignore[override]
        """Restore the output frames of a window from its frames and their features."""
        return self.decode(clip, existing, self.interpolate(existing))

    def decode(self, clip: Tensor, existing: Tensor, between: Tensor) -> Tensor:
        """Reconstruct frames from a clip and the features of its frames and of those in between."""
        scale, (height, width) = self.geometry.scale, clip.shape[-2:]
        features = self.aggregate(interleave(existing, between))
        if self.shortcut:
            features = features + insert_means(existing)
        frames = map_frames(self.reconstruct, features)[..., : scale * height, : scale * width]
        if self.shortcut:
            base = flatten_time(insert_means(clip))
            base = F.interpolate(base, scale_factor=float(scale), mode="bicubic", align_corners=False)
            frames = frames + unflatten_time(base, frames)
        return frames

    def guided(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run training with guided feature interpolation (Section 3.5, Figure 5).

        Returns:
            The output frames; low-resolution frames at the T - 1 times in between (first order); and at the
            T - 2 inner input times, interpolated once more from the interpolated features (second order).
        """
        _, existing = self.encode_frames(clip)
        between = self.interpolate(existing)
        height, width = clip.shape[-2:]
        first, second = (map_frames(self.guide, order) for order in (between, self.interpolate(between)))  # type: ignore[arg-type]
        frames = self.decode(clip, existing, between)
        return frames, first[..., :height, :width], second[..., :height, :width]


def interleave(existing: Tensor, between: Tensor) -> Tensor:
    """Put the frames of (B, T - 1, C, H, W) between those of (B, T, C, H, W): (B, 2T - 1, C, H, W)."""
    *before, last = existing.split(1, dim=1)
    pairs = zip(before, between.split(1, dim=1), strict=False)  # without any, split yields one empty chunk
    return cat_clips([*chain.from_iterable(pairs), last])


def insert_means(frames: Tensor) -> Tensor:
    """Put the mean of every two neighbours of (B, T, C, H, W) between them: (B, 2T - 1, C, H, W)."""
    return interleave(frames, (frames[:, :-1] + frames[:, 1:]) / 2)


class ZSMRestorer(Restorer):
    """Training of Zooming SlowMo: Equation 7, or Equation 10 if the network has a guide.

    Args:
        first_order: weight of Equation 8 beside the reconstruction loss (lambda 2; not given in the paper).
        second_order: weight of Equation 9 (lambda 3; not given in the paper).
        options: those of :class:`~src.papers.restorer.Restorer`.
    """

    def __init__(self, *, first_order: float = 0.1, second_order: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.first_order, self.second_order = first_order, second_order

    @property
    def needs_reduced_targets(self) -> bool:
        return (
            isinstance(self.network, ZSM) and self.network.guide is not None
        )  # a checkpoint may be of another network

    def losses(self, inputs: Tensor, targets: Tensor, reduced: Tensor | None = None) -> dict[str, Tensor]:
        if self.network.guide is None:
            return super().losses(inputs, targets)
        assert reduced is not None  # the low-resolution ground truth of Equations 8 and 9, without noise or compression
        frames, first, second = self.network.guided(inputs)
        return {
            "reconstruction": self.loss(frames, targets),
            "first_order": self.first_order * self.loss(first, reduced[:, 1::2]),
            "second_order": self.second_order * self.loss(second, reduced[:, 2:-1:2]),
        }
