"""EDVR: video restoration with enhanced deformable convolutions.

X. Wang, K. C. K. Chan, K. Yu, C. Dong, C. C. Loy: "EDVR: Video Restoration with Enhanced Deformable Convolutional
Networks". A window of 2N + 1 frames becomes its restored middle frame, four times the size or as large as before.

Table 4's models are choices of parts:

    Model 1   align=ChainAlign(samples=1)   fuse=ConvFuse
    Model 2   align=ChainAlign(samples=4)       "
    Model 3   align=PCD                         "
    Model 4   align=PCD                     fuse=TSA

Shapes: B batch, T input frames, C feature channels, H height, W width, s scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor, nn

from src.geometry import Geometry
from src.nn.align import PCD
from src.nn.clips import flatten_time, pad_to_multiple, unflatten_time
from src.nn.encode import BlurredFrameEncoder, FrameEncoder
from src.nn.fuse import TSA, ConvFuse
from src.nn.upsample import Reconstruct
from src.nn.warm_start import start_adding_little
from src.papers.weights.reference import Reference, Rule, count


class EDVR(nn.Module):
    """EDVR (Figure 2). (B, T, 3, H, W) to (B, 1, 3, s*H, s*W), any H and W.

    Args:
        encode: features of single frames.
        align: every frame's features with the middle one's.
        fuse: all frames' aligned features into one.
        reconstruct: the difference to the middle frame, enlarged, from features.
        frames: T = 2N + 1.
        warm_start: start as the enlarged middle frame, with next to nothing added, instead of at random.

    The scale is what ``reconstruct`` enlarges beyond what ``encode`` shrinks.
    """

    def __init__(
        self,
        *,
        encode: FrameEncoder | BlurredFrameEncoder,
        align: nn.Module,
        fuse: nn.Module,
        reconstruct: Reconstruct,
        frames: int = 5,
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        if frames % 2 == 0:
            raise ValueError(f"EDVR restores the middle one of an odd number of frames, got {frames}")
        self.encode, self.align, self.fuse, self.reconstruct = encode, align, fuse, reconstruct
        self.multiple = 4 * encode.shrink
        self.geometry = Geometry(reconstruct.scale // encode.shrink, frames, (Fraction(frames // 2),))
        if warm_start:
            start_adding_little(self, differences=self.geometry.scale == 1)

    def forward(self, clip: Tensor) -> Tensor:
        return self.restore(*self.frame_features(clip))

    def frame_features(self, clip: Tensor) -> tuple[Tensor, ...]:
        """What is computed of each frame alone: the frames themselves and their feature pyramid, (B, T, ...) each."""
        features = self.encode(flatten_time(pad_to_multiple(clip, self.multiple)))
        return clip, *(unflatten_time(level, clip) for level in self.align.pyramid(features))  # type: ignore[operator]

    def restore(self, clip: Tensor, *pyramid: Tensor) -> Tensor:
        """The middle frame (B, 1, 3, s*H, s*W) of a window from what :meth:`frame_features` gave for its frames."""
        middle, scale = clip.shape[1] // 2, self.geometry.scale
        neighbours = [flatten_time(level) for level in pyramid]
        reference = [flatten_time(level[:, middle : middle + 1].expand_as(level)) for level in pyramid]
        aligned = unflatten_time(self.align(neighbours, reference), clip)  # (B, T, C, H, W)
        residual = self.reconstruct(self.fuse(aligned))
        base = clip[:, middle]
        height, width = base.shape[-2:]
        if scale > 1:
            base = F.interpolate(base, scale_factor=scale, mode="bilinear", align_corners=False)
        return (base + residual[..., : scale * height, : scale * width]).unsqueeze(1)


def _build(state: Mapping[str, Tensor]) -> EDVR:
    channels = state["align.align.compare.0.weight"].shape[0]
    groups = state["align.align.sample.0.offset.weight"].shape[0] // 27
    blocks = count(state, "encode.trunk")
    frames = state["fuse.fuse.weight"].shape[1] // channels
    blurred = "encode.mix.weight" in state
    shrink = 4 if "encode.predeblur.shrink.0.weight" in state else 1
    encode = (
        BlurredFrameEncoder(channels, blocks=blocks, shrink=shrink)
        if blurred
        else FrameEncoder(channels, blocks=blocks)
    )
    fuse = TSA if "fuse.weigh.embed.weight" in state else ConvFuse
    return EDVR(
        encode=encode,
        align=PCD(channels, groups=groups),
        fuse=fuse(channels, frames=frames),
        reconstruct=Reconstruct(channels, blocks=count(state, "reconstruct.trunk")),
        frames=frames,
    )


def _level_rules() -> list[Rule]:
    rules: list[Rule] = []
    for level in (1, 2, 3):
        steps = ("compare", "refine") if level == 3 else ("compare", "inherit", "refine")
        rules += [
            (rf"pcd_align\.offset_conv{i}\.l{level}\.(.*)", rf"align.align.{step}.{level - 1}.\1")
            for i, step in enumerate(steps, start=1)
        ]
        rules += [
            (rf"pcd_align\.dcn_pack\.l{level}\.conv_offset\.(.*)", rf"align.align.sample.{level - 1}.offset.\1"),
            (rf"pcd_align\.dcn_pack\.l{level}\.(weight|bias)", rf"align.align.sample.{level - 1}.\1"),
            (rf"pcd_align\.feat_conv\.l{level}\.(.*)", rf"align.align.blend.{level - 1}.\1"),
        ]
    for level in (2, 3):
        rules += [
            (rf"conv_l{level}_1\.(.*)", rf"align.pyramid.down.{level - 2}.\1"),
            (rf"conv_l{level}_2\.(.*)", rf"align.pyramid.mix.{level - 2}.\1"),
            (rf"predeblur\.stride_conv_l{level}\.(.*)", rf"encode.predeblur.down.{level - 2}.\1"),
        ]
    return rules


REFERENCE = Reference(
    name="BasicSR's EDVR",
    marker="pcd_align.cas_dcnpack.weight",
    rules=[
        (r"conv_first\.(.*)", r"encode.conv.\1"),
        (r"feature_extraction\.(.*)", r"encode.trunk.\1"),
        (r"predeblur\.conv_first\.(.*)", r"encode.predeblur.first.\1"),
        (r"predeblur\.stride_conv_hr1\.(.*)", r"encode.predeblur.shrink.0.\1"),
        (r"predeblur\.stride_conv_hr2\.(.*)", r"encode.predeblur.shrink.1.\1"),
        (r"predeblur\.resblock_l3\.(.*)", r"encode.predeblur.at_quarter.\1"),
        (r"predeblur\.resblock_l2_1\.(.*)", r"encode.predeblur.at_half.0.\1"),
        (r"predeblur\.resblock_l2_2\.(.*)", r"encode.predeblur.at_half.1.\1"),
        (r"predeblur\.resblock_l1\.(.*)", r"encode.predeblur.at_full.\1"),
        (r"conv_1x1\.(.*)", r"encode.mix.\1"),
        *_level_rules(),
        (r"pcd_align\.cas_offset_conv1\.(.*)", r"align.cascade.compare.\1"),
        (r"pcd_align\.cas_offset_conv2\.(.*)", r"align.cascade.refine.0.\1"),
        (r"pcd_align\.cas_dcnpack\.conv_offset\.(.*)", r"align.cascade.sample.0.offset.\1"),
        (r"pcd_align\.cas_dcnpack\.(weight|bias)", r"align.cascade.sample.0.\1"),
        (r"fusion\.(weight|bias)", r"fuse.fuse.\1"),
        (r"fusion\.feat_fusion\.(.*)", r"fuse.fuse.\1"),
        (r"fusion\.temporal_attn1\.(.*)", r"fuse.weigh.embed_reference.\1"),
        (r"fusion\.temporal_attn2\.(.*)", r"fuse.weigh.embed.\1"),
        (r"fusion\.spatial_attn1\.(.*)", r"fuse.attend.enter.\1"),
        (r"fusion\.spatial_attn2\.(.*)", r"fuse.attend.pooled.\1"),
        (r"fusion\.spatial_attn3\.(.*)", r"fuse.attend.skip.\1"),
        (r"fusion\.spatial_attn4\.(.*)", r"fuse.attend.join.\1"),
        (r"fusion\.spatial_attn5\.(.*)", r"fuse.attend.mask.\1"),
        (r"fusion\.spatial_attn_l1\.(.*)", r"fuse.attend.coarse_enter.\1"),
        (r"fusion\.spatial_attn_l2\.(.*)", r"fuse.attend.coarse_pooled.\1"),
        (r"fusion\.spatial_attn_l3\.(.*)", r"fuse.attend.coarse_leave.\1"),
        (r"fusion\.spatial_attn_add1\.(.*)", r"fuse.attend.shift.0.\1"),
        (r"fusion\.spatial_attn_add2\.(.*)", r"fuse.attend.shift.1.\1"),
        (r"reconstruction\.(.*)", r"reconstruct.trunk.\1"),
        (r"upconv1\.(.*)", r"reconstruct.upscale.0.\1"),
        (r"upconv2\.(.*)", r"reconstruct.upscale.1.\1"),
        (r"conv_hr\.(.*)", r"reconstruct.refine.\1"),
        (r"conv_last\.(.*)", r"reconstruct.last.\1"),
    ],
    build=_build,
)
