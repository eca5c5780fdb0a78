"""A video read from a pipe equals that read from a file, and other programs can read written pipes."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from src.errors import VideoError
from src.video.colorspace import Signal
from src.video.pipe import Y4MWriter, open_pipe
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.video.clips import make_scene

NTSC = Fraction(30000, 1001)
ROOT = Path(__file__).resolve().parents[2]


def save(path: Path, frames: np.ndarray, **options: object) -> Path:
    with VideoWriter(path, NTSC, **options) as writer:  # type: ignore[arg-type]
        for frame in frames:
            writer.write(frame)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "depth"), [("a.mkv", "h264", 8), ("a.mkv", "ffv1", 10), ("a.mkv", "hevc", 10)]
)
def test_pipe_equals_file(tmp_path: Path, name: str, codec: str, depth: int) -> None:
    signal = Signal(depth, 9, 1, 9, 16)
    options = {"codec": codec, "signal": signal, "aspect": Fraction(4, 3), "source_size": (96, 128)}
    path = save(tmp_path / name, make_scene(20, depth=depth), **options)
    file = open_video(path, deep=True)
    with path.open("rb") as stream, open_pipe(stream, deep=True) as pipe:
        assert (pipe.size, pipe.signal, pipe.interlaced) == (file.size, file.signal, False)
        assert (pipe.fps, pipe.aspect, pipe.path, pipe.name) == (file.fps, file.aspect, Path("-"), "stdin")
        for number, (frame, expected) in enumerate(zip(pipe.frames(), file.frames(), strict=True)):
            assert torch.equal(frame, expected)
            assert tuple(pipe.times) == file.times[: number + 1]
        assert abs(pipe.end - file.end) <= Fraction(1, 1000)
        with pytest.raises(VideoError, match="can be read only once"):
            next(pipe.frames())


@pytest.mark.long
def test_pipe_from_another_process(shared: Path) -> None:
    path = shared / "data/odd/sony_a7m3_avchd.mts"
    if not path.exists():
        pytest.skip("needs sony_a7m3_avchd.mts")
    script = """
import hashlib, sys
from src.video.pipe import open_pipe
with open_pipe(sys.stdin.buffer, deinterlace=True) as pipe:
    digest = hashlib.sha256()
    for frame in pipe.frames():
        digest.update(frame.numpy().tobytes())
    print(pipe.size, pipe.interlaced, [str(time) for time in pipe.times], digest.hexdigest())
"""
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as cat:
        done = subprocess.run(
            [sys.executable, "-c", script], stdin=cat.stdout, capture_output=True, text=True, cwd=ROOT, check=True
        )
    reader = open_video(path, deinterlace=True)
    digest = hashlib.sha256()
    for frame in reader.frames():
        digest.update(frame.numpy().tobytes())
    assert done.stdout.strip() == f"{reader.size} True {[str(t) for t in reader.times]} {digest.hexdigest()}"


@pytest.mark.parametrize("depth", [8, 10, 12])
@pytest.mark.parametrize("full", [1, 2])
def test_y4m_round_trips(depth: int, full: int) -> None:
    frames, file = make_scene(4, 47, 63, depth), io.BytesIO()
    # y4m has no field for the matrix: readers assume BT.601 at this size.
    signal = Signal(depth, 6, full)
    with Y4MWriter(file, NTSC, aspect=Fraction(4, 3), signal=signal) as writer:
        for frame in frames:
            writer.write(torch.from_numpy(frame))
    head = file.getvalue().split(b"\n")[0].decode()
    chroma = "C444" if depth == 8 else f"C444p{depth} XYSCSS=444P{depth}"
    words = "LIMITED" if full == 1 else "FULL"
    assert head == f"YUV4MPEG2 W63 H47 F30000:1001 Ip A4:3 {chroma} XCOLORRANGE={words}"
    file.seek(0)
    with open_pipe(file, deep=True) as pipe:
        assert (pipe.size, pipe.fps, pipe.aspect, pipe.signal.depth) == ((47, 63), NTSC, Fraction(4, 3), depth)
        assert pipe.signal.range == full
        read = np.stack([frame.numpy() for frame in pipe.frames()])
        assert pipe.times == [i / NTSC for i in range(4)]
        assert pipe.end == 4 / NTSC
    assert np.abs(read.astype(int) - frames).max() <= 3


@pytest.mark.long
def test_y4m_to_another_process(tmp_path: Path) -> None:
    frames = make_scene(4, depth=10)
    script = """
import sys
from fractions import Fraction
import numpy as np
from src.video.pipe import Y4MWriter
from src.video.colorspace import Signal
with Y4MWriter(sys.stdout.buffer, Fraction(25), signal=Signal(10, 1, 1)) as writer:
    for frame in np.load(sys.argv[1]):
        writer.write(frame)
"""
    np.save(tmp_path / "frames.npy", frames)
    command = [sys.executable, "-c", script, str(tmp_path / "frames.npy")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process, open_pipe(process.stdout) as pipe:  # type: ignore[arg-type]
        assert len(list(pipe.frames())) == 4
    assert process.returncode == 0


def test_closed_pipe_is_an_error() -> None:
    far, near = os.pipe()
    os.close(far)
    match = "standard output was closed by its reader"
    with os.fdopen(near, "wb") as file, pytest.raises(VideoError, match=match), Y4MWriter(file, NTSC) as writer:
        for frame in make_scene(40):
            writer.write(frame)


@pytest.mark.parametrize("content", [b"", b"not a video " * 1000])
def test_other_data_is_refused(content: bytes) -> None:
    with pytest.raises(VideoError, match=r"standard input (cannot be read as video|has no readable video)") as caught:
        open_pipe(io.BytesIO(content))
    assert "\n" not in str(caught.value)


def test_silent_pipe_times_out() -> None:
    far, near = os.pipe()
    with os.fdopen(far, "rb") as file, pytest.raises(VideoError, match=r"made no progress for 0.3 s"):
        try:
            open_pipe(file, timeout=0.3)
        finally:
            os.close(near)


def test_truncated_pipe_yields_the_frames_before(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mkv", make_scene(40), codec="h264")
    data = path.read_bytes()
    with open_pipe(io.BytesIO(data[: len(data) // 2])) as pipe:
        count = sum(1 for _ in pipe.frames())
    assert 1 < count < 40
    assert len(pipe.times) == count


def test_untagged_colors_are_read_as_by_pyav(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mkv", make_scene(3), codec="h264", signal=Signal(), source_size=(96, 128))
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with path.open("rb") as stream, open_pipe(stream) as pipe:
        assert np.array_equal(np.stack([frame.numpy() for frame in pipe.frames()]), np.stack(expected))
