"""The report: published values beside ours, and names that are escaped everywhere."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from src.config.composition import CONF, compose
from src.config.options import run_task
from src.errors import CheckpointError, UserError
from src.metrics import FrameScore
from src.protocols import Protocol, results, write_results
from src.report.charts import Curve, Dot, downsample, pareto_front, plot_curves, plot_scatter
from src.report.runs import Run
from src.report.study_results import StudyResult, load_results
from src.report.tables import compare_table
from src.sweeps.aggregate import Point, escape_markdown, rank_correlation
from src.sweeps.published import published, studies

EXPERIMENTS = CONF.parent / "experiments"
TABLES = [table for paper in published(EXPERIMENTS) for table in paper.tables]
NASTY = "<script>alert(1)</script>|`x`"


def finished(runs: Path, design: str, seed: int, psnr: float, clip: str = "street") -> Path:
    """Write a run of WDVR's Table 2 as training does, with pictures, and its point of the sweep."""
    given = ["experiment=wdvr3d_reds", f"model/network/trunk={design}", "size=mini", "data=procedural", f"seed={seed}"]
    directory = runs / "wdvr3d_reds" / f"data=procedural,model_network_trunk={design},size=mini" / f"seed={seed}"
    (directory / "samples").mkdir(parents=True)
    OmegaConf.save(compose(*given, f"paths.runs={runs}"), directory / "config.yaml", resolve=True)
    frames = [
        FrameScore(clip=0, time=Fraction(t), psnr=psnr + t, ssim=0.9, temporal_difference_error=None) for t in (0, 1)
    ]
    about = {"degradation": {"steps": []}, "data": "datasets/procedural", "commit": "abc", "input_frames_limit": 2}
    write_results(directory / "results.json", results({0: frames}, protocol=Protocol("rgb"), names=[clip], **about))
    rows = [f"{step},{1 / (step + 1)},{psnr + step / 100}" for step in (0, 50, 100)]
    (directory / "metrics.csv").write_text("\n".join(["step,train/loss,validate/psnr", *rows]) + "\n")
    (directory / "commit.txt").write_text("abcdef0123456789\n")
    picture = np.zeros((16, 72, 3), np.uint8)
    picture[:, 24:48] = 255
    Image.fromarray(picture).save(directory / "samples" / f"{clip.replace('/', '_')}_step0000100.png")
    points = runs / "ablations" / "wdvr_block_design" / "data=procedural,size=mini" / "points"
    record(points / f"{design}-{seed}.json", ["ablation=wdvr_block_design", *given], directory, "finished")
    return directory


def record(file: Path, overrides: list[str], directory: Path, status: str, message: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "overrides": overrides,
        "directory": str(directory),
        "status": status,
        "seconds": 1.0,
        "message": message,
    }
    file.write_text(json.dumps(content))


