"""The command line end to end: train, resume, evaluate, restore, doctor; on tiny real videos."""

from __future__ import annotations

import csv
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from src.checkpoints import load
from src.errors import CheckpointError
from src.run import main
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.command_line import ROOT, call

pytestmark = pytest.mark.long

TINY = [
    "size=mini",
    "size.width=0.125",
    "data=folder",
    "data.crop=32",
    "data.layout.hold_back=0.4",
    "logger=csv",
    "callbacks.progress=null",
    "trainer.log_every_n_steps=1",
    "callbacks.last.every_n_train_steps=1",
    "trainer.val_check_interval=2",
    "trainer.devices=1",
    "trainer.accelerator=cpu",
]


def run(*arguments: str | Path, fails: bool = False) -> str:
    done = call(*arguments)
    assert (done.returncode != 0) == fails, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def refused(*arguments: str | Path) -> str:
    """Run a command that fails with exit code 2 and return its output; in this process, which saves seconds."""
    log = io.StringIO()
    GlobalHydra.instance().clear()
    before = HydraConfig.instance().cfg
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(log), redirect_stdout(log):
        patch.setattr(sys, "argv", ["src.run", *map(str, arguments)])
        patch.chdir(ROOT)
        with pytest.raises(SystemExit) as left:
            main()
    HydraConfig.instance().cfg = before
    assert left.value.code == 2
    return log.getvalue()


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Two videos of a moving texture, 60 frames of 48x64."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    coarse = torch.as_tensor(rng.random((1, 3, 12, 40)), dtype=torch.float32)
    texture = torch.nn.functional.interpolate(coarse, (48, 160), mode="bicubic").clamp(0, 1)[0]
    for name, speed in (("left", 1), ("right", -1)):
        with VideoWriter(root / f"{name}.mp4", Fraction(25), codec="lossless") as writer:
            for t in range(60):
                frame = texture.roll(speed * t, -1)[..., :64]
                writer.write((frame * 255).round().byte().permute(1, 2, 0).contiguous())
    return root


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    run("experiment=zsm_vimeo", *TINY, f"data.root={clips}", "trainer.max_steps=4", f"paths.runs={runs}")
    (directory,) = {path.parent for path in runs.rglob("results.json")}
    return directory


