"""Studies: the results of a sweep beside the published ones."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from src.config.build import build_data, build_inference_network, build_restorer
from src.config.composition import CONF, compose
from src.config.overrides import FORMER_CHOICES, by_place, fold_point, translate
from src.config.validation import validate
from src.errors import UserError
from src.sweeps.aggregate import (
    Point,
    describe_ranking,
    format_markdown,
    subtract_rows,
    tabulate,
)
from src.sweeps.callback import Study
from src.sweeps.plots import draw, draw_frames
from src.sweeps.points import PointStatus
from src.sweeps.published import published
from src.sweeps.sweeper import Points

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
    assert describe_ranking([one, three], "psnr") == "psnr, paper: 1 < 3; here: 1 < 3."
    table = format_markdown([one, three], "Table 1", "psnr", ["size=mini"])
    assert "**Table 1** (size=mini)" in table
    assert "| 1 | 1 | 28.450 | 20.500 ± 0.707 |" in table
    assert "| n |" in table
    assert table.count(" | 2 |\n") == 2
    assert "Mean ± sample standard deviation over n seeds." in table
    draw([one, three], "Table 1", "psnr", tmp_path / "plot.svg", ["size=mini"])
    assert "size=mini" in (tmp_path / "plot.svg").read_text()


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a | b\n\n# c", "$x$ \\frac{", "](javascript:x)", "--> ]]> &amp;", "*_`"]
)
def test_tables_and_plots_escape_names(tmp_path, name):
    """In Markdown nothing of them is markup; in SVG they are text, and no formula."""
    rows = [{"point": name, "psnr": 1.0, "paper: psnr": 3.0}, {"point": "b", "psnr": 2.0, "paper: psnr": 2.0}]
    table = format_markdown(rows, name, "psnr", [f"data.root={name}"], name)
    assert "<script" not in table
    assert not re.search(r"(?<!\\)\]\(", table)
    assert "\n# c" not in table
    (line,) = [line for line in table.splitlines() if line.endswith("| 1 | 3 |")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 4
    draw(rows, name, "psnr", tmp_path / "plot.svg", [name])
    run = scored(tmp_path / "run", 9.0, f"experiment={name}")
    frames = {"frames": [{"time": 0, "psnr": 1.0}, {"time": 1, "psnr": None}]}
    run.results["clips"] = {name: frames}
    draw_frames([run], "psnr", name, tmp_path / "curves.svg", [name])
    for file in ("plot.svg", "curves.svg"):
        tree = ElementTree.parse(tmp_path / file)
        kinds = {element.tag.rpartition("}")[2].lower() for element in tree.iter()}
        assert not kinds & {"script", "a", "foreignobject", "image"}
        assert " ".join(name.split())[:6] in " ".join("".join(tree.getroot().itertext()).split())


def test_scores_without_a_measurement_are_none_and_typos_raise(tmp_path):
    run = point(tmp_path / "run", 20.0)
    assert run.value("results/summary/psnr_input_scale") is None
    assert run.value("results/summary/psnr_balanced") is None  # of a network that only deblurs
    with pytest.raises(KeyError):
        run.value("results/summary/psnr_of_input")


def test_a_reversed_order_is_reported(tmp_path):
    rows = [
        {"point": name, "psnr": ours, "paper: psnr": theirs}
        for name, ours, theirs in [("a", 3, 1), ("b", 2, 2), ("c", 1, 3)]
    ]
    assert describe_ranking(rows, "psnr") == "psnr, paper: a < b < c; here: c < b < a; rank correlation -1.00."
    assert describe_ranking(rows[:2], "psnr") == "psnr, paper: a < b; here: b < a."
    assert describe_ranking([{"point": 1, "psnr": 2.0}, {"point": 2, "psnr": 3.0}], "psnr") == ""


def test_differences_of_two_rows(tmp_path):
    rows = [
        {"point": name, "paper: reds4": theirs, "reds4": ours, "reds4 deviation": 0.1, "vid4": None}
        for name, theirs, ours in [("a", 31.09, 24.5), ("b", 30.49, 25.0)]
    ]
    last = subtract_rows(rows)
    assert last == {"point": "Δ", "paper: reds4": pytest.approx(0.6), "reds4": -0.5, "vid4": None}
    assert "\n| Δ | 0.6 | -0.5 |" in format_markdown([*rows, last], "bias", "reds4", [])
    assert describe_ranking([*rows, last], "reds4") == describe_ranking(rows, "reds4") != ""
    table = next(t for t in published(CONF.parent / "experiments")[1].tables if t.key == "table4_dataset_bias")
    assert table.rows[2] == {
        "trained_on": "Δ", "reds4": 0.6, "reds4 SSIM": 0.01, "vid4": -0.46, "vid4 SSIM": -0.0121,
        "vimeo90k": -1.46, "vimeo90k SSIM": -0.0128,
    }  # fmt: skip
    for title, value in subtract_rows([{"point": 0, **row} for row in table.rows[:2]]).items():
        if title not in ("point", "trained_on"):
            assert value == pytest.approx(table.rows[2][title], abs=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_sweeps_over_the_papers_rows(name):
    node = OmegaConf.load(CONF / "ablation" / f"{name}.yaml")
    assert node.hydra.mode == "MULTIRUN"
    if "frames_per_pass" in name:  # options of a study's task can be given beside it
        assert compose(f"ablation={name}", "bench.height=8").bench.models is None
    options = OmegaConf.to_container(node.hydra.callbacks.study)
    assert options.pop("_target_") == "src.sweeps.callback.Study"
    study = Study(**options)
    assert study.name == name
    assert study.compare in study.columns
    points = [dict(override.partition("=")[::2] for override in overrides) for overrides in points_of(node)]
    for point in points:
        overrides = [f"{key}={value}" for key, value in point.items()]
        if "experiment" in point and point.get("test", "own") == "own":  # a study leaves its experiments as they are
            config = compose(f"ablation={name}", *overrides)
            alone = compose(f"task={config.task._target_.rpartition('.')[2]}", *overrides)
            assert (config.model, config.data, config.degradation) == (alone.model, alone.data, alone.degradation)
    folded = OmegaConf.to_container(node.hydra.sweeper.get("points", OmegaConf.create({})))
    points = [
        dict(override.partition("=")[::2] for override in fold_point(overrides, folded))
        for overrides in points_of(node)
    ]
    varied = {key for point in points for key in point if len({other.get(key) for other in points}) > 1}
    kept = sorted(varied - {*study.across}) or ["experiment"]
    named = {" ".join(point.get(key, "") for key in kept) for point in points}
    assert study.finding or {str(point) for point in study.published} <= named
    assert set(study.hide) < named
    assert all(study.compare in row for row in study.published.values())
    for source in study.columns.values():  # overrides that a column is read of are those of some point
        conditions = [word.partition("=")[::2] for word in source.split()[:-1] if "=" in word]
        assert any(all(fnmatch(point.get(k, ""), v) for k, v in conditions) for point in points), source
    for title in study.columns:
        assert (
            not study.published
            or title in OWN
            or title.endswith(("SSIM", " flicker", " pulsing"))
            or title in next(iter(study.published.values()))
        ), title


OWN = {  # columns of ours that no paper has beside it
    "psnr", "ssim", "psnr of one", "parameters", "gflops", "seconds a step", "padding", "frames", "frames a second",
    "peak memory", "seconds a pass", "ssim_input_scale", "pulsing, dB a frame", "swing of PSNR", "swing of SSIM",
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", STUDIES)
def test_every_point_of_every_study_fits_the_built_in_data_at_mini_size(name):
    for overrides in points_of(OmegaConf.load(CONF / "ablation" / f"{name}.yaml")):
        fits(*overrides) if overrides[0].startswith("experiment") else fits(f"ablation={name}", *overrides)


def points_of(study: DictConfig) -> list[list[str]]:
    """List the overrides of every point of a study, as its sweeper does."""
    sweeper = OmegaConf.to_container(study.hydra.sweeper)
    parser = OverridesParser.create()
    params = translate([f"{key}={values}" for key, values in sweeper.get("params", {}).items()])
    (jobs,) = Points(points=sweeper.get("points")).split_arguments(parser.parse_overrides(params), None)
    jobs = [[by_place(override) for override in job] for job in jobs]
    return [sorted(job, key=lambda override: not override.startswith("experiment")) for job in jobs]


@cache  # points of several studies are made once
def fits(*overrides: str) -> None:
    config = compose(*overrides, "size=mini", "data=procedural", "logger=csv", "checkpoint=null")
    validate(config)
    if "stages" in config.model.network and not config.model.network.stages:  # a study trains them
        config.model.network.stages = [{"_target_": "src.papers.baselines.Blend"}]
    restorer = build_restorer(config, build_inference_network(config))
    if config.task._target_.endswith("bench"):
        return  # takes no data
    assert build_data(config, restorer).degradation.scale == restorer.geometries[0].scale


def scored(folder: Path, psnr: float, *overrides: str) -> Point:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"summary": {"psnr": psnr}, "clips": {}}))
    return Point(folder, overrides)


def test_an_evaluation_on_other_data_is_a_column(tmp_path):
    points = [
        scored(tmp_path / str(number), psnr, f"experiment={experiment}", f"test={test}", f"seed={seed}", "size=mini")
        for number, (experiment, test, seed, psnr) in enumerate(
            [
                ("a", "own", 0, 30.0), ("a", "vid4", 0, 24.0), ("a", "vid4", 1, 26.0),
                ("a_s2", "own", 0, 31.0), ("stage", "own", 0, 9.0), ("b", "own", 0, 28.0),
            ]
        )
    ]  # fmt: skip
    columns = {
        "own": "test=own results/summary/psnr",
        "vid4": "test=vid4 results/summary/psnr",
        "second": "experiment=*_s2 results/summary/psnr",
        "clip": "results/clips/000/psnr",
        "share": "ratio results/summary/psnr",
    }
    theirs = {"own": 1.0}
    rows = tabulate(points, columns, {"a": theirs, "a_s2": theirs}, across=("test",), hide=("stage",))
    assert [row["point"] for row in rows] == ["a", "b"]
    assert (rows[0]["own"], rows[0]["vid4"], rows[0]["second"], rows[0]["clip"]) == (30.0, 25.0, 31.0, None)
    assert rows[0]["vid4 deviation"] == pytest.approx(2**0.5)
    assert (rows[1]["own"], rows[1]["vid4"], rows[1]["paper: own"]) == (28.0, None, None)
    assert rows[1]["share"] == pytest.approx(28 / 30)
    assert "| b | - | 28.000 | - |" in format_markdown(rows, "", "own", [])
    (single,) = tabulate(points[:2], columns, {"a": theirs}, across=("experiment", "test"))
    assert (single["point"], single["paper: own"], single["vid4"]) == ("a", 1.0, 24.0)


def test_pairs_of_a_paper_are_two_columns():
    study = Study(
        name="x", title="x", columns={"average": "results/summary/psnr"}, compare="average",
        published={"file": "experiments/edvr/published.yaml", "table": "table1_vid4_y", "key": "method"},
    )  # fmt: skip
    assert (study.published["EDVR"]["average"], study.published["EDVR"]["average SSIM"]) == (27.35, 0.8264)


def test_hidden_points_alone_make_no_table(tmp_path):
    run = scored(tmp_path / "runs" / "stage", 9.0, "experiment=stage")
    study = Study(name="x", columns={"psnr": "results/summary/psnr"}, hide=["stage"])
    study.folder, study.runs, study.options, study.count = (
        tmp_path,
        tmp_path / "runs",
        {"experiment": ["stage", "a"]},
        2,
    )
    study.finished = {}
    entry = PointStatus(["experiment=stage"], 0, run.directory.name, "", None, status="finished")
    assert study._write([entry]) == ""
    study.hide = ()
    assert "| stage | 9 |" in study._write([entry])


def test_named_points_are_crossed_with_params_and_typed_options_replace_their_own():
    sweeper = Points(points={"a": ["model=zsm", "model/network/guide=none"], "b": []})
    parse = OverridesParser.create().parse_overrides
    (jobs,) = sweeper.split_arguments(parse(["test=own,vid4", "model=edvr_m"]), None)
    assert jobs == [
        ["model/zsm/guide=none", "test=own", "model=edvr_m"],
        ["model/zsm/guide=none", "test=vid4", "model=edvr_m"],
        ["test=own", "model=edvr_m"],
        ["test=vid4", "model=edvr_m"],
    ]
    assert [len(batch) for batch in sweeper.split_arguments(parse(["test=own,vid4"]), 3)] == [3, 1]


def test_a_named_point_is_a_short_name_of_its_overrides():
    study = "ablation=zsm_modules"
    own = ["model/network/guide=none", "model/network/aggregate=none"]
    translated = translate([study, "point=zsm_deformable", "seed=1"])
    assert translated == [study, "seed=1", "model/zsm/guide=none", "model/zsm/aggregate=none"]
    assert [by_place(override) for override in translated] == [study, "seed=1", *own]
    selected = translate([study, "point=zsm,zsm_deformable"], sweep=True)
    assert selected == [study, *(f"~hydra.sweeper.points.{n}" for n in (
        "zsm_naive", "zsm_convlstm", "zsm_deformable_convlstm", "zsm_unguided",
    ))]  # fmt: skip
    with pytest.raises(UserError, match="zsm_modules has no point 'zsmm': did you mean zsm"):
        translate([study, "point=zsmm"])
    points = {"all": [], "unguided": own[:1], "deformable": own}
    assert fold_point(["test=own", *own], points) == ["test=own", "point=deformable"]
    assert fold_point(["test=own", own[0]], points) == ["test=own", "point=unguided"]
    assert fold_point(["test=own"], points) == ["test=own", "point=all"]
    assert fold_point(["test=own"], {"unguided": own[:1]}) == ["test=own"]


@pytest.mark.parametrize("former", FORMER_CHOICES)
def test_former_choices_compose(former):
    compose(former, "checkpoint=null")


def test_clips_are_addressed_by_their_place():
    point = Point(Path("nowhere"), [])
    point.results = {"clips": {"first": {"psnr": 1.0}, "second": {"psnr": 2.0}}}
    sources = [f"results/clips/{place}/psnr" for place in ("*", "*2", "*3")]
    assert [point.value(source) for source in sources] == [1.0, 2.0, None]
    assert point.value("metrics/train/seconds_per_step") is None


def test_counted_columns_are_in_their_units(tmp_path):
    run = point(tmp_path / "run", 20.0)
    counted = run.counted
    assert run.value("count/gflops") == counted["flops"] / 10**9
    assert run.value("count/parameters_m") == counted["parameters"] / 10**6
