"""Build the objects of a configuration and check that they fit together, before any data is read."""

from __future__ import annotations

import copy
import re
import sys
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
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from torch import nn

from src.checkpoints import CASCADE, FROZEN, load
from src.config.composition import SURE_MATCH, to_plain
from src.config.own_code import list_texts
from src.config.suggestions import closest
from src.config.weight_transfer import match_weights
from src.engine.cascade import Cascade
from src.errors import CheckpointError, CodeError, UserError
from src.nn.blocks import fold_norms
from src.nn.fuse import init_attention
from src.progress import has_bar
from src.protocols import COLUMNS
from src.training.callbacks import ProgressLines
from src.training.checkpointing import DurableIO, MetricsFile
from src.zoo import locate


def build_inference_network(config: DictConfig) -> nn.Module:
    """Return the network to evaluate or restore with: from ``checkpoint``, or a new one from ``model`` without one."""
    if config.get("checkpoint_skip"):
        raise UserError("checkpoint_skip is for training: leave it out.")
    return fold_norms(load(config.checkpoint) if config.checkpoint else instantiate(config.model.network))


def list_weights(config: DictConfig) -> list[Path]:
    """List the files of the network to evaluate or restore with: ``checkpoint``, or those that ``model`` names."""
    network = config.model.network
    stages = network.get("stages") or () if network._target_ == CASCADE else ()
    named = [network.path] if network._target_ == FROZEN else stages
    return [locate(file) for file in ([config.checkpoint] if config.checkpoint else named) if isinstance(file, str)]


def build_training_network(config: DictConfig) -> nn.Module:
    """Return the network of ``model`` to train, with the weights of ``checkpoint`` if there is one.

    Parts that the checkpoint lacks, such as a guide, and those of ``checkpoint_skip`` keep their initial weights. It
    prints how many weights are taken, left and started anew.

    Raises:
        UserError: the checkpoint does not match the configured network.
    """
    network = instantiate(config.model.network)
    if config.checkpoint:
        initial, source = network.state_dict(), load(config.checkpoint)
        weights = source.state_dict()
        shortcut = getattr(source, "shortcut", None)
        if type(source) is type(network) and shortcut != getattr(network, "shortcut", None):
            raise UserError(
                f"{config.checkpoint} was trained with{'' if shortcut else 'out'} the shortcut past its exchanged "
                f"parts: add model.network.shortcut={str(bool(shortcut)).lower()}."
            )
        if isinstance(network, Cascade) and not isinstance(source, Cascade):  # weights of the first stage alone
            first = next(iter(network.stages))
            weights = {f"stages.{first}.{name}": weight for name, weight in weights.items()}
        transfer = match_weights(weights, initial, list_texts(config.get("checkpoint_skip")), str(config.checkpoint))
        network.load_state_dict({**initial, **transfer.taken})
        if not config.resume:
            rank_zero_only(print)(transfer.describe(str(config.checkpoint)), flush=True)
        if config.size.warm_start:
            init_attention(network, transfer.taken.keys())
    elif config.get("checkpoint_skip"):
        raise UserError("checkpoint_skip leaves out parts of a checkpoint: add checkpoint=<file>, or leave it out.")
    return network


def build_restorer(config: DictConfig, network: nn.Module) -> Any:
    """Return the LightningModule of ``model`` around ``network``, with the scores of ``protocol``.

    Raises:
        CodeError: the parts of the network do not fit together.
        UserError: the optimiser, the schedule or a rate fails when called.
    """
    model = to_plain(config.model)
    if _trains(config):  # weights by name that the training starts from, beside those of the network
        model |= {name: _locate_backbone(name, value) for name, value in model.items() if name.endswith("_weights")}
    description = model.pop("network")
    restorer = instantiate(model, _partial_=True)(
        network=network, protocol=instantiate(config.protocol), description=description
    )
    is_configured = type(network) is get_object(description["_target_"])  # not a network of the caller's own
    if is_configured and (_trains(config) or not config.checkpoint):
        _dry_run(config, restorer)
    return restorer


def _locate_backbone(option: str, value: Any) -> Any:
    """Return the file that an option of ``model`` names; a path as it is, and another value too."""
    if not isinstance(value, str) or "/" in value or "." in value or Path(value).is_file():
        return value
    try:
        return str(locate(value, kind="backbone"))
    except CheckpointError as error:
        raise CheckpointError(f"model.{option}: {error}") from error


