"""From a configuration to objects, each checked with the others before any data is read."""

from __future__ import annotations

import copy
import re
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import get_object, instantiate
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from torch import nn

from src.checkpoints import load
from src.config.composition import to_plain
from src.config.suggestions import closest
from src.engine.cascade import Cascade
from src.errors import CodeError, UserError
from src.nn.blocks import fold_norms
from src.nn.fuse import init_attention
from src.protocols import COLUMNS
from src.training.checkpointing import DurableIO, MetricsFile


def build_network(config: DictConfig) -> nn.Module:
    """The network to evaluate or restore with: from ``checkpoint`` where one is given, else a new one of ``model``."""
    return fold_norms(load(config.checkpoint) if config.checkpoint else instantiate(config.model.network))


def start_network(config: DictConfig) -> nn.Module:
    """The network of ``model`` for training, with the weights of ``checkpoint`` where one is given.

    Parts that the checkpoint does not have (a guide, say) start afresh.

    Raises:
        UserError: the checkpoint's network is another one.
    """
    network = instantiate(config.model.network)
    if config.checkpoint:
        own, source = network.state_dict(), load(config.checkpoint)
        given = source.state_dict()
        if isinstance(network, Cascade) and not isinstance(source, Cascade):  # one network for the first of several
            first = next(iter(network.stages))
            given = {f"stages.{first}.{name}": weight for name, weight in given.items()}
        other = [name for name in given if name not in own or own[name].shape != given[name].shape]
        if other:
            raise UserError(
                f"The network in {config.checkpoint} is not that of the configuration ({len(other)} weights differ, "
                f"{other[0]} the first): choose the model and size that it was trained with, which its run's "
                "config.yaml says, or for a cascade a checkpoint of its first stage's kind."
            )
        network.load_state_dict({**own, **given})
        if config.size.warm_start:
            init_attention(network, given.keys())
    return network


def build_restorer(config: DictConfig, network: nn.Module) -> Any:
    """The LightningModule of ``model`` around ``network``, which scores by ``protocol``.

    Raises:
        UserError: the parts of a network that the configuration describes do not go together, or its optimiser or
            schedule cannot be made.
    """
    model = to_plain(config.model)
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
    """Dry run: push one zero sample through a training step, so that mismatches surface before data is read."""
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
        raise CodeError(
            f"The parts of model.network do not fit together at model.network{place}: {_first_sentence(error)}; "
            "compare its channels, frames and levels with those of its neighbors."
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
        raise UserError(f"{what} does not work as it is described: {error}; mend its options.") from error


def build_data(config: DictConfig, restorer: Any) -> pl.LightningDataModule:
    """The DataModule of ``data``, cut to what ``restorer`` trains and evaluates, degraded as ``degradation`` says.

    Raises:
        UserError: the configuration alone tells that the network cannot be trained on this data, or contradicts it.
    """
    batch_size, samples = (
        count and max(1, count // restorer.passes_per_sample) for count in (config.data.batch_size, config.data.samples)
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
        UserError: every clip is shorter than a sample, or no clip at all could be trained on.
    """
    from src.data.datamodule import DataModule  # only here: not all tasks read data
    from src.data.layouts.expected import expected_of
    from src.data.splits import Clip, Splits

    if not isinstance(data, DataModule):
        return  # somebody's own
    name = getattr(getattr(data.layout, "func", data.layout), "__name__", "")
    known = expected_of(data.layout)
    if known and set(known.counts) == {"test"}:
        raise UserError(f"{name} has nothing but clips to test on: train on other data, or add task=evaluate.")
    geometry, variants = data.training_geometry, data.degradation.variants(data.training_geometry)
    extent = max(variant.timeline(geometry).sample_frames(geometry).extent for variant in variants)
    if known and isinstance(known.frames, int) and known.frames < extent:
        raise UserError(
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
        UserError: there is no such Trainer on this machine.
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
            if monitor not in known and (meant := closest(monitor, known, 0.85)):  # a task may log more than these
                raise UserError(f"callbacks.{name}.monitor is {monitor}, which is not logged: did you mean {meant}?")
        given = {"callbacks": callbacks, "plugins": [DurableIO()]}
    try:
        return trainer(default_root_dir=directory, logger=False, **given)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(
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
            meant = closest(config.trainer[option], names)
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
