"""``task=doctor`` finds the problems of a data set and advises on the next command."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.command_line import call

pytestmark = pytest.mark.long


def doctor(root: Path, *options: str, code: int = 2) -> tuple[list[str], str]:
    """Run task=doctor; return its lines on the data set and its error message."""
    done = call("task=doctor", "data=folder", f"data.root={root}", *options)
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
        "ok  data=folder: 2 clips opened (doctor.read=true decodes every frame) and none is damaged",
    ]
    lines, _ = doctor(tmp_path, "doctor.read=true", "doctor.processes=1", code=0)
    assert lines[1:] == ["ok  data=folder: 2 clips decoded, every frame, and none is damaged"]


def test_all_damaged_clips_are_found_at_once(tmp_path: Path) -> None:
    """Unreadable files by opening them, truncated and corrupted ones by decoding."""
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
        "!!  data=folder: 9 clips opened (doctor.read=true decodes every frame) and 3 are damaged; "
        f"data.skip_damaged=2 trains without the unreadable ones; replace {train / 'g.mkv'}, "
        "or training may use damaged frames or stop at them"
    )
    assert end.strip() == "Problems found: 3 clips of data=folder are damaged. See above."
    lines, end = doctor(tmp_path, "doctor.read=true", "doctor.processes=2")
    findings = {line.partition(str(tmp_path))[2].split("/")[2].split(" ")[0]: line for line in lines[1:-1]}
    assert set(findings) == {"b", "e.mp4", "f.mp4", "g.mkv", "text.mp4", "empty.mp4"}
    assert all(line.startswith("!!  ") for line in findings.values())
    assert "07.png cannot be read as an image" in findings["b"]
    assert "1 more of its frames are damaged (42 of 44 frames can be read)" in findings["b"]
    with open_video(train / "e.mp4") as reader:
        readable = next(i for i in range(44) if f"breaks at frame {i} of 44" in findings["e.mp4"])
        assert f"({readable} of 44 frames can be read)" in findings["e.mp4"]
        assert sum(1 for _ in reader.frames(0, readable)) == readable
    assert "is cut off: its header lists 1.76 s" in findings["g.mkv"]
    assert "9 clips decoded, every frame, and 6 are damaged; data.skip_damaged=5 trains without" in lines[-1]
    assert f"replace {train / 'g.mkv'}, or training may" in lines[-1]
    assert f"replace {test / 'f.mp4'}, since scores cannot skip clips" in lines[-1]
    assert "6 clips of data=folder" in end


def test_the_clips_of_an_incomplete_data_set_are_checked(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", 12)
    (tmp_path / "b.mp4").write_text("no video")
    lines, end = doctor(tmp_path)
    assert "!!  data=folder: No video in" in lines[0]
    assert "some are damaged" in lines[0]
    assert "b.mp4 cannot be read as video" in lines[1]
    assert "data.skip_damaged=1" in lines[2]
    assert "data=folder is incomplete; 1 clips of data=folder are damaged" in end


def test_real_files(shared: Path) -> None:
    lines, end = doctor(shared / "data" / "odd", "doctor.processes=2")
    findings = {line.split("/odd/")[1].split(": ")[0].split(" ")[0]: line for line in lines[1:-1]}
    damaged = {name for name, line in findings.items() if line.startswith("!!  ")}
    assert damaged == {"audio_only.mp4", "zero_frames_init_segment.mp4", "raw_h264_error_resolution_change.264"}
    assert findings["flir_vfr_h264.mp4"].endswith("variable frame rate, 38 to 1997 ms per frame, read as constant")
    assert "HDR (PQ)" in findings["hdr10_av1_portrait.mp4"]
    assert "20 clips opened" in lines[-1]
    assert "data.skip_damaged=3" in lines[-1]
    assert "3 clips of data=folder" in end


def test_the_advised_option_lets_training_run(tmp_path: Path) -> None:
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
    stopped = call(*train)
    assert stopped.returncode == 2
    assert f"{root / 'train' / 'text.mp4'} cannot be read as video" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    done = call(*train, option)
    assert done.returncode == 0, done.stderr
    assert "text.mp4 cannot be read as video" in done.stderr
    assert f"{image} cannot be read as an image" in done.stderr
    assert done.stderr.count("skipped (") == 2
    (metrics,) = (tmp_path / "runs").rglob("metrics.csv")
    assert "train/damaged" in metrics.read_text().splitlines()[0]


@pytest.mark.parametrize("option", ["data.skip_damaged=-1", "data.timeout=0"])
def test_options_out_of_range_are_refused(tmp_path: Path, option: str) -> None:
    write_frames(tmp_path / "a")
    done = call("data=folder", f"data.root={tmp_path}", option, f"paths.runs={tmp_path / 'runs'}")
    assert done.returncode == 2
    assert option.partition("=")[0] in done.stderr
