"""From a command line to a configuration, and from a configuration to objects.

``compose`` gives in a notebook or test exactly what the command line gives.
"""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
import subprocess
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import nn

from src.checkpoints import load
from src.disk import locked, written
from src.errors import Problem
from src.nn.blocks import fold_weight_norm
from src.nn.start import start_attention
from src.protocols import COLUMNS
from src.resume import DurableIO, MetricsFile
from src.schema import near, takes

CONF = Path(__file__).resolve().parents[1] / "conf"
PATHS = ("checkpoint", "input", "output", "data.root", "paths.runs", "paths.data", "model.network.stages")
UNSAID = ("ablation", "logger", "paths.runs", "resume")  # options that change no figure
UNNAMED: tuple[str, ...] = ("experiment", "ablation", "seed", "resume", "logger", "paths.", "hydra.", "hydra/")
UNNAMED += ("data.workers", "data.timeout", "data.skip_damaged")  # with which a run may have to go on


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


def needed(option: str) -> NoReturn:
    """``${needed:checkpoint}``: an option that an experiment cannot do without; for "???" does not cover a default."""
    raise Problem(f"{option} is needed here and has no default; give {option}=<value>.")


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
    run = _run_of(experiment, config, HydraConfig.get())
    head = run.parent.parent.name
    if not (run / "checkpoints" / "last.ckpt").exists():
        raise Problem(
            f"checkpoint is needed here, and {run} has none: train {head} with the same options first, or give "
            "checkpoint=<file>."
        )
    return str(run / "checkpoints" / "last.ckpt")


def _run_of(experiment: str | None, config: DictConfig, asked: Any) -> Path:
    """The training that the command ``asked`` for describes, with another experiment if one is given."""
    head = experiment or asked.runtime.choices.get("experiment") or "train"
    name = described([override for override in asked.overrides.task if not override.startswith("test=")])
    return Path(config.paths.runs) / head / name / f"seed={config.seed}"


def trainings_needed(config: DictConfig) -> set[Path]:
    """The directories of the runs whose weights a point of a sweep takes: ``${trained:...}`` and ``${stages:...}``."""
    named = re.findall(r"\$\{(?:trained|stages):([^}]*)\}", OmegaConf.to_yaml(config))
    experiments = {experiment.strip() for names in named for experiment in names.split(",")}
    return {_run_of(experiment or None, config, config.hydra) for experiment in experiments}


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
    named = [o.lstrip("+~") for o in overrides if not o.lstrip("+~").startswith(UNNAMED) and o != "test=own"]
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
    for resolver in (width, depth, groups, needed, trained, stages, run_name):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


register_resolvers()