def _trains(config: DictConfig) -> bool:
    return bool(config.task._target_ == "src.tasks.train.train")


@torch.no_grad()
def _dry_run(config: DictConfig, restorer: Any) -> None:
    """Run one training step on a sample of zeros, so that mismatches surface before data is read."""
    network = restorer.network
    device = next((parameter.device for parameter in network.parameters()), None)
    training = [module for module in network.modules() if module.training]
    network.eval()  # statistics of normalisations stay as they are
    try:
        batch = restorer.make_batch(1, 8, partial(torch.zeros, device=device))
        if restorer.optimizer:
            restorer.losses_of(batch)
        _check_output(network, batch["inputs"][:, : network.geometry.window])
    except (RuntimeError, ValueError) as error:  # torch's errors about shapes
        names = {id(module): f".{name}" for name, module in network.named_modules() if name}
        called = [id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__)]
        place = next((names[module] for module in reversed(called) if module in names), "")
        raise CodeError(
            f"The parts of model.network do not fit together at model.network{place}: {_first_sentence(error)}; "
            "compare its channels, frames and levels with those of its neighbours."
        ) from error
    finally:
        for module in training:
            module.training = True
    if restorer.optimizer is None:
        return
    _try_schedules(restorer, max(1, config.trainer.max_steps))


def _check_output(network: Any, inputs: torch.Tensor) -> None:
    """Check the output of ``forward`` against the geometry: a loss might broadcast another shape."""
    geometry = network.geometry
    if inputs.shape[1] < geometry.window:  # training has shorter samples
        return
    height, width = (geometry.scale * side for side in inputs.shape[-2:])
    expected, shape = (1, len(geometry.times), 3, height, width), tuple(network(inputs).shape)
    if shape != expected:
        raise UserError(
            f"{type(network).__name__}.forward returned {shape} for a clip {tuple(inputs.shape)}, but its geometry "
            f"promises {expected}: correct one of them."
        )


def _try_schedules(restorer: Any, steps: int) -> None:
    """Call the optimiser, the schedule and the factors of rates once.

    Raises:
        UserError: one of them fails.
    """
    option = "model.optimizer"
    try:
        restorer.optimizer([torch.nn.Parameter(torch.zeros(1))])
        option = "model.schedule"
        for step in (0, steps - 1):
            float(restorer.schedule(step, steps) if restorer.schedule else 1)
        option = "model.rates"
        for rate in restorer.rates:
            _ = list(rate.modules(restorer.network)), float(rate.factor(0, steps))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{option} failed when called: {error}; check its arguments.") from error


def build_data(config: DictConfig, restorer: Any) -> pl.LightningDataModule:
    """Return the DataModule of ``data``, with samples for the geometry of ``restorer`` and with ``degradation``.

    Raises:
        UserError: the network cannot be trained on this data; the configuration alone shows it.
    """
    degradation, scale = instantiate(config.degradation), restorer.geometries[-1].scale
    if "low" in config.data and degradation.scale != scale and (options := _list_scales(config.model.network)):
        raise UserError(
            f"The frames of data.high are {degradation.scale} times as large as those of data.low, but this network "
            f"enlarges {scale} times: add {' '.join(f'{option}={degradation.scale}' for option in options)}."
        )
    data = instantiate(config.data, _partial_=True)(
        geometry=restorer.geometries[-1],
        training_geometry=restorer.training_geometry,
        reduced_targets=restorer.needs_reduced_targets,
        degradation=degradation,
        seed=config.seed,
    )
    if _trains(config):
        _check_samples(data)
    return data


def _list_scales(node: Any, path: str = "model.network") -> list[str]:
    """List the options of a network that set its scale."""
    if not isinstance(node, DictConfig):
        return []
    inner = [option for name in map(str, node) for option in _list_scales(node[name], f"{path}.{name}")]
    return [f"{path}.scale", *inner] if "scale" in node else inner


