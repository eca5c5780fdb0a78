"""Bit-exact resuming: training that is interrupted at any moment and in any way continues as if it had not been.

A checkpoint is saved once a step is complete, including its validation. It is written under another name first, and the
previous one is kept. Rows logged up to a checkpoint are flushed to ``metrics.csv`` before it is saved. The row that
Lightning has not yet written for the current step is stored inside the checkpoint and appended on resume; rows of later
steps are dropped.
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

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")  # Ctrl-C; the system, or a cluster's time limit; SLURM's warning before it


class TrainingStopped(KeyboardInterrupt):
    """Training was stopped by a signal, after its state was saved."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class LastCheckpoint(Checkpoint):
    """Save ``checkpoints/last.ckpt`` at a fixed interval, after every validation, and at the last step.

    The previous file is kept as ``previous.ckpt``. On SIGINT, SIGTERM and SIGUSR1 training finishes the step, saves and
    ends; a second signal ends it at once. Lightning calls checkpoint callbacks after all others.

    Args:
        every_n_train_steps: optimiser steps between two checkpoints.
    """

    def __init__(self, *, every_n_train_steps: Annotated[int, Ge(1)]) -> None:
        self.every = every_n_train_steps
        self.pending_row: dict[str, float] = {}  # row of metrics.csv that Lightning has not yet written
        self.handlers: dict[int, Any] = {}
        self.stop_signal = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step  # not 0 when resumed
        if threading.current_thread() is threading.main_thread():
            self.stop_signal = 0
            numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
            self.handlers = {number: signal.signal(number, self._handle_signal) for number in numbers}

    def _handle_signal(self, number: int, frame: Any) -> None:
        if self.stop_signal:
            raise TrainingStopped(number)
        self.stop_signal = number
        # not print: the signal may have interrupted one
        message = f"{signal.Signals(number).name}: stopping after this step is saved; send it again to stop now.\n"
        os.write(2, message.encode())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        complete, self.step = trainer.global_step != self.step, trainer.global_step  # the step's last batch
        if not complete or _validation_follows(trainer):
            return
        stopping = self._should_stop(trainer)
        if stopping or self.step % self.every == 0 or self.step == trainer.max_steps:
            self.pending_row = _pending_row(trainer)
            self._save(trainer)
        if stopping and self.step != trainer.max_steps:
            raise TrainingStopped(self.stop_signal or signal.SIGTERM)  # another rank may have got the signal

    def on_validation_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        if self.stop_signal and trainer.world_size == 1 and not trainer.sanity_checking:
            raise TrainingStopped(self.stop_signal)  # a whole validation takes too long; it is repeated on resuming

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.pending_row = {}
        self._save(trainer)
        if self._should_stop(trainer) and self.step != trainer.max_steps:
            raise TrainingStopped(self.stop_signal or signal.SIGTERM)

    def _should_stop(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(bool(self.stop_signal), all=False)

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
        return {"row": self.pending_row}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}


def _validation_follows(trainer: Trainer) -> bool:
    """Return True if validation runs next; if so, defer saving until after it: resuming would otherwise skip it."""
    loop = trainer.fit_loop
    due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
    return bool(due and not loop.epoch_loop.val_loop.skip)  # there may be no clip to validate on


def _pending_row(trainer: Trainer) -> dict[str, float]:
    """Return the row of ``metrics.csv`` that Lightning writes after this step; empty if it writes none."""
    connector = trainer._logger_connector
    if not connector.should_update_logs or not (metrics := connector.metrics["log"]):
        return {}
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    return {**{name: float(value) for name, value in metrics.items()}, "epoch": trainer.current_epoch, "step": step}


class DurableIO(TorchCheckpointIO):
    """Write checkpoints atomically; where that fails, keep the previous file, warn and let training continue."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with atomic_write(Path(path), "wb") as stream:
                torch.save(checkpoint, stream)
        except (OSError, RuntimeError) as error:  # torch's writer raises a RuntimeError on a full disk
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
            warnings.warn(
                f"Cannot write {path} ({reason}). Training continues, and earlier checkpoints are kept; free disk "
                "space before the next one is due.",
                stacklevel=2,
            )


def find_last_checkpoint(run: Path) -> Path | None:
    """Return the last intact checkpoint of a run, for resuming; None if there is none yet.

    A damaged file is renamed to ``*.damaged`` with a warning, and the previous one is used.

    Raises:
        CheckpointError: all are damaged.
    """
    damaged = []
    for name in ("last.ckpt", "previous.ckpt"):
        path = run / "checkpoints" / name
        if not path.exists():
            continue
        if not (damage := _find_damage(path)):
            return path
        damaged.append(f"{path} ({damage})")
        os.replace(path, path.with_suffix(".damaged"))
        warnings.warn(
            f"{path} is damaged ({damage}) and was renamed to .damaged; resuming from the previous checkpoint.",
            stacklevel=2,
        )
    if damaged:
        raise CheckpointError(
            f"All checkpoints of this run are damaged: {' and '.join(damaged)}. Start again with another paths.runs= "
            "or seed=, or remove the run's folder."
        )
    return None


def _find_damage(path: Path) -> str:
    """Describe the damage of a checkpoint file; empty if all its checksums agree."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        return f"{error}".rstrip(".") or "truncated"
    return f"wrong checksum of {broken}" if broken else ""


class MetricsFile(CSVLogger):
    """Logger of a run's ``metrics.csv``, a row per logged step; resuming keeps the rows of earlier steps."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, name="", version="")

    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _MetricsWriter(log_dir=self.log_dir)
        return self._experiment

    def rewind(self, checkpoint: Mapping[str, Any]) -> None:
        """Drop the rows of steps after a checkpoint, and add its pending row."""
        pending = checkpoint.get("callbacks", {}).get("LastCheckpoint", {}).get("row", {})
        self.experiment.truncate(checkpoint.get("global_step", 0), pending)


class _MetricsWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Keep the file, which Lightning's version removes."""

    def truncate(self, steps: int, pending: Mapping[str, float]) -> None:
        rows = [row for row in self._read_rows() if int(row["step"]) < steps]
        if pending and not any(int(row["step"]) == pending["step"] and row.get("train/loss") for row in rows):
            rows.append({name: str(value) for name, value in pending.items()})
        self.metrics_keys = sorted({name for row in rows for name in row})
        self._write_rows(rows)

    def _read_rows(self) -> list[dict[str, str]]:
        """Read the complete rows of the file; a killed process may have left part of one."""
        file = Path(self.metrics_file_path)
        if not file.exists():
            return []
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        complete = [row for row in rows if None not in row.values() and row["step"].isdigit()]
        return [{name: value for name, value in row.items() if value} for row in complete]

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write_rows(self._read_rows())

    def _write_rows(self, rows: list[dict[str, str]]) -> None:
        if not rows:
            Path(self.metrics_file_path).unlink(missing_ok=True)
            return
        with atomic_write(Path(self.metrics_file_path)) as stream:
            writer = csv.DictWriter(stream, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
