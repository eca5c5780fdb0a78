"""The points of a sweep, a small JSON file each: overrides, directory, command and status.

The files lie in ``<paths.runs>/ablations/<study>/<options>/points/``. The same layout serves every launcher and every
machine that shares the file system. Tables are built from these files, and a repeated sweep resumes from them.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from src.config.overrides import STUDY, by_place, fold_point, quote_paths
from src.config.run_directory import NO_EFFECT, SWEEP_ONLY
from src.config.run_names import name_overrides


@dataclass
class PointStatus:
    """The content of a point's file.

    Args:
        overrides: overrides of the point, as on a command line; ``point=<name>`` stands for those of a named point.
        number: index in the sweep, from 0.
        directory: run directory, relative to ``paths.runs``.
        command: command that runs, resumes or retries this point alone.
        log: output file, relative to ``paths.runs``; None if the launcher keeps none.
        status: ``running`` (includes points that were interrupted), ``finished`` or ``failed``.
        seconds: duration; None if unknown.
        message: the error message of a failure.
    """

    overrides: list[str]
    number: int
    directory: str
    command: str
    log: str | None
    status: str = "running"
    seconds: float | None = None
    message: str = ""

    def write(self, folder: Path) -> None:
        """Write the point's file atomically under the sweep's ``folder``."""
        file = _file(folder, self.directory)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(file)


def read_statuses(folder: Path) -> list[PointStatus]:
    """Read the points that have started, in the order of the sweep."""
    files = sorted((folder / "points").glob("*.json"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    statuses = [PointStatus(**json.loads(file.read_text())) for file in files]
    latest = {tuple(status.overrides): status for status in statuses}  # a checkpoint may have been trained further
    return sorted(latest.values(), key=lambda status: status.number)


def read_status(folder: Path, config: DictConfig) -> PointStatus | None:
    """Read the status of the point with this ``config``; return None if it has not started."""
    file = _file(folder, _from_runs(locate_run(config), config))
    return PointStatus(**json.loads(file.read_text())) if file.exists() else None


def new_status(config: DictConfig) -> PointStatus:
    """Return a new status for the point with this ``config``."""
    log = locate_log(config)
    overrides = (o for o in _overrides_as_typed(config)["task"] if not o.startswith("resume="))
    return PointStatus(
        overrides=fold_point(overrides, get_named_points(config)),
        number=config.hydra.job.num,
        directory=_from_runs(locate_run(config), config),
        command=shlex.join([_interpreter(), *build_arguments(config)]),
        log=_from_runs(log, config) if log.exists() else None,
    )


def get_named_points(config: DictConfig) -> dict[str, list[str]]:
    """Return the overrides of the study's named points, by name."""
    points = OmegaConf.select(config, "hydra.sweeper.points")
    return OmegaConf.to_container(points) if points else {}  # type: ignore[return-value]


def list_options(config: DictConfig) -> dict[str, list[str]]:
    """List the options of a sweep with their values, those of the study first."""
    params = config.hydra.sweeper.get("params") or {}
    typed: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    overrides = [*(f"{key}={values}" for key, values in params.items()), *typed["task"]]
    names = list(get_named_points(config))
    options = {"point": names} if names else {}
    loader = GlobalHydra.instance().config_loader() if GlobalHydra.instance().is_initialized() else None
    for override in OverridesParser.create(config_loader=loader).parse_overrides(overrides):  # glob() reads groups
        key = by_place(f"{override.get_key_element()}=")[:-1]
        if override.is_interval_sweep():  # the sweeper refuses it
            continue
        values = override.sweep_string_iterator() if override.is_sweep_override() else None
        options[key] = list(values or [override.get_value_element_as_str()])
    return options


def locate_sweep(config: DictConfig) -> Path:
    """Return the folder of a sweep's points and tables.

    It is named after the study, or after the experiments or the task of a sweep without one.
    """
    options = list_options(config)
    study = OmegaConf.select(config, f"{STUDY}.name") or OmegaConf.select(config, "hydra.runtime.choices.ablation")
    name = study or "+".join(options.get("experiment") or options.get("task") or ["train"])
    overrides = [f"{key}={'+'.join(values)}" for key, values in sorted(options.items()) if key not in NO_EFFECT]
    return Path(config.paths.runs) / "ablations" / name / (name_overrides(overrides) or "as_published")


def locate_run(config: DictConfig) -> Path:
    """Return the run directory of a point. Every launcher writes it into the point's configuration."""
    return Path(config.hydra.runtime.output_dir)


def locate_log(config: DictConfig) -> Path:
    """Return the log file of a point's output. It lies beside the run, since a new run needs an empty directory."""
    directory = locate_run(config)
    return directory.with_name(f"{directory.name}.log")


def build_arguments(config: DictConfig) -> list[str]:
    """Return the arguments of Python that run a single point, or resume what it left: ``-m src.run ...``."""
    typed = _overrides_as_typed(config)
    own = [override for override in typed["hydra"] if not override.startswith(SWEEP_ONLY)]
    places = [source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"]
    if any(override.startswith(("hydra.sweep.dir", "hydra.sweep.subdir")) for override in typed["hydra"]):
        own.append(f"hydra.run.dir='{locate_run(config)}'")
    task = [_unquoted(override) for override in typed["task"] if not override.startswith("resume=")]
    folders = [f"--config-dir={place}" for place in places]
    return ["-m", "src.run", *folders, *task, *own, "resume=true", "hydra.mode=RUN"]


def format_sweep_command(config: DictConfig) -> str:
    """Format the command that repeats or continues a sweep."""
    places = [source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"]
    typed = _overrides_as_typed(config)["task"]
    flag = [] if any(override.startswith("ablation=") for override in typed) else ["-m"]
    return "python -m src.run " + shlex.join([*flag, *(f"--config-dir={place}" for place in places), *typed])


def format_label(overrides: Sequence[str], options: dict[str, list[str]]) -> str:
    """Format those overrides of a point that its sweep varies, for a log line."""
    varied = [o for o in overrides if len(options.get(o.partition("=")[0], ())) > 1]
    return " ".join(varied) or " ".join(overrides)


def _overrides_as_typed(config: DictConfig) -> dict[str, list[str]]:
    """Return the overrides of the command line by kind (``task``, ``hydra``), with ``${...}`` unresolved."""
    typed: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    return {kind: [by_place(override) for override in overrides] for kind, overrides in typed.items()}


def _unquoted(override: str) -> str:
    """Remove the quotes that ``src.run`` adds around a path."""
    key, _, value = override.partition("=")
    bare = f"{key}={value[1:-1]}"
    return bare if quote_paths(bare) == override else override


def _interpreter() -> str:
    """Return the path of this Python, relative to the working directory if it lies below."""
    near = os.path.relpath(sys.executable)
    return sys.executable if near.startswith("..") else near


def _from_runs(path: Path, config: DictConfig) -> str:
    return os.path.relpath(path, config.paths.runs)


def _file(folder: Path, directory: str) -> Path:
    return folder / "points" / f"{directory.replace('/', ',')}.json"
