"""``task=report``: output folder and W&B sweeps."""

from __future__ import annotations

import pytest
import yaml

from src.config.composition import CONF, compose
from src.config.options import run_task
from src.errors import UserError
from tests.report.examples import make_report

pytestmark = pytest.mark.long


def test_an_empty_folder_and_a_file_as_output_are_reported(tmp_path, capsys):
    make_report(tmp_path / "nothing")
    assert "No runs with results in" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write.*output=<folder>"):
        make_report(tmp_path, f"output={tmp_path}/file")


def test_every_study_is_written_as_a_sweep(tmp_path):
    run_task(compose("task=report", f"paths.runs={tmp_path}", f"output={tmp_path / 'page'}"), tmp_path)
    names = {file.stem for file in (CONF / "ablation").glob("*.yaml")}
    assert {file.stem for file in (tmp_path / "page" / "sweeps").iterdir()} == names
    sweep = yaml.safe_load((tmp_path / "page" / "sweeps" / "wdvr_window_size.yaml").read_text())
    assert sweep["parameters"]["model.network.frames"] == {"values": ["1", "3", "5", "7"]}
    assert sweep["metric"]["name"] == "test/psnr"