def _check_samples(data: Any) -> None:
    """Check training samples against the published facts about the data set.

    Raises:
        UserError: every clip is shorter than a sample, or no clip of any length would do.
    """
    from src.data.datamodule import DataModule  # not all tasks read data
    from src.data.layouts.expected import expected_of
    from src.data.splits import Clip, Splits

    if not isinstance(data, DataModule):
        return  # a DataModule of the user's own
    name = getattr(getattr(data.layout, "func", data.layout), "__name__", "")
    known = expected_of(data.layout)
    if known and set(known.counts) == {"test"}:
        raise UserError(f"{name} has only test clips: train on other data, or add task=evaluate.")
    geometry, variants = data.training_geometry, data.degradation.variants(data.training_geometry)
    extent = max(variant.timeline(geometry).sample_frames(geometry).extent for variant in variants)
    if known and isinstance(known.frames, int) and known.frames < extent:
        raise UserError(
            f"A training sample of this network takes {extent} source frames, and every clip of {name} has "
            f"{known.frames}: choose other data, or a network with a shorter window."
        )
    trial = copy.copy(data)
    trial.splits = Splits(train=[Clip("of any length", data.root, stop=2**40)])  # nothing reads it
    trial.setup("fit")


def build_trainer(config: DictConfig, directory: Path, *, training: bool, **more: Any) -> pl.Trainer:
    """Return Lightning's Trainer of ``trainer``, with the group ``callbacks`` for training. It writes no file yet.

    In ``config``, the precision of this machine replaces ``trainer.precision=auto``, so that the run records it.

    Raises:
        UserError: this machine cannot run such a Trainer.
    """
    if config.trainer.precision == "auto":
        config.trainer.precision = "bf16-mixed" if training and _has_bfloat16(config.trainer.accelerator) else "32-true"
    if config.trainer.get("overfit_batches"):
        raise UserError(
            "trainer.overfit_batches is not supported, as every epoch cuts other patches: train on few clips with "
            "data.root=<folder> data.samples=1 instead."
        )
    trainer = instantiate(config.trainer, _partial_=True)
    if isinstance(config.trainer.val_check_interval, int):  # optimiser steps; Lightning counts batches
        every = config.trainer.val_check_interval * config.trainer.accumulate_grad_batches
        trainer = partial(trainer, val_check_interval=every)
    arguments = {"enable_checkpointing": False, "callbacks": [], **more}
    if training:
        named = {name: instantiate(node) for name, node in (config.callbacks or {}).items() if node}
        callbacks = list(named.values())
        known = [f"validate/{metric}" for metrics in COLUMNS.values() for metric in metrics]
        for name, callback in named.items():
            monitor = getattr(callback, "monitor", None) or ""
            if monitor not in known and (match := closest(monitor, known, SURE_MATCH)):  # a task may log others
                raise UserError(f"callbacks.{name}.monitor is {monitor}, but no task logs it: did you mean {match}?")
        arguments = {"callbacks": callbacks, "plugins": [DurableIO()]}
    arguments["callbacks"] = [*arguments["callbacks"], ProgressLines(config.get("progress"))]
    if "enable_progress_bar" not in arguments and not has_bar(config.get("progress"), sys.stdout):
        arguments["enable_progress_bar"] = False
        arguments["callbacks"] = [c for c in arguments["callbacks"] if not isinstance(c, pl.callbacks.ProgressBar)]
    try:
        return trainer(default_root_dir=directory, logger=False, **arguments)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(
            f"Cannot build the trainer from this configuration: {_first_sentence(error)}{_suggest_choice(config)}"
        ) from error


def _suggest_choice(config: DictConfig) -> str:
    """End an error message about the Trainer; suggest the nearest accelerator or strategy if the option is unknown."""
    known = {
        "accelerator": ["auto", "gpu", *AcceleratorRegistry.available_accelerators()],
        "strategy": ["auto", *StrategyRegistry.available_strategies()],
    }
    for option, names in known.items():
        if config.trainer[option] not in names:
            match = closest(config.trainer[option], names)
            return f": did you mean trainer.{option}={match}?" if match else f": choose one of {', '.join(names)}."
    return "; correct this option of trainer."


def _first_sentence(error: Exception) -> str:
    return re.split(r"[.!](?: +(?=[A-Z])|$)", " ".join(str(error).split()))[0]


def _has_bfloat16(accelerator: str) -> bool:
    """Return True if training runs on a GPU with bfloat16 in hardware; emulation is slow."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return False
    return torch.cuda.is_bf16_supported() and torch.cuda.get_device_capability() >= (8, 0)


def build_loggers(config: DictConfig, directory: Path) -> list[Logger]:
    """Return the loggers of ``logger`` and the one that always writes ``metrics.csv``."""
    nodes = (config.logger or {}).values()
    return [
        MetricsFile(directory),
        *(instantiate(node, _partial_=True)(save_dir=directory) for node in nodes),
    ]
