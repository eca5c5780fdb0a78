"""Train a model, then evaluate the averaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.checkpoints import read_contents
from src.config.build import build_data, build_loggers, build_restorer, build_trainer, build_training_network
from src.config.composition import to_plain
from src.config.run_directory import NO_EFFECT, claim_directory, read_commit
from src.errors import UserError
from src.nn.blocks import count_parameters
from src.tasks.evaluate import score
from src.training import wandb
from src.training.checkpointing import MetricsFile, find_last_checkpoint
from src.training.distributed import fail_together


def train(config: DictConfig, directory: Path) -> dict[str, Any]:
    """``task=train``: train ``model`` on ``data``, evaluate the averaged weights, write ``results.json``.

    Returns:
        The content of ``results.json``; empty if the data set has no test split.

    Raises:
        UserError: the model has no parameters to train, or its weights cannot be saved.
    """
    pl.seed_everything(config.seed, workers=True, verbose=False)
    network = build_training_network(config)
    if not count_parameters(network, trainable=True):
        raise UserError("This model has nothing to train; add task=evaluate.")
    restorer = build_restorer(config, network)
    data = build_data(config, restorer)
    trainer = build_trainer(config, directory, training=True)
    if trainer.is_global_zero:  # the other ranks use the first one's files
        data.prepare_data()  # reports a missing data set before anything is written
        if restorer.protocol.edges == "none":
            data.check_windows()  # type: ignore[attr-defined]
    restorer.initialise(fresh=not config.checkpoint)
    with claim_directory(config, directory, first=trainer.is_global_zero), fail_together(trainer, directory):
        return _fit_and_score(config, directory, trainer, restorer, data)


def _fit_and_score(
    config: DictConfig, directory: Path, trainer: pl.Trainer, restorer: Any, data: pl.LightningDataModule
) -> dict[str, Any]:
    trainer.loggers = build_loggers(config, directory)
    parameters = count_parameters(restorer.network)
    print(f"{parameters:,} parameters; this run: {directory}", flush=True)
    resume_from = find_last_checkpoint(directory) if config.resume else None
    saved = read_contents(resume_from) if resume_from else {}
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
