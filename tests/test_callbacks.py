"""What watches training sees what goes wrong, and does what it was told to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from lightning import Trainer

from src.callbacks import LastCheckpoint, OffsetGuard
from src.config import build_network, build_restorer, compose
from src.errors import Problem
from src.nn.align import DeformablePack
from src.papers.restorer import of_kind
from tests.papers.test_restorer import Batches


def fit(directory: Path, *, steps=4, poison=2, every=1, **options):
    """Trains a tiny EDVR whose offsets are made to explode after ``poison`` steps."""
    config = compose("model=edvr_m", "size=mini", "size.width=0.125")
    torch.manual_seed(0)
    restorer = build_restorer(config, build_network(config))
    packs = of_kind(restorer.network, kind=DeformablePack)
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
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(restorer, torch.utils.data.DataLoader(Batches(), batch_size=1))
    return restorer, packs, trainer


def test_healthy_offsets_are_left_alone(tmp_path):
    restorer, _, trainer = fit(tmp_path, poison=-1)
    assert restorer.global_step == 4
    logged = [name for name in trainer.callback_metrics if name.startswith("offsets/")]
    assert {"offsets/align.align.sample.0", "offsets/align.cascade.sample.0"} <= set(logged)


def test_stops_with_the_figures_of_every_level(tmp_path):
    with pytest.raises(Problem, match=r"sample\.2 .* of 2, .*sample\.0 1414\.\d of 8.*Lower model\.rates"):
        fit(tmp_path)


@pytest.mark.parametrize(("every", "poison"), [(1, 2), (2, 2), (2, 1)])  # also just before a look and a checkpoint
def test_goes_back_to_the_last_good_weights(tmp_path, every, poison):
    restorer, packs, _ = fit(tmp_path, steps=6, poison=poison, every=every, action="rollback")
    assert restorer.global_step == 6
    assert packs[0].offset.bias.abs().max() < 1
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["state_dict"]["network.align.align.sample.0.offset.bias"].abs().max() < 1  # the mean of weights, too


def test_action_is_one_of_two():
    with pytest.raises(Problem, match="stop or rollback, not panic"):
        OffsetGuard(every_n_train_steps=1, action="panic")