def compose(*overrides: str) -> DictConfig:
    """The configuration that ``python -m src.run <overrides>`` gets.

    Raises:
        Problem: an override that does not fit; the sentence names it and its neighbours.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=[quoted(override) for override in overrides])
    except Exception as error:
        raise Problem(explain(error, overrides)) from error


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """One sentence for what Hydra or OmegaConf has against a configuration."""
    text, cause = str(error), error.__cause__
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{match[1]} has a value already: leave out the + before it."
    if match := re.search(r"Could not (?:override|delete from config)\W+'([^']+)'", text):
        inner = str(getattr(cause, "full_key", ""))  # of a value {key: ...} the key
        return _unknown_option(match[1], inner if inner.startswith(match[1]) else match[1], overrides)
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        return _unknown_choice(group, choice)
    if match := re.search(r"Problem raised while resolving interpolation: (.*)", text):  # the sentence is ours
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
    with suppress(Problem):  # of a _target_ that is wrong, too
        unset |= takes(str(node["_target_"])).kinds.keys() - {*siblings} if "_target_" in node else set()
    if part in unset:
        return f"{key} has no value yet, so it is added with a + before it: +{key}=<value>."
    close = near(part, [*siblings, *unset])
    hint = f" Did you mean {'+' * (close in unset)}{'.'.join([*known, close])}?" if close else ""
    return f"There is no option {key!r}: {here} has {', '.join(siblings) or 'none'}.{hint}"


def _unknown_choice(group: str, choice: str) -> str:
    if choice.startswith("submitit_"):
        return f"hydra/launcher={choice} is a package of its own: pip install -e '.[slurm]'."
    folder = CONF / group
    choices = sorted(p.stem for p in folder.glob("*.yaml") if not p.stem.startswith("_")) if folder.is_dir() else []
    close = near(choice, choices)
    hint = f" Did you mean {group}={close}?" if close else ""
    return f"There is no {group}={choice}: choose one of {', '.join(choices) or 'none'}.{hint}"


# --- objects ---------------------------------------------------------------------------------------------------


def plain(config: Any) -> Any:
    """A configuration node as plain dictionaries and lists, every interpolation resolved."""
    return OmegaConf.to_container(config, resolve=True)


def build_network(config: DictConfig) -> nn.Module:
    """The network to evaluate or restore with: from ``checkpoint`` where one is given, else a new one of ``model``."""
    return fold_weight_norm(load(config.checkpoint) if config.checkpoint else instantiate(config.model.network))


def start_network(config: DictConfig) -> nn.Module:
    """The network of ``model`` for training, with the weights of ``checkpoint`` where one is given.

    Parts that the checkpoint does not have (a guide, say) start afresh.

    Raises:
        Problem: the checkpoint's network is another one.
    """
    network = instantiate(config.model.network)
    if config.checkpoint:
        own, source = network.state_dict(), load(config.checkpoint)
        given = source.state_dict()
        if hasattr(network, "stages") and not hasattr(source, "stages"):  # one network for the first of several
            first = next(iter(network.stages))
            given = {f"stages.{first}.{name}": weight for name, weight in given.items()}
        other = [name for name in given if name not in own or own[name].shape != given[name].shape]
        if other:
            raise Problem(
                f"The network in {config.checkpoint} is not that of the configuration ({len(other)} weights differ, "
                f"{other[0]} the first): choose the model and size that it was trained with, which its run's "
                "config.yaml says, or for a cascade a checkpoint of its first stage's kind."
            )
        network.load_state_dict({**own, **given})
        if config.size.interpolating:
            start_attention(network, given.keys())
    return network


def build_restorer(config: DictConfig, network: nn.Module) -> Any:
    """The LightningModule of ``model`` around ``network``, which scores by ``protocol``.

    Raises:
        Problem: the parts of a network that the configuration describes do not go together, or its optimiser or
            schedule cannot be made.
    """
    model = plain(config.model)
    description = model.pop("network")
    restorer = instantiate(model, _partial_=True)(
        network=network, protocol=instantiate(config.protocol), description=description
    )
    described = type(network) is get_object(description["_target_"])  # others are somebody's own
    if described and (_trains(config) or not config.checkpoint):
        _try_out(config, restorer)
    return restorer


def _trains(config: DictConfig) -> bool:
    return bool(config.task._target_ == "src.tasks.train.train")


@torch.no_grad()
def _try_out(config: DictConfig, restorer: Any) -> None:
    """Takes an empty sample the way of a training step: what does not go together shows before any data is read."""
    network = restorer.network
    geometry, side = (restorer.training_geometry if restorer.optimizer else network.geometry), 8
    device = next((parameter.device for parameter in network.parameters()), None)
    training = [module for module in network.modules() if module.training]
    network.eval()  # statistics of normalisations stay as they are
    try:
        inputs = torch.zeros(1, geometry.window, 3, side, side, device=device)
        targets = torch.zeros(1, len(geometry.times), 3, geometry.scale * side, geometry.scale * side, device=device)
        restorer.losses(inputs, targets) if restorer.optimizer else network(inputs)
    except (RuntimeError, ValueError) as error:  # of torch about shapes; others are a programmer's
        names = {id(module): f".{name}" for name, module in network.named_modules() if name}
        passed = [id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__)]
        place = next((names[module] for module in reversed(passed) if module in names), "")
        raise Problem(
            f"The parts of model.network do not go together, which shows in model.network{place}: "
            f"{_first_sentence(error)}; compare its channels, frames and levels with those of its neighbours."
        ) from error
    finally:
        for module in training:
            module.training = True
    if restorer.optimizer is None:
        return
    steps = max(1, config.trainer.max_steps)
    what = "model.optimizer"
    try:
        restorer.optimizer([torch.nn.Parameter(torch.zeros(1))])
        what = "model.schedule"
        for step in (0, steps - 1):
            float(restorer.schedule(step, steps) if restorer.schedule else 1)
        what = "model.rates"
        for rate in restorer.rates:
            _ = list(rate.modules(network)), float(rate.factor(0, steps))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise Problem(f"{what} does not work as it is described: {error}; mend its options.") from error


def build_data(config: DictConfig, restorer: Any) -> pl.LightningDataModule:
    """The DataModule of ``data``, cut to what ``restorer`` trains and evaluates, degraded as ``degradation`` says.

    Raises:
        Problem: the configuration alone tells that the network cannot be trained on this data, or contradicts it.
    """
    batch_size, samples = (
        count and max(1, count // restorer.passes) for count in (config.data.batch_size, config.data.samples)
    )
    data = instantiate(config.data, _partial_=True)(
        batch_size=batch_size,
        samples=samples,
        geometry=restorer.geometries[-1],
        training_geometry=restorer.training_geometry,
        degradation=instantiate(config.degradation),
        seed=config.seed,
    )
    if _trains(config):
        _check_samples(data)
    return data


def _check_samples(data: Any) -> None:
    """Refuses training samples that contradict what is known of the data set, or themselves.

    Raises:
        Problem: every clip is shorter than a sample, or no clip at all could be trained on.
    """
    from src.data.datamodule import DataModule  # only here: not all tasks read data
    from src.data.layouts import EXPECTED
    from src.data.splits import Clip, Splits

    if not isinstance(data, DataModule):
        return  # somebody's own
    name = getattr(getattr(data.layout, "func", data.layout), "__name__", "")
    known = EXPECTED.get(name)
    if known and set(known.counts) == {"test"}:
        raise Problem(f"{name} has nothing but clips to test on: train on other data, or add task=evaluate.")
    geometry, variants = data.training_geometry, data.degradation.variants(data.training_geometry)
    extent = max(variant.timeline(geometry).take(geometry).extent for variant in variants)
    if known and isinstance(known.frames, int) and known.frames < extent:
        raise Problem(
            f"A training sample of this network takes {extent} source frames, and every clip of {name} has "
            f"{known.frames}: choose other data, or a network with a shorter window."
        )
    trial = copy.copy(data)
    trial.splits = Splits(train=[Clip("of any length", data.root, stop=2**40)])  # nothing of it is read
    trial.setup("fit")


def build_trainer(config: DictConfig, directory: Path, *, training: bool, **more: Any) -> pl.Trainer:
    """Lightning's Trainer of ``trainer``, for training with the callbacks of their group; it writes no file yet.

    ``trainer.precision=auto`` becomes in ``config`` what it is on this machine, so that the run explains itself.

    Raises:
        Problem: there is no such Trainer on this machine.
    """
    if config.trainer.precision == "auto":
        config.trainer.precision = "bf16-mixed" if training and _has_bfloat16(config.trainer.accelerator) else "32-true"
    trainer = instantiate(config.trainer, _partial_=True)
    if isinstance(config.trainer.val_check_interval, int):  # optimiser steps, which Lightning would take for batches
        every = config.trainer.val_check_interval * config.trainer.accumulate_grad_batches
        trainer = partial(trainer, val_check_interval=every)
    given = {"enable_checkpointing": False, "callbacks": [], **more}
    if training:
        named = {name: instantiate(node) for name, node in (config.callbacks or {}).items() if node}
        callbacks = list(named.values())
        known = [f"validate/{figure}" for figures in COLUMNS.values() for figure in figures]
        for name, callback in named.items():
            monitor = getattr(callback, "monitor", None) or ""
            if monitor not in known and (meant := near(monitor, known, 0.85)):  # a task may log more than these
                raise Problem(f"callbacks.{name}.monitor is {monitor}, which is not logged: did you mean {meant}?")
        given = {"callbacks": callbacks, "plugins": [DurableIO()]}
    try:
        return trainer(default_root_dir=directory, logger=False, **given)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise Problem(
            f"The trainer cannot be made as it is described: {_first_sentence(error)}{_choices(config)}"
        ) from error


def _choices(config: DictConfig) -> str:
    """The end of a sentence on a Trainer that cannot be made: what is meant by a name that Lightning does not know."""
    known = {
        "accelerator": ["auto", "gpu", *AcceleratorRegistry.available_accelerators()],
        "strategy": ["auto", *StrategyRegistry.available_strategies()],
    }
    for option, names in known.items():
        if config.trainer[option] not in names:
            meant = near(config.trainer[option], names)
            return f": did you mean trainer.{option}={meant}?" if meant else f": choose one of {', '.join(names)}."
    return "; mend the option of trainer that this is about."


def _first_sentence(error: Exception) -> str:
    return re.split(r"[.!](?: +(?=[A-Z])|$)", " ".join(str(error).split()))[0]


def _has_bfloat16(accelerator: str) -> bool:
    """Whether training runs on a GPU that computes in bfloat16 itself: others emulate it, and are slower for it."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return False
    return torch.cuda.is_bf16_supported() and torch.cuda.get_device_capability() >= (8, 0)


