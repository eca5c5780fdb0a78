"""Options of ``task=bench``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of ``bench``; conf/task/bench.yaml explains them."""

    models: Sequence[str] | None = ("bicubic", "zsm", "edvr_m", "edvr_l")
    size: str = "full"
    height: Annotated[int, Ge(1)] = 180
    width: Annotated[int, Ge(1)] = 320
    time: bool = True
    repeats: Annotated[int, Ge(1)] = 3
    mean: bool = False
    precision: Literal["32", "bf16"] = "32"
    operator: Literal["ours", "torchvision"] = "ours"
    compile: bool = False
    deformable: bool = True
    loader: bool = False
    clips: bool = False
    batch: Annotated[int, Ge(1)] = 1
    crop: Annotated[int, Ge(1)] = 32
    steps: Annotated[int, Ge(1)] | None = None
