"""Interlaced videos become progressive."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from src.video.reader import open_video
from tests.video.clips import encode, find_sample


def write_interlaced(path: Path, count: int = 20) -> Path:
    """Encode a bar that moves 3 pixels per field, bottom field first, x264's default for untagged frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "bff=1", "crf": "5", "g": "8"})
        stream.width, stream.height, stream.pix_fmt = 192, 96, "yuv420p"
        for index in range(count):
            picture = np.full((96, 192, 3), 40, np.uint8)
            for field in range(2):
                left = 10 + 3 * (2 * index + field)
                picture[1 - field :: 2, left : left + 24] = 200
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def measure_combing(frames: torch.Tensor) -> float:
    """Measure combing: the difference of adjacent lines beyond that of every other line."""
    luma = frames.double().mean(-1)
    adjacent, alternate = luma[:, 1:] - luma[:, :-1], luma[:, 2:] - luma[:, :-2]
    return float(adjacent.abs().mean() - alternate.abs().mean())


@pytest.mark.parametrize("name", ["woven.mkv", "woven.mp4", "woven.ts"])
def test_interlaced_frames_become_progressive(tmp_path: Path, name: str) -> None:
    path = write_interlaced(tmp_path / name)
    woven, progressive = open_video(path), open_video(path, deinterlace=True)
    assert woven.interlaced
    assert (len(progressive), progressive.times, progressive.end, progressive.size) == (
        len(woven),
        woven.times,
        woven.end,
        woven.size,
    )
    before, after = torch.stack(list(woven.frames())), torch.stack(list(progressive.frames()))
    assert len(after) == len(before) == 20
    assert measure_combing(before) > 4
    assert measure_combing(after[1:-1]) < 0.5
    for index in (5, 12):  # the bar is where it was in the first field
        bar = after[index, 1::2].double().mean((0, 2)) > 120
        assert abs(int(bar.nonzero()[0]) - (10 + 6 * index)) <= 1
    assert torch.equal(torch.stack(list(progressive.frames(7, 9))), after[7:9])
    assert torch.equal(torch.stack(list(progressive.frames(19))), after[19:])
    assert torch.equal(progressive.read([3, 0]), after[[3, 0]])
    straight = encode(tmp_path / "straight.mp4", "libx264", {"g": "12"}, count=10)
    assert torch.equal(open_video(straight, deinterlace=True).read([4]), open_video(straight).read([4]))


def test_real_interlaced_file_keeps_its_times(shared: Path) -> None:
    path = find_sample(shared, "odd/sony_a7m3_avchd.mts")
    woven, progressive = open_video(path), open_video(path, deinterlace=True)
    assert len(list(progressive.frames())) == len(woven) == 13
    assert progressive.times == woven.times
