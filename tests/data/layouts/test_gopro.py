"""GoPro: GOPRO_Large_all is accepted, GOPRO_Large refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from src.data.layouts.gopro import gopro
from src.data.layouts.inspection import inspect
from src.errors import UserError
from tests.data.layouts.copies import all_clips, write_frames


@pytest.fixture
def nah(tmp_path: Path) -> Path:
    """GOPRO_Large_all with fewer and smaller frames."""
    for part, count in {"train": 22, "test": 11}.items():
        for i in range(count):
            write_frames(tmp_path / "GOPRO_Large_all" / part / f"GOPR0{i + 372 + 100 * (part == 'test')}_07_00")
    return tmp_path


def test_gopro(nah: Path) -> None:
    splits = gopro(nah)
    assert [len(part) for part in (splits.train, splits.validate, splits.test)] == [20, 2, 11]
    assert len(all_clips(splits)) == 33
    assert {clip.path.parent.name for clip in [*splits.train, *splits.validate]} == {"train"}
    assert {clip.path.parent.name for clip in splits.test} == {"test"}
    assert gopro(nah / "GOPRO_Large_all") == splits
    assert gopro(nah, step=2).test[0].length() == 1
    assert all("frames of 32x24, 1280x720 expected" in line for line in inspect(gopro, nah))
    shutil.rmtree(splits.test[0].path)
    assert any("10 clips in test, 11 expected" in line for line in inspect(gopro, nah))


def test_gopro_with_gaps_in_time_is_refused(tmp_path: Path) -> None:
    for kind in ("blur", "sharp"):
        write_frames(tmp_path / "train" / "GOPR0372_07_00" / kind)
    with pytest.raises(
        UserError, match=r"is GOPRO_Large; its sharp frames have gaps .* Download GOPRO_Large_all from http"
    ):
        gopro(tmp_path)
