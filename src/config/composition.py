"""From a command line to a configuration, and to the directory of the run that it describes.

``compose`` gives in a notebook or test exactly what the command line gives.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.atomic import atomic_write, file_lock
from src.config.overrides import by_place, translate
from src.config.signatures import signature_of
from src.config.suggestions import closest
from src.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
PATHS = ("checkpoint", "input", "output", "data.root", "paths.runs", "paths.data", "model.network.stages")
UNSAID = ("ablation", "logger", "paths.runs", "resume")  # options that change no figure
UNNAMED: tuple[str, ...] = ("experiment", "ablation", "seed", "resume", "logger", "paths.", "hydra.", "hydra/")
UNNAMED += ("data.workers", "data.timeout", "data.skip_damaged")  # with which a run may have to go on


SCORING = ("protocol=", "protocol.")  # options that change no training


def width(full: int, least: int = 8, *, _root_: DictConfig) -> int:
    """``${width:64}``: a channel count at the chosen size, a multiple of 8 (the deformable groups).

    ``${width:64,48}`` is never less than 48.
    """
    return max(least, 8 * round(full * _root_.size.width / 8))


def depth(full: int, *, _root_: DictConfig) -> int:
    """``${depth:40}``: a block count at the chosen size, at least 1."""
    return max(1, round(full * _root_.size.depth))


def groups(full: int, *, _root_: DictConfig) -> int:
    """``${groups:8}``: deformable groups at the chosen size, so that each keeps its number of channels."""
    return max(1, round(full * _root_.size.width))


def lr(paper: float, *, _root_: DictConfig) -> float:
    """``${lr:4e-4}``: a paper's learning rate, or ``size.rate`` in its place where it is below ``size.rate_below``."""
    size = _root_.size
    return paper if size.rate is None or paper >= size.rate_below else size.rate


def times(factor: float, count: int) -> int:
    """``${times:0.5,${model.network.blocks}}``: a multiple of another count, at least 1."""
    return max(1, round(factor * count))


def needed(option: str) -> NoReturn:
    """``${needed:checkpoint}``: an option that an experiment cannot do without; for "???" does not cover a default."""
    raise UserError(f"{option} is needed here and has no default; give {option}=<value>.")


def trained(experiment: str | None = None, *, _root_: DictConfig) -> str | None:
    """``${trained:}``: the weights that the same command leaves without ``test=``, or none of what needs no training.

    ``${trained:edvr_vimeo}`` are those that it leaves with that experiment.
    """
    if "optimizer" not in _root_.model:
        return None
    if not HydraConfig.initialized():
        needed("checkpoint")
    return _left_by(experiment, _root_)


def stages(*experiments: str, _root_: DictConfig) -> list[str] | None:
    """``${stages:a,b}``: the weights that the same command leaves with each experiment; none outside a command."""
    return [_left_by(experiment, _root_) for experiment in experiments] if HydraConfig.initialized() else None


def _left_by(experiment: str | None, config: DictConfig) -> str:
    """The last checkpoint of the run that the command at hand describes, with another experiment if one is given."""
    runs = _runs_of(experiment, config, HydraConfig.get())
    files = [run / "checkpoints" / "last.ckpt" for run in runs]
    if found := next((file for file in files if file.exists()), None):
        return str(found)
    head = runs[-1].parent.parent.name
    raise UserError(
        f"checkpoint is needed here, and {runs[-1]} has none: train {head} with the same options first, or give "
        "checkpoint=<file>."
    )


def _runs_of(experiment: str | None, config: DictConfig, command: Any) -> list[Path]:
    """List where the training that ``command`` describes may lie, with ``experiment`` in place of its own if not None.

    Options of the protocol concern scoring alone. A training that was given them, too, comes before one without.
    """
    head = experiment or command.runtime.choices.get("experiment") or "train"
    overrides = [override for override in command.overrides.task if not override.startswith("test=")]
    scoring = [override for override in overrides if override.startswith(SCORING)]
    names = []
    for count in range(len(scoring) + 1):
        for dropped in combinations(scoring, count):
            names.append(described([override for override in overrides if override not in dropped]))
    return [Path(config.paths.runs) / head / name / f"seed={config.seed}" for name in names]


def trainings_needed(config: DictConfig) -> set[Path]:
    """The directories of the runs whose weights a point of a sweep takes: ``${trained:...}`` and ``${stages:...}``."""
    named = re.findall(r"\$\{(?:trained|stages):([^}]*)\}", OmegaConf.to_yaml(config))
    experiments = {experiment.strip() for names in named for experiment in names.split(",")}
    return {run for experiment in experiments for run in _runs_of(experiment or None, config, config.hydra)}


