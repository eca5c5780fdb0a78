"""Training that is cut off, at any moment and in any way, goes on as if it had not been.

A checkpoint is taken where a step is over with all that belongs to it, its validation too. It reaches the disk under
another name first, and the one before it is kept. Rows of ``metrics.csv`` are on the disk before the checkpoint that
counts them, and those of later steps are dropped when training goes on from it.
"""

from __future__ import annotations

import csv
import os
import signal
import threading
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.plugins.io import TorchCheckpointIO

from src.atomic import atomic_write, fsync
from src.errors import CheckpointError

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")  # Ctrl-C; the system, or a cluster's end of time; SLURM's warning of it


class Stopped(KeyboardInterrupt):
    """Training has ended, and is saved, because a signal asked for it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class LastCheckpoint(Checkpoint):
    """Saves ``checkpoints/last.ckpt`` every so many steps, after every validation, and with the last step.

    The file before it stays as ``previous.ckpt``. On SIGINT, SIGTERM and SIGUSR1 training saves, once the step is done,
    and ends; a second signal ends it at once. Among the callbacks it is one of those that Lightning calls last.

    Args:
        every_n_train_steps: optimiser steps between two.
    """

    def __init__(self, *, every_n_train_steps: Annotated[int, Ge(1)]) -> None:
        self.every = every_n_train_steps
        self.row: dict[str, float] = {}  # of metrics.csv, which is written after the checkpoint that counts it
        self.handlers: dict[int, Any] = {}
        self.asked = 0  # the signal that asks to end

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step  # also where training goes on
        if threading.current_thread() is threading.main_thread():
            self.asked = 0
            numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
            self.handlers = {number: signal.signal(number, self._ask) for number in numbers}

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise Stopped(number)
        self.asked = number
        # no print: the signal may have come within one
        os.write(2, f"{signal.Signals(number).name}: saves after this step, and ends; again ends it now.\n".encode())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        over, self.step = trainer.global_step != self.step, trainer.global_step  # of a step, its last batch
        if not over or _validates(trainer):
            return
        leaving = self._is_to_end(trainer)
        if leaving or self.step % self.every == 0 or self.step == trainer.max_steps:
            self.row = _next_row(trainer)
            self._save(trainer)
        if leaving and self.step != trainer.max_steps:
            raise Stopped(self.asked or signal.SIGTERM)  # which another rank may have had alone

    def on_validation_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        if self.asked and trainer.world_size == 1 and not trainer.sanity_checking:
            raise Stopped(self.asked)  # nobody can wait for a whole validation; it is done again

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.row = {}
        self._save(trainer)
        if self._is_to_end(trainer) and self.step != trainer.max_steps:
            raise Stopped(self.asked or signal.SIGTERM)

    def _is_to_end(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(bool(self.asked), all=False)

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        folder = Path(trainer.default_root_dir) / "checkpoints"
        draft, last = folder / "next.ckpt", folder / "last.ckpt"
        if trainer.is_global_zero:
            draft.unlink(missing_ok=True)
        trainer.save_checkpoint(draft)
        if trainer.is_global_zero and draft.exists():
            if (rows := folder.parent / "metrics.csv").exists():
                fsync(rows)
            if last.exists():
                os.replace(last, folder / "previous.ckpt")
            os.replace(draft, last)
            fsync(folder)
        trainer.strategy.barrier()

    def state_dict(self) -> dict[str, Any]:
        return {"row": self.row}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._let_go()

    def _let_go(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}


def _validates(trainer: Trainer) -> bool:
    """Whether validation comes before the next batch: a checkpoint before it would go on without it."""
    loop = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))  # type: ignore[arg-type]


def _next_row(trainer: Trainer) -> dict[str, float]:
    """The row that this step's figures are about to become, where they become one."""
    connector = trainer._logger_connector
    if not connector.should_update_logs or not (figures := connector.metrics["log"]):
        return {}
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    return {**{name: float(value) for name, value in figures.items()}, "epoch": trainer.current_epoch, "step": step}


class DurableIO(TorchCheckpointIO):
    """Checkpoints that are never half written: where one cannot be, what was there stays, and training goes on."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with atomic_write(Path(path), "wb") as stream:
                torch.save(checkpoint, stream)
        except (OSError, RuntimeError) as error:  # of torch's writer, which has a full disk for an error of its own
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            why = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
            warnings.warn(
                f"{path} could not be written ({why}): the checkpoints before it stay, and training goes on; make room "
                "before the next one is due.",
                stacklevel=2,
            )


def newest(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, from which it goes on; None where it has none yet.

    A damaged one is set aside, with a warning, and the one before it taken.

    Raises:
        CheckpointError: all are damaged.
    """
    damaged = []
    for name in ("last.ckpt", "previous.ckpt"):
        path = run / "checkpoints" / name
        if not path.exists():
            continue
        if not (fault := _damage(path)):
            return path
        damaged.append(f"{path} ({fault})")
        os.replace(path, path.with_suffix(".damaged"))
        warnings.warn(f"{path} is damaged ({fault}) and set aside; training goes on from the one before.", stacklevel=2)
    if damaged:
        raise CheckpointError(
            f"No checkpoint of this run can be read: {' and '.join(damaged)}; start it anew with another paths.runs= "
            "or seed=, or remove its folder."
        )
    return None


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint file as it lies on the disk; nothing where all its bytes are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        return f"{error}".rstrip(".") or "cut off"
    return f"{broken} in it is not what was written" if broken else ""


class MetricsFile(CSVLogger):
    """``metrics.csv`` of a run, a row a step that was logged; what is in it stays when the run goes on."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, name="", version="")

    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _Rows(log_dir=self.log_dir)
        return self._experiment

    def go_on(self, checkpoint: Mapping[str, Any]) -> None:
        """Drops the rows of steps that a checkpoint does not have, and adds the one that it brings."""
        pending = checkpoint.get("callbacks", {}).get("LastCheckpoint", {}).get("row", {})
        self.experiment.keep(checkpoint.get("global_step", 0), pending)


class _Rows(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Lightning's own would remove the file."""

    def keep(self, steps: int, pending: Mapping[str, float]) -> None:
        rows = [row for row in self._rows() if int(row["step"]) < steps]
        if pending and not any(int(row["step"]) == pending["step"] and row.get("train/loss") for row in rows):
            rows.append({name: str(value) for name, value in pending.items()})
        self.metrics_keys = sorted({name for row in rows for name in row})
        self._write(rows)

    def _rows(self) -> list[dict[str, str]]:
        """The whole rows of the file; a process that is killed may have left a part of one."""
        file = Path(self.metrics_file_path)
        if not file.exists():
            return []
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        whole = [row for row in rows if None not in row.values() and row["step"].isdigit()]
        return [{name: value for name, value in row.items() if value} for row in whole]

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._rows())

    def _write(self, rows: list[dict[str, str]]) -> None:
        if not rows:
            Path(self.metrics_file_path).unlink(missing_ok=True)
            return
        with atomic_write(Path(self.metrics_file_path)) as stream:
            writer = csv.DictWriter(stream, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
