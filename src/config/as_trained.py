"""Evaluate a checkpoint as its training did: what that run held back of the same folder, under the same protocol."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

SPLITS = ("score", "hold_back", "by", "gap", "step", "train", "validate", "test")  # options of a layout
PROTOCOLS = ("experiment=", "test=", "ablation=", "protocol=")  # groups that choose a protocol


def evaluate_as_trained(config: DictConfig) -> list[str]:
    """Take over, from the run of ``config.checkpoint`` on the same data, what no override of the command chooses.

    These are the options of its layout that decide what is scored, so that no frame of the training is scored, and
    those of its protocol, so that the scores are comparable with the run's own.

    Returns:
        Sentences for the user: what is taken over, and whether inputs are made otherwise.
    """
    run = _read_run(config)
    if run is None:
        return []
    typed = [o.lstrip("+") for o in HydraConfig.get().overrides.task] if HydraConfig.initialized() else []
    said = []
    layout = OmegaConf.select(run, "data.layout") or {}
    explicit = any(override.startswith(tuple(f"data.layout.{key}=" for key in SPLITS)) for override in typed)
    if (
        OmegaConf.select(config, "data.layout.score") == "whole"
        and not explicit
        and layout.get("_target_") == config.data.layout._target_
    ):
        _copy(layout, config.data.layout, SPLITS)
        said.append(
            f"These weights were trained on {config.data.root}: only what that training held back is scored. "
            "data.layout.score=whole scores all frames."
        )
    if not any(override.startswith(PROTOCOLS) for override in typed):
        chosen = {override.partition("=")[0].removeprefix("protocol.") for override in typed}
        before = str(config.protocol.name)
        keys = [key for key in config.protocol if key not in chosen]
        changed = _copy(run.get("protocol") or {}, config.protocol, keys)
        if changed:
            said.append(
                f"The protocol is that of the training, {config.protocol.name} ({', '.join(changed)}); "
                f"protocol={before} chooses the default."
            )
    if not any(override.startswith(("degradation", *PROTOCOLS[:3])) for override in typed):
        inputs = [_plain(OmegaConf.select(node, "degradation")) for node in (run, config)]
        if inputs[0] != inputs[1]:
            said.append(
                "The inputs are made otherwise than in the training: repeat its degradation=, or its experiment=."
            )
    return said


def _read_run(config: DictConfig) -> DictConfig | None:
    """Return the configuration of the run that the checkpoint lies in, if it read the same data."""
    if not config.checkpoint:
        return None
    file = Path(os.path.expanduser(config.checkpoint)).resolve().parent.parent / "config.yaml"
    if not file.is_file():
        return None
    run: Any = OmegaConf.load(file)
    roots = [OmegaConf.select(node, "data.root") for node in (run, config)]
    if not all(roots) or len({Path(os.path.expanduser(root)).resolve() for root in roots}) > 1:
        return None
    return run if isinstance(run, DictConfig) else None


def _copy(source: Any, target: DictConfig, keys: Iterable[Any]) -> list[str]:
    """Copy plain values between nodes; return those that differed, as ``key=value``.

    The source may come from anywhere, so nothing is resolved or instantiated.
    """
    changed = []
    values: Any = OmegaConf.to_container(OmegaConf.create(source), resolve=False)
    for key in keys:
        if key in target and key in values and _is_plain(values[key]):
            if _plain(target[key]) != values[key] and key != "name":
                changed.append(f"{key}={values[key]}")
            target[key] = values[key]
    return changed


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _is_plain(value: Any) -> bool:
    """Check that a value is a number, a text without interpolation, or a list of these."""
    if isinstance(value, list):
        return all(_is_plain(item) and not isinstance(item, list) for item in value)
    return "${" not in value if isinstance(value, str) else value is None or isinstance(value, int | float)
