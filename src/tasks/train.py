"""Train a model, then evaluate the averaged weights."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.checkpoints import read_contents
from src.checkpoints.descriptions import check_description
from src.config.build import build_data, build_loggers, build_restorer, build_trainer, build_training_network
from src.config.composition import to_plain
from src.config.own_code import describe_own_parts
from src.config.resuming import describe_nearest, list_changes
from src.config.run_directory import NO_EFFECT, claim_directory, read_commit
from src.data.datamodule import DataModule
from src.errors import CheckpointError, UserError
from src.metrics import psnr
from src.nn.blocks import count_parameters
from src.nn.video_network import as_video_network
from src.ops.resize import imresize
from src.papers.baselines import Interpolation
from src.tasks.evaluate import score, tell_scored_frames
from src.training import wandb
from src.training.checkpointing import MetricsFile, find_last_checkpoint
from src.training.distributed import fail_together

SAME = 30.0  # dB between a network and a baseline above which it starts as that


def train(config: DictConfig, directory: Path) -> dict[str, Any]:
    """``task=train``: train ``model`` on ``data``, evaluate the averaged weights, write ``results.json``.

    Returns:
        The content of ``results.json``; empty if the data set has no test split.

    Raises:
        UserError: the model has no parameters to train, or its weights cannot be saved.
    """
    if not config.trainer.get("fast_dev_run"):
        return _train(config, directory)
    trial = directory / "fast_dev_run"
    try:
        return _train(config, trial)
    finally:
        if not int(os.environ.get("LOCAL_RANK", 0)):
            shutil.rmtree(trial, ignore_errors=True)
            print("trainer.fast_dev_run is a trial of a few batches: its weights and scores are not kept.", flush=True)


def _train(config: DictConfig, directory: Path) -> dict[str, Any]:
    pl.seed_everything(config.seed, workers=True, verbose=False)
    network = build_training_network(config)
    if not count_parameters(network, trainable=True):
        raise UserError("This model has nothing to train; add task=evaluate.")
    restorer = build_restorer(config, network)
    data = build_data(config, restorer)
    trainer = build_trainer(config, directory, training=True)
    if trainer.is_global_zero:  # the other ranks use the first one's files
        data.prepare_data()  # reports a missing data set before anything is written
        print(f"Data: {data.splits.describe()}.", flush=True)  # type: ignore[attr-defined]
        tell_scored_frames(restorer, data)
        if (batches := trainer.world_size * trainer.accumulate_grad_batches) > 1:
            parts = f"{trainer.world_size} devices, {trainer.accumulate_grad_batches} batches each"
            print(f"Patches a step: {data.describe_batch(batches)} ({parts}).", flush=True)  # type: ignore[attr-defined]
        if isinstance(data, DataModule):
            data.check_evaluation(filled=restorer.protocol.edges != "none")
    restorer.initialise(fresh=not config.checkpoint)
    if trainer.is_global_zero and not config.resume and (start := describe_start(restorer.network)):
        print(start, flush=True)
    changes = list_changes(directory, config) if config.resume else {}  # the claim overwrites the former options
    with claim_directory(config, directory, first=trainer.is_global_zero), fail_together(trainer, directory):
        return _fit_and_score(config, directory, trainer, restorer, data, changes)


@torch.no_grad()
def describe_start(network: torch.nn.Module) -> str:
    """Tell if the output of an untrained network is that of a baseline; empty if it is not.

    A table of few steps then shows what the baseline does.
    """
    contract = as_video_network(network)
    baseline = Interpolation(geometry=contract.geometry)
    rough = torch.rand(1, contract.geometry.window, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    clip = imresize(rough, 4).clamp(0, 1)
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        closeness = float(psnr(contract(clip.to(next(network.parameters()))).cpu(), baseline(clip)).min())
    finally:
        for module in training:
            module.training = True
    if closeness < SAME:
        return ""
    return (
        f"Before the first step, the output is that of {baseline.name} to {closeness:.0f} dB; few steps stay near it."
    )


def _fit_and_score(
    config: DictConfig,
    directory: Path,
    trainer: pl.Trainer,
    restorer: Any,
    data: pl.LightningDataModule,
    changes: Mapping[str, tuple[Any, Any]],
) -> dict[str, Any]:
    trainer.loggers = build_loggers(config, directory)
    parameters = count_parameters(restorer.network)
    print(f"{parameters:,} parameters; this run: {directory}", flush=True)
    if trainer.is_global_zero and (sentence := describe_own_parts(config)):
        print(sentence, flush=True)
        _warn_unloadable(restorer.description)
    resume_from = _find_checkpoint(config.resume, directory)
    saved = read_contents(resume_from) if resume_from else {}
    if resume_from and "optimizer_states" not in saved:
        raise UserError(f"{resume_from} holds weights alone: checkpoint={resume_from} starts a new run from them.")
    if config.resume and trainer.is_global_zero:
        _announce_resume(config, directory, restorer, saved, changes)
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile) and trainer.is_global_zero:
            logger.rewind(saved)
    wandb.log_config(
        trainer.loggers, {**to_plain(config), "commit": read_commit(), "parameters": parameters}, _named_overrides()
    )
    if trainer.is_global_zero and (url := wandb.find_url(trainer.loggers)):
        (directory / "wandb_url.txt").write_text(f"{url}\n")
    try:
        trainer.fit(restorer, datamodule=data, ckpt_path=resume_from, weights_only=True if resume_from else None)
        last = directory / "checkpoints" / "last.ckpt"
        saved = read_contents(last) if last.exists() else {}
        if saved.get("global_step") != trainer.global_step:
            raise UserError(
                f"The weights of step {trainer.global_step} could not be saved, see the warning above. Free disk space "
                "and repeat the command with resume=true, which continues from the last saved weights."
            )
        restorer.load_state_dict(saved["state_dict"])
        outcome = {}
        if data.splits.test:  # type: ignore[attr-defined]
            outcome = score(config, directory, trainer, restorer, data, last)
            _log_scores(trainer, outcome)
    except BaseException:
        wandb.finish(1)
        raise
    wandb.finish(0)
    best = last.with_name("best.ckpt")
    scored = "scored above" if outcome else "not scored: this data set has no test split"
    print(f"Weights: {last}, {scored}" + (f"; {best} is the best in validation" if best.exists() else ""))
    return outcome


def _warn_unloadable(description: Any) -> None:
    """Warn before the training if the network cannot be built from its checkpoint."""
    try:
        check_description("this run", description)
    except CheckpointError as error:
        print(f"No command will load the checkpoints of this run: {error}", file=sys.stderr, flush=True)


def _find_checkpoint(resume: bool | str, directory: Path) -> Path | None:
    """Return the checkpoint to continue from: the one that ``resume`` names, or the last intact one of the run."""
    if isinstance(resume, str) and (named := Path(os.path.expanduser(resume))).is_file():
        return named
    return find_last_checkpoint(directory) if resume else None


def _announce_resume(
    config: DictConfig,
    directory: Path,
    restorer: Any,
    saved: Mapping[str, Any],
    changes: Mapping[str, tuple[Any, Any]],
) -> None:
    """Tell where a run continues, with which other options, and what they do to its schedule.

    Results of the former options are kept under another name.

    Raises:
        UserError: the options describe another network than the run's.
    """
    if not saved:
        overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        nearest = describe_nearest(directory, config, overrides)
        sentence = f"resume=true: there is nothing to continue in {directory}; training starts from the beginning."
        print(f"{sentence} {nearest}".rstrip(), file=sys.stderr, flush=True)
        return
    if not changes:
        return
    if other := [name for name in changes if name.startswith("model.network.")]:
        raise UserError(
            f"{other[0]} is {changes[other[0]][1]}, but {changes[other[0]][0]} in the run: a run continues with its "
            "own network; checkpoint=<file> starts a new run from its weights."
        )
    step = int(saved["global_step"])
    listed = ", ".join(f"{name}={now} (was {before})" for name, (before, now) in changes.items())
    print(f"Continuing after step {step} with other options: {listed}.", file=sys.stderr, flush=True)
    before, now = changes.get("trainer.max_steps", (config.trainer.max_steps,) * 2)
    probes = range(0, step + 1, max(1, step // 200))
    if any(restorer.factors(k, before) != restorer.factors(k, now) for k in probes):
        factor, other_factor = (math.prod(restorer.factors(step, steps)) for steps in (before, now))
        print(
            f"The schedule depends on the number of steps: up to step {step} it was that of {before} steps, from here "
            f"on it is that of {now} (the rate jumps from {factor:.3g} to {other_factor:.3g} times the initial one). "
            f"This differs from an uninterrupted training of {now} steps.",
            file=sys.stderr,
            flush=True,
        )
    results = directory / "results.json"
    if results.exists():
        results.replace(directory / f"results_{step}_steps.json")


def _named_overrides() -> list[str]:
    """Return the overrides of this command that identify the run."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [override for override in overrides if not override.lstrip("+~").startswith(NO_EFFECT)]


def _log_scores(trainer: pl.Trainer, outcome: dict[str, Any]) -> None:
    scores = {f"test/{name}": value for name, value in outcome["summary"].items() if value is not None}
    for logger in trainer.loggers:
        logger.log_metrics(scores, step=trainer.global_step)
        logger.save()
    wandb.log_scores(trainer.loggers, outcome["clips"], list(outcome["summary"]))
