"""Runs are read as data: damaged, foreign and moved ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from src.report.runs import Run
from src.sweeps.aggregate import Point
from tests.report.examples import TABLES, Texts, load_block_design, make_report, write_point, write_run

pytestmark = pytest.mark.long


def test_only_web_addresses_become_links(tmp_path):
    (tmp_path / "wandb_url.txt").write_text("javascript:alert(1)")
    assert Run(tmp_path).url == ""


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        'https://x" onclick="alert(1)',
        "data:text/html,x",
        "//evil",
        "https://a b",
        "",
        "https://",
    ],
)
def test_only_web_addresses_are_read(tmp_path, address):
    (tmp_path / "wandb_url.txt").write_text(address)
    assert Run(tmp_path).url == ""
    (tmp_path / "wandb_url.txt").write_text("https://wandb.ai/a/b/runs/c?x=1\n")
    assert Run(tmp_path).url == "https://wandb.ai/a/b/runs/c?x=1"


def set_network(directory: Path, network: Any) -> None:
    config = OmegaConf.load(directory / "config.yaml")
    config.model.network = network
    OmegaConf.save(config, directory / "config.yaml")


@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "os.mkdir", "path": "TRACE"},
        {"_target_": "src.papers.baselines.Bicubic", "scale": {"_target_": "os.mkdir", "path": "TRACE"}},
        {"_target_": "hydra.utils.get_method", "path": "os.mkdir"},
        {"_target_": "src.papers.baselines.Bicubic", "scale": 10**9},
        {"_target_": "src.checkpoints.cascade", "stages": [{"_target_": "os.mkdir", "path": "TRACE"}]},
    ],
)
def test_a_run_with_a_foreign_network_is_shown_without_parameters(tmp_path, network):
    """Its scores are shown, its parameters are not, and no target is called."""
    runs, trace = tmp_path / "runs", tmp_path / "trace"
    set_network(write_run(runs, "ias", 0, 26.0), json.loads(json.dumps(network).replace("TRACE", str(trace))))
    shutil.rmtree(runs / "ablations")
    page, _, _ = make_report(runs)
    text = Texts(page).text
    assert "26.500" in text
    assert "network in its config.yaml has the target" in text or "number that is too large" in text
    assert not trace.exists()


def test_columns_of_a_study_call_no_foreign_target(tmp_path):
    directory = write_run(tmp_path, "ias", 0, 26.0)
    set_network(directory, {"_target_": "os.mkdir", "path": str(tmp_path / "trace")})
    run = Run(directory)
    assert run.value("count/parameters") is None
    assert run.value("network/trunk/temporal_share") is None
    assert len([note for note in run.notes if "no part of this suite" in note]) == 2
    point = Point(directory, [])
    for source in ("count/parameters", "network/trunk/temporal_share"):
        assert point.value(source) is None
        assert "no part of this suite" in point.notes[-1]
    assert not (tmp_path / "trace").exists()


def test_a_cascade_of_deleted_checkpoints_is_shown_without_parameters(tmp_path):
    directory = write_run(tmp_path, "ias", 0, 26.0)
    set_network(directory, {"_target_": "src.checkpoints.cascade", "stages": ["gone.ckpt"]})
    run = Run(directory)
    assert run.parameters is None
    assert "There is no checkpoint gone.ckpt" in run.notes[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: ${oc.env:ZEITLUPE_SECRET}", "unresolved values"),
        ("checkpoint: '${trained:}'", "unresolved values"),
        ("a: ${oc.decode:${oc.env:ZEITLUPE_SECRET}}", "unresolved values"),
        ("a: !!python/object/apply:os.mkdir [TRACE]", "could not determine a constructor"),
        ("a: !!python/object/new:os.mkdir [TRACE]", "could not determine a constructor"),
        ("- 1\n- 2", "is no mapping"),
        ("seed: 3", "lacks data, model, trainer"),
        ("a: [1", "ParserError"),
    ],
)
def test_a_configuration_must_be_plain_yaml(tmp_path, monkeypatch, text, sentence):
    monkeypatch.setenv("ZEITLUPE_SECRET", "tell-nobody")
    runs = tmp_path / "runs"
    directory = write_run(runs, "ias", 0, 26.0)
    whole = (directory / "config.yaml").read_text()
    text = text.replace("TRACE", str(tmp_path / "trace"))
    (directory / "config.yaml").write_text(text if "lacks" in sentence else f"{text}\n{whole}"
                                           if text[0] != "-" else text)  # fmt: skip
    run = Run(directory)
    assert not run.readable
    assert re.search(sentence, run.notes[0]), run.notes
    page, counts, output = make_report(runs)
    assert counts["not run"] == len(TABLES)
    assert "tell-nobody" not in page + "".join(file.read_text() for file in output.glob("*.md"))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"summary": []},
        {"summary": {"psnr": "high"}},
        {"protocol": {}},
        {"protocol": None},
        {"clips": [1]},
        {"clips": {"a": {"frames": [{"time": "0", "psnr": 1}]}}},
        {"clips": {"a": {"frames": {"time": 0}}}},
        {"models": {"zsm": {"seconds_per_frame": "1"}}},
        {"input": [1]},
        {"protocol": {"_target_": "os.mkdir"}},
    ],
)
def test_malformed_results_are_left_out(tmp_path, damage):
    directory = write_run(tmp_path, "ias", 0, 26.0)
    write_run(tmp_path, "tsas", 0, 27.0)
    file = directory / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    page, counts, _ = make_report(tmp_path)
    assert counts["partly filled"] >= 1  # the other run
    assert "its results are gone" in page
    assert Run(directory).readable is False


def test_a_checkpoint_beside_another_configuration_changes_nothing(tmp_path):
    """A run's checkpoint option may point anywhere."""
    (tmp_path / "theirs" / "checkpoints").mkdir(parents=True)
    (tmp_path / "theirs" / "config.yaml").write_text("model: {network: 5}")
    directory = write_run(tmp_path / "runs", "ias", 0, 26.0)
    config = OmegaConf.load(directory / "config.yaml")
    config.checkpoint = str(tmp_path / "theirs" / "checkpoints" / "last.ckpt")
    OmegaConf.save(config, directory / "config.yaml")
    run = Run(directory)
    assert run.training_config == run.config
    assert run.parameters
    assert "lacks data, trainer" in run.notes[0]


