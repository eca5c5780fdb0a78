"""Studies: what a sweep found, beside what its paper prints."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.config import CONF, compose
from src.tasks.study import Point, Study, draw, markdown, order, tabulate

STUDIES = sorted(path.stem for path in (CONF / "ablation").glob("*.yaml"))


def point(folder: Path, psnr: float, *overrides: str) -> Point:
    folder.mkdir(parents=True)
    OmegaConf.save(compose("model=wdvr3d", "size=mini"), folder / "config.yaml", resolve=True)
    (folder / "results.json").write_text(json.dumps({"summary": {"psnr": psnr}, "models": {"x": {"flops": 7}}}))
    (folder / "metrics.csv").write_text("step,train/seconds_per_step\n0,1.0\n1,\n2,3.0\n4,1.5\n")
    return Point(folder, overrides)


COLUMNS = {
    "psnr": "results/summary/psnr",
    "share": "network/trunk/temporal_share",
    "parameters": "count/parameters",
    "seconds": "metrics/train/seconds_per_step",
    "flops": "results/models/*/flops",
}


def test_a_row_for_each_point_and_the_mean_over_its_seeds(tmp_path):
    points = [
        point(tmp_path / f"{frames}-{seed}", psnr, "size=mini", f"frames={frames}", f"seed={seed}")
        for frames, seed, psnr in [(1, 0, 20.0), (1, 1, 21.0), (3, 0, 22.0), (3, 1, 22.0)]
    ]
    published = {3: {"window": 3, "psnr": 29.04}, 1: {"window": 1, "psnr": 28.45}, 5: {"window": 5, "psnr": 29.14}}
    one, three = tabulate(points, COLUMNS, published)
    assert (one["point"], one["psnr"], one["paper: psnr"]) == (1, 20.5, 28.45)
    assert one["psnr deviation"] == pytest.approx(0.7071, abs=1e-4)
    assert tabulate(points[:1], COLUMNS, {3: published[3]})[0]["paper: psnr"] is None  # no row of the paper's
    assert (three["point"], three["psnr deviation"], three["seconds"], three["flops"]) == (3, 0.0, 1.5, 7)
    assert three["share"] == pytest.approx(0.04, abs=0.01)
    assert three["parameters"] > 1000
    assert order([one, three], "psnr") == "psnr, paper: 1 < 3; here: 1 < 3."
    table = markdown([one, three], "Table 1", "psnr", ["size=mini"])
    assert "**Table 1** (size=mini)" in table
    assert "| 1 | 1 | 28.450 | 20.500 |" in table
    draw([one, three], "Table 1", "psnr", tmp_path / "plot.svg")
    assert "</svg>" in (tmp_path / "plot.svg").read_text()


def test_a_figure_that_the_protocol_did_not_measure_is_left_out_and_a_typo_is_not(tmp_path):
    run = point(tmp_path / "run", 20.0)
    assert run.value("results/summary/psnr_input_scale") is None
    with pytest.raises(KeyError):
        run.value("results/summary/psnr_of_input")


def test_an_order_that_is_turned_round_says_so(tmp_path):
    rows = [
        {"point": name, "psnr": ours, "paper: psnr": theirs}
        for name, ours, theirs in [("a", 3, 1), ("b", 2, 2), ("c", 1, 3)]
    ]
    assert order(rows, "psnr") == "psnr, paper: a < b < c; here: c < b < a; rank correlation -1.00."
    assert order(rows[:2], "psnr") == "psnr, paper: a < b; here: b < a."
    assert order([{"point": 1, "psnr": 2.0}, {"point": 2, "psnr": 3.0}], "psnr") == ""


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_a_multirun_whose_points_are_the_papers_rows(name):
    node = OmegaConf.load(CONF / "ablation" / f"{name}.yaml")
    assert node.hydra.mode == "MULTIRUN"
    if "frames_per_pass" in name:  # options of a study's task can be given beside it
        assert compose(f"ablation={name}", "bench.height=8").bench.models is None
    options = OmegaConf.to_container(node.hydra.callbacks.study)
    assert options.pop("_target_") == "src.tasks.study.Study"
    study = Study(**options)
    assert study.name == name
    assert study.compare in study.columns
    params = {key: str(values).split(",") for key, values in node.hydra.sweeper.params.items()}
    for point in product(*params.values()):
        overrides = [f"{key}={value}" for key, value in zip(params, point, strict=True)]
        config = compose(f"ablation={name}", *overrides)
        if "experiment" in params:  # a study leaves its experiments as they are
            alone = compose(f"task={config.task._target_.rpartition('.')[2]}", *overrides)
            assert (config.model, config.data, config.degradation) == (alone.model, alone.data, alone.degradation)
    points = {" ".join(point) for point in product(*(values for values in params.values() if len(values) > 1))}
    assert study.finding or not options.get("published") or {str(point) for point in study.published} == points
    assert all(study.compare in row for row in study.published.values())
