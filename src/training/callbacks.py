"""What watches training: throughput, a bar, one line a validation, sample frames, and the average of the weights."""

from __future__ import annotations

import time
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from src.engine.stream import stream
from src.ops.resize import imresize


class Throughput(Callback):
    """Logs ``train/samples_per_second`` over all devices, validation left out, and ``train/seconds_per_step``.

    Of the latter, ``train/seconds_waiting`` are those in which no batch was ready.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self.start, self.samples, self.first = time.perf_counter(), 0, trainer.global_step
        self.waited = self._waited(trainer)

    @staticmethod
    def _waited(trainer: Trainer) -> float:
        return getattr(trainer.train_dataloader, "waited", 0.0)  # 0: a loader of somebody's own

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.samples += len(batch["inputs"]) * trainer.world_size
        steps = trainer.global_step - self.first
        if steps >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            elapsed = time.perf_counter() - self.start
            pl_module.log("train/samples_per_second", self.samples / elapsed, rank_zero_only=True)
            pl_module.log("train/seconds_per_step", elapsed / steps, rank_zero_only=True)
            waiting = (self._waited(trainer) - self.waited) / steps
            pl_module.log("train/seconds_waiting", waiting, rank_zero_only=True)
            self._restart(trainer)


class Progress(RichProgressBar):
    """Lightning's bar with the loss, fetched from the device only as often as it is logged."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.shown: dict[str, float] = {}

    @property
    def total_train_batches(self) -> int | float:
        trainer = self.trainer
        left = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed  # of this epoch, where training goes on
        if trainer.max_steps > 0:
            return min(trainer.num_training_batches, done + left)
        return super().total_train_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch}"  # of how many nobody knows, as steps are counted

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        due = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if (due or not self.shown) and "train/loss" in trainer.callback_metrics:
            self.shown = {"train/loss": float(trainer.callback_metrics["train/loss"])}
        return {**super().get_metrics(trainer, pl_module), **self.shown}


class Average(EMAWeightAveraging):
    """Exponential moving average of the weights, by one kernel for all of them and without waiting for the device.

    Lightning's takes several kernels for each, and looks at a count on the device at every step.

    Args:
        decay: share of the average that a step leaves.
        options: those of :class:`lightning.pytorch.callbacks.EMAWeightAveraging`.
    """

    def __init__(self, *, decay: float, **options: Any) -> None:
        super().__init__(decay=decay, **options)
        self.move = get_ema_multi_avg_fn(decay)

    @property
    def state_key(self) -> str:
        return EMAWeightAveraging.__qualname__  # as which it is in checkpoints

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step <= self._latest_update_step or not self.should_update(step_idx=step - 1):
            return
        assert self._average_model is not None
        pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for mean, own in zip(self._tensors(self._average_model.module), self._tensors(pl_module), strict=True):
            pairs.setdefault(mean.dtype, []).append((mean, own.to(mean.device)))
        for some in pairs.values():
            means, owns = zip(*some, strict=True)
            if self._latest_update_step == 0:
                torch._foreach_copy_(means, owns)
            else:
                self.move([*means], [*owns], 0)  # it does not ask how many have been averaged
        self._average_model.n_averaged += 1
        self._latest_update_step = step

    @staticmethod
    def _tensors(module: nn.Module) -> list[Tensor]:
        return [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]


class Narrator(Callback):
    """Says in one line a validation how training goes, for logs in which a progress bar leaves no trace."""

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        parts = [f"{key.split('/')[1]} {float(metrics[key]):.4g}" for key in sorted(metrics) if key.startswith("val")]
        loss = f", loss {float(metrics['train/loss']):.5f}" if "train/loss" in metrics else ""
        whole, waiting = (float(metrics.get(f"train/seconds_{what}", 0)) for what in ("per_step", "waiting"))
        slow = f"; {waiting / whole:.0%} of the time went by waiting for data" if waiting > 0.1 * whole else ""
        place = f"step {trainer.global_step} of {trainer.max_steps}"
        print(f"{place}{loss}: validation {', '.join(parts)}{slow}", flush=True)


class SampleFrames(Callback):
    """After every validation, frames of its first clips: bicubic, restored, and the target side by side.

    Those of the first test clips are ``<clip>_test.png``. Where the network can show its offsets, they are drawn as
    flow, too, ``<clip>_offsets_step<n>.png``.

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
        loader: Any = trainer.val_dataloaders
        for number, clip in zip(range(self.clips), loader, strict=False):
            self._save(trainer, self.picture(pl_module, clip), f"samples/{number}", clip.name)
            if hasattr(pl_module.network, "offset_pictures"):
                self._save(trainer, self.offsets(pl_module, clip), f"offsets/{number}", f"{clip.name}_offsets")

    @rank_zero_only
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.test_dataloaders
        for number, clip in zip(range(self.clips), loader, strict=False):
            self._save(trainer, self.picture(pl_module, clip), f"test/{number}", clip.name, "test")

    def _save(self, trainer: Trainer, picture: Tensor, title: str, name: str, when: str = "") -> None:
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        file = f"{name.replace('/', '_')}_{when or f'step{trainer.global_step:07d}'}.png"
        Image.fromarray(picture.numpy()).save(folder / file)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(title, [picture.numpy()], caption=[name])
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(title, picture.numpy(), trainer.global_step, dataformats="HWC")

    def offsets(self, pl_module: LightningModule, clip: Any) -> Tensor:
        """Rows of what the network's own picture of its offsets shows, uint8 (rows*h, w, 3)."""
        network: Any = pl_module.network
        shown = network.offset_pictures()
        inputs = (frame.to(pl_module.device) for frame in islice(clip.inputs(), shown.geometry.window))
        rows = [frame.cpu() for _, (_, frame) in zip(range(self.frames), stream(shown, inputs), strict=False)]
        return _as_picture(torch.cat(rows, dim=-2))

    def picture(self, pl_module: LightningModule, clip: Any) -> Tensor:
        """Rows of [bicubic of the input frame at or before, restored, target], uint8 (rows*H, 3*W, 3)."""
        network: Any = pl_module.network
        inputs = [frame for _, frame in zip(range(network.geometry.window), clip.inputs(), strict=False)]
        device = pl_module.device
        rows = []
        restored = stream(network, (frame.to(device) for frame in inputs))
        for (moment, estimate), (_, target), _ in zip(
            restored, clip.targets(network.geometry), range(self.frames), strict=False
        ):
            bicubic = imresize(inputs[max(0, int(moment))], network.geometry.scale)
            rows.append(torch.cat([bicubic.cpu(), estimate.cpu(), target.cpu()], dim=-1))
        return _as_picture(torch.cat(rows, dim=-2))


def _as_picture(frame: Tensor) -> Tensor:
    """(3, H, W) in [0, 1] to uint8 (H, W, 3)."""
    return (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