def test_recorded_paths_outside_the_runs_are_not_read(tmp_path):
    runs, outside = tmp_path / "runs", tmp_path / "elsewhere"
    theirs = write_run(outside, "tsas", 0, 44.0)
    points = runs / "ablations" / "wdvr_block_design" / "data=procedural,size=mini" / "points"
    overrides = ["experiment=wdvr3d_reds", "model/network/trunk=tsas", "size=mini", "data=procedural", "seed=0"]
    relative = Path("..") / theirs.relative_to(tmp_path)
    for number, place in enumerate((theirs, relative, Path("a/b/..") / relative, Path("../.."), Path("/"))):
        write_point(points / f"{number}.json", [*overrides, f"data.crop={number}"], place, "finished")
    write_run(runs, "ias", 0, 26.0)
    page, _, output = make_report(runs)
    text = page + "".join(file.read_text() for file in output.glob("*.md"))
    assert "26.50" in text
    assert "44.5" not in text
    assert "elsewhere" not in text
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "elsewhere"}


@pytest.mark.parametrize(
    "content",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 72 16\n(TRACE) (w) file\n", b"", b"\x89PNG\r\n\x1a\n" + b"x" * 99],
)
def test_a_damaged_sample_is_left_out_with_a_note(tmp_path, content):
    directory = write_run(tmp_path, "ias", 0, 26.0)
    (sample,) = (directory / "samples").iterdir()
    sample.write_bytes(content)
    shutil.rmtree(tmp_path / "ablations")
    page, _, _ = make_report(tmp_path)
    assert "26.500" in page
    assert "<img" not in page
    with sample.open("wb") as file:
        Image.new("RGB", (2, 5)).save(file, "PNG")  # too small to hold three frames
    assert "<img" not in make_report(tmp_path)[0]


def test_an_incomplete_run_is_left_out(tmp_path):
    directory = write_run(tmp_path, "ias", 0, 26.0)
    (directory / "results.json").write_text('{"summary": ')
    (tmp_path / "ablations/wdvr_block_design/data=procedural,size=mini/points/x.json").write_text("{")
    page, counts, _ = make_report(tmp_path)
    assert counts["not run"] == len(TABLES)
    assert "its results are gone" in page


def test_runs_that_were_moved_together_are_found(tmp_path):
    write_run(tmp_path / "here", "ias", 0, 26.0)
    shutil.move(tmp_path / "here", tmp_path / "there")
    _, result = load_block_design(tmp_path / "there")
    assert result.rows_done == 1
