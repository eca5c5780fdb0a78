"""Zooming SlowMo's published weights: the state dicts of the authors' code."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from src.nn.encode import FrameEncoder
from src.nn.recur import Bidirectional, DeformableConvLSTM
from src.nn.upsample import Reconstruct
from src.papers.weights.reference import Reference, Rule, count
from src.papers.zsm import ZSM, DeformableInterpolation


def _build(state: Mapping[str, Tensor]) -> ZSM:
    channels = state["encode.conv.weight"].shape[0]
    groups = state["interpolate.pair.forward_align.sample.0.offset.weight"].shape[0] // 27
    return ZSM(
        encode=FrameEncoder(channels, blocks=count(state, "encode.trunk")),
        interpolate=DeformableInterpolation(channels, groups=groups),
        aggregate=Bidirectional(DeformableConvLSTM(channels, groups=groups), channels),
        reconstruct=Reconstruct(channels, blocks=count(state, "reconstruct.trunk")),
    )


def _pair_rules(theirs: str, ours: str) -> list[Rule]:
    rules: list[Rule] = [(rf"{theirs}fusion\.(.*)", rf"{ours}.blend.\1")]
    for level in (2, 3):
        rules += [
            (rf"{theirs}fea_L{level}_conv1\.(.*)", rf"{ours}.pyramid.down.{level - 2}.\1"),
            (rf"{theirs}fea_L{level}_conv2\.(.*)", rf"{ours}.pyramid.mix.{level - 2}.\1"),
        ]
    for direction, name in ((1, "forward_align"), (2, "backward_align")):
        for level in (1, 2, 3):
            steps = ("compare", "refine") if level == 3 else ("compare", "inherit", "refine")
            rules += [
                (
                    rf"{theirs}pcd_align\.L{level}_offset_conv{i}_{direction}\.(.*)",
                    rf"{ours}.{name}.{step}.{level - 1}.\1",
                )
                for i, step in enumerate(steps, start=1)
            ]
            pack = rf"{theirs}pcd_align\.L{level}_dcnpack_{direction}\."
            rules += [
                (rf"{pack}conv_offset_mask\.(.*)", rf"{ours}.{name}.sample.{level - 1}.offset.\1"),
                (rf"{pack}(weight|bias)", rf"{ours}.{name}.sample.{level - 1}.\1"),
                (rf"{theirs}pcd_align\.L{level}_fea_conv_{direction}\.(.*)", rf"{ours}.{name}.blend.{level - 1}.\1"),
            ]
    return rules


ZOOMING_SLOW_MO = Reference(
    name="Zooming Slow-Mo",
    marker="ConvBLSTM.conv_1x1.weight",
    rules=[
        (r"conv_first\.(.*)", r"encode.conv.\1"),
        (r"feature_extraction\.(.*)", r"encode.trunk.\1"),
        *_pair_rules("", "interpolate.pair"),
        *_pair_rules(r"ConvBLSTM\.forward_net\.pcd_h\.", "aggregate.recurrence.align_hidden"),
        *_pair_rules(r"ConvBLSTM\.forward_net\.pcd_c\.", "aggregate.recurrence.align_cell"),
        (r"ConvBLSTM\.forward_net\.cell_list\.0\.conv\.(.*)", r"aggregate.recurrence.gates.\1"),
        (r"ConvBLSTM\.conv_1x1\.(.*)", r"aggregate.join.\1"),
        (r"recon_trunk\.(.*)", r"reconstruct.trunk.\1"),
        (r"upconv1\.(.*)", r"reconstruct.upscale.0.\1"),
        (r"upconv2\.(.*)", r"reconstruct.upscale.1.\1"),
        (r"HRconv\.(.*)", r"reconstruct.refine.\1"),
        (r"conv_last\.(.*)", r"reconstruct.last.\1"),
    ],
    build=_build,
)
