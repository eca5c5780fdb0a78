"""Vimeo-90K: its lists, subsets and low-resolution frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.data.layouts.inspection import inspect
from src.data.layouts.vimeo90k import EXPECTED, vimeo90k
from src.errors import UserError
from tests.data.layouts.copies import write_frames


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
