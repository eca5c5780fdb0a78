"""Clips for the tests of the video package: real files, synthetic frames, and encodings of them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest


def find_sample(shared: Path, name: str) -> Path:
    """Return a real file, or skip the test without it."""
    path = shared / "data" / name
    if not path.exists():
        pytest.skip(f"needs {name}")
    return path


def make_scene(count: int, height: int = 96, width: int = 128, depth: int = 8) -> np.ndarray:
    """Make frames of a moving texture, ``(T, H, W, 3)``: uint8, or uint16 of ``depth`` bits."""
    dtype = np.uint8 if depth == 8 else np.uint16
    coarse = np.random.default_rng(0).integers(0, 2**depth, (40, 80, 3), dtype=dtype)
    texture = np.kron(coarse, np.ones((8, 8, 1), dtype))
    return np.stack([texture[i : i + height, 2 * i : 2 * i + width] for i in range(count)])


def encode(
    path: Path, codec: str, options: dict[str, str], count: int = 60, rotation: tuple[int, bool, bool] | None = None
) -> Path:
    """Encode a scene with PyAV alone; ``rotation`` is in degrees, with horizontal and vertical flips."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        pixel_format = "rgb24" if codec == "libx264rgb" else "yuv420p"
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixel_format
        if rotation:
            stream.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        for index, pixels in enumerate(make_scene(count)):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pixel_format)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
