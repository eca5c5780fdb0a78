"""Learning rates are functions of the step, for whichever modules were named."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from lightning import Trainer

from src.config.build import build_inference_network, build_restorer, build_training_network
from src.config.composition import compose
from src.errors import UserError
from src.nn.align import DeformablePack
from src.papers.restorer import select_all_but, select_kind
from src.training.schedules import cosine_restarts, milestones

START = "model.rates.fusion_first.factor.start=2"


class Batches(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        inputs = torch.rand(5, 3, 8, 8, generator=generator)
        return {"inputs": inputs, "targets": torch.rand(1, 3, 32, 32, generator=generator)}


def fit(*overrides, steps=4):
    """Weights after every step, by name, the first entry before training."""
    mini = ["size=mini", "size.width=0.125", "size.warmup=0", "size.warm_start=false"]  # all have a gradient at once
    config = compose("model=edvr_m", *mini, *overrides)
    torch.manual_seed(0)
    restorer = build_restorer(config, build_training_network(config))
    seen = [{name: p.detach().clone() for name, p in restorer.network.named_parameters()}]
    restorer.on_train_batch_end = lambda *_: seen.append(
        {name: p.detach().clone() for name, p in restorer.network.named_parameters()}
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=steps, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(restorer, torch.utils.data.DataLoader(Batches(), batch_size=1))
    return restorer, seen


def test_fusion_is_trained_alone_at_first():
    _, seen = fit(START)
    for name in seen[0]:
        moved = [not torch.equal(a[name], b[name]) for a, b in pairwise(seen)]
        if name.startswith("fuse."):
            assert moved[:2] == [True, True], name
        else:
            assert moved[:2] == [False, False], name
    assert any(not torch.equal(seen[2][n], seen[3][n]) for n in seen[0] if n.startswith("reconstruct."))


def test_deformable_layers_have_a_rate_of_their_own():
    restorer, _ = fit("model.rates.deformable.factor.value=0.25", steps=1)
    (optimizer,) = [restorer.optimizers().optimizer]
    slow = {id(p) for module in select_kind(restorer.network, kind=DeformablePack) for p in module.parameters()}
    rates = {True: set(), False: set()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates[id(parameter) in slow].add(group["lr"])
    ((low,), (high,)) = rates[True], rates[False]
    assert low == pytest.approx(0.25 * high)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(restorer.network.parameters()))


def test_a_part_that_is_not_there_is_named():
    network = build_inference_network(compose("model=edvr_m", "size=mini"))
    assert network.fuse not in select_all_but(network, parts=["fuse"])
    with pytest.raises(UserError, match="no part fusion: its parts are encode, align, fuse, reconstruct"):
        select_all_but(network, parts=["fusion"])


def test_lowered():
    rates = [milestones(step, 10, after=(0.5, 0.8), factor=0.1) for step in range(10)]
    assert rates == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2)
    assert milestones(0, 10, after=(0,)) == pytest.approx(0.1)  # a fine-tuning goes on at the lower rate


def test_cosine_restarts():
    rates = [cosine_restarts(step, 400, restarts=4, lowest=0.01) for step in range(400)]
    assert [rates[k] for k in (0, 100, 200, 300)] == [1.0] * 4
    assert rates[50] == pytest.approx(0.505)
    assert min(rates) == pytest.approx(0.01, abs=1e-3)
    warm = [cosine_restarts(step, 400, restarts=4, lowest=0.01, warmup=9) for step in range(400)]
    assert warm[0] == pytest.approx(0.1)
    assert warm[9:] == rates[9:]


def test_cosine_periods_of_different_lengths():
    """The published training of EDVR with TSA: 50k, 100k and three times 150k of 600k steps."""
    lengths = [50_000, 100_000, 150_000, 150_000, 150_000]
    periods = [1, 2, 3, 3, 3]
    start = 0
    for length in lengths:
        for share in (0, 0.25, 0.5, 0.75):
            expected = 2.5e-4 + (1 - 2.5e-4) * 0.5 * (1 + math.cos(math.pi * share))
            assert cosine_restarts(start + int(share * length), 600_000, periods=periods) == pytest.approx(expected)
        start += length
        assert cosine_restarts(start - 1, 600_000, periods=periods) < 3e-4
    same = [cosine_restarts(step, 400, periods=[1, 1, 1, 1]) for step in range(400)]
    assert same == [cosine_restarts(step, 400, restarts=4) for step in range(400)]
    assert all(0 < cosine_restarts(step, 3, periods=periods) <= 1 for step in range(6))
    with pytest.raises(ValueError, match=r"must be positive, got \[1, 0\]"):
        cosine_restarts(0, 400, periods=[1, 0])


def test_a_frozen_encoder_keeps_its_batch_statistics():
    config = compose(
        *("model=vtsr", "size=mini", "degradation=exposure", "protocol=vtsr", "size.pretrained_frozen=0.5"),
        "trainer.max_steps=4",
    )
    torch.manual_seed(0)
    restorer = build_restorer(config, build_training_network(config))
    statistics = restorer.network.encode.backbone.features[0][1]
    seen = [statistics.running_mean.clone()]
    restorer.on_train_batch_end = lambda *_: seen.append(statistics.running_mean.clone())

    class Pairs(Batches):
        def __getitem__(self, index):
            return {"inputs": torch.rand(2, 3, 32, 32), "targets": torch.rand(2, 3, 32, 32)}

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=4, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(restorer, torch.utils.data.DataLoader(Pairs(), batch_size=2))
    assert [torch.equal(a, b) for a, b in pairwise(seen)] == [True, True, False, False]
