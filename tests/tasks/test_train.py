"""Schedules are functions of the step: training interrupted at any step resumes exactly."""

from __future__ import annotations

import pytest
import torch
from lightning import Callback

from src.config.build import build_restorer, build_training_network
from src.config.composition import compose
from src.tasks.train import describe_start
from tests.tasks.test_tasks import TINY, clips, run  # noqa: F401 - the fixture


class StopAfter(Callback):
    """Interrupt training as Ctrl-C does, once ``steps`` steps are saved."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.steps:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_freezing_warm_up_and_restarts_survive_an_interruption(clips, tmp_path):  # noqa: F811
    schedules = ["model.rates.fusion_first.factor.start=2", "size.warmup=1", "size.restarts=2", "trainer.max_steps=4"]
    common = ["model=edvr_m", *TINY, *schedules, f"data.root={clips}", "data.test_frames=1"]

    def weights(place):
        (file,) = place.rglob("last.ckpt")
        return torch.load(file, weights_only=True)

    run(*common, f"paths.runs={tmp_path / 'whole'}")
    whole = weights(tmp_path / "whole")
    (name,) = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").glob("train/*")]
    for steps in (1, 2, 3):
        place = tmp_path / str(steps)
        stop = [f"+callbacks.stop={{_target_: tests.tasks.test_train.StopAfter, steps: {steps}}}"]
        run(*common, *stop, f"paths.runs={place}", fails=True)
        assert weights(place)["global_step"] == steps
        (cut,) = place.glob("train/*")
        cut.rename(place / name)
        run(*common, f"paths.runs={place}", "resume=true")
        resumed = weights(place)
        assert resumed["global_step"] == 4
        for kind in ("state_dict", "current_model_state"):
            assert all(torch.equal(resumed[kind][key], value) for key, value in whole[kind].items()), (steps, kind)


@pytest.mark.parametrize(
    ("model", "name"),
    [("zsm", "bicubic and blending"), ("edvr_m", "bicubic"), ("edvr_deblur", "doing nothing"), ("dsfn", "")],
)
def test_what_a_mini_network_starts_as_is_told(model, name):
    torch.manual_seed(0)
    config = compose(f"model={model}", "size=mini")
    restorer = build_restorer(config, build_training_network(config))
    restorer.initialise(fresh=True)
    said = describe_start(restorer.network)
    assert (f"the output is that of {name} to " in said) == bool(name), said
    assert restorer.network.training


def test_a_network_at_random_is_no_baseline():
    torch.manual_seed(0)
    config = compose("model=wdvr2d", "size=mini")
    network = build_training_network(config)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.3)
    assert describe_start(network) == ""