def run_name(choices: DictConfig, overrides: Sequence[str]) -> str:
    """``${run_name:${hydra:runtime.choices},${hydra:overrides.task}}``: what was asked for, as a path.

    The experiment (or the task, where there is none), then every other override but those in ``UNNAMED``, and
    ``test=own``, which leaves a run as it is.
    """
    head = choices.get("experiment") or choices.task
    name = described([override for override in overrides if override != f"task={head}"])
    return f"{head}/{name}" if name else str(head)


def described(overrides: Sequence[str]) -> str:
    """Overrides as the name of a folder; empty where none of them is to be named."""
    overrides = [by_place(override).lstrip("+~") for override in overrides]
    named = [override for override in overrides if not override.startswith(UNNAMED) and override != "test=own"]
    pairs = sorted(override.partition("=")[::2] for override in named)
    parts = [f"{key}={_short(key, value)}" for key, value in pairs]
    name = re.sub(r"[^\w.,=+\-\[\]]", "_", ",".join(parts))
    if len(name) > 180:  # file systems stop at 255 bytes
        name = name[:160] + "-" + hashlib.sha1(name.encode()).hexdigest()[:12]
    return name


def _short(key: str, value: str) -> str:
    """A value as it stands in a run's path; of a path its last part, and what tells it from others of that name."""
    if key not in PATHS or not value:
        return value
    paths = [Path(path.strip("'\"")).expanduser().resolve() for path in _listed(value)]
    return "+".join(f"{path.name}-{hashlib.sha1(str(path).encode()).hexdigest()[:6]}" for path in paths)


def _listed(value: str) -> list[str]:
    """The paths in ``[a.ckpt,b.pth]``; a single path is a list of one. Commas in those of checkpoints are their own."""
    if not (value.startswith("[") and value.endswith("]")):
        return [value]
    if not re.search(r"\.(ckpt|pth)\b", value):
        return [path.strip() for path in value[1:-1].split(",")]
    return re.split(r"(?<=\.ckpt),|(?<=\.ckpt['\"]),|(?<=\.pth),|(?<=\.pth['\"]),", value[1:-1])


def quoted(override: str) -> str:
    """An override whose path Hydra can read: runs lie in folders such as ``seed=0``, which it takes for grammar."""
    key, _, value = override.partition("=")
    if key not in PATHS or value[:1] in ("'", '"') or value[:2] in ("['", '["', "[{") or value in ("", "null", "???"):
        return override
    paths = ",".join("'" + path.replace("'", "\\'") + "'" for path in _listed(value))
    return f"{key}=[{paths}]" if value.startswith("[") else f"{key}={paths}"


def register_resolvers() -> None:
    """Makes the resolvers above known to OmegaConf; done on import."""
    for resolver in (width, depth, groups, lr, times, needed, trained, stages, run_name):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


register_resolvers()


def compose(*overrides: str) -> DictConfig:
    """The configuration that ``python -m src.run <overrides>`` gets.

    Raises:
        UserError: an override that does not fit; the sentence names it and its neighbours.
    """
    GlobalHydra.instance().clear()
    overrides = tuple(translate(overrides))
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=[quoted(override) for override in overrides])
    except Exception as error:
        raise UserError(explain(error, overrides)) from error


NO_CHOICE = "Config group override must be a string"  # as Hydra says of a number


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """One sentence for what Hydra or OmegaConf has against a configuration."""
    text, cause = str(error), error.__cause__
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{match[1]} has a value already: leave out the + before it."
    if match := re.search(r"Could not (?:override|delete from config)\W+'([^']+)'", text):
        inner = str(getattr(cause, "full_key", ""))  # of a value {key: ...} the key
        return _unknown_option(match[1], inner if inner.startswith(match[1]) else match[1], overrides)
    if NO_CHOICE in text:
        for group, _, choice in (override.lstrip("+").partition("=") for override in overrides):
            if (CONF / group).is_dir() and not (CONF / group / f"{choice}.yaml").exists():
                return _unknown_choice(group, choice)
    if match := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        return _unknown_choice(group, choice)
    if match := re.search(r"UserError raised while resolving interpolation: (.*)", text):  # the sentence is ours
        return match[1]
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} is needed and has no default; give {match[1]}=<value>."
    if cause and (match := re.search(r"Error in call to target '([^']+)'.*full_key: (\S+)", text, re.DOTALL)):
        return f"{match[2]} cannot be made ({match[1]}): {' '.join(str(cause).split()) or type(cause).__name__}"
    return " ".join(text.split())


