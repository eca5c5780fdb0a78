"""Damaged files of a data set are found, even if they kill the process that reads them."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import zlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from src.data.integrity import Finding, check_clip, check_clips
from src.data.packing import pack
from src.video.colorspace import Signal
from src.video.writer import VideoWriter

SIZE = (48, 64)


def pixels(count: int) -> np.ndarray:
    """Return a moving texture, uint8 (T, H, W, 3)."""
    texture = np.random.default_rng(0).integers(0, 256, (SIZE[0], SIZE[1] + count, 3), dtype=np.uint8)
    return np.stack([texture[:, t : t + SIZE[1]] for t in range(count)])


def write_frames(path: Path, count: int = 6) -> Path:
    path.mkdir()
    for i, frame in enumerate(pixels(count)):
        Image.fromarray(frame).save(path / f"{i}.png")
    return path


def encode(path: Path, codec: str = "libx264", times: Iterable[int] = range(48), **options: str) -> Path:
    """Write a video with a key frame every 8 frames, and its table, if any, in front."""
    times = [*times]
    muxing = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=muxing) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        stream.options = {"g": "8", **options}
        for time_, frame in zip(times, pixels(len(times)), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time_, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def zero_out(path: Path, share: float = 0.5, size: int = 1500) -> Path:
    """Overwrite the middle with zeros."""
    content = bytearray(path.read_bytes())
    middle = int(len(content) * share)
    content[middle : middle + size] = bytes(size)
    path.write_bytes(content)
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def bomb(path: Path, side: int = 60000) -> None:
    """Write a PNG of a few bytes with a huge size in its header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def test_intact_clips_have_no_findings(tmp_path: Path) -> None:
    for path in (
        write_frames(tmp_path / "frames"),
        encode(tmp_path / "a.mp4"),
        encode(tmp_path / "a.mkv"),
        encode(tmp_path / "a.ts"),
        encode(tmp_path / "b.avi", "mpeg4"),
    ):
        for read in (False, True):
            finding = check_clip(path, read)
            assert (finding.fault, finding.notes) == ("", ()), path
            assert finding.frames == finding.readable == (6 if path.is_dir() else 48)


@pytest.mark.parametrize(
    ("kind", "message", "readable"),
    [
        ("truncated", "3.png cannot be read as an image: ", 5),
        ("several", "1.png cannot be read as an image: .*, and 2 more of its frames are damaged", 3),
        ("size", "4.png is 32x32, but the first frame is 64x48", 5),
        ("empty", "2.png cannot be read as an image: ", 5),
        ("bomb", "5.png cannot be read as an image: .*3600000000 pixels|5.png has frames of 60000x60000", 5),
    ],
)
def test_damaged_folders_of_frames(tmp_path: Path, kind: str, message: str, readable: int) -> None:
    folder = write_frames(tmp_path / kind)
    for number in {"truncated": [3], "several": [1, 2, 4]}.get(kind, []):
        cut(folder / f"{number}.png", 0.5)
    if kind == "size":
        Image.new("RGB", (32, 32)).save(folder / "4.png")
    if kind == "empty":
        (folder / "2.png").write_bytes(b"")
    if kind == "bomb":
        bomb(folder / "5.png")
    finding = check_clip(folder, read=True)
    assert finding.skipped
    assert (finding.frames, finding.readable) == (6, readable)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(finding.fault)
    assert check_clip(folder, read=False).fault == ""  # its first image is intact


@pytest.mark.parametrize("content", [b"", b"no video\n" * 99])
def test_files_that_are_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    finding = check_clip(tmp_path / "a.mp4", read=False)
    assert "a.mp4 cannot be read as video" in finding.fault
    assert finding.skipped
    assert finding.frames == 0
    assert "gone.mp4 does not exist" in check_clip(tmp_path / "gone.mp4", read=False).fault


def test_damage_in_the_middle_is_found_by_reading(tmp_path: Path) -> None:
    path = zero_out(encode(tmp_path / "a.mp4"), size=4000)
    assert check_clip(path, read=False).fault == ""
    finding = check_clip(path, read=True)
    assert f"a.mp4 breaks at frame {finding.readable} of 48: " in finding.fault
    assert 8 < finding.readable < 30
    assert finding.skipped


def test_concealed_errors_are_found(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "mpeg4", b="2M")
    zero_out(path, size=60)
    finding = check_clip(path, read=True)
    assert "with errors that the decoder conceals, from frame" in finding.fault
    assert 8 < finding.readable < 40
    assert not finding.skipped  # reading does not fail


