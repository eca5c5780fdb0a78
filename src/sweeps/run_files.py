"""What a run has written, read as what it is: values, whoever wrote the files.

The kinds below are what a report reads of a run; its files may hold more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypedDict

import yaml
from omegaconf import DictConfig, OmegaConf

from src.errors import UserError

LONGEST, DEEPEST = 2**20, 64  # bytes and levels of a run's config.yaml, which has 8,000 and 7


def configuration(file: Path) -> DictConfig:
    """The configuration that a run wrote down: plain values, whoever wrote the file.

    Raises:
        UserError: it holds what is yet to be resolved, refers to itself, or is larger than any is.
    """
    if file.stat().st_size > LONGEST:
        raise UserError(f"{file} is none that a run has written, larger than any is: it is not read.")
    text = file.read_text(encoding="utf-8")
    if "${" in text:
        raise UserError(f"{file} is none that a run has written, which are values and not ${{...}}: it is not read.")
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or isinstance(event, yaml.AliasEvent):  # which may stand for more than there is memory for
            raise UserError(f"{file} is none that a run has written, folded in itself or too deep: it is not read.")
    config = OmegaConf.create(text)
    if not isinstance(config, DictConfig):
        raise UserError(f"{file} is no configuration: it is not read.")
    return config


class Layout(TypedDict):
    """``data.layout``."""

    _target_: str


class Data(TypedDict):
    """``data``."""

    layout: Layout
    root: NotRequired[str | None]


class Model(TypedDict):
    """``model``."""

    network: dict[str, Any]


class Trainer(TypedDict):
    """``trainer``."""

    max_steps: int


class Size(TypedDict):
    """``size``."""

    width: float
    depth: float


class Bench(TypedDict):
    """``bench``."""

    size: str


class Configuration(TypedDict):
    """A run's ``config.yaml``."""

    model: Model
    data: Data
    trainer: Trainer
    size: NotRequired[Size]
    checkpoint: NotRequired[str | None]
    bench: NotRequired[Bench]


class Degraded(TypedDict, total=False):
    """``protocol.degradation``."""

    steps: list[dict[str, Any]] | None


class Rules(TypedDict):
    """``protocol``."""

    name: str
    channel: str
    colour_matrix: str | None
    crop: int
    skip: tuple[int, int]
    frames: str
    ensemble: int
    mean: str
    degradation: NotRequired[Degraded | None]


class Frame(TypedDict):
    """One of ``clips.<name>.frames``."""

    time: float
    psnr: float | None


class Scored(TypedDict, total=False):
    """``clips.<name>``."""

    psnr: float | None
    ssim: float | None
    frames: list[Frame]


class Results(TypedDict, total=False):
    """A run's ``results.json``."""

    summary: dict[str, float | None]
    protocol: Rules
    clips: dict[str, Scored]
    subsets: dict[str, dict[str, Any]]
    levels: dict[str, dict[str, Any]]
    models: dict[str, dict[str, float]]
    input: tuple[int, int]
    device: str
