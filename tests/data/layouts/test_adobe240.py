"""Adobe240 is split by whole videos as published."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from src.data.layouts.adobe240 import TEST_VIDEOS, adobe240
from src.data.layouts.dvd import dvd
from src.data.layouts.inspection import inspect
from src.errors import UserError
from tests.data.layouts.copies import all_clips, names_of, write_frames


def test_adobe240_tests_on_the_published_videos(su: Path) -> None:
    splits = adobe240(su)
    assert names_of(splits.test) == sorted(TEST_VIDEOS)
    assert [len(part) for part in (splits.train, splits.validate)] == [121, 4]
    assert len(all_clips(splits)) == 133
    assert adobe240(su / "original_high_fps_videos") == splits == adobe240(su)
    assert len(adobe240(su, hold_back=0).train) == 125
    assert inspect(partial(adobe240, hold_back=4), su) == []


def test_steps_reduce_the_frame_rate(su: Path) -> None:
    assert adobe240(su).test[0].length() == 9
    assert adobe240(su, step=4).test[0].length() == 3
    assert {clip.step for clip in all_clips(dvd(su, step=4))} == {4}


def test_incomplete_adobe240(su: Path) -> None:
    for name in ("IMG_1007", "IMG_1008"):
        next((su / "original_high_fps_videos").glob(f"{name}.*")).unlink()
    assert inspect(adobe240, su) == [f"{su}: 131 clips in all, 133 expected"]
    next((su / "original_high_fps_videos").glob("GOPR9635.*")).unlink()
    with pytest.raises(
        UserError, match=r"lacks GOPR9635 of the 8 test videos .* or list test videos in .*test_list\.txt"
    ):
        adobe240(su)
    (su / "test_list.txt").write_text("IMG_0015.mov\n")
    assert names_of(adobe240(su).test) == ["IMG_0015"]


def test_adobe240_as_frame_folders(tmp_path: Path) -> None:
    """The folders of BIN's script."""
    for part, clips in {"train": "abcde", "test": "xy", "full_sharp": "abcdexy", "test_blur": "xy"}.items():
        for name in clips:
            write_frames(tmp_path / part / name)
    splits = adobe240(tmp_path, hold_back=2)
    assert [names_of(part) for part in (splits.train, splits.validate, splits.test)] == [
        list("ace"),
        list("bd"),
        ["x", "y"],
    ]
    assert inspect(partial(adobe240, hold_back=2), tmp_path) == []
    shutil.rmtree(tmp_path / "train")  # enough for an evaluation
    assert names_of(adobe240(tmp_path).test) == ["x", "y"]


def test_frames_beside_their_video_are_refused(su: Path) -> None:
    write_frames(su / "original_high_fps_videos" / "unpacked" / "IMG_1000")
    with pytest.raises(UserError, match="share a name"):
        adobe240(su)
