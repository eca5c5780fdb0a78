"""Optimisations of training change its cost, not its results."""

from __future__ import annotations

import copy
import re
import time
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from src.config.build import build_data, build_restorer, build_trainer, build_training_network
from src.config.composition import compose
from src.config.run_directory import is_begun
from src.data.samples import ClipDataset
from src.papers.restorer import enable_fused
from src.training.callbacks import Throughput, ValidationSummary
from src.training.checkpointing import LastCheckpoint
from tests.tasks.test_tasks import TINY, clips  # noqa: F401 - the fixture

pytestmark = pytest.mark.long

QUIET = ["callbacks.narrator=null", "callbacks.samples=null", "callbacks.rate=null", "callbacks.best=null"]


def train(clips: Path, directory: Path, *overrides: str, watch=(), resume: Path | None = None):  # noqa: F811
    """Train a tiny EDVR with the DataModule, Trainer and callbacks of a run."""
    config = compose("model=edvr_m", *TINY, *QUIET, f"data.root={clips}", "data.test_frames=1", *overrides)
    torch.manual_seed(0)
    restorer = build_restorer(config, build_training_network(config))
    trainer = build_trainer(config, directory, training=True)
    trainer.callbacks += watch
    trainer.fit(restorer, datamodule=build_data(config, restorer), ckpt_path=resume, weights_only=True)
    return restorer, trainer


class Recorder(Callback):
    """Record everything that is counted in steps, after every batch."""

    def __init__(self, cut: int = -1) -> None:
        self.cut = cut
        self.rates: dict[int, float] = {}
        self.averages: dict[int, int] = {}
        self.validated: list[int] = []
        self.batches = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches += 1
        if self.batches == self.cut:
            raise InterruptedError
        (average,) = [callback for callback in trainer.callbacks if isinstance(callback, EMAWeightAveraging)]
        self.averages[trainer.global_step] = int(average._average_model.n_averaged)
        self.rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_start(self, trainer, pl_module):
        self.validated.append(trainer.global_step)


def test_accumulated_batches_equal_one_large_batch(clips, tmp_path):  # noqa: F811
    options = ["trainer.max_steps=5", "size.warmup=2", "model.rates.fusion_first.factor.start=1", "data.crop=32"]
    recorders, runs = [Recorder(), Recorder()], []
    for watch, times in zip(recorders, (1, 4), strict=True):
        more = ["data.batch_size=4", f"trainer.accumulate_grad_batches={times}", "data.patches_per_read=2"]
        place = tmp_path / str(times)
        runs.append(train(clips, place, *options, *more, watch=[watch]))
        assert torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    assert [watch.batches for watch in recorders] == [5, 20]
    steps = range(1, 6)
    for kind in ("rates", "averages"):
        large, accumulated = ({step: getattr(watch, kind)[step] for step in steps} for watch in recorders)
        assert large == accumulated, kind
    assert recorders[0].averages[5] == 5
    assert recorders[0].validated == recorders[1].validated == [2, 4]
    (large, _), (small, _) = runs
    start = build_training_network(compose("model=edvr_m", *TINY)).state_dict()
    assert start.keys() == large.network.state_dict().keys()
    for (name, one), other in zip(large.network.state_dict().items(), small.network.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=2e-6), name  # Adam amplifies small differences; a step is 1e-4


def test_throughput_counts_optimiser_steps(clips, tmp_path):  # noqa: F811
    logged = []

    class Watched(Throughput):
        def on_train_batch_end(self, trainer, *rest):
            super().on_train_batch_end(trainer, *rest)
            logged.append((trainer.global_step, self.first_step, self.samples))

    options = ["trainer.accumulate_grad_batches=3", "data.batch_size=6", "data.patches_per_read=2"]
    train(clips, tmp_path, *options, "trainer.max_steps=4", "trainer.log_every_n_steps=2", watch=[Watched()])
    assert [place for place in logged if place[1] == 0][-1] == (1, 0, 10)  # the sixth batch completes the second step
    assert logged[5] == (2, 2, 0)


