"""Frames averaged with those interpolated behind them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from src.config.composition import compose
from src.data.open_shutter import open_shutter
from src.data.packing import pack
from src.tasks.prepare import PrepareOptions, prepare
from src.video.reader import open_video
from src.video.writer import VideoWriter


def moving(frames, step):
    """A smooth texture that moves to the left by ``step`` pixels a frame."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 255, (1, 3, 12, 50)).astype(np.float32))
    texture = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 255)
    pixels = texture[0].permute(1, 2, 0).byte()
    return [pixels[:, k * step : k * step + 160] for k in range(frames)]


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_as_many_frames_come_out(frames):
    assert len(list(open_shutter(moving(frames, 4), 7))) == frames
    assert list(open_shutter([], 7)) == []


def test_still_frames_stay():
    still = moving(1, 0) * 4
    for frame in open_shutter(still, 7):
        assert (frame.int() - still[0].int()).abs().max() <= 3  # the filter computes in YUV


def test_moving_frames_become_exposures():
    """The mean of eight eighths of the motion, unlike a mixture of two frames."""
    fine = moving(41, 1)
    coarse, exposed = fine[::8], list(open_shutter(fine[::8], 7))
    inner = (slice(16, -16), slice(24, -24))
    for number in (1, 2, 3):
        expected = torch.stack(fine[8 * number : 8 * number + 8]).float().mean(0)
        mixed = 0.5625 * coarse[number] + 0.4375 * coarse[number + 1]

        def error(frame, expected=expected):
            return (frame.float() - expected)[inner].abs().mean()

        assert error(exposed[number]) < 0.3 * error(coarse[number])
        assert error(exposed[number]) < 0.5 * error(mixed)


def test_packed_clips_are_exposed(tmp_path):
    frames = moving(5, 8)
    (tmp_path / "clips").mkdir()
    with VideoWriter(tmp_path / "clips" / "scene.mkv", Fraction(240), codec="lossless") as writer:
        for frame in frames:
            writer.write(frame)
    assert pack(tmp_path / "clips", tmp_path / "packed", interpolated=7).clips == 1
    (file,) = (tmp_path / "packed").glob("scene*")
    with open_video(file) as video:
        assert video.fps == 240
        packed = list(video.frames())
    assert all(torch.equal(a, b) for a, b in zip(packed, open_shutter(frames, 7), strict=True))


def test_blur_is_pictured_without_and_with_interpolated_frames(tmp_path):
    frames = moving(9, 8)
    (tmp_path / "clips").mkdir()
    with VideoWriter(tmp_path / "clips" / "scene.mkv", Fraction(240), codec="lossless") as writer:
        for frame in frames:
            writer.write(frame)
    config = compose("task=prepare", "data=folder", f"data.root={tmp_path}/clips", "data.layout.hold_back=0")
    options = PrepareOptions(
        pack=str(tmp_path / "packed"), interpolated=7, processes=1, output=str(tmp_path / "out" / "throughput.json")
    )
    prepare(config, tmp_path, options=options)
    picture = torch.from_numpy(np.array(Image.open(tmp_path / "out" / "blur.png"))).float()
    left, right = picture.chunk(2, dim=1)
    assert torch.equal(left, torch.stack(frames[:8]).float().mean(0).round())
    # The mean of frames 8 pixels apart is a row of copies; the interpolated ones between them smooth it.
    fine = torch.stack([frame.float() for frame in moving(64, 1)]).mean(0)
    inner = (slice(16, -16), slice(24, -24))
    assert (right - fine)[inner].abs().mean() < 0.5 * (left - fine)[inner].abs().mean()