def make_report(runs: Path, *more: str) -> tuple[str, dict[str, int], Path]:
    config = compose("task=report", f"paths.runs={runs}", *more)
    counts = run_task(config, Path("."))
    return (Path(config.output) / "index.html").read_text(), counts, Path(config.output)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Three of four designs, one of them with two seeds; the fourth failed."""
    runs = tmp_path_factory.mktemp("runs")
    for design, seed, psnr in [("tsas", 0, 27.0), ("tsas", 1, 27.2), ("ias", 0, 26.0)]:
        finished(runs, design, seed, psnr)
    odd = finished(runs, "iai", 0, 25.0, clip=NASTY)
    (odd / "wandb_url.txt").write_text("https://wandb.ai/someone/zeitlupe/runs/1\n")
    place = runs / "ablations" / "wdvr_block_design" / "data=procedural,size=mini" / "points" / "stas-0.json"
    given = ["experiment=wdvr3d_reds", "model/network/trunk=stas", "size=mini", "data=procedural", "seed=0"]
    record(place, given, runs / "nowhere", "failed", f"out of memory {NASTY}")
    return runs


@pytest.fixture(scope="module")
def page(runs) -> str:
    return make_report(runs)[0]


def block_design(runs: Path) -> tuple:
    table = next(table for table in TABLES if table.key == "table2_block_design")
    (study,) = studies(table)
    (result,) = load_results(study, runs)
    return table, result


def test_our_values_follow_the_papers_with_difference_and_deviation(runs):
    table, result = block_design(runs)
    shown = compare_table(table, result)
    assert shown.words == ["design"]
    column = shown.figures.index("psnr")
    lines = {group.names[0]: {line.kind: line.cells[column] for line in group.lines} for group in shown.groups}
    assert lines["IAI"] == {"paper": "28.70", "here": "25.50", "difference": "\N{MINUS SIGN}3.20"}
    assert lines["TSAS"]["here"] == "27.60 ± 0.14"  # of 27.5 and 27.7
    assert lines["STAS"] == {"paper": "28.92"}  # failed
    labels = {group.names[0]: [line.label for line in group.lines] for group in shown.groups}
    assert labels["TSAS"][1] == "here, mini, 2 seeds"
    assert shown.agreement[column] == "1.00"
    assert result.rows_done == 3
    assert result.study.expected == 4
    assert [status for _, status, _ in result.unfinished] == ["failed"]


def test_a_seed_tested_several_times_counts_once(runs):
    table, result = block_design(runs)
    (tsas,) = (seeds for point, seeds in result.runs_by_point.items() if "tsas" in point)
    tsas += tsas[:1] * 3
    assert "here, mini, 2 seeds" in [
        line.label for group in compare_table(table, result).groups for line in group.lines
    ]


def test_departures_from_the_published_experiment_are_marked(runs, page):
    _, result = block_design(runs)
    size, data, *_ = result.departures
    assert size.startswith("mini")
    assert data == "not the paper's data: procedural, 1 clip, 2 input frames of each"
    assert '<span class="chip mini">mini' in page
    assert "partly filled, mini" in page
    assert "3 of 4 rows" in page


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.folder}-{table.key}")
def test_without_runs_every_published_table_is_not_run(table, empty):
    page, markdown = empty
    part = page.split(f'<article id="{table.folder}-{table.key}"')[1].split("</article>")[0]
    assert 'class="state not-run">not run<' in part
    assert part.count("<tbody") == len(table.rows)
    commands = [f"ablation={study.name}" for study in studies(table)] or ["no study of conf/ablation repeats it"]
    assert all("not run</strong> " in part and command in part for command in commands)
    assert f"## {escape_markdown(table.title)}: not run" in markdown[table.folder]


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> tuple[str, dict[str, str]]:
    page, counts, output = make_report(tmp_path_factory.mktemp("none"))
    assert counts == {"filled": 0, "partly filled": 0, "not run": len(TABLES)}
    return page, {file.stem: file.read_text() for file in output.glob("*.md")}


def test_an_empty_folder_and_a_file_as_output_are_reported(tmp_path, capsys):
    make_report(tmp_path / "nothing")
    assert "No runs with results in" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write.*output=<folder>"):
        make_report(tmp_path, f"output={tmp_path}/file")


def test_printed_pairs_are_two_columns_with_the_papers_decimals():
    table = next(table for table in TABLES if table.key == "table3_reds4_sr_clean")
    shown = compare_table(table)
    assert shown.figures[-2:] == ["average", "average SSIM"]
    assert shown.groups[-1].lines[0].cells[-2:] == ["31.09", "0.8800"]
    assert StudyResult(studies(TABLES[0])[0], []).value("average SSIM", 0) == (None, None)


class Elements(HTMLParser):
    """All elements of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    handle_startendtag = handle_starttag

    def of(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag == name]


def test_names_are_escaped_and_nothing_is_fetched(page, runs):
    elements = Elements(page)
    assert len(elements.of("script")) == 1
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert not [a for tag in ("link", "script", "img", "iframe") for a in elements.of(tag) if "http" in str(a)]
    assert all(image["src"].startswith("data:image/webp;base64,") for image in elements.of("img"))
    text = (runs / "report" / "wdvr.md").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|\\`x\\`" in text


