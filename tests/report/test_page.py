"""The page and the Markdown files: content, accessibility, escaping."""

from __future__ import annotations

import json
import re
import shutil
from urllib.parse import unquote

import pytest
from omegaconf import OmegaConf

from src.sweeps.aggregate import escape_markdown
from src.sweeps.published import studies
from tests.report.examples import TABLES, Elements, Texts, load_block_design, make_report, write_point, write_run

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> tuple[str, dict[str, str]]:
    page, counts, output = make_report(tmp_path_factory.mktemp("none"))
    assert counts == {"filled": 0, "partly filled": 0, "not run": len(TABLES)}
    return page, {file.stem: file.read_text() for file in output.glob("*.md")}


def test_departures_from_the_published_experiment_are_marked(runs, page):
    _, result = load_block_design(runs)
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
    directory = write_run(runs, "tsas", 0, 27.0, clip=file_name)
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
    write_point(points / "evil.json", given, directory, "finished")
    write_point(points / "failed.json", given, directory, evil, evil)
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


def test_the_folder_may_be_a_run_itself(tmp_path):
    page, _, _ = make_report(write_run(tmp_path, "ias", 0, 26.0))
    assert "26.500" in page


def test_a_run_outside_of_studies_is_listed_with_its_frames(tmp_path):
    write_run(tmp_path, "ias", 0, 26.0)
    shutil.rmtree(tmp_path / "ablations")
    page, _, _ = make_report(tmp_path)
    assert "street, wdvr3d_reds" in page
    assert "wdvr3d_reds: training loss" in page