def build_loggers(config: DictConfig, directory: Path) -> list[Logger]:
    """What ``logger`` asks for; ``metrics.csv`` is always written beside it."""
    nodes = (config.logger or {}).values()
    return [
        MetricsFile(directory),
        *(instantiate(node, _partial_=True)(save_dir=directory) for node in nodes),
    ]


@contextmanager
def claim(config: DictConfig, directory: Path, *, first: bool = True) -> Iterator[None]:
    """Makes ``directory`` this run's own while it goes on, and writes down what the run is.

    A run that is refused before it has any weights or results is taken back, so that it can be given again, corrected.

    Args:
        config: what the run is.
        directory: where.
        first: of all ranks, the one that writes.

    Raises:
        Problem: another run lies there, and ``resume`` is not true.
    """
    if not first:
        yield
        return
    if (directory / "config.yaml").exists() and not config.resume:
        raise Problem(
            f"{directory} already holds a run, and a run never writes over another: add resume=true to go on with it, "
            "or choose another seed=<n> or paths.runs=<folder>."
        )
    directory.mkdir(parents=True, exist_ok=True)
    new = not any(directory.iterdir())
    try:
        busy = f"{directory} is a run that goes on in another process: wait for it, or end it."
        with locked(directory / "commit.txt", busy) as file:
            file.truncate(0)
            file.write(commit() + "\n")
            file.flush()
            with written(directory / "config.yaml") as text:
                text.write(OmegaConf.to_yaml(config, resolve=True))
            yield
    except Problem:
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
