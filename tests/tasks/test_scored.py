"""What task=evaluate scores of a folder of clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from src.config.as_trained import evaluate_as_trained
from src.config.build import build_data, build_inference_network, build_restorer
from src.config.composition import compose
from src.config.overrides import refuse_other_data
from src.data.layouts.folder import folder
from src.errors import UserError
from src.tasks.evaluate import tell_scored_frames
from tests.data.layouts.copies import write_frames
from tests.tasks.test_tasks import run


@pytest.mark.long
def test_whole_clips_are_scored_and_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_frames(tmp_path / "clips" / name, 40, (16, 16))
    command = [
        "task=evaluate",
        "model=bicubic",
        "data=folder",
        f"data.root={tmp_path / 'clips'}",
        "callbacks.samples=null",
    ]
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
    evaluate_as_trained(same)
    assert (same.data.layout.score, same.data.layout.hold_back) == ("held_back", 0.3)
    other = compose("data=folder", "data.root=elsewhere", "task=evaluate", f"checkpoint={weights}")
    assert evaluate_as_trained(other) == []
    assert other.data.layout.score == "whole"


def test_the_protocol_of_a_training_is_that_of_its_evaluation(tmp_path: Path) -> None:
    options = ["data=folder", f"data.root={tmp_path}"]
    training, run_folder = compose(*options, "protocol=vid4"), tmp_path / "run"
    assert training.protocol.channel == "y"
    (run_folder / "checkpoints").mkdir(parents=True)
    (run_folder / "config.yaml").write_text(OmegaConf.to_yaml(training, resolve=True))
    weights = f"checkpoint={run_folder / 'checkpoints' / 'last.ckpt'}"
    same = compose(*options, "task=evaluate", weights)
    assert (same.protocol.name, same.protocol.channel) == ("rgb", "rgb")
    _, protocol = evaluate_as_trained(same)
    assert same.protocol == training.protocol
    assert protocol == (
        f"The protocol is that of the training, {training.protocol.name} (channel=y); protocol=rgb chooses the default."
    )
    assert evaluate_as_trained(same) == []
    other = compose(*options, "task=evaluate", weights, "degradation=noise")
    *_, inputs = evaluate_as_trained(other)
    assert inputs.startswith("The inputs are made otherwise than in the training")


@pytest.mark.parametrize("value", ["${oc.env:HOME}", {"_target_": "os.system"}, [["x"]], [{"_target_": "os.system"}]])
def test_a_foreign_configuration_places_plain_values_alone(tmp_path: Path, value: object) -> None:
    options = ["data=folder", f"data.root={tmp_path}"]
    foreign = OmegaConf.create(OmegaConf.to_yaml(compose(*options), resolve=True))
    foreign.protocol.channel = foreign.data.layout.train = value
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(OmegaConf.to_yaml(foreign))
    config = compose(*options, "task=evaluate", f"checkpoint={tmp_path}/run/checkpoints/last.ckpt")
    evaluate_as_trained(config)
    assert config.protocol.channel == "rgb"
    assert config.data.layout.get("train") is None


def test_a_test_of_another_data_set_is_refused() -> None:
    typed = ["experiment=edvr_vimeo", "test=vid4", "data=folder", "data.root=clips"]
    with pytest.raises(UserError, match=r"test=vid4 scores data=vid4, and data=folder would take its place"):
        refuse_other_data(typed)
    refuse_other_data([*typed, "ablation=edvr_vid4_y"])  # on other data, which the table names
    refuse_other_data(["experiment=edvr_vimeo", "test=vid4", "data=vid4"])
    refuse_other_data(["experiment=edvr_vimeo", "test=ensemble4", "data=folder"])
    refuse_other_data(["experiment=edvr_vimeo", "test=vid4"])


@pytest.mark.parametrize("edges", ["replicate", "reflect", "new_info", "none"])
@pytest.mark.parametrize("frames", [3, 9, 40])
def test_the_middle_frame_alone_is_restored(tmp_path: Path, edges: str, frames: int) -> None:
    write_frames(tmp_path / "clip", frames, (32, 48))
    options = ["experiment=edvr_vimeo", "size=mini", "size.width=0.125", "data=folder", f"data.root={tmp_path}"]
    config = compose(*options, "model.network.frames=3", f"protocol.edges={edges}", "degradation=noise")
    torch.manual_seed(0)
    restorer = build_restorer(config, build_inference_network(config).eval())
    assert restorer.scores_one_frame
    (clip,) = build_data(config, restorer).evaluation_clips(folder(tmp_path, score="whole").test, None)
    restorer.evaluation_step(clip)
    whole = restorer.scores[-1].frames()[0]
    restorer.reset_scores()
    read, inputs = [], clip.inputs
    clip.inputs = lambda start=0: (read.append(1) or frame for frame in inputs(start))
    restorer.test_step(clip, 0)
    (alone,) = restorer.scores[-1].frames()[0]
    (counted,) = (whole[position] for position in restorer.protocol.counted(len(whole)))
    assert (alone.time, alone.psnr, alone.ssim) == (counted.time, counted.psnr, counted.ssim)
    assert len(read) <= 6


def test_a_protocol_that_scores_little_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write_frames(tmp_path / name, 60, (32, 48))
    options = ["experiment=edvr_vimeo", "size=mini", "size.width=0.125", "data=folder", f"data.root={tmp_path}"]
    for protocol, told in (("vimeo90k_centre", True), ("rgb", False)):
        config = compose(*options, f"protocol={protocol}")
        restorer = build_restorer(config, build_inference_network(config))
        tell_scored_frames(restorer, build_data(config, restorer))
        sentence = "protocol=vimeo90k_centre scores the middle frame of each clip: 2 of 18 frames."
        assert (sentence in capsys.readouterr().out) == told
