"""Data sets are found where people keep them, their splits share nothing, and what is amiss is said in a sentence."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.layouts.folder import folder
from src.data.layouts.inspection import inspect
from src.data.layouts.procedural import procedural
from src.data.layouts.reds import reds
from src.data.layouts.vid4 import FRAMES, vid4
from src.data.layouts.vimeo90k import EXPECTED, vimeo90k
from src.data.splits import Clip, Splits
from src.errors import UserError


def write_frames(path: Path, count: int, size: tuple[int, int] = (24, 32), black: tuple[int, ...] = ()) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    for i in range(1, count + 1):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8) * (i not in black)
        Image.fromarray(pixels.astype(np.uint8)).save(path / f"im{i}.png")
    return path


@pytest.fixture
def septuplets(tmp_path: Path) -> Path:
    """A small copy of Vimeo-90K."""
    root = tmp_path / "vimeo_septuplet"
    clips = {"00001/0001": (), "00001/0002": (), "00002/0001": (3,), "00002/0002": (4, 5), "00002/0003": (6, 7)}
    for key, black in {**clips, "00003/0001": (1, 2), "00003/0002": (1, 3, 5)}.items():
        write_frames(root / "sequences" / key, 7, black=black)
    (root / "sep_trainlist.txt").write_text("00001/0001\n00001/0002\n")
    (root / "sep_testlist.txt").write_text("00002/0001\n00002/0002\n00002/0003\n00003/0001\n00003/0002")
    return root


def test_vimeo90k(septuplets: Path) -> None:
    splits = vimeo90k(septuplets, hold_back=1)
    assert [clip.name for clip in splits.train] == ["00001/0001"]
    assert [clip.name for clip in splits.validate] == ["00001/0002"]
    assert len(splits.test) == 5  # the whole official test list
    assert splits.train[0].length() == 7
    assert vimeo90k(septuplets.parent, hold_back=0) == vimeo90k(septuplets, hold_back=0)
    assert len(vimeo90k(septuplets, hold_back=0).train) == 2


def test_vimeo90k_excludes_black_clips(septuplets: Path) -> None:
    (septuplets / "fast_testset.txt").write_text("00002/0001\n00002/0002\n")
    (septuplets / "slow_testset.txt").write_text("00002/0003\n00003/0001\n00003/0002")
    test = vimeo90k(septuplets).test
    assert [(clip.name, clip.subset) for clip in test] == [("00002/0001", "fast"), ("00003/0002", "slow")]
    assert [clip.name for clip in vimeo90k(septuplets, test_list="slow").test] == ["00003/0002"]
    assert len(vimeo90k(septuplets, test_list="sep").test) == 5
    with pytest.raises(UserError, match=r"no medium_testset\.txt"):
        vimeo90k(septuplets, test_list="medium")


def test_vimeo90k_finds_low_resolution_folders(septuplets: Path) -> None:
    assert not any(clip.precomputed for clip in vimeo90k(septuplets).train)
    low = septuplets.parent / "vimeo_septuplet_matlabLRx4" / "sequences"
    low.mkdir(parents=True)
    assert vimeo90k(septuplets, hold_back=0).train[0].precomputed == {("bicubic",): low / "00001/0001"}


def test_published_lists(shared: Path, septuplets: Path) -> None:
    keys = {}
    for subset in ("fast", "medium", "slow"):
        text = (shared / "data" / "vimeo90k_lists" / f"{subset}_testset.txt").read_text()
        keys[subset] = text.split()
        few = keys[subset][:2]
        for key in few:
            write_frames(septuplets / "sequences" / key, 7)
        (septuplets / f"{subset}_testset.txt").write_text("\n".join(few))
    (septuplets / "sep_trainlist.txt").write_text("\n".join(["00003/0001", "00003/0002"]))
    assert {s: len(k) for s, k in keys.items()} == {"fast": 1225, "medium": 4977, "slow": 1613}
    counts = EXPECTED.counts
    assert len(keys["medium"]) - counts["medium"] == 5  # removed in the ZSM paper
    assert len(keys["slow"]) - counts["slow"] == 3
    splits = vimeo90k(septuplets, hold_back=0)
    assert [clip.subset for clip in splits.test] == ["fast"] * 2 + ["medium"] * 2 + ["slow"] * 2
    complaints = inspect(vimeo90k, septuplets, hold_back=0)
    assert any("2 clips in sep_trainlist.txt, 64612 expected" in line for line in complaints)
    assert any("32x24" in line for line in complaints)


def test_vid4(shared: Path) -> None:
    root = shared / "data" / "vid4"
    splits = vid4(root)
    assert {clip.name: clip.length() for clip in splits.test} == FRAMES
    assert not splits.train
    assert inspect(partial(vid4), root) == []


@pytest.mark.parametrize("inner", ["{}", "GT/{}", "original/{}", "{}/original"])
def test_vid4_folder_variants(tmp_path: Path, inner: str) -> None:
    for name in FRAMES:
        write_frames(tmp_path / inner.format(name), 3)
    splits = vid4(tmp_path)
    assert [clip.name for clip in splits.test] == ["calendar", "city", "foliage", "walk"]
    assert len(inspect(vid4, tmp_path)) == 4  # 3 frames each are too few


@pytest.mark.parametrize("entry", ["../../secret", "00001/../../../secret", "{outside}", "..", "/"])
@pytest.mark.parametrize("name", ["sep_trainlist.txt", "sep_testlist.txt", "fast_testset.txt"])
def test_list_entries_outside_the_data_set_are_refused(septuplets: Path, tmp_path: Path, entry: str, name: str) -> None:
    entry = entry.format(outside=write_frames(tmp_path / "secret", 7))
    if not (septuplets / name).exists():
        (septuplets / name).write_text("00002/0001")
    with (septuplets / name).open("a") as file:
        file.write(f"\n\n{entry}\n")
    with pytest.raises(UserError) as caught:
        vimeo90k(septuplets)
    line = len((septuplets / name).read_text().splitlines())
    assert f"Line {line} of {septuplets / name} is {entry}, which leads out of the data set" in str(caught.value)
    assert inspect(vimeo90k, septuplets) == [str(caught.value)]


def test_links_may_lead_out_of_the_data_set(septuplets: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another disk"
    (septuplets / "sequences" / "00001").rename(elsewhere)
    (septuplets / "sequences" / "00001").symlink_to(elsewhere)
    (septuplets / "sep_trainlist.txt").write_text("00001/0001\r\n  00001/0002  \r\n", encoding="utf-8-sig")
    splits = vimeo90k(septuplets, hold_back=0)
    assert [clip.name for clip in splits.train] == ["00001/0001", "00001/0002"]
    assert all(clip.path.is_dir() for clip in splits.train)


def test_a_binary_list_is_refused(septuplets: Path) -> None:
    (septuplets / "sep_trainlist.txt").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(UserError, match=r"sep_trainlist.txt is not a readable list of clips, one a line"):
        vimeo90k(septuplets)


@pytest.mark.parametrize("layout", [vimeo90k, vid4, folder])
def test_a_missing_data_set_is_one_sentence(tmp_path: Path, layout: object) -> None:
    with pytest.raises(UserError) as caught:
        layout(tmp_path / "nowhere")  # type: ignore[operator]
    sentence = str(caught.value)
    assert str(tmp_path / "nowhere") in sentence
    assert "data=procedural size=mini" in sentence
    assert "\n" not in sentence
    assert layout is folder or "http" in sentence
    assert inspect(layout, tmp_path / "nowhere") == [sentence]  # type: ignore[arg-type]


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


def test_procedural_renders_missing_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = partial(procedural, train=2, validate=1, test=1, height=32, width=48, frames=17)
    root = tmp_path / "scenes"
    assert "No built-in scenes" in inspect(few, root)[0]
    assert not root.exists()  # inspection renders nothing
    splits = few(root)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert [len(part) for part in (splits.train, splits.validate, splits.test)] == [2, 1, 1]
    assert [clip.length() for clip in splits.train] == [9, 9]  # every second of 17
    splits.test[0].path.unlink()
    assert "3 of 4 scenes" in inspect(few, root)[0]
    assert few(root) == splits
    assert inspect(few, root) == []
    capsys.readouterr()
    few(root)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (Clip("a", Path("x")), Clip("b", Path("x"), start=90)),
        (Clip("a", Path("x"), stop=10), Clip("b", Path("x"), start=9, stop=12)),
        (Clip("a", Path("x"), start=5, stop=6), Clip("b", Path("x"), stop=50)),
        (Clip("a", Path("x"), stop=10), Clip("b", Path("y/../x"))),
    ],
)
def test_overlapping_splits_are_refused(train: Clip, test: Clip) -> None:
    others = [Clip(f"other{i}", Path(f"z{i}")) for i in range(3)]
    with pytest.raises(UserError, match=r"both the (training|test) data \(clip .\) and the (test|training) data"):
        Splits(train=[*others, train], test=[test])
    with pytest.raises(UserError):
        Splits(validate=[train], test=[test])
    Splits(train=[train, test])  # ranges may overlap within a split


def test_disjoint_splits_are_accepted() -> None:
    a = [Clip(f"a{i}", Path("x"), start=i * 10, stop=i * 10 + 10) for i in range(6)]
    Splits(train=a[::3], validate=a[1::3], test=a[2::3])
    with pytest.raises(UserError, match="Two test clips are named same"):
        Splits(test=[Clip("same", Path("x")), Clip("same", Path("y"))])


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
