"""Weights & Biases logging; the suite runs without it.

A run joins the group of its study, with its paper, table, experiment and size as tags. Its config holds the overrides
of its command by short names (``overrides.trunk``), so that runs can be grouped by an option. Without a key or a
network, runs are logged offline; ``wandb sync <run>/wandb/offline-run-*`` uploads them later.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import OmegaConf

from src.annotations import Provided

SCORE = "test/psnr"  # the metric of a sweep, unless its study compares another one
GROUP_LENGTH, TAG_LENGTH = 128, 64  # characters, W&B's limits


def build_logger(*, save_dir: Provided[str | Path], project: str, **options: Any) -> WandbLogger:
    """Build a W&B logger that never prompts: offline without a key or a network.

    The run is named after its directory and keeps its id when that directory's run is resumed. Under ``wandb agent``,
    the agent sets the id and the sweep.
    """
    directory = Path(save_dir)
    if "WANDB_MODE" not in os.environ:
        os.environ["WANDB_MODE"] = "online" if _has_key() and _reachable() else "offline"
    os.environ.setdefault("WANDB_SILENT", "true")
    directory.mkdir(parents=True, exist_ok=True)
    id_file = directory / "wandb_id.txt"
    if "WANDB_SWEEP_ID" not in os.environ:
        run_id = id_file.read_text().strip() if id_file.exists() else os.urandom(4).hex()
        id_file.write_text(run_id + "\n")
        options |= {"id": run_id, "resume": "allow"}
    study, tags = _find_study()
    name = "/".join(directory.parts[-3:])
    group = (study or directory.parent.name)[:GROUP_LENGTH]
    logger = WandbLogger(save_dir=directory, project=project, name=name, group=group, tags=tags, **options)
    logger._wandb_init.pop("anonymous", None)  # W&B warns of this option, which Lightning sets in any case
    return logger


def _find_study() -> tuple[str | None, list[str]]:
    """Return the study of this command's run (None outside of studies) and the run's tags."""
    if not HydraConfig.initialized():
        return None, []
    hydra: Any = HydraConfig.get()
    choices = hydra.runtime.choices
    published = OmegaConf.select(hydra, "callbacks.study.published") or {}
    paper = Path(published["file"]).parent.name if "file" in published else None
    size = f"size={choices.get('size')}"
    tags = [paper, published.get("table"), choices.get("experiment"), size, choices.get("data")]
    return choices.get("ablation"), [tag[:TAG_LENGTH] for tag in tags if tag]


def _has_key() -> bool:
    netrc = Path.home() / (".netrc" if os.name != "nt" else "_netrc")
    return bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "wandb" in netrc.read_text(errors="ignore"))


def _reachable() -> bool:
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=3).close()
        return True
    except OSError:
        return False


def log_config(loggers: Sequence[Logger], config: Mapping[str, Any], overrides: Sequence[str] = ()) -> None:
    """Log a run's configuration, and the overrides of its command under ``overrides``."""
    for logger in _wandb_loggers(loggers):
        logger.log_hyperparams({**config, "overrides": shorten_names(overrides)})


def shorten_names(overrides: Sequence[str]) -> dict[str, str]:
    """Map the last part of each option's name to its value; where two options share it, the whole name."""
    values = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    last = [re.split(r"[./]", key)[-1] for key in values]
    names = (name if last.count(name) == 1 else re.sub(r"\W", "_", key) for key, name in zip(values, last, strict=True))
    return dict(zip(names, values.values(), strict=True))


def find_url(loggers: Sequence[Logger]) -> str | None:
    """Return the address of the run's page; None offline."""
    return next((logger.experiment.url for logger in _wandb_loggers(loggers)), None)


def log_scores(loggers: Sequence[Logger], clips: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Log a table with the scores ``names`` of every clip."""
    for logger in _wandb_loggers(loggers):
        rows = [[clip, *(scores.get(name) for name in names)] for clip, scores in clips.items()]
        logger.log_table("evaluation", columns=["clip", *names], data=rows)


def finish(exit_code: int) -> None:
    """Close the run: as finished (0) or failed."""
    wandb.finish(exit_code=exit_code)


def _wandb_loggers(loggers: Sequence[Logger]) -> list[WandbLogger]:
    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


@dataclass(frozen=True)
class SweepSpec:
    """A study as a W&B sweep.

    Args:
        name: name of the study, and of the group of its runs.
        title: title of its table.
        options: the values of each option.
        score: the metric that it compares, as runs log it.
    """

    name: str
    title: str
    options: Mapping[str, Sequence[str]]
    score: str = SCORE


def sweep_config(spec: SweepSpec, project: str = "zeitlupe") -> dict[str, Any]:
    """Return the configuration for ``wandb sweep <file>``; ``wandb agent`` then runs the study point by point."""
    return {
        "project": project,
        "name": spec.name,
        "description": spec.title,
        "method": "grid",
        "metric": {"name": spec.score, "goal": "maximize"},
        "parameters": {
            **{key: {"values": list(values)} for key, values in spec.options.items()},
            "seed": {"values": list(spec.options.get("seed", ["0"]))},
        },
        "command": [
            *("${env}", "${interpreter}", "-m", "src.run", f"ablation={spec.name}", "hydra.mode=RUN", "resume=true"),
            "${args_no_hyphens}",
        ],
    }
