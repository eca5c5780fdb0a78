"""Training callbacks: throughput, progress bar, validation summary, sample frames, weight averaging."""

from __future__ import annotations

import time
from fractions import Fraction
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

from src.engine.options import InferenceOptions
from src.engine.stream import stream
from src.nn.video_network import VideoNetwork, as_video_network
from src.ops.resize import imresize
from src.progress import Mode, ProgressLog


class Throughput(Callback):
    """Log ``train/samples_per_second`` over all devices and ``train/seconds_per_step``, without validation.

    ``train/seconds_waiting`` is the part of a step's seconds during which no batch was ready.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self.start, self.samples, self.first_step = time.perf_counter(), 0, trainer.global_step
        self.waited = self._read_waited(trainer)

    @staticmethod
    def _read_waited(trainer: Trainer) -> float:
        return getattr(trainer.train_dataloader, "waited", 0.0)  # custom loaders do not count it

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.samples += len(batch["inputs"]) * trainer.world_size
        steps = trainer.global_step - self.first_step
        if steps >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            elapsed = time.perf_counter() - self.start
            pl_module.log("train/samples_per_second", self.samples / elapsed, rank_zero_only=True)
            pl_module.log("train/seconds_per_step", elapsed / steps, rank_zero_only=True)
            waiting = (self._read_waited(trainer) - self.waited) / steps
            pl_module.log("train/seconds_waiting", waiting, rank_zero_only=True)
            self._restart(trainer)


class ProgressBar(RichProgressBar):
    """Lightning's progress bar with the loss, fetched from the device only as often as it is logged."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.last_loss: dict[str, float] = {}

    @property
    def total_train_batches(self) -> int | float:
        trainer = self.trainer
        left = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed  # in this epoch, when resumed
        if trainer.max_steps > 0:
            return min(trainer.num_training_batches, done + left)
        return super().total_train_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch}"  # without a total: training is limited by steps

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        due = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if (due or not self.last_loss) and "train/loss" in trainer.callback_metrics:
            self.last_loss = {"train/loss": float(trainer.callback_metrics["train/loss"])}
        return {**super().get_metrics(trainer, pl_module), **self.last_loss}


class WeightEMA(EMAWeightAveraging):
    """Exponential moving average of the weights, fused into one kernel and without synchronising with the device.

    Lightning's version launches several kernels for each tensor and reads a counter from the device at every step.

    Args:
        decay: share of the average that a step keeps.
        options: options of :class:`lightning.pytorch.callbacks.EMAWeightAveraging`.
    """

    def __init__(self, *, decay: float, **options: Any) -> None:
        super().__init__(decay=decay, **options)
        self.update_average = get_ema_multi_avg_fn(decay)

    @property
    def state_key(self) -> str:
        return EMAWeightAveraging.__qualname__  # interchangeable with Lightning's in checkpoints

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step <= self._latest_update_step or not self.should_update(step_idx=step - 1):
            return
        assert self._average_model is not None
        pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for mean, value in zip(self._tensors(self._average_model.module), self._tensors(pl_module), strict=True):
            pairs.setdefault(mean.dtype, []).append((mean, value.to(mean.device)))
        for pairs_of_dtype in pairs.values():
            means, values = zip(*pairs_of_dtype, strict=True)
            if self._latest_update_step == 0:
                torch._foreach_copy_(means, values)
            else:
                self.update_average([*means], [*values], 0)  # 0: it ignores the number of averaged models
        self._average_model.n_averaged += 1
        self._latest_update_step = step

    @staticmethod
    def _tensors(module: nn.Module) -> list[Tensor]:
        return [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]


class ProgressLines(Callback):
    """Write the progress of training and evaluation into logs (:class:`src.progress.ProgressLog`).

    Args:
        mode: ``json`` or None.
    """

    def __init__(self, mode: Mode = None) -> None:
        self.mode = mode

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.global_step
        self.log = ProgressLog("Training", max(0, trainer.max_steps), "steps", mode=self.mode, done=done)

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.log.update(trainer.global_step)

    @rank_zero_only
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        clips = sum(int(count) for count in trainer.num_test_batches)
        self.tests, self.done = ProgressLog("Evaluation", clips, "clips", mode=self.mode), 0

    @rank_zero_only
    def on_test_batch_end(self, *arguments: Any, **options: Any) -> None:
        self.done += 1
        self.tests.update(self.done)


