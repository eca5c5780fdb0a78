"""What watches training: throughput, one line a validation, sample frames; and the W&B logger's set-up."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor

from src.engine.stream import stream
from src.ops.resize import imresize


class Throughput(Callback):
    """Logs ``train/samples_per_second`` over all devices, validation left out, and ``train/seconds_per_step``."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart()

    def _restart(self) -> None:
        self.start, self.samples, self.steps = time.perf_counter(), 0, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.samples += len(batch["inputs"]) * trainer.world_size
        self.steps += 1
        if self.steps >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            elapsed = time.perf_counter() - self.start
            pl_module.log("train/samples_per_second", self.samples / elapsed, rank_zero_only=True)
            pl_module.log("train/seconds_per_step", elapsed / self.steps, rank_zero_only=True)
            self._restart()


class Narrator(Callback):
    """Says in one line a validation how training goes, for logs in which a progress bar leaves no trace."""

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        parts = [f"{key.split('/')[1]} {float(metrics[key]):.4g}" for key in sorted(metrics) if key.startswith("val")]
        loss = f", loss {float(metrics['train/loss']):.5f}" if "train/loss" in metrics else ""
        print(f"step {trainer.global_step} of {trainer.max_steps}{loss}: validation {', '.join(parts)}", flush=True)


class LastCheckpoint(Callback):
    """Saves ``checkpoints/last.ckpt`` every so many steps, and with the last step, so that what is scored is there.

    It comes after the averaging of weights among the callbacks.

    Args:
        every_n_train_steps: optimiser steps between two.
    """

    def __init__(self, *, every_n_train_steps: int) -> None:
        self.every = every_n_train_steps
        self.saved = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step != self.saved and (step % self.every == 0 or step == trainer.max_steps):
            self.saved = step
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")


class SampleFrames(Callback):
    """After every validation, frames of the first validation clips: bicubic, restored, and the target side by side.

    It comes before the averaging of weights among the callbacks, which takes the validated weights back at this
    point. Written to ``samples/`` in the run's directory, and to W&B and TensorBoard where they are used.

    Args:
        clips: how many clips.
        frames: how many output frames of each, from its start.
    """

    def __init__(self, *, clips: int = 2, frames: int = 2) -> None:
        self.clips, self.frames = clips, frames

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        loader: Any = trainer.val_dataloaders
        for number, clip in zip(range(self.clips), loader, strict=False):
            picture = self.picture(pl_module, clip)
            name = f"{clip.name.replace('/', '_')}_step{trainer.global_step:07d}"
            Image.fromarray(picture.numpy()).save(folder / f"{name}.png")
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"samples/{number}", [picture.numpy()], caption=[clip.name])
                elif isinstance(logger, TensorBoardLogger):
                    step = trainer.global_step
                    logger.experiment.add_image(f"samples/{number}", picture.numpy(), step, dataformats="HWC")

    def picture(self, pl_module: LightningModule, clip: Any) -> Tensor:
        """Rows of [bicubic of the input frame at or before, restored, target], uint8 (rows*H, 3*W, 3)."""
        network: Any = pl_module.network
        inputs = [frame for _, frame in zip(range(network.geometry.window), clip.inputs(), strict=False)]
        device = pl_module.device
        rows = []
        restored = stream(network, (frame.to(device) for frame in inputs))
        for (moment, estimate), (_, target), _ in zip(restored, clip.targets(), range(self.frames), strict=False):
            bicubic = imresize(inputs[max(0, int(moment))], network.geometry.scale)
            rows.append(torch.cat([bicubic.cpu(), estimate.cpu(), target.cpu()], dim=-1))
        return (torch.cat(rows, dim=-2).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)


def wandb_logger(*, save_dir: str | Path, project: str, **options: Any) -> WandbLogger:
    """A W&B logger that never asks: offline where there is no key or no network.

    The run is named after its directory, and goes on under the same id when the directory's run is resumed.
    """
    directory = Path(save_dir)
    if "WANDB_MODE" not in os.environ:
        os.environ["WANDB_MODE"] = "online" if _has_key() and _reachable() else "offline"
    os.environ.setdefault("WANDB_SILENT", "true")
    directory.mkdir(parents=True, exist_ok=True)
    note = directory / "wandb_id.txt"
    identity = note.read_text().strip() if note.exists() else os.urandom(4).hex()
    note.write_text(identity + "\n")
    name = "/".join(directory.parts[-3:])
    return WandbLogger(
        save_dir=directory,
        project=project,
        name=name,
        id=identity,
        group=directory.parent.name,
        resume="allow",
        **options,
    )


def _has_key() -> bool:
    netrc = Path.home() / (".netrc" if os.name != "nt" else "_netrc")
    return bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "wandb" in netrc.read_text(errors="ignore"))


def _reachable() -> bool:
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=3).close()
        return True
    except OSError:
        return False
