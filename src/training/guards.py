"""Guards against diverging training: skip non-finite steps, watch the offsets of deformable convolutions."""

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
    """Skip optimiser steps with a non-finite loss or gradient, and end training after several of them in a row.

    Weights, optimiser state and normalisation statistics stay as they were before the step. Each skipped step is
    printed with the keys of its samples, ``<clip>:<frame>[epoch,index,patch]``, and appended to ``skipped.csv`` (on
    other ranks ``skipped_rank<n>.csv``). With the same seed, ``datamodule.training[epoch, index, patch]`` reproduces a
    sample. On a GPU the step is skipped on the device itself; the report follows when the loss is logged, since reading
    the flag synchronises with the device.

    In fp16 gradients overflow now and then; the loss scaler handles those, and only the loss is checked here. List this
    callback before the weight averaging.

    Args:
        in_a_row: number of consecutive skipped steps that ends training.
    """

    def __init__(self, *, in_a_row: Annotated[int, Ge(1)] = 10) -> None:
        self.limit, self.row = in_a_row, 0

    def state_dict(self) -> dict[str, Any]:
        return {"row": self.row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.row = state_dict["row"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        name = f"skipped_rank{trainer.global_rank}.csv" if trainer.global_rank else "skipped.csv"
        self.file = Path(trainer.default_root_dir) / name
        self.skipped = [row for row in self._read_rows() if int(row["step"]) < trainer.global_step]
        if self.file.exists():
            self._write_rows()
        self.step, self.keys, self.pending = trainer.global_step, list[str](), list[tuple[int, list[str], Tensor]]()
        self.flags = torch.zeros(3)
        self.buffers: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.keys:  # the first batch of a step
            self.flags = torch.zeros(3, device=pl_module.device)  # skip or not, sum of losses, gradient norm
            self.buffers = [(buffer, buffer.clone()) for buffer in pl_module.network.buffers()]  # type: ignore[union-attr]
        sources = batch.get("source", ["unnamed"])
        self.keys += [f"{s}[{key}]" for s, key in zip(sources, batch.get("dataset_key", sources), strict=True)]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.flags[1] += loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.flags[2] = nn.utils.get_total_norm(gradients)
        skip = (~torch.isfinite(self.flags[1:]).all()).float()
        if trainer.world_size > 1:  # ranks share gradients, but not losses
            skip = trainer.strategy.reduce(skip, reduce_op="sum").clamp(max=1)
        self.flags[0] = skip
        if any(group.get("fused") for group in optimizer.param_groups):
            optimizer.found_inf = skip  # type: ignore[attr-defined]  # a fused kernel then changes nothing
        elif skip:
            optimizer.zero_grad()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            return
        for buffer, before in self.buffers:
            torch.where(self.flags[0] > 0, before, buffer, out=buffer)
        self.pending.append((self.step, self.keys, self.flags))
        self.step, self.keys, self.buffers = trainer.global_step, [], []
        every: int = trainer.log_every_n_steps if self.flags.is_cuda else 1  # type: ignore[attr-defined]
        if self.step % every == 0 or self.step == trainer.max_steps:
            self._report()

    def _report(self) -> None:
        """Report the skipped steps since the last report."""
        pending, self.pending = self.pending, []
        flags = torch.stack([flags for *_, flags in pending]).tolist()
        for (step, keys, _), (skip, loss, norm) in zip(pending, flags, strict=True):
            self.row = self.row + 1 if skip else 0
            if not skip:
                continue
            samples = " ".join(keys)
            self.skipped.append({"step": step, "loss": loss, "gradient_norm": norm, "samples": samples})
            self._write_rows()
            print(
                f"Skipped step {step}: loss {loss:.4g}, gradient norm {norm:.4g}, samples {samples} "
                f"({self.row} in a row; {self.file})",
                file=sys.stderr,
                flush=True,
            )
            if self.row >= self.limit:
                last = self.file.with_name("checkpoints") / "last.ckpt"
                saved = f"{last} holds the last good weights" if last.exists() else "there is no checkpoint yet"
                raise UserError(
                    f"{self.row} steps in a row had a non-finite loss or gradient, up to step {step} ({samples}): "
                    f"{saved}. Check these samples, lower size.rate, or set trainer.precision=32-true, and start from "
                    "the weights with checkpoint=<file>."
                )

    def _read_rows(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        with self.file.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def _write_rows(self) -> None:
        with atomic_write(self.file) as stream:
            writer = csv.DictWriter(stream, ["step", "loss", "gradient_norm", "samples"])
            writer.writeheader()
            writer.writerows(self.skipped)


class OffsetGuard(Callback):
    """Log the offsets of deformable convolutions, and stop or roll back when they explode.

    Exploding offsets are a known problem of EDVR's alignment. The mean offset of each layer is logged as
    ``offsets/<layer>``, in pixels of the layer's own level. List this callback before those that save checkpoints.

    Args:
        every_n_train_steps: interval between checks.
        limit: longest mean offset allowed, as a fraction of the longer side of the layer's features.
        action: ``stop`` ends training with an error. ``rollback`` saves ``checkpoints/good.ckpt`` at each check that
            passes, with the weights at that check, and returns to it when a check fails; the data goes on.
        rollbacks: number of rollbacks before training stops after all.
    """

    def __init__(
        self,
        *,
        every_n_train_steps: Annotated[int, Ge(1)],
        limit: float = 0.5,
        action: Literal["stop", "rollback"] = "stop",
        rollbacks: int = 3,
    ) -> None:
        self.every, self.limit, self.action, self.rollbacks = every_n_train_steps, limit, action, rollbacks
        self.checking, self.checked = False, -1
        self.means: dict[str, tuple[Tensor, int]] = {}  # by layer: mean length, longer side of the features

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.good = Path(trainer.default_root_dir) / "checkpoints" / "good.ckpt"
        self.candidate = self.good.with_suffix(".part")
        for name, module in pl_module.named_modules():
            if isinstance(module, DeformablePack):
                module.offset.register_forward_hook(partial(self._measure, name.removeprefix("network.")))

    def _measure(self, layer: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self.checking:
            offsets = output.detach()[:, : output.shape[1] // 3 * 2].float()
            pairs = offsets.unflatten(1, (-1, 2))  # (N, G * 9, 2, H, W)
            self.means[layer] = pairs.norm(dim=2).mean(), max(output.shape[-2:])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        self.checking = step % self.every == 0 and step != self.checked  # at the first batch of a step
        if self.checking:
            self.checked = step
        if self.checking and self.action == "rollback":
            trainer.save_checkpoint(self.candidate)  # becomes good.ckpt if this batch passes

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.checking:
            return
        self.checking = False
        means = {layer: float(mean) for layer, (mean, _) in self.means.items()}
        for logger in trainer.loggers:  # self.log() would repeat the values in the rows of later steps
            logger.log_metrics({f"offsets/{layer}": mean for layer, mean in means.items()}, self.checked)
        exploded = any(
            means[layer] > self.limit * side for layer, (_, side) in self.means.items()
        )  # NaN: see NonFinite
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        if not trainer.strategy.reduce_boolean_decision(exploded, all=False):
            if self.action == "rollback" and trainer.is_global_zero and self.candidate.exists():
                self.candidate.replace(self.good)
            return
        sizes = ", ".join(f"{layer} {means[layer]:.1f} of {side}" for layer, (_, side) in self.means.items())
        cause = f"step {trainer.global_step}: loss {loss:.4g}, mean offset and feature size in pixels: {sizes}"
        if self.action == "rollback" and self.rollbacks > 0 and self.good.exists():
            self.rollbacks -= 1
            self._roll_back(trainer, pl_module)
            rank_zero_warn(f"Offsets exploded at {cause}. Rolled back to {self.good}; {self.rollbacks} rollbacks left.")
            return
        raise UserError(
            f"Offsets exploded at {cause}. Lower model.rates.deformable.factor.value or size.rate, raise size.warmup, "
            "start from a smaller model's checkpoint, or set callbacks.offsets.action=rollback to return to good "
            "weights automatically."
        )

    def _roll_back(self, trainer: Trainer, pl_module: LightningModule) -> None:
        content = torch.load(self.good, map_location=pl_module.device, weights_only=True)
        pl_module.load_state_dict(content["state_dict"])
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_load_checkpoint(trainer, pl_module, content)  # restores the averaged weights, too
        for optimizer, state in zip(trainer.optimizers, content["optimizer_states"], strict=True):
            optimizer.zero_grad()  # the step's remaining batches must not add to the exploded gradients
            rates = [group["lr"] for group in optimizer.param_groups]  # of this step, not of the checkpoint's
            optimizer.load_state_dict(state)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
