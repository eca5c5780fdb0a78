"""The reader's own studies and runs come first; papers' tables that were not run are folded away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.report.labels import label_runs
from src.report.runs import Run
from src.report.tables import MISSING, tabulate_clips
from tests.report.examples import TABLES, Elements, Texts, make_report, write_point, write_run

pytestmark = pytest.mark.long
SCORES = {("tsas", 0): 27.0, ("tsas", 1): 27.4, ("ias", 0): 26.0, ("ias", 1): 26.2}


def write_own_study(runs: Path) -> None:
    """Write a sweep over two designs and two seeds as the callback of sweeps does, and nothing of the paper's study."""
    folder = runs / "ablations" / "my_trunks" / "size=mini"
    for (design, seed), psnr in SCORES.items():
        directory = write_run(runs, design, seed, psnr)
        given = ["experiment=wdvr3d_reds", f"model/network/trunk={design}", "size=mini", f"seed={seed}"]
        write_point(folder / "points" / f"{design}-{seed}.json", given, directory, "finished")
    table = {
        "title": "Trunks of <mine>",
        "columns": {"psnr": "results/summary/psnr", "parameters": "count/parameters", "seconds": "point/seconds"},
        "compare": "psnr",
        "heading": "model/network/trunk",
        "command": "python -m src.run -m experiment=wdvr3d_reds model/network/trunk=tsas,ias seed=0,1",
    }
    (folder / "table.json").write_text(json.dumps(table))
    shutil.rmtree(runs / "ablations" / "wdvr_block_design")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> str:
    runs = tmp_path_factory.mktemp("own")
    write_own_study(runs)
    for design, crop in (("stas", 48), ("stas", 64)):  # outside of any study
        directory = write_run(runs, design, 0, 20.0 + crop / 64)
        alone = runs / "wdvr3d_reds" / f"data.crop={crop}" / "seed=0"
        shutil.move(directory, alone)
        command = f"python -m src.run experiment=wdvr3d_reds size=mini data.crop={crop} logger=csv seed=0\n"
        (alone / "command.txt").write_text(command)
        shutil.rmtree(runs / "ablations" / "wdvr_block_design")
    page, counts, _ = make_report(runs)
    assert counts == {"filled": 0, "partly filled": 0, "not run": len(TABLES)}
    return page


def test_own_results_come_first_and_are_linked(own):
    titles = ["Your studies</h2>", "Runs outside the studies</h2>", f"{len(TABLES)} published tables that were not run"]
    places = [own.rindex(title) for title in titles]
    assert places == sorted(places)
    links = [a["href"] for a in Elements(own).of("a")]
    assert links.index("#own-1") < links.index("#others-1")
    assert not [link for link in links if link.startswith("#wdvr-")]  # nothing of it was run
    folded = own[own.rindex('<details class="unrun">') :]
    assert folded.count("<article") == len(TABLES)
    assert own.count("<article") == len(TABLES) + 1


def test_an_own_study_has_its_table_with_spread_and_its_command(own):
    study = own[own.index('<article id="own-1"') :].partition("</article>")[0]
    text = " ".join(Texts(study).text.split())
    assert "Trunks of <mine>" in text
    assert "model/network/trunk" in text
    assert text.count("mini, 2 seeds") == 2
    assert "27.70 ± 0.28" in text  # clips of two frames, the second 1 dB better
    assert "26.60 ± 0.14" in text
    assert "python -m src.run -m experiment=wdvr3d_reds model/network/trunk=tsas,ias seed=0,1" in text
    assert "Clip by clip" in text
    assert "street26.60/0.900027.70/0.9000" in text
    assert "older version" not in text


def test_pictures_and_legends_name_what_differs_alone(own):
    captions = [part.partition("<")[0] for part in own.split("<figcaption>")[1:]]
    pictures = [caption for caption in captions if caption.startswith("street,")]
    assert pictures == [
        "street, ias (24x16)",
        "street, tsas (24x16)",
        "street, wdvr3d_reds, crop=48 (24x16)",
        "street, wdvr3d_reds, crop=64 (24x16)",
    ]
    legends = [part.partition("</ul>")[0] for part in own.split('<ul class="legend">')[1:]]
    labels = ["".join(Texts(legend).text.split()) for legend in legends]
    assert labels == ["iastsas", "iastsas", "crop=48crop=64", "crop=48crop=64"]


def test_runs_have_a_column_of_the_protocol(own):
    part = own[own.index('id="others-1"') :].partition("</table>")[0]
    assert '<th scope="col" class="word">protocol</th>' in part
    assert ">rgb: RGB</td>" in part


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ([["size=mini", "data.crop=48"], ["size=mini", "data.crop=64"]], ["crop=48", "crop=64"]),
        ([["size=mini"], ["size=mini", "model/network/fuse=conv"]], ["", "fuse=conv"]),
        ([["size=mini"]], [""]),
        ([], []),
    ],
)
def test_labels_hold_what_differs(options, labels):
    assert label_runs(options) == labels


def test_a_clip_that_one_run_lacks_is_a_gap(tmp_path):
    one, other = Run(tmp_path / "a"), Run(tmp_path / "b")
    one.results = {"clips": {"x": {"psnr": 30.0, "ssim": 0.9}, "y": {"psnr": None, "ssim": 0.5}}}
    other.results = {"clips": {"x": {"psnr": 31.0, "ssim": None}}}
    table = tabulate_clips({"a": [one], "b": [other], "bench": [Run(tmp_path / "c")]} | {"bench": []})
    assert table.points == ["a", "b"]
    assert table.rows == [("x", ["30.00/0.9000", "31.00"]), ("y", ["0.5000", MISSING])]


def test_a_network_from_outside_is_neither_full_nor_mini(tmp_path):
    directory = write_run(tmp_path, "ias", 0, 26.0)
    assert Run(directory).size.startswith("mini")
    config = OmegaConf.load(directory / "config.yaml")
    config.model.network["_target_"] = "mine.network.Restorer"
    OmegaConf.save(config, directory / "config.yaml")
    assert Run(directory).size == "own"
