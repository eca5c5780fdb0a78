"""Lengthening a run in place, and other options of its optimiser, from the command line."""

from __future__ import annotations

import json

import pytest
import torch

from tests.tasks.test_tasks import TINY, clips, refused, run  # noqa: F401

pytestmark = pytest.mark.long
SMALL = ["bench.time=false", "bench.height=16", "bench.width=16"]
CONSTANT = ["experiment=zsm_vimeo", *TINY, "model.schedule=null", "test=own"]


def weights(directory):
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("named", ["", "checkpoints/last.ckpt"])
def test_a_lengthened_run_equals_a_longer_one(named, clips, tmp_path):  # noqa: F811
    common = [*CONSTANT, f"data.root={clips}"]
    for place, steps in (("whole", 4), ("cut", 2)):
        run(*common, f"trainer.max_steps={steps}", f"paths.runs={tmp_path / place}")
    whole, cut = (next((tmp_path / place).rglob("results.json")).parent for place in ("whole", "cut"))
    said = run(f"resume={cut / named}", "trainer.max_steps=4")
    assert "trainer.max_steps=4 (was 2)" in said
    assert "The schedule depends" not in said
    one, other = weights(whole), weights(cut)
    assert one["global_step"] == other["global_step"] == 4
    assert all(torch.equal(one["state_dict"][key], value) for key, value in other["state_dict"].items())
    scores = [json.loads((directory / "results.json").read_text())["summary"] for directory in (whole, cut)]
    assert scores[0] == scores[1]
    assert (cut / "results_2_steps.json").exists()
    assert "nothing left to do" in run(f"resume={cut}")


def test_a_changed_rate_counts_and_what_becomes_of_the_schedule_is_said(clips, tmp_path):  # noqa: F811
    common = ["experiment=zsm_vimeo", *TINY, f"data.root={clips}", f"paths.runs={tmp_path}"]
    run(*common, "trainer.max_steps=2")
    (cut,) = {path.parent for path in tmp_path.rglob("results.json")}
    said = run(*common, "trainer.max_steps=3", "resume=true")
    assert "there is nothing to continue" in said
    assert f"resume={cut}" in said.replace("'", "")
    said = run(f"resume={cut}", "trainer.max_steps=4", "model.optimizer.lr=0.001")
    assert "model.optimizer.lr=0.001 (was " in said
    assert "The schedule depends on the number of steps" in said
    (group,) = {group["initial_lr"] for group in weights(cut)["optimizer_states"][0]["param_groups"]}
    assert group == 0.001
    assert "own network" in refused(f"resume={cut}", "size.width=0.25")


def test_a_trial_keeps_nothing(clips, tmp_path):  # noqa: F811
    said = run(*CONSTANT, f"data.root={clips}", f"paths.runs={tmp_path}", "+trainer.fast_dev_run=true")
    assert "not kept" in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("value", ["1", "0.5"])
def test_overfit_batches_names_the_way_out(value, clips, tmp_path):  # noqa: F811
    said = refused(*CONSTANT, f"data.root={clips}", f"paths.runs={tmp_path}", f"+trainer.overfit_batches={value}")
    assert "data.samples=1" in said


def test_a_benchmark_without_times_is_drawn(tmp_path):
    models = "bench.models=[bicubic,edvr_m]"
    run("task=bench", models, "bench.size=mini", *SMALL, f"paths.runs={tmp_path}")
    assert len(list(tmp_path.rglob("plot.svg"))) == 1


@pytest.mark.parametrize("sweep", ["experiment=glob(wdvr2d_x2*)", "seed=range(0,2)", "seed=shuffle(0,1)"])
def test_functions_of_sweeps(sweep, tmp_path):
    said = run("-m", sweep, "task=bench", "bench.models=[bicubic]", *SMALL, f"paths.runs={tmp_path}")
    assert said.count("Point ") == 2


def test_help_of_hydra_with_an_override():
    assert "Hydra" in run("--hydra-help", "seed=1")
