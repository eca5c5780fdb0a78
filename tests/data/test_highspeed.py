"""High-speed data sets are split by whole videos, as published where that is known, and as lists say where they do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.layouts.adobe240 import TEST_VIDEOS, adobe240
from src.data.layouts.dvd import dvd
from src.data.layouts.gopro import gopro
from src.data.layouts.inspection import inspect
from src.data.layouts.sony import sony
from src.data.splits import Clip, Splits
from src.errors import UserError
from src.video.writer import VideoWriter

SUFFIXES = (".mov", ".MOV", ".mp4", ".m4v")


def names_of(clips: Iterable[Clip]) -> list[str]:
    return [clip.name for clip in clips]


def all_clips(splits: Splits) -> list[Clip]:
    """Return all clips; no two share a file or a name."""
    clips = [*splits.train, *splits.validate, *splits.test]
    assert len({clip.path for clip in clips}) == len(clips)
    assert len(set(names_of(clips))) == len(clips)
    return clips


def write_frames(folder: Path, count: int = 2, size: tuple[int, int] = (2, 4)) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((*size, 3), i, np.uint8)).save(folder / f"{i:06d}.png")


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
    assert "train_list.txt lists IMG_2000.mov, which is not among the 133 videos" in inspect(layout, su)[0]


def test_a_training_list_without_a_test_list(su: Path) -> None:
    (su / "train_list.txt").write_text("IMG_1004\nIMG_1005\n")
    splits = adobe240(su, hold_back=0)
    assert (names_of(splits.train), len(splits.test)) == (["IMG_1004", "IMG_1005"], 8)
    (su / "train_list.txt").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        adobe240(su)


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


def test_dvd_tests_on_an_even_share(su: Path) -> None:
    splits = dvd(su)
    assert [len(part) for part in (splits.train, splits.validate, splits.test)] == [98, 11, 24]
    assert len(all_clips(splits)) == 133
    assert dvd(su) == splits
    numbers = [i for i, name in enumerate(sorted(names_of(all_clips(splits)))) if name in names_of(splits.test)]
    assert set(np.diff(numbers)) <= {5, 6}  # evenly spread
    assert inspect(dvd, su) == []
    assert not dvd(su, test=0).test
    with pytest.raises(UserError, match=r"data\.layout\.test"):
        dvd(su, test=12)


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
    assert all("frames of 4x2, 1280x720 expected" in line for line in inspect(gopro, nah))
    shutil.rmtree(splits.test[0].path)
    assert any("10 clips in test, 11 expected" in line for line in inspect(gopro, nah))


def test_gopro_with_gaps_in_time_is_refused(tmp_path: Path) -> None:
    for kind in ("blur", "sharp"):
        write_frames(tmp_path / "train" / "GOPR0372_07_00" / kind)
    with pytest.raises(
        UserError, match=r"is GOPRO_Large; its sharp frames have gaps .* Download GOPRO_Large_all from http"
    ):
        gopro(tmp_path)


def test_sony_with_and_without_split_folders(tmp_path: Path, video: Path) -> None:
    for part, count in {"train": 46, "test": 17}.items():
        for i in range(count):
            (tmp_path / "split" / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / "flat").mkdir(exist_ok=True)
            for folder in (tmp_path / "split" / part, tmp_path / "flat"):
                shutil.copy(video, folder / f"{part}{i:02d}.mp4")
    for root in (tmp_path / "split", tmp_path / "flat"):
        splits = sony(root)
        assert [len(part) for part in (splits.train, splits.validate, splits.test)] == [41, 5, 17]
        assert len(all_clips(splits)) == 63
        assert inspect(sony, root) == []
    assert names_of(sony(tmp_path / "split").test) == [f"test{i:02d}" for i in range(17)]
    next((tmp_path / "flat").iterdir()).unlink()
    assert inspect(sony, tmp_path / "flat") == [f"{tmp_path / 'flat'}: 62 clips in all, 63 expected"]


@pytest.mark.parametrize("hold_back", [-1, 125])
def test_some_training_videos_must_remain(su: Path, hold_back: int) -> None:
    with pytest.raises(UserError, match=f"hold_back={hold_back} of 125 training videos"):
        adobe240(su, hold_back=hold_back)


@pytest.mark.parametrize("layout", [adobe240, dvd, gopro, sony])
@pytest.mark.parametrize("there", ["nothing", "an empty folder", "empty splits"])
def test_a_missing_video_data_set_is_one_sentence(tmp_path: Path, layout: Callable[..., Splits], there: str) -> None:
    root = tmp_path / "somewhere"
    if there != "nothing":
        root.mkdir()
    if there == "empty splits":
        (root / "train").mkdir()
        (root / "test").mkdir()
    with pytest.raises(UserError) as caught:
        layout(root)
    sentence = str(caught.value)
    assert sentence.startswith("No ")
    assert f" in {root}. Download it from http" in sentence
    assert "set data.root=<folder>" in sentence
    assert "\n" not in sentence
    assert inspect(layout, root) == [sentence]


def test_the_share_excludes_videos_of_the_training_list(su: Path) -> None:
    (su / "train_list.txt").write_text("".join(f"IMG_{1000 + k}\n" for k in range(60)))
    splits = dvd(su)
    assert len(splits.train) + len(splits.validate) == 60
    assert len(splits.test) == round(133 * 0.18)
    assert len(all_clips(splits)) == 60 + len(splits.test)


@pytest.mark.parametrize("entry", ["../outside", "/etc/outside.mp4", "IMG_1000/../../outside"])
@pytest.mark.parametrize("name", ["test_list.txt", "train_list.txt"])
def test_video_list_entries_outside_the_data_set_are_refused(su: Path, entry: str, name: str) -> None:
    (su / name).write_text(f"IMG_1000\n{entry}\n")
    with pytest.raises(UserError) as caught:
        adobe240(su)
    assert f"Line 2 of {su / name} is {entry}, which leads out of the data set" in str(caught.value)
