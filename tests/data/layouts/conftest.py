"""Copies of data sets for several tests."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from src.data.layouts.adobe240 import TEST_VIDEOS
from src.video.writer import VideoWriter

SUFFIXES = (".mov", ".MOV", ".mp4", ".m4v")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real video of 9 frames."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with VideoWriter(path, Fraction(240)) as writer:
        for i in range(9):
            writer.write(np.full((16, 16, 3), 20 * i, np.uint8))
    return path


@pytest.fixture
def su(tmp_path: Path, video: Path) -> Path:
    """The 133 videos of Su et al., all equal."""
    folder = tmp_path / "original_high_fps_videos"
    folder.mkdir()
    for i, name in enumerate([*TEST_VIDEOS, *(f"IMG_{1000 + k}" for k in range(125))]):
        shutil.copy(video, folder / f"{name}{SUFFIXES[i % 4]}")
    (tmp_path / "__MACOSX" / "original_high_fps_videos").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "original_high_fps_videos" / "._IMG_1000.mov").write_bytes(b"")
    return tmp_path