def test_a_run_writes_its_config_metrics_samples_and_scores(trained):
    assert trained.name == "seed=0"
    assert trained.parent.parent.name == "zsm_vimeo"
    for name in (
        "config.yaml",
        "commit.txt",
        "code.json",
        "metrics.csv",
        "results.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    ):
        assert (trained / name).stat().st_size > 0, name
    assert list((trained / "samples").glob("*_step0000004.png"))
    assert {picture.name for picture in (trained / "samples").glob("*_test.png")} == {"left_test.png", "right_test.png"}
    with (trained / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {int(row["step"]) for row in rows if row["train/loss"]} == {0, 1, 2, 3}
    assert any(row["validate/psnr"] for row in rows)
    assert rows[-1]["test/psnr"]
    results = json.loads((trained / "results.json").read_text())
    assert {"psnr", "ssim", "psnr_existing", "psnr_interpolated"} <= results["summary"].keys()
    assert results["protocol"]["channel"] == "rgb"
    assert results["protocol"]["window"] == 4
    assert set(results["clips"]) == {"left", "right"}
    assert [frame["time"] for frame in results["clips"]["left"]["frames"]][:3] == [0.0, 0.5, 1.0]
    mean = np.mean([clip["psnr"] for clip in results["clips"].values()])
    assert results["summary"]["psnr"] == pytest.approx(mean)


def test_a_run_is_never_overwritten(trained):
    before = (trained / "config.yaml").stat().st_mtime_ns
    clips = next(line for line in (trained / "config.yaml").read_text().splitlines() if line.startswith("  root: "))
    same = [*TINY, f"data.root={clips.split()[-1]}", "trainer.max_steps=4", f"paths.runs={trained.parents[2]}"]
    log = run("experiment=zsm_vimeo", *same, fails=True)
    assert "already holds a run" in log
    assert "resume=true" in log
    assert "Traceback" not in log
    assert (trained / "config.yaml").stat().st_mtime_ns == before


def test_resumed_equals_uninterrupted(clips, trained, tmp_path):
    """Two steps, then two more from the checkpoint, against four in one go: the same weights, rows and scores."""
    constant = "model.schedule.lowest=1.0"  # independent of the number of steps
    common = ["experiment=zsm_vimeo", *TINY, constant, f"data.root={clips}"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(*common, "trainer.max_steps=4", f"paths.runs={whole}")
    (uninterrupted,) = whole.rglob("last.ckpt")
    run(*common, "trainer.max_steps=2", f"paths.runs={cut}")
    (directory,) = cut.glob("zsm_vimeo/*")
    target = directory.rename(cut / uninterrupted.parents[2].relative_to(whole))
    run(*common, "trainer.max_steps=4", f"paths.runs={cut}", "resume=true")
    ours = torch.load(target / "seed=0" / "checkpoints" / "last.ckpt", weights_only=True)
    theirs = torch.load(uninterrupted, weights_only=True)
    assert ours["global_step"] == theirs["global_step"] == 4
    for kind in ("state_dict", "current_model_state"):
        for name, tensor in theirs[kind].items():
            assert torch.equal(ours[kind][name], tensor), (kind, name)
    with (target / "seed=0" / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == [0, 1, 2, 3]
    scores = target / "seed=0" / "results.json"
    before = json.loads(scores.read_text())["summary"]
    written = scores.stat().st_mtime_ns
    assert "nothing left to do" in run(*common, "trainer.max_steps=4", f"paths.runs={cut}", "resume=true")
    assert scores.stat().st_mtime_ns == written
    assert json.loads(scores.read_text())["summary"] == before


def test_evaluate_reproduces_the_scores_of_training(clips, trained, tmp_path):
    last = trained / "checkpoints" / "last.ckpt"
    log = run("task=evaluate", *TINY, f"data.root={clips}", f"checkpoint={last}", f"paths.runs={tmp_path}")
    (scores,) = tmp_path.rglob("results.json")
    again, before = (json.loads(path.read_text())["summary"] for path in (scores, trained / "results.json"))
    assert again["psnr"] == pytest.approx(before["psnr"], abs=1e-4)
    assert "PSNR" in log


def test_the_training_command_with_another_test_scores_its_weights(clips, trained):
    base = ["experiment=zsm_vimeo", *TINY, f"data.root={clips}", f"paths.runs={trained.parents[2]}"]
    same = [*base, "test=trained", "protocol=vid4_zsm_3"]
    refusal = refused(*base, "test=vid4_zsm_3")
    assert "replace test=vid4_zsm_3 by test=trained protocol=vid4_zsm_3; to score these weights on vid4" in refusal
    run(*same, "trainer.max_steps=4")
    (other,) = {*trained.parents[1].glob("*/seed=0/results.json")} - {trained / "results.json"}
    scored = json.loads(other.read_text())["protocol"]
    assert (scored["name"], scored["clip_length"]) == ("vid4_zsm_3", 3)
    assert scored["checkpoint"] == str(trained / "checkpoints" / "last.ckpt")
    log = run(*same, "trainer.max_steps=5", fails=True)
    assert "train zsm_vimeo with the same options first" in log
    assert "Traceback" not in log


def test_restore_a_video(clips, trained, tmp_path):
    source = tmp_path / "with_audio.mp4"
    with av.open(str(clips / "left.mp4")) as video, av.open(str(source), "w") as out:
        picture = out.add_stream("libx264", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream("aac", rate=44100)
        for frame in list(video.decode(video=0))[:9]:
            out.mux(picture.encode(frame.reformat(format="yuv420p")))
        out.mux(picture.encode())
        tone = (0.1 * np.sin(np.arange(16384) / 20)).astype(np.float32)[None]
        block = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        block.sample_rate = 44100
        out.mux(sound.encode(block))
        out.mux(sound.encode())
    output = tmp_path / "restored.mp4"
    log = run(
        "task=restore", f"input={source}", f"output={output}", f"checkpoint={trained / 'checkpoints' / 'last.ckpt'}"
    )
    with open_video(output) as reader:
        assert len(reader) == 17
        assert reader.fps == 50
        assert reader.size == (192, 256)
    with av.open(str(output)) as restored, av.open(str(source)) as original:
        packets = [sum(1 for p in file.demux(audio=0) if p.size) for file in (restored, original)]
        assert packets[0] == packets[1] > 0
    assert "17 frames" in log
    run("task=restore", f"input={source}", f"output={tmp_path / 'start.mp4'}", "model=blend", "max_frames=3")
    with open_video(tmp_path / "start.mp4") as reader:
        assert len(reader) == 5
    assert "exists already" in run("task=restore", f"input={source}", f"output={output}", "model=blend", fails=True)


@pytest.mark.parametrize("model", ["bicubic", "repeat", "blend"])
def test_baselines_restore_odd_sizes_from_frame_folders(model, tmp_path):
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (13, 21, 3), dtype=np.uint8)).save(folder / f"{i:03}.png")
    output = tmp_path / "out.mp4"
    run("task=restore", f"input={folder}", f"output={output}", f"model={model}")
    with open_video(output) as reader:
        assert len(reader) == (5 if model == "bicubic" else 9)
        assert reader.size == (52, 84)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["task=restore", "output=x.mp4", "model=blend"], "input is needed"),
        (["task=evaluate", "model=zsm", "data=vid4"], "no trained weights"),
        (["task=evaluate", "model=bicubic", "data=vid4", "data.root=nowhere"], "data=procedural"),
        (["experiment=zsm_vimeo", "data.root=nowhere", "logger=csv"], "http://toflow.csail.mit.edu"),
        (["model=blend"], "nothing to train"),
        (["task=evaluate", "checkpoint=none.ckpt"], "no checkpoint"),
        (["trainer.max_step=3"], "did you mean trainer.max_steps"),
        (["protocol.channel=yuv", "task=evaluate", "model=bicubic", "data=vid4"], "channel"),
    ],
)
def test_user_errors_are_one_line(arguments, sentence, tmp_path):
    log = refused(*arguments, f"paths.runs={tmp_path}")
    assert sentence in log
    assert len([line for line in log.splitlines() if line.strip()]) == 1, log


