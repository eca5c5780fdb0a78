"""What task=evaluate scores of a folder of clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.config.composition import compose
from src.config.overrides import refuse_other_data
from src.errors import UserError
from src.tasks.evaluate import keep_held_back
from tests.data.layouts.copies import write_frames
from tests.tasks.test_tasks import run


@pytest.mark.long
def test_whole_clips_are_scored_and_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_frames(tmp_path / "clips" / name, 40, (16, 16))
    command = ["task=evaluate", "model=bicubic", "data=folder", f"data.root={tmp_path / 'clips'}", "callbacks=null"]
    log = run(*command, f"paths.runs={tmp_path / 'runs'}")
    assert f"Scored: 80 frames of 2 clips of {tmp_path / 'clips'}, whole clips." in log.replace("\n", " ")
    (results,) = (tmp_path / "runs").rglob("results.json")
    outcome = json.loads(results.read_text())
    assert [len(clip["frames"]) for clip in outcome["clips"].values()] == [40, 40]
    assert (outcome["protocol"]["part"], outcome["protocol"]["inputs"]) == (
        "whole clips",
        "made from the source frames",
    )
    log = run(*command, f"paths.runs={tmp_path / 'more'}", "experiment=bicubic_vimeo", "protocol=rgb")
    assert "held back from training" in log


def test_frames_of_a_training_are_not_scored(tmp_path: Path) -> None:
    options = ["data=folder", f"data.root={tmp_path}"]
    training, run_folder = compose(*options, "data.layout.hold_back=0.3"), tmp_path / "run"
    assert training.data.layout.score == "held_back"
    (run_folder / "checkpoints").mkdir(parents=True)
    (run_folder / "config.yaml").write_text(OmegaConf.to_yaml(training, resolve=True))
    weights = run_folder / "checkpoints" / "last.ckpt"
    same = compose(*options, "task=evaluate", f"checkpoint={weights}")
    assert same.data.layout.score == "whole"
    keep_held_back(same)
    assert (same.data.layout.score, same.data.layout.hold_back) == ("held_back", 0.3)
    other = compose("data=folder", "data.root=elsewhere", "task=evaluate", f"checkpoint={weights}")
    keep_held_back(other)
    assert other.data.layout.score == "whole"


def test_a_test_of_another_data_set_is_refused() -> None:
    typed = ["experiment=edvr_vimeo", "test=vid4", "data=folder", "data.root=clips"]
    with pytest.raises(UserError, match=r"test=vid4 scores data=vid4, and data=folder would take its place"):
        refuse_other_data(typed)
    refuse_other_data([*typed, "ablation=edvr_vid4_y"])  # on other data, which the table names
    refuse_other_data(["experiment=edvr_vimeo", "test=vid4", "data=vid4"])
    refuse_other_data(["experiment=edvr_vimeo", "test=ensemble4", "data=folder"])
    refuse_other_data(["experiment=edvr_vimeo", "test=vid4"])