class ValidationSummary(Callback):
    """Print one line for each validation, for logs in which a progress bar leaves no trace."""

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        scores = [f"{key.split('/')[1]} {float(metrics[key]):.4g}" for key in sorted(metrics) if key.startswith("val")]
        loss = f", loss {float(metrics['train/loss']):.5f}" if "train/loss" in metrics else ""
        seconds, waiting = (float(metrics.get(f"train/seconds_{kind}", 0)) for kind in ("per_step", "waiting"))
        slow = f"; {waiting / seconds:.0%} of the time spent waiting for data" if waiting > 0.1 * seconds else ""
        progress = f"step {trainer.global_step} of {trainer.max_steps}"
        print(f"{progress}{loss}: validation {', '.join(scores)}{slow}", flush=True)


class SampleFrames(Callback):
    """Save frames of the first validation clips after every validation: bicubic, restored and target side by side.

    Test frames are saved as ``<clip>_test.png``, after every round of a recursively applied network. Networks that
    expose their motion get a picture of it, too, ``<clip>_offsets_step<n>.png``.

    In the callback list, place it before ``WeightEMA``, which restores the raw weights in ``on_validation_epoch_end``;
    otherwise samples use non-averaged weights. Pictures go to ``samples/`` in the run's directory, and to W&B and
    TensorBoard if they are in use.

    Args:
        clips: number of clips.
        frames: number of output frames per clip, from its start.
    """

    def __init__(self, *, clips: int = 2, frames: int = 2) -> None:
        self.clips, self.frames = clips, frames

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.val_dataloaders
        network: Any = pl_module.network
        for number, clip in zip(range(self.clips), loader, strict=False):
            self._save(trainer, self.compare(pl_module, clip), f"samples/{number}", clip.name)
            if motion := as_video_network(network).motion():
                picture = self.draw_motion(pl_module, motion, clip)
                self._save(trainer, picture, f"offsets/{number}", f"{clip.name}_offsets")

    @rank_zero_only
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.test_dataloaders
        for number, clip in zip(range(self.clips), loader, strict=False):
            show = self.compare_rounds if pl_module.protocol.factor else self.compare  # type: ignore[union-attr]
            self._save(trainer, show(pl_module, clip), f"test/{number}", clip.name, "test")

    def _save(self, trainer: Trainer, picture: Tensor, title: str, name: str, suffix: str = "") -> None:
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        file = f"{name.replace('/', '_')}_{suffix or f'step{trainer.global_step:07d}'}.png"
        Image.fromarray(picture.numpy()).save(folder / file)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(title, [picture.numpy()], caption=[name])
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(title, picture.numpy(), trainer.global_step, dataformats="HWC")

    def draw_motion(self, pl_module: LightningModule, motion: VideoNetwork, clip: Any) -> Tensor:
        """Stack pictures of the motion that the network estimates into rows, uint8 (rows*h, w, 3)."""
        inputs = (frame.to(pl_module.device) for frame in islice(clip.inputs(), motion.geometry.window))
        rows = [frame.cpu() for _, (_, frame) in zip(range(self.frames), stream(motion, inputs), strict=False)]
        return _to_picture(torch.cat(rows, dim=-2))

    def compare(self, pl_module: LightningModule, clip: Any) -> Tensor:
        """Stack rows of [bicubic of the input frame at or before, restored, target], uint8 (rows*H, 3*W, 3)."""
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
        return _to_picture(torch.cat(rows, dim=-2))

    def compare_rounds(self, pl_module: LightningModule, clip: Any) -> Tensor:
        """Set a frame of a recursively applied network side by side: input, each round, target; uint8 (H, n*W, 3).

        It is the frame in the middle of up to three inputs (VTSR, Figures 4.2 and 4.3).
        """
        module: Any = pl_module
        inputs = list(islice(clip.inputs(), 3))
        geometry, protocol = module.geometries[-1], module.protocol
        rounds: dict[int, dict[Fraction, Tensor]] = {number: {} for number in range(len(module.geometries))}
        restored = stream(
            module.network,
            (frame.to(module.device) for frame in inputs),
            InferenceOptions(factor=protocol.factor, edges=protocol.edges),
            watch=lambda number, time, frame: rounds[number].update({time: frame}),
        )
        rounds[len(rounds) - 1] = dict(restored)
        middle = sorted(rounds[len(rounds) - 1])[len(rounds[len(rounds) - 1]) // 2]
        frames = [inputs[int(middle)]]
        for outputs in rounds.values():
            frames.append(outputs[min(outputs, key=lambda time: (abs(time - middle), time))])
        frames.append(next(target for time, target in clip.targets(geometry) if time == middle))
        return _to_picture(torch.cat([frame.cpu() for frame in frames], dim=-1))


def _to_picture(frame: Tensor) -> Tensor:
    """Convert (3, H, W) in [0, 1] to uint8 (H, W, 3)."""
    return (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
