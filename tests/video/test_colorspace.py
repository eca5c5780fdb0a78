"""RGB to Y, Cb, Cr and back follows the formulas of H.273 at every depth, and RGB to RGB is exact."""

from __future__ import annotations

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from src.video.colorspace import BT601, BT709, RGB, UNSPECIFIED, Signal, from_rgb, to_rgb

LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def make_noise(depth: int, height: int = 48, width: int = 64) -> np.ndarray:
    values = np.random.default_rng(depth).integers(0, 2**depth, (height, width, 3))
    return values.astype(np.uint8 if depth == 8 else np.uint16)


def read_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    return [np.frombuffer(p, kind).reshape(p.height, -1)[:, : p.width].astype(float) for p in frame.planes]


@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("depth", [8, 10, 12])
def test_y_cb_cr_follow_h273(depth: int, full: bool, matrix: int) -> None:
    array = make_noise(depth)
    pixels = "yuv444p" if depth == 8 else f"yuv444p{depth}le"
    frame = from_rgb(array, pixels, Signal(depth, matrix, 2 if full else 1, 9, 16), VideoReformatter())
    tags = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    assert tags == (matrix, 2 if full else 1, 9, 16)
    kr, kb = LUMA[matrix]
    red, green, blue = np.moveaxis(array / (2**depth - 1), -1, 0)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    top, unit = 2**depth - 1, 2 ** (depth - 8)
    if full:
        expected = (y * top, cb * top + 2 ** (depth - 1), cr * top + 2 ** (depth - 1))
    else:
        expected = ((16 + 219 * y) * unit, (128 + 224 * cb) * unit, (128 + 224 * cr) * unit)
    for plane, values in zip(read_planes(frame), expected, strict=True):
        # Rounded to the nearest; swscale, for 8 bits of limited range, has a 15-bit matrix. 255.5 is clipped.
        assert np.abs(plane - np.minimum(values, top)).max() <= 0.6


@pytest.mark.parametrize("matrix", [1, 6, 9, UNSPECIFIED])
@pytest.mark.parametrize("full", [1, 2])
@pytest.mark.parametrize("depth", [10, 12])
def test_high_bit_depths_round_trip(depth: int, full: int, matrix: int) -> None:
    array, convert = make_noise(depth, 47, 63), VideoReformatter()
    frame = from_rgb(array, f"yuv444p{depth}le", Signal(depth, matrix, full), convert)
    assert np.abs(to_rgb(frame, depth, convert).astype(int) - array).max() <= 2  # Y, Cb and Cr are each rounded


@pytest.mark.parametrize(("depth", "pixels"), [(8, "bgr0"), (8, "rgb24"), (10, "gbrp10le"), (12, "gbrp12le")])
def test_rgb_is_exact(depth: int, pixels: str) -> None:
    array, convert = make_noise(depth), VideoReformatter()
    frame = from_rgb(array, pixels, Signal(depth, RGB, 2), convert)
    assert np.array_equal(to_rgb(frame, depth, convert), array)
    assert Signal.from_frame(frame, deep=True) == Signal(depth, RGB, 2)


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv422p10le", "yuv444p10le"])
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_chroma_is_not_shifted(pixels: str, size: tuple[int, int]) -> None:
    """A spatially linear signal survives chroma subsampling without a shift."""
    y, x = np.mgrid[: size[0], : size[1]]
    array = np.stack((200 + 8 * x, 700 - 5 * y, 300 + 3 * x + 4 * y), -1).astype(np.uint16)
    convert = VideoReformatter()
    back = to_rgb(from_rgb(array, pixels, Signal(10, BT709, 1), convert), 10, convert)
    assert np.abs(back.astype(int) - array)[2:-2, 2:-2].max() <= 4


def test_tags_of_a_file() -> None:
    plain, sd, hd = Signal(matrix=UNSPECIFIED), (480, 720), (1080, 1920)
    assert plain.for_pixel_format("yuv420p", sd) == plain
    assert plain.container_tags(sd, sd) == plain
    assert plain.container_tags(hd, (720, 1280)) == plain
    assert plain.container_tags(hd, sd) == Signal(matrix=BT601)  # players would otherwise assume BT.709
    assert Signal(matrix=BT601).container_tags(hd, hd) == Signal(matrix=BT601)
    assert plain.for_pixel_format("yuv420p", None) == Signal(matrix=1, range=1, primaries=1, transfer=1)
    assert Signal(matrix=RGB, range=2, primaries=9, transfer=16).for_pixel_format("yuv420p", hd) == Signal(
        8, 9, 1, 9, 16
    )
    assert Signal(10, 9, 1, 9, 16).for_pixel_format("gbrp10le", hd) == Signal(10, RGB, 2, 9, 16)
