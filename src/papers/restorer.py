"""The LightningModule that all papers share: training step, evaluation over whole clips, optimiser, logging."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from src.annotations import Provided
from src.engine.cascade import Cascade, apply_recursively
from src.engine.memory import fit_to_memory
from src.engine.options import InferenceOptions
from src.engine.stream import find_first_frame, resolve_passes, stream
from src.errors import UserError
from src.geometry import Geometry
from src.metrics import Scores
from src.nn.activation_checkpointing import checkpoint_activations
from src.nn.clips import weights_to_channels_last
from src.nn.losses import charbonnier
from src.nn.video_network import as_video_network
from src.protocols import Protocol
from src.training.schedules import constant


@dataclass(frozen=True)
class Rate:
    """A factor on the learning rate of some modules of a network, a function of the step; 0 freezes them.

    Args:
        modules: selects them, e.g. :func:`of_kind` or :func:`all_but`.
        factor: a function of ``(step, steps)``, e.g. :func:`src.training.schedules.frozen_until`.
    """

    modules: Callable[[nn.Module], Iterable[nn.Module]]
    factor: Callable[[int, int], float]


class Restorer(LightningModule):
    """Training and evaluation of one network.

    Args:
        network: maps a clip (B, T, C, H, W) to a clip (:class:`src.nn.video_network.VideoNetwork`).
        protocol: how to run and to score the network.
        loss: of an estimate and a target clip.
        optimizer: builds the optimiser from parameters; None if there is nothing to train.
        schedule: factor on the initial learning rate, a pure function of ``(step, steps)``.
        rates: further factors for some modules, under names of the user's choice.
        checkpointing: whether training recomputes activations within the network's parts for their gradients
            (:mod:`src.nn.activation_checkpointing`): the same result from less memory in more time.
        description: the network's configuration, kept in every checkpoint so that it can be rebuilt from the file.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        protocol: Provided[Protocol],
        loss: Callable[[Tensor, Tensor], Tensor] = charbonnier,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[[int, int], float] | None = None,
        rates: Mapping[str, Rate] | None = None,
        checkpointing: bool = False,
        description: Provided[Mapping[str, Any] | None] = None,
    ) -> None:
        super().__init__()
        if checkpointing:
            checkpoint_activations(network)
        self.network: Any = network  # as_video_network would change the names of its weights
        self.loss = loss
        self.protocol = protocol
        try:
            resolve_passes(network, protocol)
        except ValueError as error:
            raise UserError(
                f"The protocol {protocol.name} does not suit this network: {error}; choose another protocol, or set "
                "protocol.clip_length=null protocol.padding=null protocol.context=0."
            ) from error
        self.optimizer, self.schedule = optimizer, schedule
        self.rates = list((rates or {}).values())
        self._optimizer_options: list[dict[str, Any]] = []  # of each parameter group, as configured
        self._frozen: list[bool] = []  # whether the modules of each rate were frozen at the last step
        self.description = description
        geometry = as_video_network(network).geometry
        applied = apply_recursively(network, protocol.factor)
        rounds = len(applied.networks) if protocol.factor and isinstance(applied, Cascade) else 1
        self.geometries = [geometry.again(n + 1) for n in range(rounds)]
        reduction = geometry.scale if protocol.input_scale else None
        self.scores: Any = nn.ModuleList(
            Scores(protocol.luma, protocol.crop, reduction, protocol.per_channel) for _ in self.geometries
        )

    @property
    def training_geometry(self) -> Geometry:
        """The frames of a training sample."""
        return as_video_network(self.network).training_geometry

    @property
    def needs_reduced_targets(self) -> bool:
        """Whether :meth:`losses` takes a third clip, ``reduced``: the targets at the size of the inputs, undegraded."""
        return False

    def setup(self, stage: str) -> None:
        if self.trainer.strategy.root_device.type == "cuda":
            weights_to_channels_last(self.network)

    def initialise(self, *, fresh: bool, pretrained: bool = True) -> None:
        """Hook for subclasses, called once before training.

        Args:
            fresh: False if a checkpoint provided the weights.
            pretrained: False leaves parts that start from published weights at random, to time a training step.
        """

    def on_train_start(self) -> None:
        """Apply the configured options of the optimiser in place of those of a checkpoint."""
        scheduler: Any = self.lr_schedulers()
        if scheduler is None:
            return
        groups = scheduler.optimizer.param_groups
        for number, (group, options) in enumerate(zip(groups, self._optimizer_options, strict=True)):
            group.update(options)
            scheduler.base_lrs[number] = group["initial_lr"]
            group["lr"] = group["initial_lr"] * scheduler.lr_lambdas[number](scheduler.last_epoch)

    def factors(self, step: int, steps: int) -> tuple[float, ...]:
        """Return the factors of the schedule and of each rate on the learning rate at a step, of ``steps`` in all."""
        schedule = self.schedule or constant
        return float(schedule(step, steps)), *(float(rate.factor(step, steps)) for rate in self.rates)

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Keep the statistics of normalisations in frozen modules: those whose rate is 0 run in evaluation mode."""
        step, steps = self.trainer.global_step, int(self.trainer.estimated_stepping_batches)
        frozen = [rate.factor(step, steps) == 0 for rate in self.rates]
        for rate, before, now in zip(self.rates, self._frozen or [False] * len(frozen), frozen, strict=True):
            if before != now:
                for module in rate.modules(self.network):
                    module.train(not now)
        self._frozen = frozen

    def losses(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute the terms of the loss by name, from clips (B, T, C, H, W) and (B, T', C, s*H, s*W)."""
        return {"reconstruction": self.loss(self.network(inputs), targets)}

    def losses_of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the terms of the loss of a training batch (see :class:`src.data.datamodule.DataModule`)."""
        clips = ("inputs", "targets", "reduced") if self.needs_reduced_targets else ("inputs", "targets")
        return self.losses(*(batch[name] for name in clips))

    def make_batch(self, samples: int, side: int, fill: Callable[..., Tensor]) -> dict[str, Tensor]:
        """Make a batch of the shapes of training, of inputs with ``side`` pixels, by a function of a shape."""
        geometry = self.training_geometry
        large, frames = geometry.scale * side, len(geometry.times)
        batch = {"inputs": fill(samples, geometry.window, 3, side, side)}
        batch["targets"] = fill(samples, frames, 3, large, large)
        if self.needs_reduced_targets:
            batch["reduced"] = fill(samples, frames, 3, side, side)
        return batch

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        terms = self.losses_of(batch)
        total = torch.stack(list(terms.values())).sum()
        self.log("train/loss", total, sync_dist=True)  # prog_bar=True would synchronise the GPU at every step
        if len(terms) > 1:
            self.log_dict({f"train/{name}": term for name, term in terms.items()}, sync_dist=True)
        return total

    def evaluation_step(self, clip: Any) -> None:
        """Score every frame of a whole clip, streamed (see :class:`src.data.evaluation.EvaluationClip`).

        The precision is that of the protocol, not of training.
        """
        with torch.autocast(self.device.type, enabled=False):
            self._score(clip)

    def _score(self, clip: Any) -> None:
        inputs = (frame.to(self.device) for frame in clip.inputs())
        first = next(inputs)
        network = apply_recursively(self.network, self.protocol.factor)
        options = replace(self.protocol, factor=None)
        options = fit_to_memory(network, options, first.shape[-2:], self.device, length=clip.frames)
        filled = self.protocol.edges != "none"
        truths = [clip.targets(geometry, filled=filled) for geometry in self.geometries]

        def compare(number: int, time: Fraction, estimate: Tensor) -> None:
            expected, target = next(truths[number])
            if time != expected:
                raise RuntimeError(f"{clip.name}: output at time {time}, target at time {expected}")
            self.scores[number].update(clip.index, time, estimate, target.to(estimate.device))

        watch = compare if len(truths) > 1 else None
        estimates = stream(network, chain([first], inputs), options, length=clip.frames, watch=watch)
        last = Fraction(-1)
        for time, estimate in estimates:
            compare(len(truths) - 1, time, estimate)
            last = time
        if self.protocol.to_the_end and len(truths) == 1:
            self._score_tail(clip, network, options, last)
        for truth in truths:
            if left := list(truth):
                raise RuntimeError(f"{clip.name}: no output frame for the target time {left[0][0]}")

    def _score_tail(self, clip: Any, network: nn.Module, options: InferenceOptions, last: Fraction) -> None:
        """Score the source frames behind the last input frame, by a pass that ends with the clip."""
        if (tail := clip.tail(resolve_passes(network, options).window)) is None:
            return
        part, begin = tail
        inputs = (frame.to(self.device) for frame in part.inputs())
        estimates = stream(network, inputs, options, length=part.frames)
        for (time, estimate), (expected, target) in zip(estimates, part.targets(), strict=True):
            if time != expected:
                raise RuntimeError(f"{clip.name}: output at time {time}, target at time {expected}")
            if begin + time > last:
                self.scores[-1].update(clip.index, begin + time, estimate, target.to(estimate.device))

    def on_validation_epoch_start(self) -> None:
        self.reset_scores()

    def reset_scores(self) -> None:
        for scores in self.scores:
            scores.reset()

    def validation_step(self, clip: Any, batch_index: int) -> None:
        self.evaluation_step(clip)

    def on_validation_epoch_end(self) -> None:
        summary = self.scores[-1].compute()
        self.log_dict({f"validate/{name}": value for name, value in summary.items()}, prog_bar=False)

    def on_test_epoch_start(self) -> None:
        self.reset_scores()

    def test_step(self, clip: Any, batch_index: int) -> None:
        if self.scores_one_frame:
            with torch.autocast(self.device.type, enabled=False):
                self._score_centre(clip)
        else:
            self.evaluation_step(clip)

    @property
    def scores_one_frame(self) -> bool:
        """Whether a test restores no more of a clip than the frame that counts, by passes that do not depend on others.

        Validation, for which no protocol selects frames, restores all.
        """
        protocol, network = self.protocol, as_video_network(self.network)
        independent = network.temporal_padding is None and not network.average_overlaps
        plain = protocol.clip_length is None and not (protocol.factor or protocol.to_the_end or protocol.context)
        return protocol.frames == "centre" and plain and independent and not isinstance(network, Cascade)

    def _score_centre(self, clip: Any) -> None:
        """Restore and score the middle frame of a clip."""
        filled = self.protocol.edges != "none"
        times = clip.target_times(filled=filled)
        (middle,) = self.protocol.counted(len(times))
        after = times[middle - 1] if middle else None
        inputs = (frame.to(self.device) for frame in clip.inputs(find_first_frame(self.network, after, self.protocol)))
        first = next(inputs)
        options = fit_to_memory(self.network, self.protocol, first.shape[-2:], self.device, length=clip.frames)
        estimates = stream(self.network, chain([first], inputs), options, length=clip.frames, after=after)
        time, estimate = next(iter(estimates))
        if time != times[middle]:
            raise RuntimeError(f"{clip.name}: output at time {time}, target at time {times[middle]}")
        ((_, target),) = clip.targets(filled=filled, only=time)
        self.scores[-1].update(clip.index, time, estimate, target.to(estimate.device))

    def on_test_epoch_end(self) -> None:
        # gathered while all ranks and their devices are still at hand
        self.measured = [scores.frames() for scores in self.scores]

    def configure_optimizers(self) -> Any:
        if self.optimizer is None:
            return None
        groups: dict[tuple[int, ...], list[nn.Parameter]] = {}  # by the numbers of the rates that apply
        chosen = [{id(p) for m in rate.modules(self.network) for p in m.parameters()} for rate in self.rates]
        for parameter in self.network.parameters():
            key = tuple(number for number, members in enumerate(chosen) if id(parameter) in members)
            groups.setdefault(key, []).append(parameter)
        optimizer = enable_fused(self.optimizer([{"params": parameters} for parameters in groups.values()]))
        schedule, steps = self.schedule, int(self.trainer.estimated_stepping_batches)

        def factor(key: tuple[int, ...]) -> Callable[[int], float]:
            rates = [self.rates[number] for number in key]
            common = schedule or constant
            return lambda step: common(step, steps) * math.prod(rate.factor(step, steps) for rate in rates)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [factor(key) for key in groups])
        stored = ("params", "lr", "fused", "foreach")
        self._optimizer_options = [
            {name: value for name, value in group.items() if name not in stored} for group in optimizer.param_groups
        ]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["network"] = self.description


def enable_fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Switch an optimiser to its fused kernel, unless ``fused`` or ``foreach`` was chosen; return the same optimiser.

    It stays fused when it loads the state of one that was not. With ``fused=True`` from the start, Lightning would
    assume that it unscales gradients, and refuse to clip them.
    """
    for group in optimizer.param_groups:
        everywhere = all(parameter.device.type in ("cpu", "cuda") for parameter in group["params"])
        if group.get("fused", False) is None and group.get("foreach") is None and everywhere:
            group["fused"] = True

    def kept(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(state["param_groups"], optimizer.param_groups, strict=False)
        return {**state, "param_groups": [{**group, "fused": own.get("fused")} for group, own in pairs]}

    if any(group.get("fused") for group in optimizer.param_groups):
        optimizer.register_load_state_dict_pre_hook(kept)
    return optimizer


def select_kind(network: nn.Module, *, kind: type[nn.Module]) -> list[nn.Module]:
    """Select all modules of a class."""
    return [module for module in network.modules() if isinstance(module, kind)]


def select_all_but(network: nn.Module, *, parts: Sequence[str]) -> list[nn.Module]:
    """Select the parts (attributes) of a network except those named."""
    children = dict(network.named_children())
    if unknown := [part for part in parts if part not in children]:
        raise UserError(f"This network has no part {', '.join(unknown)}: its parts are {', '.join(children)}.")
    return [module for name, module in children.items() if name not in parts]