def test_controls_are_reachable_by_keyboard_and_labelled(page):
    elements = Elements(page)
    ids = [a["id"] for _, a in elements.elements if "id" in a]
    assert len(ids) == len(set(ids))
    tips = [button for button in elements.of("button") if button.get("class") == "how"]
    assert len(tips) == 3  # TSAS, IAS, IAI
    for tip in tips:
        assert tip["aria-describedby"] in ids
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in elements.of("div") if a.get("class") == "scroll")
    sliders = elements.of("input")
    assert sliders
    assert all(s["type"] == "range" and "restored" in s["aria-label"] for s in sliders)
    for drawing in elements.of("svg"):
        names = drawing.get("aria-labelledby", "").split()
        assert drawing.get("aria-hidden") == "true" or (names and all(name in ids for name in names))
    assert all(image["alt"] for image in elements.of("img"))
    targets = [a["href"][1:] for a in elements.of("a") if a["href"].startswith("#")]
    assert set(targets) <= set(ids)


def test_links_lead_to_configurations_and_wandb(page, runs):
    links = [a["href"] for a in Elements(page).of("a") if not a["href"].startswith("#")]
    configurations = [runs / "report" / unquote(link) for link in links if link.endswith("config.yaml")]
    assert len(configurations) == 4
    assert all(file.is_file() for file in configurations)
    assert [link for link in links if link.startswith("http")] == ["https://wandb.ai/someone/zeitlupe/runs/1"]


def test_only_web_addresses_become_links(tmp_path):
    (tmp_path / "wandb_url.txt").write_text("javascript:alert(1)")
    assert Run(tmp_path).url == ""


def harmless(page: str) -> bool:
    """Return whether the page has only its own script, no handlers, and only relative and web links."""
    elements = Elements(page)
    attributes = [(name, value or "") for _, attributes in elements.elements for name, value in attributes.items()]
    addresses = [value for name, value in attributes if name in ("href", "src", "xlink:href", "action", "style")]
    return (
        len(elements.of("script")) == 1
        and not {tag for tag, _ in elements.elements}
        & {"iframe", "object", "embed", "base", "form", "foreignobject", "x"}
        and not [name for name, _ in attributes if name.startswith("on")]
        and not [a for a in addresses if "script:" in a.lower() or a.startswith("//")]
    )


EVIL = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</title></svg><x onload=alert(1)>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "javascript:alert(1)",
    "](javascript:alert(1)) ![x](//evil/x.png) | a | b |\n\n# heading\n\n<x>",
    "../../outside",
    "$x$ \\frac{",
]


@pytest.mark.parametrize("evil", EVIL)
def test_names_and_messages_are_escaped_everywhere(tmp_path, evil):
    """In names and files of runs, points and folders."""
    runs = tmp_path / "runs"
    file_name = evil.replace("/", "_").replace("\n", " ")[:80]
    directory = finished(runs, "tsas", 0, 27.0, clip=file_name)
    content = json.loads((directory / "results.json").read_text())
    clip = content["clips"].pop(file_name)
    content["clips"] = {evil: clip}
    content["summary"][evil] = 1.0
    content["subsets"] = {evil: {"psnr": 1.0}}
    for key in ("name", "channel", "colour_matrix", "frames", "mean", "data", "commit", "edges"):
        content["protocol"][key] = evil
    content["protocol"]["degradation"] = {evil: evil, "steps": [{"_target_": evil}]}
    content["models"] = {evil: {"seconds_per_frame": 1.0, evil: 2.0}, f"zsm {evil}": {"seconds_per_frame": 1.0}}
    content |= {"device": evil, "input": [8, 8]}
    (directory / "results.json").write_text(json.dumps(content))
    (directory / "commit.txt").write_text(evil)
    (directory / "wandb_url.txt").write_text(evil)
    (directory / "metrics.csv").write_text(
        f"step,validate/psnr,{file_name}\n0,{file_name},1\n0,20,1\n9,21,{file_name}\n"
    )
    points = runs / "ablations" / "wdvr_block_design" / "data=procedural,size=mini" / "points"
    given = [f"model/network/trunk={evil}", "experiment=wdvr3d_reds", f"data.root={evil}", f"{evil}=1", f"seed={evil}"]
    record(points / "evil.json", given, directory, "finished")
    record(points / "failed.json", given, directory, evil, evil)
    alone = runs / file_name / file_name / "seed=0"
    shutil.copytree(directory, alone)
    config = OmegaConf.load(alone / "config.yaml")
    config.data.root, config.data.layout["_target_"], config.checkpoint = evil, evil, f"{evil}/x/y.ckpt"
    OmegaConf.save(config, alone / "config.yaml")
    page, _, output = make_report(runs)
    assert harmless(page)
    assert evil[:20] in Texts(page).text  # shown as text
    for file in output.glob("*.md"):
        commands = re.findall(r"(?m)^```\n(.*)\n```$", text := file.read_text())
        assert text.count("\n```") == 2 * len(commands)
        assert all(line.startswith("python -m src.run ablation=") for line in commands)
        text = re.sub(r"(?m)^```\n.*\n```$", "", text)
        assert "<x" not in text
        assert "<script" not in text
        assert not re.search(r"(?<!\\)\]\(", text)
        assert "\n# heading" not in text
    assert not (tmp_path / "outside").exists()
    assert not (output.parent / "outside").exists()


