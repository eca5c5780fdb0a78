"""Weights & Biases: all of it that there is in the suite, which works without.

A run is in the group of its study, has its paper, table, experiment and size as tags, and says in ``point`` what was
asked for, by the last part of each option's name: so bars may be grouped by it, and parallel coordinates drawn. Where
there is no key or no network, runs are logged offline; ``wandb sync <run>/wandb/offline-run-*`` sends them later.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import wandb
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import OmegaConf

from src.annotations import Provided
from src.errors import UserError

SCORE = "test/psnr"  # what panels and sweeps are about, unless a study compares something else
MOST = 128  # characters of a group's name


# --- runs ----------------------------------------------------------------------------------------------------------


def logger(*, save_dir: Provided[str | Path], project: str, **options: Any) -> WandbLogger:
    """A W&B logger that never asks: offline where there is no key or no network.

    The run is named after its directory, and goes on under the same id when the directory's run is resumed. One that
    an agent of ``wandb agent`` has started is the agent's: its id and its sweep are what the agent says.
    """
    directory = Path(save_dir)
    if "WANDB_MODE" not in os.environ:
        os.environ["WANDB_MODE"] = "online" if has_key() and _reachable() else "offline"
    os.environ.setdefault("WANDB_SILENT", "true")
    directory.mkdir(parents=True, exist_ok=True)
    note = directory / "wandb_id.txt"
    if "WANDB_SWEEP_ID" not in os.environ:
        identity = note.read_text().strip() if note.exists() else os.urandom(4).hex()
        note.write_text(identity + "\n")
        options |= {"id": identity, "resume": "allow"}
    study, tags = membership()
    name = "/".join(directory.parts[-3:])
    group = (study or directory.parent.name)[:MOST]
    return WandbLogger(save_dir=directory, project=project, name=name, group=group, tags=tags, **options)


def membership() -> tuple[str | None, list[str]]:
    """The study that this command's run is a point of, None where it is none, and the tags that it gets."""
    if not HydraConfig.initialized():
        return None, []
    hydra = HydraConfig.get()
    choices = hydra.runtime.choices
    published: Any = OmegaConf.select(cast(Any, hydra), "callbacks.study.published") or {}
    paper = Path(published["file"]).parent.name if "file" in published else None
    size = f"size={choices.get('size')}"
    tags = [paper, published.get("table"), choices.get("experiment"), size, choices.get("data")]
    return choices.get("ablation"), [tag[:64] for tag in tags if tag]  # which is what W&B takes


def point(leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """What this command was asked for, by the last part of each option's name, or all of it where two would be one."""
    if not HydraConfig.initialized():
        return {}
    asked = dict(o.lstrip("+~").partition("=")[::2] for o in HydraConfig.get().overrides.task)
    asked = {key: value for key, value in asked.items() if not key.startswith(leave_out)}
    last = [_last(key) for key in asked]
    names = (name if last.count(name) == 1 else re.sub(r"\W", "_", key) for key, name in zip(asked, last, strict=True))
    return dict(zip(names, asked.values(), strict=True))


def _last(key: str) -> str:
    return re.split(r"[./]", key)[-1]


def describe(loggers: Sequence[Logger], config: Mapping[str, Any], leave_out: tuple[str, ...] = ()) -> None:
    """Log what a run is: configuration, commit, parameters, and its ``point``: the overrides except ``leave_out``."""
    for one in _ours(loggers):
        one.log_hyperparams({**config, "point": point(leave_out)})


def address(loggers: Sequence[Logger]) -> str | None:
    """Where the run is to be seen; None offline."""
    return next((one.experiment.url for one in _ours(loggers)), None)


def log_scores(loggers: Sequence[Logger], clips: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Every clip's scores as a table."""
    for one in _ours(loggers):
        rows = [[clip, *(scores.get(name) for name in names)] for clip, scores in clips.items()]
        one.log_table("evaluation", columns=["clip", *names], data=rows)


def finish(code: int) -> None:
    """The run has ended, well (0) or badly."""
    wandb.finish(exit_code=code)


def _ours(loggers: Sequence[Logger]) -> list[WandbLogger]:
    return [one for one in loggers if isinstance(one, WandbLogger)]


def has_key() -> bool:
    """Whether W&B knows who is asking."""
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


# --- studies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Swept:
    """A study as W&B shows it.

    Args:
        name: of the study, which is the group of its runs.
        title: what its table shows.
        options: what it varies, each with its values.
        score: the figure that it compares, as runs log it.
    """

    name: str
    title: str
    options: Mapping[str, Sequence[str]]
    score: str = SCORE

    @property
    def varied(self) -> list[str]:
        """The options with several values, as ``point`` calls them."""
        keys = [key for key, values in self.options.items() if len(values) > 1] or list(self.options)[:1]
        return [_last(key) for key in keys]


def sweep(study: Swept, project: str = "zeitlupe") -> dict[str, Any]:
    """A study as a W&B sweep: what ``wandb sweep <file>`` takes, and ``wandb agent`` then runs point by point."""
    return {
        "project": project,
        "name": study.name,
        "description": study.title,
        "method": "grid",
        "metric": {"name": study.score, "goal": "maximize"},
        "parameters": {
            **{key: {"values": list(values)} for key, values in study.options.items()},
            "seed": {"values": list(study.options.get("seed", ["0"]))},
        },
        "command": [
            *("${env}", "${interpreter}", "-m", "src.run", f"ablation={study.name}", "hydra.mode=RUN", "resume=true"),
            "${args_no_hyphens}",
        ],
    }


def workspace(studies: Sequence[Swept], entity: str, project: str) -> Any:
    """A workspace with a section a study: its score as bars, as parallel coordinates, and over training.

    Raises:
        UserError: the package that makes it is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels  # which is not needed to train
        import wandb_workspaces.workspaces as spaces
    except ImportError as error:
        raise UserError("wandb=true needs one package more: pip install wandb-workspaces.") from error
    sections = []
    for study in studies:
        by = [f"point.{name}" for name in study.varied]
        axes = [panels.ParallelCoordinatesPlotColumn(metric=panels.Config(name)) for name in by]
        axes.append(panels.ParallelCoordinatesPlotColumn(metric=panels.SummaryMetric(study.score)))
        bars = panels.BarPlot(
            title=f"{study.name}: {study.score}", metrics=[study.score], groupby=panels.Config(by[0]),
            groupby_aggfunc="mean", groupby_rangefunc="stddev",
        )  # fmt: skip
        lines = panels.LinePlot(title="validation", x="Step", y=["validate/psnr"])
        parallel = panels.ParallelCoordinatesPlot(title=study.title, columns=axes)
        sections.append(spaces.Section(name=study.name, panels=[bars, parallel, lines]))
    settings = spaces.RunsetSettings(groupby=[])
    return spaces.Workspace(
        entity=entity, project=project, name="Zeitlupe", sections=sections, runset_settings=settings
    )


def publish(studies: Sequence[Swept], project: str) -> str:
    """Makes the workspace on W&B's server, and returns its address.

    Raises:
        UserError: there is no key, no network or no such project.
    """
    if not has_key():
        raise UserError("wandb=true needs a key: wandb login, or WANDB_API_KEY=<key>. The page needs none.")
    if not _reachable():
        raise UserError("wandb=true finds no network to W&B. The page needs none.")
    try:
        entity = os.environ.get("WANDB_ENTITY") or str(wandb.Api().default_entity)
        return str(workspace(studies, entity, project).save().url)
    except wandb.errors.Error as error:
        raise UserError(f"W&B makes no workspace: {error}") from error