@pytest.mark.parametrize(
    ("name", "codec", "message"),
    [
        ("a.mp4", "mpeg4", "is cut off: .* of its 48 frames lie beyond the end of the file"),
        ("a.mkv", "libx264", "is cut off: its header lists 1.92 s, but its frames end at [01].*s"),
        ("a.avi", "mpeg4", "is cut off, or its header is wrong: it lists 48 frames, but has .*"),
    ],
)
def test_cut_videos_are_found_by_opening(tmp_path: Path, name: str, codec: str, message: str) -> None:
    finding = check_clip(cut(encode(tmp_path / name, codec)), read=False)
    assert not finding.skipped  # readers return the remaining frames
    assert 0 < finding.frames < 40
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(finding.fault)
    assert "cut off" in check_clip(tmp_path / name, read=True).fault


def test_harmless_properties_are_noted(tmp_path: Path) -> None:
    uneven = encode(tmp_path / "uneven.mp4", times=[*range(10), *range(20, 60, 4)])
    assert check_clip(uneven, read=True).notes == ("variable frame rate, 40 to 440 ms per frame, read as constant",)
    deep = tmp_path / "deep.mkv"
    with VideoWriter(deep, Fraction(25), codec="ffv1", signal=Signal(10, transfer=16), aspect=Fraction(4, 3)) as video:
        for frame in pixels(4).astype(np.uint16) * 4:
            video.write(frame)
    assert check_clip(deep, read=True).notes == (
        "HDR (PQ), read without tone mapping",
        "10 bits per channel, read as 8",
        "anamorphic pixels of 4:3, read as stored",
    )
    folder = tmp_path / "deep"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(np.full(SIZE, 300 * i, np.uint16)).save(folder / f"{i}.png")
    assert check_clip(folder, read=True).notes == ("16 bits per channel",)


def test_packed_videos_are_verified_by_their_checksums(tmp_path: Path) -> None:
    write_frames(tmp_path / "png").rename(tmp_path / "frames")
    (tmp_path / "png").mkdir()
    (tmp_path / "frames").rename(tmp_path / "png" / "a")
    pack(tmp_path / "png", tmp_path / "packed", gop=1)
    path = tmp_path / "packed" / "a.mp4"
    assert check_clip(path, read=True) == Finding(path, frames=6, readable=6)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert str(path) in check_clip(path, read=True).fault


@pytest.mark.long
def test_real_files(shared: Path) -> None:
    """Real files, compared with their known properties."""
    odd = {path.name.split("_")[0]: path for path in (shared / "data" / "odd").iterdir()}
    fine = ("rotate", "rotated90", "iphone", "dolbyvision", "flir", "roadtrip", "sony", "mjpeg", "mpeg4", "two")
    paths = [odd[name] for name in (*fine, "audio", "corrupted", "raw", "zero")]
    findings = {f.path.name.split("_")[0]: f for f in check_clips(paths, read=True, processes=2)}
    assert {name for name, finding in findings.items() if finding.fault} == {"audio", "corrupted", "raw", "zero"}
    assert "no readable video stream" in findings["audio"].fault
    assert "breaks at frame 28 of 50" in findings["corrupted"].fault
    assert findings["corrupted"].readable == 28
    assert "changes from 352x288 to 640x480" in findings["raw"].fault
    assert "has no frames" in findings["zero"].fault
    turned, deep = "rotated, read upright", "10 bits per channel, read as 8"
    assert {name: findings[name].notes for name in fine} == {
        "rotate": ("mirrored, read upright",),
        "rotated90": (turned,),
        "iphone": (turned,),
        "dolbyvision": (turned, "HDR (HLG), read without tone mapping", deep),
        "flir": ("variable frame rate, 38 to 1997 ms per frame, read as constant",),
        "roadtrip": (deep,),
        "sony": ("interlaced, read without deinterlacing",),
        "mjpeg": (),
        "mpeg4": (),
        "two": (),
    }


# --- Expendable processes ---


@pytest.mark.long
def test_a_file_that_kills_its_reader_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [encode(tmp_path / f"{name}.mp4") for name in "abc"]
    shutil.copy(paths[0], tmp_path / "gone.mp4")
    monkeypatch.setattr("src.data.integrity.check_clip", kill_reader)  # pickled by its name
    findings = {
        finding.path.name: finding for finding in check_clips([*paths, tmp_path / "gone.mp4"], read=True, processes=1)
    }
    assert [name for name, finding in findings.items() if finding.fault] == ["gone.mp4"]
    assert "gone.mp4 cannot be read: the process that read it was ended by SIGSEGV" in findings["gone.mp4"].fault
    assert not findings["gone.mp4"].skipped  # kills a training


def kill_reader(path: Path, read: bool, time_limit: float) -> Finding:
    if path.name == "gone.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    return Finding(path)
