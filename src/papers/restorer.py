"""The LightningModule that all papers share: training step, evaluation over whole clips, optimiser, logging."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from src.engine.ensemble import Ensemble
from src.engine.stream import stream
from src.losses import charbonnier
from src.metrics import Scores
from src.protocols import Protocol


class Restorer(LightningModule):
    """Trains and evaluates one network.

    Args:
        network: maps a clip (B, T, C, H, W) to a clip, and says in ``geometry`` what that does to time and space.
        protocol: how frames are scored.
        loss: of an estimate and a target clip.
        optimizer: makes the optimiser from parameters; None for what has nothing to train.
        schedule: the learning rate as a factor of its initial value, a pure function of ``(step, steps)``.
        description: the network's configuration, kept in every checkpoint so that it can be rebuilt from the file.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        protocol: Protocol,
        loss: Callable[[Tensor, Tensor], Tensor] = charbonnier,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[[int, int], float] | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network: Any = network  # a Module with a geometry
        self.loss = loss
        self.protocol = protocol
        self.optimizer, self.schedule = optimizer, schedule
        self.description = description
        self.scores = Scores(luma=protocol.luma, crop=protocol.crop)

    def losses(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Terms whose sum is minimised, by name, from clips (B, T, C, H, W) and (B, T', C, s*H, s*W)."""
        return {"reconstruction": self.loss(self.network(inputs), targets)}

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        terms = self.losses(batch["inputs"], batch["targets"])
        total = torch.stack(list(terms.values())).sum()
        self.log("train/loss", total, prog_bar=True)
        if len(terms) > 1:
            self.log_dict({f"train/{name}": term for name, term in terms.items()})
        return total

    def evaluation_step(self, clip: Any) -> None:
        """Scores every frame of a whole clip, streamed (see :class:`src.data.clips.EvaluationClip`)."""
        network = Ensemble(self.network, copies=self.protocol.ensemble) if self.protocol.ensemble > 1 else self.network
        inputs = (frame.to(self.device) for frame in clip.inputs())
        estimates = stream(network, inputs, clip_length=self.protocol.clip_length)
        for (time, estimate), (expected, target) in zip(estimates, clip.targets(), strict=True):
            if time != expected:
                raise RuntimeError(f"{clip.name}: output at time {time}, target at time {expected}")
            self.scores.update(clip.index, time, estimate, target.to(estimate.device))

    def on_validation_epoch_start(self) -> None:
        self.scores.reset()

    def validation_step(self, clip: Any, batch_index: int) -> None:
        self.evaluation_step(clip)

    def on_validation_epoch_end(self) -> None:
        summary = self.scores.compute()
        self.log_dict({f"validate/{name}": value for name, value in summary.items()}, prog_bar=False)

    def on_test_epoch_start(self) -> None:
        self.scores.reset()

    def test_step(self, clip: Any, batch_index: int) -> None:
        self.evaluation_step(clip)

    def on_test_epoch_end(self) -> None:
        self.measured = self.scores.frames()  # gathered while all ranks and their devices are still at hand

    def configure_optimizers(self) -> Any:
        if self.optimizer is None:
            return None
        optimizer = self.optimizer(self.network.parameters())
        if self.schedule is None:
            return optimizer
        schedule, steps = self.schedule, int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["network"] = self.description


def cosine_restarts(step: int, steps: int, *, restarts: int = 4, lowest: float = 2.5e-4) -> float:
    """Cosine annealing that starts anew ``restarts`` times within ``steps`` (warm restarts, SGDR).

    Args:
        step: optimiser steps so far.
        steps: optimiser steps in all.
        restarts: number of cosine periods.
        lowest: where each period ends, as a fraction of the initial rate.

    Returns:
        The factor on the initial learning rate, in [lowest, 1].
    """
    period = max(1, math.ceil(steps / restarts))
    phase = (step % period) / period
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * phase))
