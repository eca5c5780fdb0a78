"""A packed data set yields the same samples, is never incomplete, and reports damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.corruptions import Bicubic
from src.data.datamodule import DataModule
from src.data.degradation import Degradation
from src.data.layouts.folder import folder
from src.data.layouts.gopro import gopro
from src.data.layouts.inspection import inspect
from src.data.layouts.reds import reds
from src.data.layouts.vid4 import vid4
from src.data.layouts.vimeo90k import vimeo90k
from src.data.packing import find_damaged, pack
from src.data.source_size import SourceSize
from src.data.splits import Splits
from src.errors import UserError
from src.geometry import Geometry
from src.video import packed
from src.video.discovery import find_videos
from src.video.packed import RECORD
from src.video.reader import open_video
from src.video.writer import VideoWriter

ROOT = Path(__file__).resolve().parents[2]
PAIR = Geometry(2, 2, (Fraction(0), Fraction(1)))


def write_frames(path: Path, count: int, size: tuple[int, int] = (20, 24), black: tuple[int, ...] = ()) -> Path:
    rng = np.random.default_rng([len(str(path)), sum(str(path).encode())])
    path.mkdir(parents=True)
    for i in range(1, count + 1):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8) * np.uint8(i not in black)
        Image.fromarray(pixels).save(path / f"im{i}.png")
    return path


def make_vimeo(root: Path) -> Any:
    base = root / "vimeo_septuplet"
    for key, black in {"00001/0001": (), "00001/0002": (), "00002/0001": (3, 5), "00002/0002": (4, 5)}.items():
        write_frames(base / "sequences" / key, 7, black=black)
        write_frames(root / "vimeo_septuplet_matlabLRx4" / "sequences" / key, 7, (10, 12))
    (base / "sep_trainlist.txt").write_text("00001/0001\n00001/0002\n")
    (base / "sep_testlist.txt").write_text("00002/0001\n00002/0002\n")
    (base / "fast_testset.txt").write_text("00002/0001\n00002/0002\n")
    return partial(vimeo90k, hold_back=0)


def make_reds(root: Path) -> Any:
    for name in ("000", "001", "002", "011", "015", "020"):
        write_frames(root / "train_sharp" / name, 9)
        write_frames(root / "train_sharp_bicubic" / "X4" / name, 9, (10, 12))
    write_frames(root / "val_sharp" / "003", 9)
    write_frames(root / "val_sharp_bicubic" / "X4" / "003", 9, (10, 12))
    return reds


def make_vid4(root: Path) -> Any:
    for name in ("calendar", "city", "foliage", "walk"):
        write_frames(root / name / "original", 4)
    return vid4


def make_gopro(root: Path) -> Any:
    for name in ("train/GOPR0372_07_00", "train/GOPR0372_07_01", "test/GOPR0384_11.00"):
        write_frames(root / "GOPRO_Large_all" / name, 10)
    return partial(gopro, hold_back=0)


def make_folder(root: Path) -> Any:
    for name in ("a", "b/c.d", "b/e"):
        write_frames(root / name, 60)
    return folder


def describe_splits(splits: Splits, root: Path) -> list[tuple]:
    """Return the content of the splits, equal for folders and packed videos."""

    def where(path: Path) -> str:
        inner = path.relative_to(root.resolve()).as_posix()
        return inner if path.is_dir() else inner.removesuffix(".mp4")

    return [
        (split, clip.name, where(clip.path), clip.subset, clip.start, clip.stop, clip.length(),
         {done: where(path.resolve()) for done, path in clip.precomputed.items()})
        for split in ("train", "validate", "test")
        for clip in getattr(splits, split)
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("make", [make_vimeo, make_reds, make_vid4, make_gopro, make_folder])
def test_packed_samples_are_equal(tmp_path: Path, make: Any) -> None:
    layout = make(tmp_path / "png")
    done = pack(tmp_path / "png", tmp_path / "packed", processes=2 if make is make_reds else 1)
    assert done.clips == done.new == len(find_videos(tmp_path / "packed"))
    assert not [*(tmp_path / "packed").rglob("*.png")]
    assert not [*tmp_path.rglob(".*")]
    roots = [tmp_path / "png", tmp_path / "packed"]
    assert describe_splits(layout(roots[0]), roots[0]) == describe_splits(layout(roots[1]), roots[1])
    data = [
        DataModule(
            layout=layout, root=root, geometry=PAIR, degradation=Degradation([Bicubic(2)]), crop=16, batch_size=1,
            workers=0, seed=3,
        )
        for root in roots
    ]  # fmt: skip
    if data[0].splits.train:
        batches = [list(module.train_dataloader()) for module in data]
        assert len(batches[0]) >= 2
        for before, after in zip(*batches, strict=True):
            assert before["source"] == after["source"]
            assert torch.equal(before["inputs"], after["inputs"])
            assert torch.equal(before["targets"], after["targets"])
    if data[0].splits.test:
        for before, after in zip(*(module.test_dataloader() for module in data), strict=True):
            assert before.name == after.name
            for kind in ("inputs", "targets"):
                pairs = [*zip(getattr(before, kind)(), getattr(after, kind)(), strict=True)]
                assert pairs
                for a, b in pairs:
                    (a, b) = (a[1], b[1]) if kind == "targets" else (a, b)
                    assert torch.equal(a, b)


def test_inspection_reads_packed_clips(tmp_path: Path) -> None:
    layout = make_vid4(tmp_path / "png")
    pack(tmp_path / "png", tmp_path / "packed")
    complaints = [[line.split(": ")[1] for line in inspect(layout, tmp_path / name)] for name in ("png", "packed")]
    assert complaints[0] == complaints[1] == [f"4 frames, {n} expected" for n in (41, 34, 49, 47)]


def test_real_frames(shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "png" / "city"
    source.mkdir(parents=True)
    for path in sorted((shared / "data" / "vid4" / "city").rglob("*.png"))[:5]:
        (source / path.name).write_bytes(path.read_bytes())
    pack(tmp_path / "png", tmp_path / "packed")
    for backend in ("auto", "decord"):
        with open_video(tmp_path / "packed" / "city.mp4", backend) as video, open_video(source) as images:
            assert torch.equal(video.read(range(5)), images.read(range(5)))


@pytest.mark.long
def test_a_killed_command_is_resumed(tmp_path: Path) -> None:
    """Killed in the middle of a clip: no incomplete clip or data set gets its name, and complete clips are kept."""
    for k in range(6):
        write_frames(tmp_path / "png" / f"{k:03}", 40, (120, 160))
    target, place = tmp_path / "packed", tmp_path / ".packed.packing"
    call = f"from src.data.packing import pack; pack({str(tmp_path / 'png')!r}, {str(target)!r})"
    process = subprocess.Popen([sys.executable, "-c", call], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while not (place / "001.mp4").exists():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    there = find_videos(place)
    assert 2 <= len(there) < 6
    for path in there:
        found = packed.read_index(path)
        assert found is not None
        assert found.count == 40
    before = {path.name: path.stat().st_mtime_ns for path in there}
    (place / ".005.77.part.nut").write_bytes(b"left by one that was killed")
    done = pack(tmp_path / "png", target)
    assert (done.clips, done.new) == (6, 6 - len(there))
    assert {name: (target / name).stat().st_mtime_ns for name in before} == before
    assert not place.exists()
    assert not [*tmp_path.rglob(".*")]
    assert find_damaged(target) == []
    for k in range(6):
        with open_video(target / f"{k:03}.mp4") as video, open_video(tmp_path / "png" / f"{k:03}") as images:
            assert torch.equal(video.read(range(40)), images.read(range(40)))


def test_a_damaged_clip_does_not_stop_the_others(tmp_path: Path) -> None:
    root, target = tmp_path / "png", tmp_path / "packed"
    for name in "abcd":
        write_frames(root / name, 4)
    broken = (root / "b" / "im2.png").read_bytes()
    (root / "b" / "im2.png").write_bytes(broken[:200])
    Image.new("RGB", (8, 8)).save(root / "d" / "im3.png")
    with pytest.raises(UserError) as caught:
        pack(root, target)
    message = str(caught.value)
    assert "2 of 4 files" in message
    assert str(root / "b" / "im2.png") in message
    assert str(root / "d" / "im3.png") in message
    assert "\n" not in message
    assert not target.exists()
    assert [path.name for path in find_videos(tmp_path / ".packed.packing")] == ["a.mp4", "c.mp4"]
    (root / "b" / "im2.png").write_bytes(broken)
    (root / "d" / "im3.png").unlink()
    assert pack(root, target)[:2] == (4, 2)
    assert len(open_video(target / "d.mp4")) == 3


@pytest.mark.long
def test_a_damaged_packed_clip_is_found_and_repaired(tmp_path: Path) -> None:
    root, target = tmp_path / "png", tmp_path / "packed"
    for name in "abc":
        write_frames(root / name, 12)
    pack(root, target, gop=1)
    assert find_damaged(target) == []
    spoilt = bytearray((target / "b.mp4").read_bytes())
    for place in range(len(spoilt) // 2, len(spoilt) // 2 + 40):  # a single bit may have no effect
        spoilt[place] ^= 1
    (target / "b.mp4").write_bytes(spoilt)
    (target / "c.mp4").write_bytes((target / "c.mp4").read_bytes()[:-100])
    faults = find_damaged(target)
    assert len(faults) == 2
    assert str(target / "b.mp4") in faults[0]
    assert str(target / "c.mp4") in faults[1]
    for name in "bc":
        (target / f"{name}.mp4").unlink()
    assert pack(root, target)[:2] == (3, 2)
    assert find_damaged(target) == []
    record = (target / RECORD).read_text()
    for damaged in ("", "[3]", '{"clips": 3}', record.replace(": 3", ": null")):
        (target / RECORD).write_text(damaged)
        (fault,) = find_damaged(target)
        assert fault.startswith(f"{target / RECORD} is damaged: "), damaged
    (target / RECORD).write_text(record)
    assert pack(root, target).new == 0


def test_refusals(tmp_path: Path) -> None:
    root = tmp_path / "png"
    write_frames(root / "a", 3)
    for target in (root, root / "packed", tmp_path):
        with pytest.raises(UserError, match="overlap"):
            pack(root, target)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is no packed data set"):
        pack(root, tmp_path / "other")
    with pytest.raises(UserError, match="gop must be 1 or more"):
        pack(root, tmp_path / "packed", gop=0)
    pack(root, tmp_path / "packed")
    with pytest.raises(UserError, match="no frame folders to pack"):
        pack(tmp_path / "packed", tmp_path / "again")
    (root / "a.mp4").write_bytes((tmp_path / "packed" / "a.mp4").read_bytes())
    with pytest.raises(UserError, match="would both be packed as"):
        pack(root, tmp_path / "packed")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "again").exists()


def test_packing_reduces_frames(tmp_path: Path) -> None:
    """Folders and videos of source frames of another size; a packed copy is read as the original is."""
    root, target, size = tmp_path / "own", tmp_path / "packed", SourceSize((20, 24))
    write_frames(root / "train" / "a", 4, (40, 48))
    with VideoWriter(root / "test" / "b.mov", Fraction(30), codec="lossless") as writer:
        for k in range(3):
            writer.write(torch.full((40, 48, 3), 40 * k, dtype=torch.uint8))
    (root / "train_list.txt").write_text("a\n")
    assert pack(root, target, size=size)[:2] == (2, 2)
    assert {path.relative_to(target).as_posix() for path in find_videos(target)} == {"train/a.mp4", "test/b.mp4"}
    assert not find_damaged(target)
    for before, after in zip(folder(root).train, folder(target).train, strict=True):
        with open_video(before.path) as original, open_video(after.path) as copy:
            assert copy.size == (20, 24)
            assert torch.equal(copy.read(range(4)), size.reduce(original.read(range(4)), before.path))
    assert pack(root, target, size=size).new == 0
