"""EDVR's published weights: the state dicts of BasicSR and of mmagic (mmediting).

Both compute the same. Their names differ in a few parts, and mmagic's convolutions with an activation hold their
tensors one level deeper, as ``<name>.conv.weight``: the rules accept either.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from src.nn.align import PCD
from src.nn.encode import BlurredFrameEncoder, FrameEncoder
from src.nn.fuse import TSA, ConvFuse
from src.nn.upsample import Reconstruct
from src.papers.edvr import EDVR
from src.papers.weights.reference import Reference, Rule, count

PCD_NAME, INNER = "(?:pcd_align|pcd_alignment)", r"(?:conv\.)?"


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
            (rf"{PCD_NAME}\.offset_conv{i}\.l{level}\.{INNER}(.*)", rf"align.align.{step}.{level - 1}.\1")
            for i, step in enumerate(steps, start=1)
        ]
        rules += [
            (rf"{PCD_NAME}\.dcn_pack\.l{level}\.conv_offset\.(.*)", rf"align.align.sample.{level - 1}.offset.\1"),
            (rf"{PCD_NAME}\.dcn_pack\.l{level}\.(weight|bias)", rf"align.align.sample.{level - 1}.\1"),
            (rf"{PCD_NAME}\.feat_conv\.l{level}\.{INNER}(.*)", rf"align.align.blend.{level - 1}.\1"),
        ]
    for level in (2, 3):
        rules += [
            (rf"(?:conv_l{level}_1|feat_l{level}_conv1\.conv)\.(.*)", rf"align.pyramid.down.{level - 2}.\1"),
            (rf"(?:conv_l{level}_2|feat_l{level}_conv2\.conv)\.(.*)", rf"align.pyramid.mix.{level - 2}.\1"),
            (rf"predeblur\.stride_conv_l{level}\.(.*)", rf"encode.predeblur.down.{level - 2}.\1"),
        ]
    return rules


RULES: list[Rule] = [
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
    (rf"{PCD_NAME}\.cas_offset_conv1\.{INNER}(.*)", r"align.cascade.compare.\1"),
    (rf"{PCD_NAME}\.cas_offset_conv2\.{INNER}(.*)", r"align.cascade.refine.0.\1"),
    (rf"{PCD_NAME}\.cas_dcnpack\.conv_offset\.(.*)", r"align.cascade.sample.0.offset.\1"),
    (rf"{PCD_NAME}\.cas_dcnpack\.(weight|bias)", r"align.cascade.sample.0.\1"),
    (r"fusion\.(weight|bias)", r"fuse.fuse.\1"),
    (rf"fusion\.feat_fusion\.{INNER}(.*)", r"fuse.fuse.\1"),
    (r"fusion\.temporal_attn1\.(.*)", r"fuse.weigh.embed_reference.\1"),
    (r"fusion\.temporal_attn2\.(.*)", r"fuse.weigh.embed.\1"),
    (rf"fusion\.spatial_attn1\.{INNER}(.*)", r"fuse.attend.enter.\1"),
    (rf"fusion\.spatial_attn2\.{INNER}(.*)", r"fuse.attend.pooled.\1"),
    (rf"fusion\.spatial_attn3\.{INNER}(.*)", r"fuse.attend.skip.\1"),
    (rf"fusion\.spatial_attn4\.{INNER}(.*)", r"fuse.attend.join.\1"),
    (r"fusion\.spatial_attn5\.(.*)", r"fuse.attend.mask.\1"),
    (rf"fusion\.spatial_attn_l1\.{INNER}(.*)", r"fuse.attend.coarse_enter.\1"),
    (rf"fusion\.spatial_attn_l2\.{INNER}(.*)", r"fuse.attend.coarse_pooled.\1"),
    (rf"fusion\.spatial_attn_l3\.{INNER}(.*)", r"fuse.attend.coarse_leave.\1"),
    (rf"fusion\.spatial_attn_add1\.{INNER}(.*)", r"fuse.attend.shift.0.\1"),
    (r"fusion\.spatial_attn_add2\.(.*)", r"fuse.attend.shift.1.\1"),
    (r"reconstruction\.(.*)", r"reconstruct.trunk.\1"),
    (r"(?:upconv1|upsample1\.upsample_conv)\.(.*)", r"reconstruct.upscale.0.\1"),
    (r"(?:upconv2|upsample2\.upsample_conv)\.(.*)", r"reconstruct.upscale.1.\1"),
    (r"conv_hr\.(.*)", r"reconstruct.refine.\1"),
    (r"conv_last\.(.*)", r"reconstruct.last.\1"),
]
BASICSR = Reference(name="BasicSR's EDVR", marker="pcd_align.cas_dcnpack.weight", rules=RULES, build=_build)
MMAGIC = Reference(name="mmagic's EDVR", marker="pcd_alignment.cas_dcnpack.weight", rules=RULES, build=_build)