def _unknown_option(given: str, option: str, overrides: Sequence[str]) -> str:
    others = [o for o in overrides if o.partition("=")[0].lstrip("+~") != given.partition("=")[0] and "," not in o]
    key = option.partition("=")[0]
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            node: Any = hydra_compose("config", overrides=others)
    except Exception:  # another override is wrong, too; this one is told with what the root has
        node = OmegaConf.create({})
    known: list[str] = []
    for part in key.split("."):  # down to the first part that is not there
        siblings = sorted(str(name) for name in node if not str(name).startswith("_"))
        if not known:
            siblings = sorted({*siblings, *(folder.name for folder in CONF.iterdir() if folder.is_dir())})
        if part not in siblings or not isinstance(node._get_node(part), DictConfig):
            break
        known.append(part)
        node = node[part]
    here = ".".join(known) or "the configuration"
    unset = set[str]()
    with suppress(UserError):  # of a _target_ that is wrong, too
        unset |= signature_of(str(node["_target_"])).kinds.keys() - {*siblings} if "_target_" in node else set()
    if part in unset:
        return f"{key} has no value yet, so it is added with a + before it: +{key}=<value>."
    close = closest(part, [*siblings, *unset])
    hint = f" Did you mean {'+' * (close in unset)}{'.'.join([*known, close])}?" if close else ""
    return f"There is no option {key!r}: {here} has {', '.join(siblings) or 'none'}.{hint}"


def _unknown_choice(group: str, choice: str) -> str:
    if choice.startswith("submitit_"):
        return f"hydra/launcher={choice} is a package of its own: pip install -e '.[slurm]'."
    folder = CONF / group
    choices = sorted(p.stem for p in folder.glob("*.yaml") if not p.stem.startswith("_")) if folder.is_dir() else []
    close = closest(choice, choices)
    hint = f" Did you mean {group}={close}?" if close else ""
    return f"There is no {group}={choice}: choose one of {', '.join(choices) or 'none'}.{hint}"


# --- runs ------------------------------------------------------------------------------------------------------


def plain(config: Any) -> Any:
    """A configuration node as plain dictionaries and lists, every interpolation resolved."""
    return OmegaConf.to_container(config, resolve=True)


@contextmanager
def claim(config: DictConfig, directory: Path, *, first: bool = True) -> Iterator[None]:
    """Makes ``directory`` this run's own while it goes on, and writes down what the run is.

    A run that is refused before it has any weights or results is taken back, so that it can be given again, corrected.

    Args:
        config: what the run is.
        directory: where.
        first: of all ranks, the one that writes.

    Raises:
        UserError: another run lies there, and ``resume`` is not true.
    """
    if not first:
        yield
        return
    if (directory / "config.yaml").exists() and not config.resume:
        raise UserError(
            f"{directory} already holds a run, and a run never writes over another: add resume=true to go on with it, "
            "or choose another seed=<n> or paths.runs=<folder>."
        )
    directory.mkdir(parents=True, exist_ok=True)
    new = not any(directory.iterdir())
    try:
        busy = f"{directory} is a run that goes on in another process: wait for it, or end it."
        with file_lock(directory / "commit.txt", busy) as file:
            file.truncate(0)
            file.write(commit() + "\n")
            file.flush()
            with atomic_write(directory / "config.yaml") as text:
                text.write(OmegaConf.to_yaml(config, resolve=True))
            yield
    except UserError:
        if new and not any((directory / outcome).exists() for outcome in ("checkpoints", "results.json")):
            shutil.rmtree(directory, ignore_errors=True)
        raise


def begun(config: DictConfig, directory: Path) -> bool:
    """Whether ``directory`` holds this very run, so that it can go on; Hydra's own part of ``config`` is left out."""
    if not (directory / "config.yaml").exists():
        return False
    run = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    before, now = OmegaConf.load(directory / "config.yaml"), OmegaConf.create(OmegaConf.to_yaml(run, resolve=True))
    before.resume = now.resume = None
    if OmegaConf.select(now, "trainer.precision") == "auto":  # on whichever machine it was begun
        now.trainer.precision = OmegaConf.select(before, "trainer.precision")
    return before == now


def finished(config: DictConfig, directory: Path) -> bool:
    """Whether ``directory`` holds this very run with its results, so that there is nothing to go on with."""
    return (directory / "results.json").exists() and begun(config, directory)


def commit() -> str:
    """The commit that the code is at, marked where files differ from it; 'unknown' outside a checkout."""
    try:
        git = ["git", "-C", str(CONF.parent), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
