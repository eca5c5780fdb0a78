"""What keeps training sane: steps that are not finite are left out, offsets that explode are seen."""

from __future__ import annotations

import csv
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from src.atomic import atomic_write
from src.errors import UserError
from src.nn.align import DeformablePack


class NonFinite(Callback):
    """Leaves out optimiser steps whose loss or gradients are infinite or not a number, and ends training after a while.

    The weights, the optimiser's state and the statistics of normalisations stay as they were before the step. What was
    left out is told with the keys of its samples, ``<clip>:<frame>[epoch,index,patch]``: with the same seed
    ``datamodule.training[epoch, index, patch]`` gives each again. It is kept in ``skipped.csv`` (of other ranks than
    the first ``skipped_rank<n>.csv``). A GPU is asked only as often as the loss is logged, so that it is told a little
    later there; the step is left out on the GPU itself.

    In fp16 gradients overflow now and then, which its scaling of the loss sees to; then only the loss counts here. It
    comes before the averaging of weights among the callbacks.

    Args:
        in_a_row: after so many such steps one after another training ends.
    """

    def __init__(self, *, in_a_row: Annotated[int, Ge(1)] = 10) -> None:
        if in_a_row < 1:
            raise UserError(f"callbacks.finite.in_a_row counts steps, at least 1, not {in_a_row}")
        self.limit, self.row = in_a_row, 0

    def state_dict(self) -> dict[str, Any]:
        return {"row": self.row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.row = state_dict["row"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        name = f"skipped_rank{trainer.global_rank}.csv" if trainer.global_rank else "skipped.csv"
        self.file = Path(trainer.default_root_dir) / name
        self.skipped = [row for row in self._rows() if int(row["step"]) < trainer.global_step]
        if self.file.exists():
            self._write()
        self.step, self.keys, self.pending = trainer.global_step, list[str](), list[tuple[int, list[str], Tensor]]()
        self.figures = torch.zeros(3)
        self.before: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.keys:  # the first of the batches of a step
            self.figures = torch.zeros(3, device=pl_module.device)  # bad or not, sum of losses, norm of the gradients
            self.before = [(buffer, buffer.clone()) for buffer in pl_module.network.buffers()]  # type: ignore[union-attr]
        names = batch.get("key", ["not named"])
        self.keys += [f"{name}[{draw}]" for name, draw in zip(names, batch.get("draw", names), strict=True)]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.figures[1] += loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.figures[2] = nn.utils.get_total_norm(gradients)
        bad = (~torch.isfinite(self.figures[1:]).all()).float()
        if trainer.world_size > 1:  # ranks share gradients, but not losses
            bad = trainer.strategy.reduce(bad, reduce_op="sum").clamp(max=1)
        self.figures[0] = bad
        if any(group.get("fused") for group in optimizer.param_groups):
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # fused kernels then leave all as it is
        elif bad:
            optimizer.zero_grad()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            return
        for buffer, before in self.before:
            torch.where(self.figures[0] > 0, before, buffer, out=buffer)
        self.pending.append((self.step, self.keys, self.figures))
        self.step, self.keys, self.before = trainer.global_step, [], []
        every: int = trainer.log_every_n_steps if self.figures.is_cuda else 1  # type: ignore[attr-defined]
        if self.step % every == 0 or self.step == trainer.max_steps:
            self._settle(trainer)

    def _settle(self, trainer: Trainer) -> None:
        """Looks at the steps since the last time."""
        pending, self.pending = self.pending, []
        for (step, keys, _), (bad, loss, norm) in zip(
            pending, torch.stack([figures for *_, figures in pending]).tolist(), strict=True
        ):
            self.row = self.row + 1 if bad else 0
            if not bad:
                continue
            samples = " ".join(keys)
            self.skipped.append({"step": step, "loss": loss, "gradient_norm": norm, "samples": samples})
            self._write()
            what = f"Step {step} was left out: loss {loss:.4g}, gradients of norm {norm:.4g}, samples {samples}"
            print(f"{what} (in a row: {self.row}; {self.file})", file=sys.stderr, flush=True)
            if self.row >= self.limit:
                last = self.file.with_name("checkpoints") / "last.ckpt"
                saved = f"{last} holds the last good weights" if last.exists() else "there is no checkpoint yet"
                raise UserError(
                    f"{self.row} steps in a row had no finite loss or gradients, up to step {step} ({samples}): "
                    f"{saved}; look at these samples, lower size.rate, or set trainer.precision=32-true, and start "
                    "from it with checkpoint=<file>."
                )

    def _rows(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        with self.file.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def _write(self) -> None:
        with atomic_write(self.file) as stream:
            writer = csv.DictWriter(stream, ["step", "loss", "gradient_norm", "samples"])
            writer.writeheader()
            writer.writerows(self.skipped)


class OffsetGuard(Callback):
    """Watches how far deformable convolutions look, and steps in where that goes astray.

    Offsets that explode are what users of EDVR report. Every so many steps the mean length of each layer's offsets is
    logged as ``offsets/<layer>``, in pixels of its own level. It comes before what saves checkpoints.

    Args:
        every_n_train_steps: how often to look.
        limit: mean offset that is too long, as a fraction of the longer side of the layer's features.
        action: ``stop`` ends training with a sentence. ``rollback`` saves ``checkpoints/good.ckpt`` at each look that
            finds nothing wrong, as the weights were when it looked, and goes back to that and on with the next batch.
        rollbacks: how often to go back before stopping after all.
    """

    def __init__(
        self,
        *,
        every_n_train_steps: Annotated[int, Ge(1)],
        limit: float = 0.5,
        action: Literal["stop", "rollback"] = "stop",
        rollbacks: int = 3,
    ) -> None:
        if action not in ("stop", "rollback"):
            raise UserError(f"callbacks.offsets.action is stop or rollback, not {action}")
        self.every, self.limit, self.action, self.rollbacks = every_n_train_steps, limit, action, rollbacks
        self.looking, self.looked = False, -1
        self.seen: dict[str, tuple[Tensor, int]] = {}  # by layer: mean length, longer side of the features

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.good = Path(trainer.default_root_dir) / "checkpoints" / "good.ckpt"
        self.draft = self.good.with_suffix(".part")
        for name, module in pl_module.named_modules():
            if isinstance(module, DeformablePack):
                module.offset.register_forward_hook(partial(self._look, name.removeprefix("network.")))

    def _look(self, layer: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self.looking:
            offsets = output.detach()[:, : output.shape[1] // 3 * 2].float()
            pairs = offsets.unflatten(1, (-1, 2))  # (N, G * 9, 2, H, W)
            self.seen[layer] = pairs.norm(dim=2).mean(), max(output.shape[-2:])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        self.looking = step % self.every == 0 and step != self.looked  # at the first of the batches of a step
        if self.looking:
            self.looked = step
        if self.looking and self.action == "rollback":
            trainer.save_checkpoint(self.draft)  # good only if this batch shows it

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.looking:
            return
        self.looking = False
        lengths = {layer: float(length) for layer, (length, _) in self.seen.items()}
        for logger in trainer.loggers:  # by log() the figures would be repeated in the rows of later steps
            logger.log_metrics({f"offsets/{layer}": length for layer, length in lengths.items()}, self.looked)
        far = [n for n, (_, side) in self.seen.items() if lengths[n] > self.limit * side]  # NonFinite sees what is none
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        if not trainer.strategy.reduce_boolean_decision(bool(far), all=False):
            if self.action == "rollback" and trainer.is_global_zero and self.draft.exists():
                self.draft.replace(self.good)
            return
        means = ", ".join(f"{n} {lengths[n]:.1f} of {side}" for n, (_, side) in self.seen.items())
        what = f"step {trainer.global_step}: loss {loss:.4g}, mean offset and feature size in pixels: {means}"
        if self.action == "rollback" and self.rollbacks > 0 and self.good.exists():
            self.rollbacks -= 1
            self._roll_back(trainer, pl_module)
            rank_zero_warn(f"Training went astray at {what}; back to {self.good}, {self.rollbacks} more times.")
            return
        raise UserError(
            f"Training went astray at {what}. Lower model.rates.deformable.factor.value or size.rate, raise "
            "size.warmup, start from a smaller model's checkpoint, or set callbacks.offsets.action=rollback, which "
            "keeps good weights to go back to."
        )

    def _roll_back(self, trainer: Trainer, pl_module: LightningModule) -> None:
        content = torch.load(self.good, map_location=pl_module.device, weights_only=True)
        pl_module.load_state_dict(content["state_dict"])
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_load_checkpoint(trainer, pl_module, content)  # weights are averaged by one of them
        for optimizer, state in zip(trainer.optimizers, content["optimizer_states"], strict=True):
            optimizer.zero_grad()  # the batches of a step that are yet to come do not add to what went astray
            rates = [group["lr"] for group in optimizer.param_groups]  # those of this step
            optimizer.load_state_dict(state)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
