"""Trains a model, then evaluates what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from omegaconf import DictConfig

from src.checkpoints import contents
from src.config.build import build_data, build_loggers, build_restorer, build_trainer, start_network
from src.config.composition import UNSAID, claim, commit, plain
from src.errors import UserError
from src.nn.blocks import count_parameters
from src.tasks.evaluate import score
from src.training import wandb as dashboard
from src.training.checkpointing import MetricsFile, newest
from src.training.distributed import fail_together


def train(config: DictConfig, directory: Path) -> dict[str, Any]:
    """``task=train``: trains ``model`` on ``data``, evaluates the averaged weights, writes ``results.json``.

    Returns:
        The content of ``results.json``; empty where the data set has nothing to test on.
    """
    pl.seed_everything(config.seed, workers=True, verbose=False)
    network = start_network(config)
    if not count_parameters(network, trainable=True):
        raise UserError("This model has nothing to train; add task=evaluate.")
    restorer = build_restorer(config, network)
    data = build_data(config, restorer)
    trainer = build_trainer(config, directory, training=True)
    if trainer.is_global_zero:  # the other ranks find what the first has made
        data.prepare_data()  # a data set that is missing is told before anything is written
    restorer.initialise(fresh=not config.checkpoint)
    with claim(config, directory, first=trainer.is_global_zero), fail_together(trainer, directory):
        return _run(config, directory, trainer, restorer, data)


def _run(
    config: DictConfig, directory: Path, trainer: pl.Trainer, restorer: Any, data: pl.LightningDataModule
) -> dict[str, Any]:
    """The training itself, in a directory that is this run's own."""
    trainer.loggers = build_loggers(config, directory)
    print(f"{count_parameters(restorer.network):,} parameters; this run: {directory}", flush=True)
    resume_from = newest(directory) if config.resume else None
    saved = contents(resume_from) if resume_from else {}
    if trainer.is_global_zero:
        cast(MetricsFile, trainer.loggers[0]).go_on(saved)
    parameters = count_parameters(restorer.network)
    described = {**plain(config), "commit": commit(), "parameters": parameters}
    dashboard.describe(trainer.loggers, described, leave_out=UNSAID)
    if trainer.is_global_zero and (address := dashboard.address(trainer.loggers)):
        (directory / "wandb_url.txt").write_text(f"{address}\n")
    try:
        trainer.fit(restorer, datamodule=data, ckpt_path=resume_from, weights_only=True if resume_from else None)
        last = directory / "checkpoints" / "last.ckpt"
        saved = contents(last) if last.exists() else {}
        if saved.get("global_step") != trainer.global_step:
            raise UserError(
                f"The weights of step {trainer.global_step} could not be saved, as was said above: make room, and the "
                "same command with resume=true goes on from the last ones that were."
            )
        restorer.load_state_dict(saved["state_dict"])
        outcome = {}
        if data.splits.test:  # type: ignore[attr-defined]
            outcome = score(config, directory, trainer, restorer, data, last)
            _log_table(trainer, outcome)
    except BaseException:
        dashboard.finish(1)
        raise
    dashboard.finish(0)
    best = last.with_name("best.ckpt")
    scored = "scored above" if outcome else "not scored: this data set has nothing to test on"
    print(f"Weights: {last}, {scored}" + (f"; {best} is the best in validation" if best.exists() else ""))
    return outcome


def _log_table(trainer: pl.Trainer, outcome: dict[str, Any]) -> None:
    scores = {f"test/{name}": value for name, value in outcome["summary"].items() if value is not None}
    for logger in trainer.loggers:
        logger.log_metrics(scores, step=trainer.global_step)
        logger.save()
    dashboard.log_scores(trainer.loggers, outcome["clips"], list(outcome["summary"]))
