"""An animated WebP is a video; a still one is a frame."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.integrity import check_clip
from src.errors import VideoError
from src.video.discovery import find_videos, is_image_pattern, is_video
from src.video.reader import open_video
from tests.video.clips import make_scene


def write_animation(path: Path, frames: np.ndarray, durations: list[int], mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(frame).convert(mode) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=durations, lossless=True, exact=True)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_frames_and_times(tmp_path: Path, mode: str) -> None:
    frames, durations = make_scene(6, 30, 40), [40, 80, 0, 30, 25, 60]  # 0: as long as browsers show it
    reader = open_video(write_animation(tmp_path / "a.webp", frames, durations, mode))
    starts = [0, 40, 120, 220, 250, 275]
    assert reader.times == tuple(Fraction(start, 1000) for start in starts)
    assert (len(reader), reader.size, reader.end, reader.fps) == (6, (30, 40), Fraction(335, 1000), Fraction(5000, 275))
    assert (reader.name, reader.stream, reader.signal.depth) == ("a", None, 8)
    assert np.array_equal(reader.read([5, 1, 1, 0]).numpy(), frames[[5, 1, 1, 0]])
    assert np.array_equal(torch.stack(list(reader.frames(2, 5))).numpy(), frames[2:5])
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert np.array_equal(copy.read([3]).numpy(), frames[[3]])
    assert np.array_equal(reader.read([4]).numpy(), frames[[4]])


def test_frames_are_composed(tmp_path: Path) -> None:
    """The encoder stores only the changed part of a frame."""
    frames = np.full((3, 40, 60, 3), 90, np.uint8)
    frames[1, 5:9, 7:20], frames[2, 30:33, 50:55] = 200, 10
    reader = open_video(write_animation(tmp_path / "a.webp", frames, [50, 50, 50]))
    assert np.array_equal(reader.read([0, 1, 2]).numpy(), frames)
    assert reader.fps == 20


def test_animations_are_videos_and_stills_are_frames(tmp_path: Path) -> None:
    scene = make_scene(3, 30, 40)
    for number in (1, 2):
        write_animation(tmp_path / "gifs" / f"{number}.webp", scene, [40, 40, 40])
        (tmp_path / "stills").mkdir(exist_ok=True)
        Image.fromarray(scene[number]).save(tmp_path / "stills" / f"{number}.webp", lossless=True)
    expected = [tmp_path / "gifs" / "1.webp", tmp_path / "gifs" / "2.webp", tmp_path / "stills"]
    assert find_videos(tmp_path) == expected
    assert [is_image_pattern(tmp_path / name / "*.webp") for name in ("gifs", "stills")] == [False, True]
    assert not is_video(tmp_path / "stills" / "1.webp")
    stills = open_video(tmp_path / "stills")
    assert (stills.backend, len(stills)) == ("frames", 2)
    assert np.array_equal(stills.read([0, 1]).numpy(), scene[1:])
    assert open_video(tmp_path / "gifs" / "1.webp").backend == "webp"


@pytest.mark.parametrize("share", [0.9, 0.3, 0.01])
def test_damaged_animations_are_refused(tmp_path: Path, share: float) -> None:
    path = write_animation(tmp_path / "a.webp", make_scene(5, 30, 40), [40] * 5)
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    with pytest.raises(VideoError, match=r"a.webp cannot be read as video"):
        open_video(path)


def test_doctor_reads_animations(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.webp", make_scene(5, 30, 40), [40] * 5)
    finding = check_clip(path, read=True)
    assert (finding.fault, finding.frames, finding.readable) == ("", 5, 5)
    path.write_bytes(path.read_bytes()[:-100])
    assert "a.webp cannot be read as video" in check_clip(path, read=True).fault