def test_waiting_for_data_is_reported(clips, tmp_path, monkeypatch, capsys):  # noqa: F811
    get_sample = ClipDataset.__getitem__

    def slowly(*arguments):
        time.sleep(0.3)
        return get_sample(*arguments)

    monkeypatch.setattr(ClipDataset, "__getitem__", slowly)
    options = ["data.batch_size=2", "data.patches_per_read=2", "data.workers=0", "trainer.max_steps=3"]
    _, trainer = train(
        clips, tmp_path, *options, "trainer.val_check_interval=3", watch=[Throughput(), ValidationSummary()]
    )
    waiting, seconds = (float(trainer.callback_metrics[f"train/seconds_{kind}"]) for kind in ("waiting", "per_step"))
    assert 0.6 < waiting < seconds  # two samples a step
    log = capsys.readouterr().out
    assert re.search(r"step 3 of 3, loss .*: validation .*; \d+% of the time spent waiting for data", log)


def test_checkpoints_lie_between_steps(clips, tmp_path):  # noqa: F811
    options = ["data.batch_size=1", "data.batch_per_device=true", "data.patches_per_read=2"]
    options += ["trainer.accumulate_grad_batches=3"]
    whole, _ = train(clips, tmp_path / "whole", *options, "trainer.max_steps=4")
    saved = []

    class Watched(LastCheckpoint):
        def _save(self, trainer):
            super()._save(trainer)
            saved.append((self.step, trainer.fit_loop.batch_idx))

    with pytest.raises(InterruptedError):
        train(clips, tmp_path / "cut", *options, "trainer.max_steps=4", watch=[Recorder(cut=7)])
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    watch = [Watched(every_n_train_steps=1)]
    options += ["trainer.max_steps=4", "model.checkpointing=true"]  # which changes no bit
    resumed, _ = train(clips, tmp_path / "cut", *options, watch=watch, resume=last)
    assert saved == [(3, 8), (4, 11)]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_adam_is_fused_and_loads_an_unfused_state():
    torch.manual_seed(0)
    plain = torch.nn.Linear(7, 5)
    other = copy.deepcopy(plain)
    inputs = torch.rand(11, 7)
    one, two = torch.optim.Adam(plain.parameters(), 1e-2), enable_fused(torch.optim.Adam(other.parameters(), 1e-2))
    assert two.param_groups[0]["fused"] is True

    def step(network, optimizer):
        optimizer.zero_grad()
        network(inputs).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step(plain, one)
        step(other, two)
    assert torch.allclose(plain.weight, other.weight, atol=1e-6)
    late = copy.deepcopy(plain)
    three = enable_fused(torch.optim.Adam(late.parameters(), 1e-2))
    three.load_state_dict(copy.deepcopy(one.state_dict()))  # a shared state would change with it
    assert three.param_groups[0]["fused"] is True
    step(plain, one)
    step(late, three)
    assert torch.allclose(plain.weight, late.weight, atol=1e-6)
    assert not torch.equal(plain.weight, other.weight)
    assert enable_fused(torch.optim.Adam(late.parameters(), foreach=True)).param_groups[0]["fused"] is None
    assert enable_fused(torch.optim.Adam(late.parameters(), fused=False)).param_groups[0]["fused"] is False


def test_a_checkpoint_of_unfused_adam_resumes(clips, tmp_path):  # noqa: F811
    train(clips, tmp_path, "trainer.max_steps=2", "+model.optimizer.foreach=true")
    last = tmp_path / "checkpoints" / "last.ckpt"
    groups = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert {group["fused"] for group in groups} == {None}
    _, trainer = train(clips, tmp_path, "trainer.max_steps=3", "trainer.precision=bf16-mixed", resume=last)
    assert trainer.global_step == 3  # clipped, in mixed precision
    assert {group["fused"] for group in trainer.optimizers[0].param_groups} == {True}


