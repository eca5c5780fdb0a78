"""Read the files of a run. The types below are the parts of them that a report reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from omegaconf import DictConfig, OmegaConf

from src.errors import UserError


def read_configuration(file: Path) -> DictConfig:
    """Read a run's config.yaml.

    Raises:
        UserError: the file has unresolved values, or is no mapping.
    """
    text = file.read_text(encoding="utf-8")
    if "${" in text:  # a run resolves every value, so that reading it never reads the environment
        raise UserError(f"{file} is not a run's config.yaml: it has unresolved values, ${{...}}.")
    config = OmegaConf.create(text)
    if not isinstance(config, DictConfig):
        raise UserError(f"{file} is not a run's config.yaml: it is no mapping.")
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
    ensemble: int | None  # None: restored elsewhere
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
    name: str
    matched: dict[str, Any]


def is_external(results: Mapping[str, Any]) -> bool:
    """Return True for the results of ``task=score``: of frames that were restored elsewhere, by an unknown network."""
    return "matched" in results
