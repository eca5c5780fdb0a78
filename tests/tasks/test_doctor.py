"""``task=doctor`` says what is the matter with a data set, and what to type."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.video.reader import open_video
from src.video.writer import VideoWriter

ROOT = Path(__file__).resolve().parents[2]


def doctor(root: Path, *options: str, code: int = 2) -> tuple[list[str], str]:
    """What is said about the data set, a line each, and in the end."""
    command = [sys.executable, "-m", "src.run", "task=doctor", "data=folder", f"data.root={root}", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stdout.splitlines() if "data=folder" in line], done.stderr


def write_frames(path: Path, count: int = 44) -> None:
    path.mkdir(parents=True)
    for i, frame in enumerate(np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)):
        Image.fromarray(frame).save(path / f"{i:02}.png")


def write_video(path: Path, count: int = 44) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, Fraction(25), codec="lossless", gop=4) as video:
        for frame in np.random.default_rng(1).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8):
            video.write(frame)


def spoil(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    place = int(len(content) * share)
    content[place : place + 4000] = bytes(4000)
    path.write_bytes(content)


def test_a_whole_data_set(tmp_path: Path) -> None:
    write_frames(tmp_path / "a")
    write_video(tmp_path / "b.mp4")
    lines, _ = doctor(tmp_path, code=0)
    assert lines == [
        f"ok  data=folder: 2 clips to train, 2 to validate, 2 to test, at {tmp_path}",
        "ok  data=folder: 2 clips are opened (doctor.read=true decodes every frame) and none is damaged",
    ]
    lines, _ = doctor(tmp_path, "doctor.read=true", "doctor.processes=1", code=0)
    assert lines[1:] == ["ok  data=folder: 2 clips are decoded, every frame, and none is damaged"]


def test_all_that_is_damaged_is_found_in_one_go(tmp_path: Path) -> None:
    """What cannot be opened at once; what breaks off later, or is cut, where every frame is read."""
    train, test = tmp_path / "train", tmp_path / "test"
    for name in "ab":
        write_frames(train / name)
    write_frames(test / "c")
    for place in (train / "d.mp4", train / "e.mp4", test / "f.mp4", train / "g.mkv"):
        write_video(place)
    (train / "text.mp4").write_text("no video")
    (train / "empty.mp4").write_bytes(b"")
    for image in ("07.png", "09.png"):
        (train / "b" / image).write_bytes((train / "b" / image).read_bytes()[:300])
    spoil(train / "e.mp4", 0.5)
    spoil(test / "f.mp4", 0.5)
    whole = (train / "g.mkv").read_bytes()
    (train / "g.mkv").write_bytes(whole[: len(whole) // 2])
    lines, end = doctor(tmp_path)
    assert [line for line in lines if line.startswith("!!")][-1] == (
        "!!  data=folder: 9 clips are opened (doctor.read=true decodes every frame) and 3 are damaged; "
        f"data.skip_damaged=2 trains without those that cannot be read; replace {train / 'g.mkv'}, "
        "which training would take as they are, or end with"
    )
    assert end.strip() == "1 of these need attention: 3 clips of data=folder"
    lines, end = doctor(tmp_path, "doctor.read=true", "doctor.processes=2")
    said = {line.partition(str(tmp_path))[2].split("/")[2].split(" ")[0]: line for line in lines[1:-1]}
    assert set(said) == {"b", "e.mp4", "f.mp4", "g.mkv", "text.mp4", "empty.mp4"}
    assert all(line.startswith("!!  ") for line in said.values())
    assert "07.png cannot be read as an image" in said["b"]
    assert "1 more of its frames are damaged (42 of 44 frames can be read)" in said["b"]
    with open_video(train / "e.mp4") as reader:
        readable = next(i for i in range(44) if f"breaks at frame {i} of 44" in said["e.mp4"])
        assert f"({readable} of 44 frames can be read)" in said["e.mp4"]
        assert sum(1 for _ in reader.frames(0, readable)) == readable
    assert "is cut off: its header lists 1.76 s" in said["g.mkv"]
    assert "9 clips are decoded, every frame, and 6 are damaged; data.skip_damaged=5 trains without" in lines[-1]
    assert f"replace {train / 'g.mkv'}, which training would take" in lines[-1]
    assert f"replace {test / 'f.mp4'}, which scores are taken of: these leave nothing out" in lines[-1]
    assert "6 clips of data=folder" in end


def test_a_data_set_that_cannot_be_split_is_looked_at_all_the_same(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", 12)
    (tmp_path / "b.mp4").write_text("no video")
    lines, end = doctor(tmp_path)
    assert "!!  data=folder: No video in" in lines[0]
    assert "some are damaged" in lines[0]
    assert "b.mp4 cannot be read as video" in lines[1]
    assert "data.skip_damaged=1" in lines[2]
    assert "2 of these need attention" in end


def test_real_files(shared: Path) -> None:
    lines, end = doctor(shared / "data" / "odd", "doctor.processes=2")
    said = {line.split("/odd/")[1].split(": ")[0].split(" ")[0]: line for line in lines[1:-1]}
    damaged = {name for name, line in said.items() if line.startswith("!!  ")}
    assert damaged == {"audio_only.mp4", "zero_frames_init_segment.mp4", "raw_h264_error_resolution_change.264"}
    assert said["flir_vfr_h264.mp4"].endswith("variable frame rate, 38 to 1997 ms per frame, read as constant")
    assert "HDR (PQ)" in said["hdr10_av1_portrait.mp4"]
    assert "20 clips are opened" in lines[-1]
    assert "data.skip_damaged=3" in lines[-1]
    assert "3 clips of data=folder" in end


def test_then_training_does_without(tmp_path: Path) -> None:
    """What the doctor says to type is what a training needs."""
    root = tmp_path / "clips"
    write_frames(root / "train" / "a")
    write_frames(root / "train" / "b")
    write_frames(root / "val" / "c", 12)
    (root / "train" / "text.mp4").write_text("no video")
    image = root / "train" / "b" / "20.png"
    image.write_bytes(image.read_bytes()[:300])
    (line,) = [line for line in doctor(root, "doctor.read=true")[0] if "trains without" in line]
    option = next(word for word in line.split() if word.startswith("data.skip_damaged="))
    assert option == "data.skip_damaged=2"
    train = [
        "experiment=zsm_vimeo", "size=mini", "size.width=0.125", "data=folder", f"data.root={root}", "data.crop=16",
        "data.batch_size=4", "data.patches_per_read=1", "data.workers=1", "logger=csv", "callbacks.progress=null",
        "trainer.max_steps=12", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.devices=1",
        "trainer.val_check_interval=12", f"paths.runs={tmp_path / 'runs'}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "src.run", *train]
    stopped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert stopped.returncode == 2
    assert f"{root / 'train' / 'text.mp4'} cannot be read as video" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    done = subprocess.run([*command, option], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "text.mp4 cannot be read as video" in done.stderr
    assert f"{image} cannot be read as an image" in done.stderr
    assert done.stderr.count("skipped (") == 2
    (metrics,) = (tmp_path / "runs").rglob("metrics.csv")
    assert "train/damaged" in metrics.read_text().splitlines()[0]


@pytest.mark.parametrize("option", ["data.skip_damaged=-1", "data.timeout=0"])
def test_options_that_make_no_sense_are_refused(tmp_path: Path, option: str) -> None:
    write_frames(tmp_path / "a")
    command = [sys.executable, "-m", "src.run", "data=folder", f"data.root={tmp_path}", option]
    done = subprocess.run(
        [*command, f"paths.runs={tmp_path / 'runs'}"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2
    assert option.partition("=")[0] in done.stderr
