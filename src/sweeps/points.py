"""The points of a sweep, a small JSON file each: what ran, where, and how it ended.

They lie in ``<paths.runs>/ablations/<study>/<what was asked>/points/``, whichever launcher ran them and on whichever
machine of a shared file system: a table is made of these files, and a sweep that is called again goes on from them.
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

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from src.config.composition import UNSAID, described, quoted
from src.config.overrides import by_place, fold_point

PARENTS = ("hydra.mode", "hydra.launcher", "hydra/launcher", "hydra.sweep", "hydra/sweep")  # not a point's business


@dataclass
class PointStatus:
    """A point's file.

    Args:
        overrides: that make the point, as on a command line; ``point=<name>`` stands for those of a named point.
        number: its place in the sweep, from 0.
        directory: of its run, seen from ``paths.runs``.
        command: what runs it by itself, goes on with it, or tries it again.
        log: the file of its output, seen from ``paths.runs``; None where its launcher keeps none.
        status: ``running`` (begun, and not ended: also what was cut off), ``finished`` or ``failed``.
        seconds: that it took, or None where that is not known.
        message: of a failure its last sentence.
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
        """Writes this point's file, whole or not at all, under the sweep's ``folder``."""
        file = _file(folder, self.directory)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(file)


def read(folder: Path) -> list[PointStatus]:
    """The points that have begun, in the order in which they were asked for."""
    entries = [PointStatus(**json.loads(file.read_text())) for file in sorted((folder / "points").glob("*.json"))]
    return sorted(entries, key=lambda entry: entry.number)


def entry_of(folder: Path, config: DictConfig) -> PointStatus | None:
    """The file of the point that ``config`` is of; None where it has not begun."""
    file = _file(folder, _from_runs(run_directory(config), config))
    return PointStatus(**json.loads(file.read_text())) if file.exists() else None


def begin(config: DictConfig) -> PointStatus:
    """A new entry for the point of a sweep that ``config`` is of."""
    log = log_file(config)
    return PointStatus(
        overrides=fold_point((o for o in _typed(config)["task"] if not o.startswith("resume=")), named_points(config)),
        number=config.hydra.job.num,
        directory=_from_runs(run_directory(config), config),
        command=shlex.join([_interpreter(), *arguments(config)]),
        log=_from_runs(log, config) if log.exists() else None,
    )


def named_points(config: DictConfig) -> dict[str, list[str]]:
    """Return the overrides of the study's named points, by name."""
    points = OmegaConf.select(config, "hydra.sweeper.points")
    return OmegaConf.to_container(points) if points else {}  # type: ignore[return-value]


def asked(config: DictConfig) -> dict[str, list[str]]:
    """What a sweep was asked for: each option with its values, those of the study first."""
    params = config.hydra.sweeper.get("params") or {}
    given = [*(f"{key}={values}" for key, values in params.items()), *_typed(config)["task"]]
    names = list(named_points(config))
    options = {"point": names} if names else {}
    for override in OverridesParser.create().parse_overrides(given):
        values = override.sweep_string_iterator() if override.is_sweep_override() else None
        options[override.get_key_element()] = list(values or [override.get_value_element_as_str()])
    return options


def folder_of(config: DictConfig) -> Path:
    """Where the sweep that ``config`` is of keeps its points and tables.

    The study is that of ``ablation``; a sweep without one is called after its experiments or, without those, its task.
    """
    options = asked(config)
    study = OmegaConf.select(config, "hydra.callbacks.study.name")
    name = study or "+".join(options.get("experiment") or options.get("task") or ["train"])
    said = [f"{key}={'+'.join(values)}" for key, values in sorted(options.items()) if key not in UNSAID]
    return Path(config.paths.runs) / "ablations" / name / (described(said) or "as_published")


def run_directory(config: DictConfig) -> Path:
    """Where the run of a sweep's point lies; every launcher writes it into the point's configuration."""
    return Path(config.hydra.runtime.output_dir)


def log_file(config: DictConfig) -> Path:
    """Where a point's output is kept: beside its run, whose own folder has to be free for it."""
    directory = run_directory(config)
    return directory.with_name(f"{directory.name}.log")


def arguments(config: DictConfig) -> list[str]:
    """What Python is given to run a point by itself, or to go on with it: ``-m src.run ...``."""
    typed = _typed(config)
    own = [override for override in typed["hydra"] if not override.startswith(PARENTS)]
    places = [source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"]
    if any(override.startswith(("hydra.sweep.dir", "hydra.sweep.subdir")) for override in typed["hydra"]):
        own.append(f"hydra.run.dir='{run_directory(config)}'")
    task = [_unquoted(override) for override in typed["task"] if not override.startswith("resume=")]
    folders = [f"--config-dir={place}" for place in places]
    return ["-m", "src.run", *folders, *task, *own, "resume=true", "hydra.mode=RUN"]


def label(overrides: Sequence[str], options: dict[str, list[str]]) -> str:
    """A point in a few words: the options that its sweep varies."""
    varied = [o for o in overrides if len(options.get(o.partition("=")[0], ())) > 1]
    return " ".join(varied) or " ".join(overrides)


def _typed(config: DictConfig) -> dict[str, list[str]]:
    """Return the overrides of a command line, ``task`` and ``hydra``, as they were typed: ``${...}`` unresolved."""
    typed: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    return {kind: [by_place(override) for override in overrides] for kind, overrides in typed.items()}


def _unquoted(override: str) -> str:
    """An override without the quotes round a path that ``src.run`` adds by itself."""
    key, _, value = override.partition("=")
    bare = f"{key}={value[1:-1]}"
    return bare if quoted(bare) == override else override


def _interpreter() -> str:
    """This Python as a person in this folder would type it."""
    near = os.path.relpath(sys.executable)
    return sys.executable if near.startswith("..") else near


def _from_runs(path: Path, config: DictConfig) -> str:
    return os.path.relpath(path, config.paths.runs)


def _file(folder: Path, directory: str) -> Path:
    return folder / "points" / f"{directory.replace('/', ',')}.json"