class Texts(HTMLParser):
    """The text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(page)

    def handle_data(self, data):
        self.text += data


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
    set_network(finished(runs, "ias", 0, 26.0), json.loads(json.dumps(network).replace("TRACE", str(trace))))
    shutil.rmtree(runs / "ablations")
    page, _, _ = make_report(runs)
    text = Texts(page).text
    assert "26.500" in text
    assert "network in its config.yaml has the target" in text or "number that is too large" in text
    assert not trace.exists()


def test_columns_of_a_study_call_no_foreign_target(tmp_path):
    directory = finished(tmp_path, "ias", 0, 26.0)
    set_network(directory, {"_target_": "os.mkdir", "path": str(tmp_path / "trace")})
    run = Run(directory)
    assert run.value("count/parameters") is None
    assert run.value("network/trunk/temporal_share") is None
    assert len([note for note in run.notes if "no part of this suite" in note]) == 2
    for source in ("count/parameters", "network/trunk/temporal_share"):
        with pytest.raises(CheckpointError, match="no part of this suite"):
            Point(directory, []).value(source)
    assert not (tmp_path / "trace").exists()


def test_a_cascade_of_deleted_checkpoints_is_shown_without_parameters(tmp_path):
    directory = finished(tmp_path, "ias", 0, 26.0)
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
    directory = finished(runs, "ias", 0, 26.0)
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
    directory = finished(tmp_path, "ias", 0, 26.0)
    finished(tmp_path, "tsas", 0, 27.0)
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
    directory = finished(tmp_path / "runs", "ias", 0, 26.0)
    config = OmegaConf.load(directory / "config.yaml")
    config.checkpoint = str(tmp_path / "theirs" / "checkpoints" / "last.ckpt")
    OmegaConf.save(config, directory / "config.yaml")
    run = Run(directory)
    assert run.training_config == run.config
    assert run.parameters
    assert "lacks data, trainer" in run.notes[0]


def test_recorded_paths_outside_the_runs_are_not_read(tmp_path):
    runs, outside = tmp_path / "runs", tmp_path / "elsewhere"
    theirs = finished(outside, "tsas", 0, 44.0)
    points = runs / "ablations" / "wdvr_block_design" / "data=procedural,size=mini" / "points"
    overrides = ["experiment=wdvr3d_reds", "model/network/trunk=tsas", "size=mini", "data=procedural", "seed=0"]
    relative = Path("..") / theirs.relative_to(tmp_path)
    for number, place in enumerate((theirs, relative, Path("a/b/..") / relative, Path("../.."), Path("/"))):
        record(points / f"{number}.json", [*overrides, f"data.crop={number}"], place, "finished")
    finished(runs, "ias", 0, 26.0)
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
    directory = finished(tmp_path, "ias", 0, 26.0)
    (sample,) = (directory / "samples").iterdir()
    sample.write_bytes(content)
    shutil.rmtree(tmp_path / "ablations")
    page, _, _ = make_report(tmp_path)
    assert "26.500" in page
    assert "<img" not in page
    with sample.open("wb") as file:
        Image.new("RGB", (2, 5)).save(file, "PNG")  # too small to hold three frames
    assert "<img" not in make_report(tmp_path)[0]


def test_the_folder_may_be_a_run_itself(tmp_path):
    page, _, _ = make_report(finished(tmp_path, "ias", 0, 26.0))
    assert "26.500" in page


def test_learning_curves_and_frame_scores_are_drawn(page):
    assert "PSNR in validation, dB over step. iai: 25 to 26; ias: 26 to 27; tsas: 27 to 28; tsas: 27.2 to 28.2" in page
    assert "training loss over step" in page
    assert "Frame by frame" in page
    assert page.count('class="line c') > 6


def test_an_incomplete_run_is_left_out(tmp_path):
    directory = finished(tmp_path, "ias", 0, 26.0)
    (directory / "results.json").write_text('{"summary": ')
    (tmp_path / "ablations/wdvr_block_design/data=procedural,size=mini/points/x.json").write_text("{")
    page, counts, _ = make_report(tmp_path)
    assert counts["not run"] == len(TABLES)
    assert "its results are gone" in page


def test_a_run_outside_of_studies_is_listed_with_its_frames(tmp_path):
    finished(tmp_path, "ias", 0, 26.0)
    shutil.rmtree(tmp_path / "ablations")
    page, _, _ = make_report(tmp_path)
    assert "street, wdvr3d_reds" in page
    assert "wdvr3d_reds: training loss" in page


def test_runs_that_were_moved_together_are_found(tmp_path):
    finished(tmp_path / "here", "ias", 0, 26.0)
    shutil.move(tmp_path / "here", tmp_path / "there")
    _, result = block_design(tmp_path / "there")
    assert result.rows_done == 1


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # scipy.stats.spearmanr's own example
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486832980505138),
        ([1, 2, 3], [30.0, 20.0, 10.0], -1.0),
        ([1.00001, 1.00002, 3], [1, 1, 2], 1.0),  # equal to the fourth decimal
        ([1, 1, 1], [1, 2, 3], None),
    ],
)
def test_rank_correlation_averages_the_ranks_of_equal_values(one, other, expected):
    assert rank_correlation(one, other) == (expected and pytest.approx(expected))


def test_the_pareto_front():
    points = [(2.0, 30.0), (1.0, 29.0), (3.0, 29.5), (2.0, 31.0), (4.0, 32.0)]
    assert pareto_front(points) == [1, 3, 4]
    chart = plot_scatter([Dot(f"model {number}", *point) for number, point in enumerate(points)], "t", "x", "PSNR")
    assert "On the front: model 1, model 3, model 4." in chart.description
    places = [(marker.x, marker.y) for marker in chart.markers]
    assert all(0 < x < chart.width and 0 < y < chart.height for x, y in places)
    assert plot_scatter([Dot("alone", 1.0, 2.0)], "t", "x", "y") is None
    assert plot_scatter([Dot("bicubic", 0.0, 2.0), Dot("zsm", 10.0, 3.0)], "t", "x", "y").x_ticks[0][1] == "0"


def test_long_curves_are_averaged():
    assert downsample([(x, 2.0 * x) for x in range(4)], 2) == [(0.5, 1.0), (2.5, 5.0)]
    assert len(downsample([(x, x) for x in range(10_000)])) <= 240
    assert plot_curves([Curve("a", [(1, float("nan")), (2, 1.0)])], "t", "x", "y") is None


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Headless Chromium, driven over its own protocol, so that key presses are real."""

    def __init__(self, executable: str, profile: Path) -> None:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        self.port = profile / "DevToolsActivePort"
        self.process = subprocess.Popen(
            [executable, *options, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
        )
        self.faults: list[dict] = []
        self.number = 0

    async def connect(self, session: Any) -> None:
        for _ in range(300):
            if self.port.exists() and len(lines := self.port.read_text().splitlines()) == 2:
                break
            await asyncio.sleep(0.1)
        async with session.get(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
            (target, *_) = [target for target in await answer.json() if target["type"] == "page"]
        self.socket = await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")

    async def send(self, method: str, **params: Any) -> dict:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        while True:
            message = await self.socket.receive_json(timeout=60)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                self.faults.append(message)
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    async def open(self, address: str) -> None:
        await self.send("Page.navigate", url=address)
        for _ in range(100):
            if await self.value(f"location.href == {json.dumps(address)} && document.readyState == 'complete'"):
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(address)

    async def value(self, expression: str) -> Any:
        result = await self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    async def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
        await asyncio.sleep(0.1)


async def in_a_browser(browser: Browser, address: str) -> None:
    look = "getComputedStyle(document.body).backgroundColor"
    clip = "getComputedStyle(document.querySelector('.before')).clipPath"
    async with aiohttp.ClientSession() as session:
        await browser.connect(session)
        await browser.open(address)
        await browser.value("document.querySelector('.frames input').focus()")
        before = await browser.value(clip)
        for _ in range(5):
            await browser.press("ArrowRight", 39)
        assert before == "inset(0px 50% 0px 0px)"
        assert await browser.value(clip) == "inset(0px 45% 0px 0px)"
        light = await browser.value(look)
        await browser.value("document.getElementById('theme').click()")
        assert (await browser.value("document.documentElement.dataset.theme"), await browser.value(look) != light) == (
            "dark",
            True,
        )
        await browser.open(address + "#others")
        assert await browser.value(look) != light  # remembered
        await browser.value("document.getElementById('theme').click()")
        assert await browser.value(look) == light
        for _ in range(400):  # the protocol is reachable with the Tab key alone
            await browser.press("Tab", 9)
            if await browser.value("document.activeElement.className") == "how":
                break
        shown = "getComputedStyle(document.querySelector('.how:focus + .tip')).display"
        assert await browser.value(shown) == "block"
        await browser.press("Escape", 27)
        assert await browser.value(shown) == "none"
        await browser.send(
            "Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True
        )
        assert await browser.value("innerWidth") == 400  # tables scroll instead of the page
        assert await browser.value("document.documentElement.scrollWidth") == 400
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        await browser.value("localStorage.clear()")
        await browser.send("Emulation.setEmulatedMedia", features=dark)
        await browser.send("Emulation.setScriptExecutionDisabled", value=True)
        await browser.send("Page.reload")
        await asyncio.sleep(1)
        assert await browser.value(look) != light  # follows the system
        widths = await browser.value("[...document.querySelector('.frames').children].map((e) => e.clientWidth)")
        assert widths[0] == widths[1] > 100  # without scripts both frames stand side by side
        assert widths[3] == 0
        await browser.send("Browser.close")


@pytest.mark.slow
def test_the_page_works_in_a_browser(page, runs, tmp_path):
    """From disk: keys move the slider and reach the protocols, the switch changes colours, nothing is too wide."""
    executable = chromium()
    if not executable:
        pytest.skip("needs Chromium: apt-get install chromium")
    browser = Browser(executable, tmp_path / "profile")
    try:
        asyncio.run(in_a_browser(browser, (runs / "report" / "index.html").as_uri()))
    finally:
        browser.process.terminate()
        browser.process.wait(30)
    assert browser.faults == []


def test_every_study_is_left_as_a_sweep(tmp_path):
    run_task(compose("task=report", f"paths.runs={tmp_path}", f"output={tmp_path / 'page'}"), tmp_path)
    names = {file.stem for file in (CONF / "ablation").glob("*.yaml")}
    assert {file.stem for file in (tmp_path / "page" / "sweeps").iterdir()} == names
    sweep = yaml.safe_load((tmp_path / "page" / "sweeps" / "wdvr_window_size.yaml").read_text())
    assert sweep["parameters"]["model.network.frames"] == {"values": ["1", "3", "5", "7"]}
    assert sweep["metric"]["name"] == "test/psnr"
