"""Clips are found by their names."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from src.video.discovery import find_videos
from tests.video.test_images import write_images


def test_find_videos(tmp_path: Path) -> None:
    small = Image.new("RGB", (8, 6))
    for name in ("clip10", "clip2", "deep/er/clip1"):
        write_images(tmp_path / name, [small, small])
    write_images(tmp_path / "poster", [small])
    write_images(tmp_path / ".cache", [small, small])
    (tmp_path / "film.MOV").touch()
    (tmp_path / "readme.txt").touch()
    (tmp_path / "deep" / "again").symlink_to(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in find_videos(tmp_path)]
    assert found == ["clip2", "clip10", "deep/er/clip1", "film.MOV"]
    assert find_videos(tmp_path / "clip2") == [tmp_path / "clip2"]
    assert find_videos(tmp_path / "film.MOV") == [tmp_path / "film.MOV"]
    assert find_videos(tmp_path / "nothing") == []
