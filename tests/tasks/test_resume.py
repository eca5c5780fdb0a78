"""Lengthening a run in place, and other options of its optimiser, from the command line."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from tests.tasks.test_tasks import TINY, clips, refused, run  # noqa: F401

pytestmark = pytest.mark.long
SMALL = ["bench.time=false", "bench.deformable=false", "bench.height=16", "bench.width=16"]
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


def test_an_earlier_checkpoint_is_continued_in_place(clips, tmp_path):  # noqa: F811
    common = [*CONSTANT, f"data.root={clips}", f"paths.runs={tmp_path}"]
    run(*common, "trainer.max_steps=3")
    (cut,) = {path.parent for path in tmp_path.rglob("results.json")}
    whole = weights(cut)
    earlier = cut / "checkpoints" / "previous.ckpt"
    assert torch.load(earlier, weights_only=True)["global_step"] == 2
    said = run(f"resume={earlier}", "trainer.max_steps=4", "model.optimizer.lr=0.001")
    assert "Continuing after step 2 with other options: " in said
    assert "model.optimizer.lr=0.001 (was " in said
    again = weights(cut)
    assert again["global_step"] == 4
    assert any(not torch.equal(whole["state_dict"][key], value) for key, value in again["state_dict"].items())
    with (cut / "metrics.csv").open() as rows:
        steps = [int(row["step"]) for row in csv.DictReader(rows) if row.get("train/loss")]
    assert steps == [0, 1, 2, 3]
    assert "is not a run" in refused(f"resume={cut / 'checkpoints'}")


@pytest.mark.slow
def test_two_ranks_are_continued_in_place(clips, tmp_path):  # noqa: F811
    both = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    plain = [o for o in CONSTANT if not o.startswith(("trainer.devices", "trainer.accelerator"))]
    common = [*plain, *both, f"data.root={clips}", f"paths.runs={tmp_path}"]
    run(*common, "trainer.max_steps=2")
    (cut,) = {path.parent for path in tmp_path.rglob("results.json")}
    said = run(f"resume={cut}", "trainer.max_steps=3", "model.optimizer.lr=0.001")
    assert said.count("Continuing after step 2 with other options: ") == 1
    assert "trainer.max_steps=3 (was 2)" in said
    assert weights(cut)["global_step"] == 3
    said = run(f"resume={cut / 'checkpoints' / 'previous.ckpt'}", "trainer.devices=1", "trainer.max_steps=4")
    assert "trainer.max_steps=4 (was 3)" in said
    assert weights(cut)["global_step"] == 4


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


IN_PROCESS = "hydra/launcher=basic"  # what a sweep consists of does not depend on the processes of its points


@pytest.mark.parametrize("sweep", ["experiment=glob(wdvr2d_x2*)", "seed=range(0,2)", "seed=shuffle(0,1)"])
def test_functions_of_sweeps(sweep, tmp_path):
    said = run("-m", sweep, "task=bench", "bench.models=[bicubic]", *SMALL, IN_PROCESS, f"paths.runs={tmp_path}")
    assert said.count("Point ") == 2


@pytest.mark.parametrize("sweep", ["model/network/align=glob(*o*)", "model/network/align=choice(four,one)"])
def test_functions_of_sweeps_over_a_part(sweep, tmp_path):
    run("-m", sweep, "model=edvr_m", "task=bench", "bench.models=null", *SMALL, IN_PROCESS, f"paths.runs={tmp_path}")
    points = list(tmp_path.rglob("points/*.json"))
    overrides = [override for point in points for override in json.loads(point.read_text())["overrides"]]
    assert {o for o in overrides if "align" in o} == {"model/network/align=four", "model/network/align=one"}
    assert "four+one" in str(points[0])  # the folder of the sweep names its values


@pytest.mark.parametrize("sweep", ["model.optimizer.lr=interval(0,1)", "seed=interval(0,9)"])
def test_an_interval_is_refused_with_the_way_out(sweep, tmp_path):
    said = refused("-m", sweep, "task=bench", *SMALL, f"paths.runs={tmp_path}")
    wanted = f"{sweep.partition('=')[0]}=range(<first>,<end>,<step>)"
    assert said == f"{sweep}: a sweep tries single values; list them, or write {wanted}.\n"


def test_help_of_hydra_with_an_override():
    assert "Hydra" in run("--hydra-help", "seed=1")