def test_only_logged_steps_synchronise_with_the_device(clips, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("src.config.build.has_bar", lambda *_: True)  # as in a terminal
    fetched = []

    class Fetches(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                fetched[-1] += 1
            return function(*args, **(kwargs or {}))

    class Steps(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            fetched.append(0)

    fetched.append(0)  # before the first
    options = ["trainer.max_steps=7", "trainer.log_every_n_steps=3", "trainer.val_check_interval=7"]
    often = ["callbacks.last.every_n_train_steps=7", "callbacks.offsets.every_n_train_steps=7"]
    bar = "callbacks.progress={_target_: src.training.callbacks.ProgressBar}"
    with Fetches():
        _, trainer = train(clips, tmp_path, *options, *often, bar, watch=[Steps()])
    assert [bool(count) for count in fetched[3:7]] == [True, False, False, True]  # steps 3 to 6
    assert trainer.progress_bar_callback.last_loss["train/loss"] > 0


def test_weights_are_averaged_like_lightning_does(clips, tmp_path):  # noqa: F811
    weights = []
    for average in ("src.training.callbacks.WeightEMA", "lightning.pytorch.callbacks.EMAWeightAveraging"):
        more = ["trainer.max_steps=4", f"callbacks.average._target_={average}", "callbacks.average.decay=0.5"]
        train(clips, tmp_path / average, *more)
        weights.append(torch.load(tmp_path / average / "checkpoints" / "last.ckpt", weights_only=True))
    assert weights[0]["callbacks"].keys() == weights[1]["callbacks"].keys()
    assert weights[0]["averaging_state"] == weights[1]["averaging_state"]
    moved = 0
    for name, value in weights[0]["state_dict"].items():
        assert torch.allclose(value, weights[1]["state_dict"][name], atol=1e-7), name
        moved += not torch.equal(value, weights[0]["current_model_state"][name])
    assert moved


def test_automatic_precision_follows_the_machine(tmp_path):
    for precision, accelerator, training, expected in (
        ("auto", "cpu", True, "32-true"),
        ("auto", "cpu", False, "32-true"),
        ("bf16-mixed", "cpu", True, "bf16-mixed"),
    ):
        config = compose(
            f"trainer.precision={precision}", f"trainer.accelerator={accelerator}", "callbacks.progress=null"
        )
        trainer = build_trainer(config, tmp_path, training=training)
        assert config.trainer.precision == trainer.precision == expected
    assert compose().trainer.precision == "auto"


def test_automatic_precision_resumes_on_another_machine(tmp_path):
    (tmp_path / "config.yaml").write_text("trainer: {precision: bf16-mixed, max_steps: 3}\nresume: false\n")
    for precision, same in (("auto", True), ("bf16-mixed", True), ("32-true", False)):
        config = OmegaConf.create({"trainer": {"precision": precision, "max_steps": 3}, "resume": True})
        assert is_begun(config, tmp_path) == same


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_scores_do_not_depend_on_the_precision_of_training(clips, tmp_path, precision):  # noqa: F811
    scores = {}
    for training in ("32-true", "bf16-mixed"):
        config = compose(
            "model=edvr_m", *TINY, f"data.root={clips}", "data.test_frames=2", f"protocol.precision={precision}"
        )
        config.trainer.precision = training
        torch.manual_seed(0)
        restorer = build_restorer(config, build_training_network(config))
        trainer = build_trainer(config, tmp_path, training=False)
        trainer.test(restorer, datamodule=build_data(config, restorer), verbose=False)
        scores[training] = [frame.psnr for frames in restorer.measured[0].values() for frame in frames]
    assert len(scores["32-true"]) == 4
    assert scores["32-true"] == scores["bf16-mixed"]


@pytest.mark.parametrize("loss", ["src.nn.losses.charbonnier", "src.nn.losses.l1", "src.nn.losses.sharpness"])
def test_losses_of_bfloat16_are_computed_in_float32(loss):
    term = instantiate({"_target_": loss, "_partial_": True})
    torch.manual_seed(0)
    target = torch.rand(1, 2, 3, 16, 16)
    estimate = (target + 0.01 * torch.randn_like(target)).bfloat16()
    exact = term(estimate.double(), target.double())
    with torch.autocast("cpu", torch.bfloat16):
        value = term(estimate, target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    both = term(estimate, target.bfloat16())
    assert both.item() == pytest.approx(term(estimate.double(), target.bfloat16().double()).item(), rel=1e-5)
