"""WDVR's published weights: the state dicts of the authors' networks ``wdsr_burst`` (2D) and ``wdvr`` (3D)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from torch import Tensor

from src.papers.wdvr import TSAS, WDVR2D, WDVR3D, Wide2D
from src.papers.weights.reference import Reference, Rule, count

DIRECTION = "parametrizations.weight.original1"  # of a weight-normalised kernel; its norm is original0


def _rule(theirs: str, ours: str | Callable[[re.Match[str]], str]) -> Rule:
    """Return the rule for weight-normalised convolutions, from PyTorch's former tensor names to the current ones."""
    names = {"bias": "bias", "weight_g": "parametrizations.weight.original0", "weight_v": DIRECTION}

    def rename(match: re.Match[str]) -> str:
        tensor = match[0].rpartition(".")[2]
        return f"{ours(match) if callable(ours) else ours}.{names[tensor]}"

    return rf"{theirs}\.({'|'.join(names)})", rename


def _sizes(state: Mapping[str, Tensor], widened: int) -> tuple[dict[str, int], int]:
    """Return the sizes of the trunk and the scale; layer ``widened`` of a block outputs the activations."""
    units = state[f"head.{DIRECTION}"].shape[0]
    activations = state[f"trunk.blocks.0.{widened}.{DIRECTION}"].shape[0]
    scale = math.isqrt(state[f"tail.{DIRECTION}"].shape[0] // 3)
    return {"blocks": count(state, "trunk.blocks"), "units": units, "activations": activations}, scale


def _build_2d(state: Mapping[str, Tensor]) -> WDVR2D:
    sizes, scale = _sizes(state, 0)
    return WDVR2D(trunk=Wide2D(**sizes), frames=state[f"head.{DIRECTION}"].shape[1] // 3, scale=scale)


def _build_3d(state: Mapping[str, Tensor]) -> WDVR3D:
    sizes, scale = _sizes(state, 1)
    return WDVR3D(trunk=TSAS(**sizes), clip=10, padding=0, scale=scale)  # the training window of the published code


WDSR_BURST = Reference(
    name="WDVR's wdsr_burst",
    marker="skip.0.weight_v",
    rules=[
        _rule(r"head\.0", "head"),
        _rule(r"body\.(\d+)\.body\.(\d+)", lambda match: f"trunk.blocks.{match[1]}.{match[2]}"),
        _rule(r"tail\.0", "tail"),
        _rule(r"skip\.0", "skip"),
    ],
    build=_build_2d,
)
WDVR = Reference(
    name="WDVR's wdvr",
    marker="skip.1.weight_v",
    rules=[  # numbers count the head, and each padding in time
        _rule(r"body\.0", "head"),
        _rule(r"body\.(\d+)\.body\.(\d+)", lambda match: f"trunk.blocks.{int(match[1]) - 1}.{int(match[2]) - 1}"),
        _rule(r"body\.\d+", "tail"),
        _rule(r"skip\.1", "skip"),
    ],
    build=_build_3d,
)
