"""Tables of sweeps without a published one: by options alone, and by the study of docs/studies.md."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus

from src.config.overrides import quote_paths, translate
from src.errors import UserError
from src.sweeps import points
from src.sweeps.aggregate import Point, resolve_columns
from src.sweeps.callback import Study
from src.sweeps.points import PointStatus
from tests.sweeps.test_sweeps import sweep
from tests.tasks.test_tasks import ROOT, clips, run  # noqa: F401 - the fixture

PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
QUICK = [
    *("size.width=0.125", "data.crop=32", "data.layout.hold_back=0.4", "data.test_frames=6", "data.workers=0"),
    *("logger=csv", "callbacks.progress=null", "callbacks.samples=null", "trainer.max_steps=2", "data.batch_size=2"),
    *("trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "trainer.devices=1", "trainer.accelerator=cpu"),
    "hydra/launcher=basic",  # all points in one process, which saves most of the time
]


def commands() -> list[list[str]]:
    """The commands of the page, without ``python -m src.run``."""
    return [shlex.split(line)[3:] for line in PAGE.splitlines() if line.startswith("python -m src.run ")]


@pytest.mark.long
def test_the_study_of_the_page_makes_its_table(clips, tmp_path):  # noqa: F811
    (study,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(study.splitlines()) <= 25
    file = tmp_path / "studies" / "ablation" / "fusion.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(study)
    _, whole, _ = commands()
    at = {"--config-dir=studies": f"--config-dir={file.parents[1]}", "data.root=clips": f"data.root={clips}"}
    output = run(*(at.get(word, word) for word in whole), *QUICK, f"paths.runs={tmp_path / 'runs'}")
    assert output.count("Finished in ") == 4
    (folder,) = (tmp_path / "runs" / "ablations" / "fusion").iterdir()
    table = (folder / "table.md").read_text()
    assert table.startswith("**Fusion of frames by attention and by convolution** (")
    assert "| point | PSNR | first clip | parameters | n |" in table
    scores: dict[str, list[float]] = {"attention": [], "convolution": []}
    for entry in map(json.loads, (one.read_text() for one in (folder / "points").glob("*.json"))):
        name = next(o for o in entry["overrides"] if o.startswith("point=")).partition("=")[2]
        results = json.loads((tmp_path / "runs" / entry["directory"] / "results.json").read_text())
        scores[name].append(results["summary"]["psnr"])
    rows = {row["point"]: row for row in json.loads((folder / "table.json").read_text())["rows"]}
    for name, (one, other) in scores.items():
        assert rows[name]["PSNR"] == pytest.approx((one + other) / 2, abs=1e-9)
        assert rows[name]["PSNR deviation"] == pytest.approx(abs(one - other) / 2**0.5, abs=1e-9)
        assert f"| {name} | {(one + other) / 2:.3f} ± {abs(one - other) / 2**0.5:.3f} |" in table
    assert rows["attention"]["parameters"] > rows["convolution"]["parameters"]


def test_the_other_commands_of_the_page_select_what_they_say(tmp_path, monkeypatch):
    (study,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "studies" / "ablation").mkdir(parents=True)
    (tmp_path / "studies" / "ablation" / "fusion.yaml").write_text(study)
    monkeypatch.chdir(tmp_path)
    plain, _, one_row = commands()
    assert "~hydra.sweeper.points.attention" in translate(one_row, sweep=True)
    assert "model/edvr/fuse=tsa,conv" in translate(plain, sweep=True)


@pytest.mark.parametrize("number", [0, 1])
def test_a_sweep_without_a_study_has_a_table(tmp_path, number):
    """Columns without any value are left out: two evaluations have no steps, and one of them no SSIM."""
    whole = sweep(f"paths.runs={tmp_path}", values="model=bicubic,repeat task=evaluate")
    columns = [None, ["ssim", "results/summary/psnr"]][number]
    study = Study(title="", columns=columns)
    study.on_multirun_start(whole)
    made = []
    for name, psnr in (("bicubic", 20.5), ("repeat", 19.25)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps({"summary": {"psnr": psnr, "ssim": 0.5}}))
        made.append(Point(folder, [f"model={name}", "task=evaluate", "seed=0"], 3.5))
        made[-1].values["count/parameters"] = None
    study.finished = {str(number): point for number, point in enumerate(made)}
    entries = [PointStatus(["task=evaluate"], place, str(place), "", None, "finished", 3.5) for place in range(2)]
    study.folder.mkdir(parents=True)
    text = study._write(entries)
    heads = ["| model | psnr | ssim | seconds |", "| model | ssim | psnr |"][number]
    row = ["| bicubic | 20.500 | 0.5 | 3.5 |", "| bicubic | 0.5 | 20.500 |"][number]
    assert heads in text
    assert row in text
    assert (study.folder / "plot.svg").exists()


def test_options_of_a_table_are_plain_and_checked():
    typed = translate(["-m", "table.title=A, b and c", "table.columns=[psnr,gflops]", "model=zsm,edvr_m"])
    assert [quote_paths(word) for word in typed[1:3]] == [
        "hydra.callbacks.study.title='A, b and c'",
        "hydra.callbacks.study.columns=[psnr,gflops]",
    ]
    config = sweep(*map(quote_paths, typed[1:3]))
    options = {key: config.hydra.callbacks.study[key] for key in ("name", "title", "columns", "compare")}
    study = Study(**options)
    assert (study.title, study.columns) == (
        "A, b and c",
        {"psnr": "results/summary/psnr", "gflops": "count/gflops"},
    )
    with pytest.raises(UserError, match="A table has no column 'psnrr': did you mean psnr"):
        resolve_columns(["psnrr"])


def test_another_title_changes_no_run(tmp_path):
    """Options of the table are in no folder's name and in no point's command."""
    one = sweep(f"paths.runs={tmp_path}", "hydra.callbacks.study.title=x")
    assert not [word for word in points.build_arguments(one) if "study" in word]
    assert points.locate_sweep(one) == points.locate_sweep(sweep(f"paths.runs={tmp_path}"))
    named = sweep(f"paths.runs={tmp_path}", "hydra.callbacks.study.name=mine")
    assert points.locate_sweep(named).parent.name == "mine"


def test_a_continued_run_has_no_duration(tmp_path):
    config = sweep(f"paths.runs={tmp_path}", "model=bicubic")
    study = Study()
    study.on_multirun_start(config)
    directory = points.locate_run(config)
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("seed: 3\n")
    for expected in (None, 0.0):
        study.on_job_start(config)
        outcome = JobReturn(status=JobStatus.COMPLETED)
        study.on_job_end(config, outcome)
        (entry,) = points.read_statuses(Path(study.folder))
        assert (entry.seconds is None) == (expected is None)
        (directory / "config.yaml").unlink(missing_ok=True)
        for file in (study.folder / "points").glob("*.json"):
            file.unlink()
