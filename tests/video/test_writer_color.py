"""Colours, bit depths and HDR metadata of written videos."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from src.video.colorspace import Signal
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.video.clips import make_scene
from tests.video.test_writer import NTSC, save

PATCHES = np.array([[0, 0, 0], [255, 255, 255], [128, 128, 128], [255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 60, 130]])


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_colors_are_limited_bt709(tmp_path: Path, codec: str) -> None:
    frame = np.kron(PATCHES[None].astype(np.uint8), np.ones((32, 32, 1), np.uint8))
    path = save(tmp_path / "a.mp4", np.stack([frame] * 3), codec=codec, quality=4)
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
    tags = picture.colorspace, picture.color_range, picture.color_primaries, picture.color_trc
    assert [int(tag) for tag in tags] == [1, 1, 1, 1]
    y, cb, cr = (np.frombuffer(p, np.uint8).reshape(p.height, -1)[:, : p.width] for p in picture.planes)
    r, g, b = PATCHES.T / 255
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b  # ITU-R BT.709, item 3.2
    for plane, step, expected in (
        (y, 32, 16 + 219 * luma),
        (cb, 16, 128 + 224 * (b - luma) / 1.8556),
        (cr, 16, 128 + 224 * (r - luma) / 1.5748),
    ):
        assert np.abs(plane[step // 2, step // 2 :: step] - expected).max() <= 1
    read = open_video(path).read([1])[0].numpy()
    assert np.abs(read[16, 16::32].astype(int) - PATCHES).max() <= 3


TAGS = [(1, 1, 1, 1), (6, 1, 6, 6), (9, 1, 9, 16), (1, 2, 1, 13), (5, 1, 5, 4)]  # matrix, range, primaries, transfer


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *((f"a.{kind}", codec) for kind in ("mp4", "mkv") for codec in ("h264", "hevc", "av1")),
        *(("a.mov", "prores"), ("a.mkv", "ffv1"), ("a.mp4", "lossless")),
    ],
)
def test_color_tags_are_kept(tmp_path: Path, name: str, codec: str, tags: tuple[int, ...]) -> None:
    depth = 8 if codec in ("h264", "lossless") else 10
    top = 2**depth - 1
    frame = np.kron(np.rint(PATCHES[None] / 255 * top), np.ones((64, 32, 1))).astype(
        np.uint8 if depth == 8 else np.uint16
    )
    frames = np.stack([frame] * 2)
    signal = Signal(depth, *tags)
    path = save(tmp_path / name, frames, codec=codec, signal=signal, source_size=(64, 224))
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        stream = context.colorspace, context.color_range, context.color_primaries, context.color_trc
    read = open_video(path, deep=True).signal
    rgb = codec in ("ffv1", "lossless")
    expected = (0, 2, *tags[2:]) if rgb else (tags[0], 1, *tags[2:]) if codec == "prores" else tags
    assert (read.depth, read.matrix, read.range, read.primaries, read.transfer) == (depth, *expected)
    assert tuple(map(int, stream[2:])) == tags[2:]
    back = next(open_video(path, deep=True).frames()).int().numpy()
    # A wrong matrix or range would change colours by tens of 255 steps.
    assert np.abs(back[32, 16::32] - frame[32, 16::32].astype(int)).max() / top <= (0 if rgb else 0.02)


@pytest.mark.parametrize(
    ("size", "source", "matrix"),
    [((96, 128), (96, 128), 2), ((640, 32), (160, 32), 6), ((640, 32), (720, 32), 2), ((160, 32), (640, 32), 1)],
)
def test_untagged_stays_untagged_unless_players_guess_differently(
    tmp_path: Path, size: tuple[int, int], source: tuple[int, int], matrix: int
) -> None:
    frames = np.kron(PATCHES[None].astype(np.uint8), np.ones((*size, 1), np.uint8))[None, : size[0], : size[1]]
    path = save(tmp_path / "a.mp4", frames, codec="h264", quality=1, signal=Signal(), source_size=source)
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
    tags = picture.colorspace, picture.color_range, picture.color_primaries, picture.color_trc
    assert tuple(map(int, tags)) in ((matrix, 0, 2, 2), (matrix, 1, 2, 2))  # H.264 has no matrix without a range


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_ffv1_is_exact_at_every_depth(tmp_path: Path, depth: int) -> None:
    kind = np.uint8 if depth == 8 else np.uint16
    frames = np.random.default_rng(depth).integers(0, 2**depth, (5, 49, 67, 3)).astype(kind)
    signal = Signal(depth, 9, 1, 9, 16)
    path = save(tmp_path / "a.mkv", frames, codec="ffv1", signal=signal, aspect=Fraction(16, 11))
    reader = open_video(path, deep=True)
    assert reader.signal == Signal(depth, 0, 2, 9, 16)
    assert np.array_equal(np.stack([frame.numpy() for frame in reader.frames()]), frames)
    assert abs(reader.aspect - Fraction(16, 11)) < Fraction(1, 100)  # to half a column of the display size
    with VideoWriter(tmp_path / "frames", NTSC, signal=signal) as writer:
        for frame in torch.from_numpy(frames.copy()):
            writer.write(frame)
    images = open_video(tmp_path / "frames", deep=True)
    assert images.signal.depth == (8 if depth == 8 else 16)
    read = np.stack([frame.numpy() for frame in images.frames()]).astype(np.int64)
    assert np.array_equal((read * (2**depth - 1) + 32767) // 65535 if depth > 8 else read, frames)


@pytest.mark.parametrize(
    ("name", "codec", "depth", "pixels"),
    [
        ("a.mp4", "auto", 8, "yuv420p"),
        ("a.mp4", "auto", 10, "yuv420p10le"),
        ("a.mkv", "auto", 12, "yuv420p12le"),
        ("a.webm", "auto", 8, "yuv420p"),
        ("a.webm", "auto", 10, "yuv420p10le"),
        ("a.mp4", "h264", 10, "yuv420p"),
        ("a.mov", "prores", 8, "yuv422p10le"),
        ("a.mkv", "ffv1", 14, "gbrp14le"),
        ("a.m4v", "auto", 8, "yuv420p"),
    ],
)
def test_bit_depth_by_codec(tmp_path: Path, name: str, codec: str, depth: int, pixels: str) -> None:
    frames = make_scene(2).astype(np.uint8 if depth == 8 else np.uint16) << (depth - 8)
    path = save(tmp_path / name, frames, codec=codec, signal=Signal(depth))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pixels
        written = max(8, container.streams.video[0].codec_context.format.components[0].bits)
    assert VideoWriter(tmp_path / name, 25, codec, signal=Signal(depth)).depth == written


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_hdr_metadata_is_kept(tmp_path: Path, codec: str) -> None:
    display = [Fraction(n, 50000) for n in (34000, 16000, 13250, 34500, 7500, 3000, 15635, 16450)]
    signal = Signal(10, 9, 1, 9, 16, (*display, Fraction(1, 100), Fraction(1000)), (1000, 400))
    path = save(tmp_path / "a.mp4", make_scene(2).astype(np.uint16) * 4, codec=codec, signal=signal)
    read = open_video(path, deep=True).signal
    assert read.light == (1000, 400)
    assert all(abs(a - b) < Fraction(1, 1000) for a, b in zip(read.mastering, signal.mastering, strict=True))
