"""The guards detect diverging training and act as configured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from torch import Tensor

from src.config.build import build_restorer, build_training_network
from src.config.composition import compose
from src.errors import UserError
from src.nn.align import DeformablePack
from src.papers.restorer import select_kind
from src.training.checkpointing import LastCheckpoint, MetricsFile
from src.training.guards import NonFinite, OffsetGuard
from tests.papers.test_restorer import Batches


def fit(directory: Path, *, steps=4, poison=2, every=1, **options):
    """Train a tiny EDVR and let its offsets explode after ``poison`` steps."""
    config = compose("model=edvr_m", "size=mini", "size.width=0.125")
    torch.manual_seed(0)
    restorer = build_restorer(config, build_training_network(config))
    packs = select_kind(restorer.network, kind=DeformablePack)
    done = []

    def explode(*_):
        if restorer.global_step == poison and not done:
            done.append(True)
            packs[0].offset.bias.data.fill_(1000.0)

    restorer.on_train_batch_start = explode
    average = instantiate(config.callbacks.average)
    guard = OffsetGuard(every_n_train_steps=every, **options)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=directory,
        callbacks=[guard, average, LastCheckpoint(every_n_train_steps=every)],
        logger=MetricsFile(directory),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(restorer, torch.utils.data.DataLoader(Batches(), batch_size=1))
    return restorer, packs, trainer


def test_healthy_offsets_are_left_alone(tmp_path):
    restorer, _, _ = fit(tmp_path, poison=-1)
    assert restorer.global_step == 4
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        checks = [row for row in csv.DictReader(stream) if row["offsets/align.align.sample.0"]]
    assert [row["step"] for row in checks] == ["0", "1", "2", "3"]
    assert all(float(row["offsets/align.cascade.sample.0"]) >= 0 for row in checks)


def test_the_error_lists_the_offsets_of_every_level(tmp_path):
    with pytest.raises(UserError, match=r"sample\.2 .* of 2, .*sample\.0 1414\.\d of 8.*Lower model\.rates"):
        fit(tmp_path)


@pytest.mark.parametrize(("every", "poison"), [(1, 2), (2, 2), (2, 1)])  # also just before a check and a checkpoint
def test_rollback_restores_the_last_good_weights(tmp_path, every, poison):
    restorer, packs, _ = fit(tmp_path, steps=6, poison=poison, every=every, action="rollback")
    assert restorer.global_step == 6
    assert packs[0].offset.bias.abs().max() < 1
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["state_dict"]["network.align.align.sample.0.offset.bias"].abs().max() < 1  # the averaged weights, too


class Poison(Callback):
    """Fill the batches of some steps with ``value``, and record the training state before and after each step."""

    def __init__(self, steps, value=float("nan"), batch: int = 0) -> None:
        self.steps, self.value, self.batch = steps, value, batch
        self.states: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.states.append(self._training_state(trainer, pl_module))
        if trainer.global_step in self.steps and batch_idx % trainer.accumulate_grad_batches == self.batch:
            batch["inputs"].fill_(self.value)

    def on_train_end(self, trainer, pl_module):
        self.states.append(self._training_state(trainer, pl_module))

    def _training_state(self, trainer, pl_module):
        states = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        return {
            **{name: value.clone() for name, value in pl_module.network.state_dict().items()},
            **{f"state {number}": value.clone() for number, value in enumerate(states)},
        }


class Clips(torch.utils.data.Dataset):
    """Random training samples for a geometry."""

    def __init__(self, geometry, side=32) -> None:
        self.geometry, self.side = geometry, side

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator, scaled = torch.Generator().manual_seed(index), self.side * self.geometry.scale
        inputs = torch.rand(self.geometry.window, 3, self.side, self.side, generator=generator)
        targets = torch.rand(len(self.geometry.times), 3, scaled, scaled, generator=generator)
        return {"inputs": inputs, "targets": targets, "source": "here", "dataset_key": "0,1,2"}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def poisoned(directory: Path, poison: Poison, *overrides: str, steps=4, every=1, in_a_row=10):
    config = compose("size=mini", "size.width=0.125", *overrides)
    torch.manual_seed(0)
    restorer = build_restorer(config, build_training_network(config))
    average = instantiate(config.callbacks.average, decay=0.5)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=directory,
        callbacks=[poison, NonFinite(in_a_row=in_a_row), average, LastCheckpoint(every_n_train_steps=1)],
        logger=MetricsFile(directory),
        accumulate_grad_batches=every,
        gradient_clip_val=1.0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(restorer, torch.utils.data.DataLoader(Clips(restorer.training_geometry), batch_size=1))


@pytest.mark.parametrize("more", [["model=edvr_m"], ["model=edvr_m", "+model.optimizer.foreach=true"], ["model=vtsr"]])
@pytest.mark.parametrize("every", [1, 2])
def test_a_non_finite_step_changes_nothing(tmp_path, capsys, more, every):
    poison = Poison({1, 2}, batch=every - 1)
    poisoned(tmp_path, poison, *more, every=every)
    before, after = poison.states[1], poison.states[3]
    assert same(before, after)
    assert not same(poison.states[0], before)
    assert not same(after, poison.states[4])
    assert all(value.isfinite().all() for value in poison.states[-1].values())
    with (tmp_path / "skipped.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["step"], row["loss"], row["samples"]) for row in rows] == [
        (step, "nan", " ".join(["here[0,1,2]"] * every)) for step in ("1", "2")
    ]
    log = capsys.readouterr().err
    assert "Skipped step 2: loss nan, gradient norm nan, samples here[0,1,2]" in log
    assert "(2 in a row;" in log
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4
    assert all(value.isfinite().all() for value in last["state_dict"].values())


def test_several_skipped_steps_in_a_row_end_training(tmp_path):
    poison = Poison({2, 3, 4}, float("inf"))
    with pytest.raises(
        UserError, match=r"3 steps in a row .* up to step 4 \(here\[0,1,2\]\): .*last\.ckpt holds the last good"
    ):
        poisoned(tmp_path, poison, "model=edvr_m", steps=9, in_a_row=3)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    weights = {name.removeprefix("network."): value for name, value in last["current_model_state"].items()}
    assert all(
        torch.equal(value, poison.states[2][name]) for name, value in weights.items() if name in poison.states[2]
    )


def test_the_count_of_skipped_steps_survives_resuming(tmp_path):
    guard = NonFinite(in_a_row=3)
    guard.row = 2
    other = NonFinite(in_a_row=3)
    other.load_state_dict(guard.state_dict())
    assert other.row == 2
