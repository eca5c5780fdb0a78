"""Images of film, and animated WebP, wherever the suite takes frames: restored, trained on, scored, checked, packed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.config.composition import compose
from src.config.options import run_task
from src.data.integrity import check_clip
from src.data.packing import pack
from src.data.splits import measure_clip
from src.errors import UserError
from src.video.reader import open_video
from tests.tasks.test_restore_files import restore
from tests.tasks.test_tasks import TINY
from tests.video.clips import make_scene
from tests.video.film import write_dpx, write_exr, write_tiff
from tests.video.test_film import encode_srgb
from tests.video.test_webp import write_animation

KINDS = ["dpx", "exr", "tif"]
SIZE = (48, 64)


def write_sequence(folder: Path, kind: str, count: int = 5) -> np.ndarray:
    """Write frames as 10-bit DPX, half-float EXR or 16-bit TIFF; return what they show, of 16 bits."""
    folder.mkdir(parents=True)
    scene = make_scene(count, *SIZE, depth=10)
    if kind == "exr":
        light = (scene / 1023).astype(np.float16)
    for number, frame in enumerate(scene):
        if kind == "dpx":
            write_dpx(folder / f"f{number:03d}.dpx", frame, 10)
        elif kind == "exr":
            write_exr(folder / f"f{number:03d}.exr", {name: light[number, ..., i] for i, name in enumerate("RGB")})
        else:
            write_tiff(folder / f"f{number:03d}.tif", frame)
    if kind == "exr":
        return np.rint(encode_srgb(light) * 65535).astype(np.uint16)
    return (scene.astype(np.uint32) * 65535 // 1023).astype(np.uint16) if kind == "dpx" else scene


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_is_restored_to_16_bits(kind, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shown = write_sequence(tmp_path / "scan", kind)
    for name, source in (("folder", "scan"), ("pattern", f"scan/f*.{kind}")):
        restore(tmp_path, input=source, output=name, fps=24)
        with open_video(tmp_path / name, deep=True) as reader:
            assert reader.signal.depth == 16
            restored = reader.read(range(5)).numpy()
        assert np.abs(restored.astype(int) - shown).max() <= 1
    printed = capfd.readouterr().err
    assert "5 frames of 64x48, 24.000 a second" in printed
    assert ("linear light: converted to sRGB, and clipped above 1.0" in printed) == (kind == "exr")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_becomes_a_video(kind, tmp_path):
    shown = write_sequence(tmp_path / "scan", kind)
    restore(tmp_path, input=tmp_path / "scan", output=tmp_path / "film.mkv", codec="ffv1", fps=24)
    with open_video(tmp_path / "film.mkv", deep=True) as reader:
        assert (reader.fps, len(reader), reader.signal.depth) == (24, 5, 10 if kind == "dpx" else 16)
        unit = 65535 / (2**reader.signal.depth - 1)
        assert np.abs(reader.read(range(5)).numpy() * unit - shown).max() <= unit


def test_numbered_names_and_image_outputs_are_explained(tmp_path):
    write_sequence(tmp_path / "scan", "dpx")
    with pytest.raises(UserError, match=r"write numbered images as 'input=.*/scan/f\*.dpx'"):
        restore(tmp_path, input=tmp_path / "scan" / "f%03d.dpx", output=tmp_path / "film.mkv")
    for name in ("%06d.tiff", "film.exr"):
        with pytest.raises(UserError, match=r"is an image; frames are written as PNGs of 8 or 16 bits: name a folder"):
            restore(tmp_path, input=tmp_path / "scan", output=tmp_path / "out" / name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".mkv", ""])
def test_an_animated_webp_is_restored_with_its_times(suffix, tmp_path):
    frames, durations = make_scene(4, *SIZE), [40, 120, 40, 80]
    source = write_animation(tmp_path / "in.webp", frames, durations)
    options = {"codec": "ffv1"} if suffix else {}
    restore(tmp_path, input=source, output=tmp_path / f"out{suffix}", **options)
    with open_video(tmp_path / f"out{suffix}") as reader:
        assert np.array_equal(reader.read(range(4)).numpy(), frames)
        if suffix:
            assert [round(1000 * time) for time in reader.times] == [0, 40, 160, 200]


def write_clips(root: Path, kind: str) -> None:
    """Write two clips of 40 frames, as ``kind`` or, with the values that training reads from those, as PNGs."""
    for clip in range(2):
        frames = make_scene(40, *SIZE)[:: 1 - 2 * clip]
        (root / f"{clip}").mkdir(parents=True)
        if kind == "webp":
            write_animation(root / f"{clip}.webp", frames, [40] * 40)
            (root / f"{clip}").rmdir()
            continue
        for number, frame in enumerate(frames):
            file = root / f"{clip}" / f"{number:03d}.{kind}"
            if kind == "png":
                Image.fromarray(frame).save(file)
            elif kind == "dpx":
                write_dpx(file, frame.astype(np.uint16) * 257, 16)
            elif kind == "exr":
                encoded = frame / 255
                linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
                write_exr(file, {name: linear[..., i] for i, name in enumerate("RGB")}, "<f4")
            else:
                write_tiff(file, frame.astype(np.uint16) * 257, order=">")


@pytest.mark.long
def test_training_and_scores_equal_those_of_pngs(tmp_path):
    options = ["experiment=zsm_vimeo", *TINY, "trainer.max_steps=2", f"paths.runs={tmp_path}/runs"]
    for kind in ("png", "dpx", "exr", "tif", "webp"):
        write_clips(tmp_path / kind / "clips", kind)
        directory = tmp_path / "runs" / kind
        directory.mkdir(parents=True)
        run_task(compose(*options, f"data.root={tmp_path / kind / 'clips'}"), directory)
        summary = json.loads((directory / "results.json").read_text())["summary"]
        with (directory / "metrics.csv").open() as file:
            losses = [row["train/loss"] for row in csv.DictReader(file)]
        if kind == "png":
            expected = summary, losses
        assert (summary, losses) == expected, kind
    assert any(losses)


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_is_checked_and_packed(kind, tmp_path):
    shown = write_sequence(tmp_path / "scans" / "reel", kind)
    assert measure_clip(tmp_path / "scans" / "reel") == (5, SIZE)
    finding = check_clip(tmp_path / "scans" / "reel", read=True)
    assert (finding.fault, finding.frames, finding.readable) == ("", 5, 5)
    assert f"{10 if kind == 'dpx' else 16} bits per channel" in finding.notes
    assert ("linear light" in str(finding.notes)) == (kind == "exr")
    assert pack(tmp_path / "scans", tmp_path / "packed").clips == 1
    with open_video(tmp_path / "packed" / "reel.mp4") as reader:
        assert np.abs(reader.read(range(5)).numpy() - shown / 257).max() <= 0.51
    last = sorted((tmp_path / "scans" / "reel").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-1000])
    finding = check_clip(tmp_path / "scans" / "reel", read=True)
    assert f"{last.name} cannot be read as an image" in finding.fault
    assert finding.readable == 4
