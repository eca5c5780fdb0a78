"""REDS: its splits and precomputed tracks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from src.data.layouts.reds import reds
from src.errors import UserError


@pytest.fixture
def reds_root(tmp_path: Path) -> Path:
    """A REDS of one-frame clips: all 240 and 30 numbers, some with the frames of the tracks."""
    for part, count in (("train", 240), ("val", 30)):
        for number in range(count):
            (tmp_path / f"{part}_sharp" / f"{number:03d}").mkdir(parents=True)
    for track in ("train_sharp_bicubic/X4", "train_blur_bicubic/X4", "train_blur", "train_blur_comp"):
        (tmp_path / track / "000").mkdir(parents=True)
    return tmp_path


def test_reds_splits(reds_root: Path) -> None:
    splits = reds(reds_root)
    assert [clip.name for clip in splits.test] == ["000", "011", "015", "020"]
    assert len(splits.train) == 266
    assert len({clip.path for clip in [*splits.train, *splits.test]}) == 270
    held = reds(reds_root, hold_back=4)
    assert (len(held.train), len(held.validate), len(held.test)) == (262, 4, 4)
    official = reds(reds_root, split="official")
    assert (len(official.train), len(official.test)) == (240, 30)
    everything = reds(reds_root, split="all")
    assert (len({clip.path for clip in everything.train}), list(everything.test)) == (270, [])
    with pytest.raises(UserError, match="reds4, official or all"):
        reds(reds_root, split="mine")
    with pytest.raises(UserError, match=r"REDS .*seungjunnah"):
        reds(reds_root / "nowhere")


def test_reds_with_moved_validation_clips(reds_root: Path) -> None:
    for folder_ in (reds_root / "val_sharp").iterdir():
        folder_.rename(reds_root / "train_sharp" / f"{240 + int(folder_.name):03d}")
    (reds_root / "val_sharp").rmdir()
    assert len(reds(reds_root).train) == 266
    assert [clip.name for clip in reds(reds_root, split="official").test][:2] == ["val_000", "val_001"]


@pytest.mark.parametrize("split", ["official", "all"])
def test_reds_without_its_validation_clips(reds_root: Path, split: str) -> None:
    shutil.rmtree(reds_root / "val_sharp")
    with pytest.raises(UserError, match=f"lacks val_sharp, required by data.layout.split={split}"):
        reds(reds_root, split=split)


def test_reds_finds_precomputed_tracks(reds_root: Path) -> None:
    first, second = reds(reds_root).test[:2]
    assert {done: path.parent.name for done, path in first.precomputed.items()} == {
        ("bicubic",): "X4",
        ("blur", "bicubic"): "X4",
        ("blur",): "train_blur",
        ("blur", "compression"): "train_blur_comp",
    }
    assert not second.precomputed


def test_reds_without_a_test_clip(reds_root: Path) -> None:
    (reds_root / "train_sharp" / "015").rmdir()
    with pytest.raises(UserError, match="lacks 015"):
        reds(reds_root)
