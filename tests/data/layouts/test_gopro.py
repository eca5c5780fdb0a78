"""GoPro: GOPRO_Large_all is accepted, GOPRO_Large refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from src.data.layouts.gopro import gopro
from src.data.layouts.inspection import inspect
from src.data.packing import pack
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


def test_frames_averaged_with_interpolated_ones_are_required(nah: Path, tmp_path: Path) -> None:
    for clip in ("train/0", "train/1", "test/2"):
        write_frames(tmp_path / "few" / clip, count=3, size=(96, 128))
    for interpolated, name in ((7, "gopro_open"), (0, "gopro")):
        pack(tmp_path / "few", tmp_path / name, interpolated=interpolated)
    splits = gopro(tmp_path / "gopro_open", hold_back=1, interpolated=7)
    assert [len(part) for part in (splits.train, splits.validate, splits.test)] == [1, 1, 1]
    with pytest.raises(UserError, match=r"task=prepare data=gopro interpolated=7 pack=\S*nowhere, choose data=gopro"):
        gopro(tmp_path / "nowhere", interpolated=7)
    for root in (nah, tmp_path / "gopro"):
        with pytest.raises(UserError, match=r"averaged with 0 interpolated ones, not 7\. .*data=gopro interpolated=7"):
            gopro(root, hold_back=1, interpolated=7)
    for damaged in ("{", "[]"):
        (tmp_path / "gopro_open" / "packed.json").write_text(damaged)
        with pytest.raises(UserError, match=r"averaged with 0 interpolated ones, not 7\."):
            gopro(tmp_path / "gopro_open", hold_back=1, interpolated=7)