def test_a_refused_run_leaves_nothing_behind(clips, tmp_path):
    for crop, fails in ((4096, True), (4096, True), (32, False)):
        log = run(
            "experiment=vtsr_gopro", *TINY, f"data.root={clips}", f"paths.runs={tmp_path}", "degradation.exposure=4",
            "data.resize=null", "degradation.mixed=null", "protocol.factor=null", f"data.crop={crop}",
            "trainer.max_steps=1", fails=fails,
        )  # fmt: skip
        assert ("4096" in log) == fails
        assert bool(list(tmp_path.rglob("config.yaml"))) != fails


def test_doctor(tmp_path):
    log = run("task=doctor", f"paths.data={tmp_path}")
    assert "ok  torch" in log
    assert "no  data=vid4: not found" in log


def test_a_checkpoint_builds_only_networks(trained, tmp_path):
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert load(trained / "checkpoints" / "last.ckpt").geometry.window == 4
    for evil in (
        {"_target_": "os.system", "command": "true"},
        {"_target_": "src.checkpoints.torch.load", "_args_": ["evil.pkl"], "weights_only": False},
        {"_target_": "torch.nn.Identity", "_partial_": True},
        {"_target_": "src.nn.warm_start.torch.load"},
    ):
        content["network"] = evil
        torch.save(content, tmp_path / "evil.ckpt")
        with pytest.raises(CheckpointError, match="no part of this suite"):
            load(tmp_path / "evil.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path / "cut.ckpt")
