"""Any folder of videos is split by time or by video."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.data.layouts.folder import folder
from src.errors import UserError
from tests.data.layouts.copies import write_frames


def test_folder_by_time(tmp_path: Path) -> None:
    write_frames(tmp_path / "long", 100)
    write_frames(tmp_path / "deep" / "er", 60)
    write_frames(tmp_path / "short", 20)
    splits = folder(tmp_path)
    spans = {
        split: {clip.name: (clip.start, clip.stop) for clip in getattr(splits, split)}
        for split in ("train", "validate", "test")
    }
    assert spans["train"] == {"long": (0, 72), "deep/er": (0, 34), "short": (0, 20)}
    assert spans["validate"] == {"long": (76, 86), "deep/er": (38, 47)}
    assert spans["test"] == {"long": (90, 100), "deep/er": (51, 60)}
    assert folder(tmp_path, hold_back=0).test == ()


def test_folder_with_a_step(tmp_path: Path) -> None:
    write_frames(tmp_path / "fast", 400, size=(2, 2))
    splits = folder(tmp_path, step=8)  # 50 source frames
    (train,), (validate,), (test,) = splits.train, splits.validate, splits.test
    assert [clip.length() for clip in (train, validate, test)] == [24, 9, 9]
    assert (train.stop, validate.start, test.start) == (23 * 8 + 1, 28 * 8, 41 * 8)


def test_folder_by_video(tmp_path: Path) -> None:
    for i in range(10):
        write_frames(tmp_path / f"clip{i}", 2)
    splits = folder(tmp_path, by="video")
    assert (len(splits.train), len(splits.validate), len(splits.test)) == (8, 1, 1)
    with pytest.raises(UserError, match="by=video"):
        folder(tmp_path)  # too short to hold back their ends


def test_folder_with_its_own_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_frames(tmp_path / split / "a", 4)
    splits = folder(tmp_path, step=2)
    assert [clip.name for clip in splits.train] == ["a"]
    assert splits.test[0].length() == 2
    assert splits.validate[0].path == tmp_path.resolve() / "val" / "a"


def test_folder_finds_real_videos(shared: Path) -> None:
    splits = folder(shared / "data" / "train")
    assert "ntia_aspen" in {clip.name for clip in splits.train}
    assert "sam2_bedroom" in {clip.name for clip in splits.test}
    assert len(splits.train) == 15
    lengths = {clip.name: clip.length() for clip in splits.test}
    assert lengths["sam2_bedroom"] == 20
    by_name = {clip.name: clip for clip in splits.test}
    assert by_name["editly_lofoten"].stop == 105  # the container claims 106


def test_clips_that_are_not_scored_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, count in (("long", 100), ("short", 20), ("pair", 2), ("lone", 1)):
        write_frames(tmp_path / name, count)
    splits = folder(tmp_path)
    assert [clip.name for clip in splits.test] == ["long"]
    assert "2 of 3 clips are too short" in caplog.text
    assert "short (20 frames)" in caplog.text
    assert "pair (2 frames)" in caplog.text
    assert f"1 folders hold a single image, which is no clip: left out: {tmp_path / 'lone'}" in caplog.text


def test_whole_clips_are_scored_if_nothing_is_trained(tmp_path: Path) -> None:
    write_frames(tmp_path / "long", 100)
    write_frames(tmp_path / "short", 20)
    splits = folder(tmp_path, score="whole")
    assert {clip.name: clip.length() for clip in splits.test} == {"long": 100, "short": 20}
    assert not splits.train
    assert (
        splits.describe() == "0 clips to train on, 0 clips to validate on, 2 clips (120 frames) to score (whole clips)"
    )
    assert folder(tmp_path).describe() == (
        "2 clips (92 frames) to train on, 1 clip (10 frames) to validate on, 1 clip (10 frames) to score (the ends "
        "of clips, held back from training)"
    )
    with pytest.raises(UserError, match="score=whole"):
        folder(tmp_path, score="all")


def test_folder_with_lists_of_clips(tmp_path: Path) -> None:
    for name in ("a", "b", "deep/c", "d"):
        write_frames(tmp_path / "clips" / name, 4)
    (tmp_path / "test.txt").write_text("deep/c.mp4\n\nd\n")
    splits = folder(tmp_path / "clips", test=str(tmp_path / "test.txt"), validate=["b"])
    names = [[clip.name for clip in part] for part in (splits.train, splits.validate, splits.test)]
    assert names == [["a"], ["b"], ["deep/c", "d"]]
    assert splits.scored_part == "whole clips"
    assert [clip.name for clip in folder(tmp_path / "clips", train=["a"], test=["b"]).train] == ["a"]
    with pytest.raises(UserError, match=r"data\.layout\.test lists e, not among the 4 clips .*: a; b; d; deep/c"):
        folder(tmp_path / "clips", test=["e"])
    with pytest.raises(UserError, match="both the training data"):
        folder(tmp_path / "clips", train=["a"], test=["a"])
