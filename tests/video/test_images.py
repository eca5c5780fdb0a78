"""Folders of images are clips."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from src.errors import VideoError
from src.video.reader import open_video
from tests.video.clips import make_scene


def write_images(path: Path, frames: list[Image.Image], suffix: str = ".png") -> Path:
    path.mkdir(parents=True)
    for index, frame in enumerate(frames):
        frame.save(path / f"im{index + 1}{suffix}")
    return path


def test_folders_are_read_in_natural_order(tmp_path: Path) -> None:
    frames = make_scene(12, 20, 30)
    path = write_images(tmp_path / "city", [Image.fromarray(frame) for frame in frames])
    (path / "notes.txt").write_text("not a frame")
    (path / "._im3.png").write_bytes(b"metadata of macOS")
    reader = open_video(path)
    assert (len(reader), reader.size, reader.fps, reader.name, reader.backend) == (12, (20, 30), 25, "city", "frames")
    assert np.array_equal(reader.read([10, 1, 1]).numpy(), np.stack([frames[10], frames[1], frames[1]]))
    assert np.array_equal(torch.stack(list(reader.frames(2))).numpy(), np.stack(frames[2:]))
    assert open_video(path, fps=Fraction(24000, 1001)).times[11] == Fraction(11 * 1001, 24000)


def test_images_are_converted_to_rgb(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    grey = Image.fromarray((ramp * 257).astype(np.uint16))
    clear = Image.fromarray(np.dstack([ramp] * 4).astype(np.uint8), "RGBA")
    path = write_images(tmp_path / "kinds", [grey, clear, Image.fromarray(ramp.astype(np.uint8))])
    expected = np.repeat(ramp[..., None], 3, axis=2)
    assert all(np.array_equal(frame, expected) for frame in open_video(path).read([0, 1, 2]).numpy())


def test_invalid_folders_are_refused(tmp_path: Path) -> None:
    small, large = Image.new("RGB", (8, 6)), Image.new("RGB", (10, 6))
    with pytest.raises(VideoError, match=r"im2.png is 10x6, but the first frame is 8x6"):
        open_video(write_images(tmp_path / "sizes", [small, large])).read([1])
    mixed = write_images(tmp_path / "mixed", [small, small])
    small.save(mixed / "im1.jpg")
    with pytest.raises(VideoError, match=r"mixed has .jpg and .png images"):
        open_video(mixed)
    (tmp_path / "bare").mkdir()
    with pytest.raises(VideoError, match="bare has no images"):
        open_video(tmp_path / "bare")
    broken = write_images(tmp_path / "broken", [small, small])
    (broken / "im2.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with pytest.raises(VideoError, match=r"im2.png cannot be read as an image"):
        list(open_video(broken).frames())


@pytest.mark.parametrize("mode", ["rgb48be", "gray16be", "rgba64be"])
def test_images_of_16_bits(tmp_path: Path, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (2, 20, 30, 4)).astype(np.uint16)
    values = values[..., 0] if mode == "gray16be" else values[..., : 3 if mode == "rgb48be" else 4]
    (tmp_path / "deep 50%d").mkdir()
    for index, image in enumerate(values):
        codec = av.CodecContext.create("png", "w")
        codec.width, codec.height, codec.pix_fmt, codec.time_base = 30, 20, mode, Fraction(1, 25)
        packets = codec.encode(av.VideoFrame.from_ndarray(image, mode))
        (tmp_path / "deep 50%d" / f"{index}.png").write_bytes(b"".join(map(bytes, packets)))
    reader = open_video(tmp_path / "deep 50%d", deep=True)
    expected = np.repeat(values[..., None], 3, -1) if mode == "gray16be" else values[..., :3]
    assert (reader.signal.depth, reader.end) == (16, Fraction(2, 25))
    assert np.array_equal(reader.read([0, 1]).numpy(), expected)
    assert np.array_equal(np.stack([frame.numpy() for frame in reader.frames()]), expected)
    plain = open_video(tmp_path / "deep 50%d")
    assert (plain.signal.depth, plain.read([0]).dtype) == (8, torch.uint8)
