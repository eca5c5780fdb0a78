"""The options that every task has. conf/config.yaml explains them; conf/paths and conf/size hold two of the nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType

from annotated_types import Ge, Interval

ObjectNode = NewType("ObjectNode", dict[str, Any])
"""A node that describes an object by ``_target_``."""
ObjectNodes = NewType("ObjectNodes", Mapping[str, ObjectNode])
"""Nodes that describe objects by ``_target_``, under names of the user's choice."""


@dataclass(frozen=True, kw_only=True)
class PathOptions:
    """``paths``."""

    runs: str = "runs"
    data: str = "datasets"


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """``size``; the defaults are those of ``size=full``."""

    width: Annotated[float, Ge(0.01)] = 1.0
    depth: Annotated[float, Ge(0.01)] = 1.0
    rate: float | None = None
    rate_below: float = 1e-3
    warm_start: bool = False
    decay_start: float = 0.0
    charbonnier: Literal["sum", "mean"] = "sum"
    guide: float = 1.0
    restarts: int = 4
    warmup: int = 0
    pretrained: bool = True
    pretrained_frozen: float = 0.01


@dataclass(frozen=True, kw_only=True)
class RootOptions:
    """The root of a configuration, without the options of its task."""

    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)] = 0
    checkpoint: str | None = None
    checkpoint_skip: str | list[str] | None = None
    resume: bool | str = False
    debug: bool = False
    progress: Literal["json"] | None = None
    code: str | list[str] | None = None
    trust: str | tuple[str, ...] = ()
    paths: PathOptions = field(default_factory=PathOptions)
    size: SizeOptions = field(default_factory=SizeOptions)
    task: ObjectNode
    protocol: ObjectNode
    model: ObjectNode
    data: ObjectNode
    degradation: ObjectNode
    trainer: ObjectNode
    callbacks: ObjectNodes
    logger: ObjectNodes
