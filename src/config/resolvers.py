"""Resolvers of the configuration: ``${width:64}`` and others. The first line of each docstring shows its syntax."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NoReturn

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.config.run_names import former_name, name_overrides
from src.errors import UserError

SPLITTING = ("data.layout.hold_back=", "data.layout.by=")
SCORING = ("protocol=", "protocol.")  # options that change no training


def width(full: int, least: int = 8, *, _root_: DictConfig) -> int:
    """``${width:64}``: a channel count at the chosen size, a multiple of 8 (the deformable groups).

    ``${width:64,48}`` is at least 48.
    """
    return max(least, 8 * round(full * _root_.size.width / 8))


def depth(full: int, *, _root_: DictConfig) -> int:
    """``${depth:40}``: a block count at the chosen size, at least 1."""
    return max(1, round(full * _root_.size.depth))


def groups(full: int, *, _root_: DictConfig) -> int:
    """``${groups:8}``: deformable groups at the chosen size; the channels of a group stay the same."""
    return max(1, round(full * _root_.size.width))


def lr(paper: float, *, _root_: DictConfig) -> float:
    """``${lr:4e-4}``: a paper's learning rate, or ``size.rate`` in its place if it is below ``size.rate_below``."""
    size = _root_.size
    return paper if size.rate is None or paper >= size.rate_below else size.rate


def times(factor: float, count: int) -> int:
    """``${times:0.5,${model.network.blocks}}``: a multiple of another count, at least 1."""
    return max(1, round(factor * count))


def plus(amount: int, count: int) -> int:
    """``${plus:6,${scale:}}``: another count and some more."""
    return amount + count


def scale(*, _root_: DictConfig) -> int:
    """``${scale:}``: target pixels for each input pixel, along a side, of the chosen degradation."""
    return math.prod(step.get("scale", 1) for step in _root_.degradation.steps)


def pairs(ratio: Literal["scale", "every"], *, _root_: DictConfig) -> int:
    """``${pairs:scale}``: size of targets relative to inputs of ``data=paired``; ``${pairs:every}``: frame rate."""
    if "low" not in _root_.data:
        raise UserError("degradation=_given is that of data=paired data.low=<inputs> data.high=<targets>.")
    return int(getattr(_measure_pairs(_root_.data.high, _root_.data.low), ratio))


@cache
def _measure_pairs(high: str, low: str) -> Any:
    from src.data.layouts.paired import measure_ratio  # not all configurations read data

    return measure_ratio(os.path.expanduser(high), os.path.expanduser(low))


def scored(*, _root_: DictConfig) -> str:
    """``${scored:}``: ``whole`` clips of a folder, or what was ``held_back`` from a training that is compared."""
    if _root_.task._target_ != "src.tasks.evaluate.evaluate":
        return "held_back"
    if not HydraConfig.initialized():
        return "whole"
    command = HydraConfig.get()
    groups = [command.runtime.choices.get(group) for group in ("experiment", "ablation", "test")]
    split = any(override.lstrip("+").startswith(SPLITTING) for override in command.overrides.task)
    return "held_back" if split or any(choice not in (None, "null", "own") for choice in groups) else "whole"


def needed(option: str) -> NoReturn:
    """``${needed:checkpoint}``: an option without which an experiment fails. A "???" would not replace a default."""
    raise UserError(f"{option} is needed here and has no default: add {option}=<value>.")


def trained(experiment: str | None = None, *, _root_: DictConfig) -> str | None:
    """``${trained:}``: the weights that the same command leaves without ``test=``; None for models without training.

    ``${trained:edvr_vimeo}`` are the weights that it leaves with that experiment.
    """
    if "optimizer" not in _root_.model:
        return None
    if not HydraConfig.initialized():
        needed("checkpoint")
    return _find_weights(experiment, _root_)


def stages(*experiments: str, _root_: DictConfig) -> list[str] | None:
    """``${stages:a,b}``: the weights that the same command leaves with each experiment; None outside a command."""
    return [_find_weights(experiment, _root_) for experiment in experiments] if HydraConfig.initialized() else None


def run_name(choices: DictConfig, overrides: Sequence[str], *, _root_: DictConfig | None = None) -> str:
    """``${run_name:${hydra:runtime.choices},${hydra:overrides.task}}``: the path of a run below ``paths.runs``.

    It consists of the experiment, or the task if there is none, and the name of the other overrides. Runs that have
    their former name keep it.
    """
    head = choices.get("experiment") or choices.task
    named = [override for override in overrides if override != f"task={head}"]
    name, former = name_overrides(named), former_name(named)
    if name != former and _root_ is not None and (Path(_root_.paths.runs) / head / former).is_dir():
        name = former
    return f"{head}/{name}" if name else str(head)


def register_resolvers() -> None:
    """Register all resolvers with OmegaConf."""
    for resolver in (width, depth, groups, lr, times, plus, scale, pairs, scored, needed, trained, stages, run_name):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def list_trainings(config: DictConfig) -> set[Path]:
    """List the runs that a point of a sweep loads weights of, by ``${trained:}`` or ``${stages:}``."""
    named = re.findall(r"\$\{(?:trained|stages):([^}]*)\}", OmegaConf.to_yaml(config))
    experiments = {experiment.strip() for names in named for experiment in names.split(",")}
    return {run for experiment in experiments for run in _list_runs(experiment or None, config, config.hydra)}


def _find_weights(experiment: str | None, config: DictConfig) -> str:
    """Return the last checkpoint of the current command's run, with ``experiment`` in place of its own if not None."""
    runs = _list_runs(experiment, config, HydraConfig.get())
    files = [run / "checkpoints" / "last.ckpt" for run in runs]
    if weights := next((file for file in files if file.exists()), None):
        return str(weights)
    head = runs[-1].parent.parent.name
    raise UserError(
        f"checkpoint is needed here, and {runs[-1]} has none: train {head} with the same options first, or add "
        "checkpoint=<file>."
    )


def _list_runs(experiment: str | None, config: DictConfig, command: Any) -> list[Path]:
    """List where the training that ``command`` describes may lie, with ``experiment`` in place of its own if not None.

    Options of the protocol concern scoring alone. A training with them in its name comes before one without.
    """
    head = experiment or command.runtime.choices.get("experiment") or "train"
    overrides = [override for override in command.overrides.task if not override.startswith("test=")]
    scoring = [override for override in overrides if override.startswith(SCORING)]
    names: list[str] = []
    for count in range(len(scoring) + 1):
        for dropped in combinations(scoring, count):
            kept = [override for override in overrides if override not in dropped]
            names += dict.fromkeys([former_name(kept), name_overrides(kept)])
    return [Path(config.paths.runs) / head / name / f"seed={config.seed}" for name in names]


register_resolvers()
