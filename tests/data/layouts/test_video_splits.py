"""List files override the splits of data sets of videos."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from src.data.layouts.adobe240 import adobe240
from src.data.layouts.dvd import dvd
from src.data.layouts.inspection import inspect
from src.data.splits import Splits
from src.errors import UserError
from tests.data.layouts.copies import all_clips, names_of


@pytest.mark.parametrize("layout", [adobe240, dvd])
def test_lists_override_the_splits(su: Path, layout: Callable[..., Splits]) -> None:
    (su / "test_list.txt").write_text("IMG_1003.mov\nIMG_1001\n\n")
    splits = layout(su)
    assert names_of(splits.test) == ["IMG_1003", "IMG_1001"]
    assert len(all_clips(splits)) == 133
    (su / "train_list.txt").write_text("IMG_1004.MOV\r\nIMG_1005.m4v\r\nIMG_1006.avi\r\nIMG_1004.mov")
    splits = layout(su, hold_back=1)
    assert names_of(splits.train) == ["IMG_1004", "IMG_1006"]
    assert names_of(splits.validate) == ["IMG_1005"]
    assert inspect(partial(layout, hold_back=1), su) == []  # the lists define the number
    (su / "train_list.txt").write_text("IMG_1003\nIMG_1004\n")
    with pytest.raises(UserError, match=r"IMG_1003.*correct the data set's lists"):
        layout(su, hold_back=1)
    (su / "train_list.txt").write_text("IMG_2000.mov\n")
    assert "train_list.txt lists IMG_2000.mov, not among the 133 videos" in inspect(layout, su)[0]


def test_a_training_list_without_a_test_list(su: Path) -> None:
    (su / "train_list.txt").write_text("IMG_1004\nIMG_1005\n")
    splits = adobe240(su, hold_back=0)
    assert (names_of(splits.train), len(splits.test)) == (["IMG_1004", "IMG_1005"], 8)
    (su / "train_list.txt").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        adobe240(su)


@pytest.mark.parametrize("hold_back", [-1, 125])
def test_some_training_videos_must_remain(su: Path, hold_back: int) -> None:
    with pytest.raises(UserError, match=f"hold_back={hold_back} of 125 training videos"):
        adobe240(su, hold_back=hold_back)


@pytest.mark.parametrize("entry", ["../outside", "/etc/outside.mp4", "IMG_1000/../../outside"])
@pytest.mark.parametrize("name", ["test_list.txt", "train_list.txt"])
def test_video_list_entries_outside_the_data_set_are_refused(su: Path, entry: str, name: str) -> None:
    (su / name).write_text(f"IMG_1000\n{entry}\n")
    with pytest.raises(UserError) as caught:
        adobe240(su)
    assert f"Line 2 of {su / name} is {entry}, which leads out of the data set" in str(caught.value)
