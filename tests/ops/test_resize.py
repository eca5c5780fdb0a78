"""``imresize`` against MATLAB's numbers, and its general properties."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.ops.resize import imresize

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "imresize.json").read_text())["cases"]


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n]['input']}x{CASES[n]['scale']:.3g}")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 2e-6)])
def test_matlab(number: int, dtype: torch.dtype, tolerance: float) -> None:
    arrays = np.load(GOLDEN / "imresize.npz")
    got = imresize(torch.from_numpy(arrays[f"{number}_x"]).to(dtype), CASES[number]["scale"])
    assert got.dtype == dtype
    torch.testing.assert_close(got.numpy(), arrays[f"{number}_y"].astype(got.numpy().dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        (720, 1 / 4, 180),
        (720, 1 / 3, 240),
        (721, 1 / 4, 181),
        (100, 0.07, 7),  # 7.000000000000001 in floating point
        (10, 1.1, 11),  # 11.000000000000002
        (15, Fraction(2, 3), 10),
        (7, 0.31830988618379067, 3),
        (3, 1e-2, 1),
        (5, 1, 5),
    ],
)
def test_output_size_is_exact(size: int, scale: float | Fraction, expected: int) -> None:
    assert imresize(torch.rand(size, 4), scale).shape[0] == expected


def test_constant_stays_constant_and_identity_is_identity() -> None:
    torch.testing.assert_close(imresize(torch.full((1, 2, 3), 0.3), 2.7), torch.full((1, 6, 9), 0.3))
    x = torch.rand(2, 9, 7)
    torch.testing.assert_close(imresize(x, 1), x)


def test_any_leading_shape() -> None:
    clip = torch.rand(2, 3, 3, 20, 24)
    got = imresize(clip, Fraction(1, 4))
    assert got.shape == (2, 3, 3, 5, 6)
    torch.testing.assert_close(got[1, 2], imresize(clip[1, 2], 0.25))
    torch.testing.assert_close(got[0, 1, 2], imresize(clip[0, 1, 2], 0.25))
    assert imresize(clip[:, :0], 0.25).shape == (2, 0, 3, 5, 6)


def test_tiny_images_are_mirrored_repeatedly() -> None:
    x = torch.rand(3, 2, dtype=torch.float64)
    mirrored = torch.cat([x, x.flip(0)], 0)
    mirrored = torch.cat([mirrored, mirrored.flip(1)], 1).repeat(17, 17)  # the same plane, far beyond the kernel
    wide = imresize(mirrored, Fraction(1, 8))
    rows, columns = 6 * 8, 4 * 8  # whole periods and whole output samples, so the image begins here again
    torch.testing.assert_close(imresize(x, Fraction(1, 8))[0, 0], wide[rows // 8, columns // 8])


def test_gradient() -> None:
    x = torch.rand(2, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: imresize(x, 0.4), (x,))
    assert torch.autograd.gradcheck(lambda x: imresize(x, 1.5), (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    x = torch.rand(3, 64, 64).to(dtype)
    assert imresize(x, 0.25).dtype == dtype
    torch.testing.assert_close(imresize(x, 0.25), imresize(x.float(), 0.25).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_precision_is_independent_of_tf32_and_autocast(precision: str) -> None:
    x = torch.rand(3, 64, 64)
    expected = imresize(x.double(), 0.25).float()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(imresize(x, 0.25), expected, rtol=0, atol=2e-6)
    finally:
        torch.set_float32_matmul_precision(before)


def test_first_use_in_inference_mode_does_not_break_training() -> None:
    with torch.inference_mode():
        imresize(torch.rand(19, 23), 0.25)
    x = torch.rand(19, 23, requires_grad=True)
    imresize(x, 0.25).sum().backward()
    assert x.grad is not None


def test_it_compiles_without_a_graph_break() -> None:
    x = torch.rand(2, 3, 16, 20)
    compiled = torch.compile(lambda x: imresize(x, 0.25), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), imresize(x, 0.25))


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_invalid_scale_raises(scale: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        imresize(torch.rand(4, 4), scale)


def test_integers_raise() -> None:
    with pytest.raises(ValueError, match="floating point"):
        imresize(torch.zeros(4, 4, dtype=torch.uint8), 0.5)


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
SCALES = st.fractions(Fraction(1, 12), 6, max_denominator=12)


def picture(size: tuple[int, ...]) -> torch.Tensor:
    """Return noise as a function of its size."""
    return torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(math.prod(size)))


@given(SIZES, SCALES, st.floats(-300, 300))
@settings(max_examples=60)
def test_any_constant_stays_constant(size: tuple[int, int], scale: Fraction, value: float) -> None:
    expected = torch.full([math.ceil(length * scale) for length in size], value, dtype=torch.float64)
    torch.testing.assert_close(imresize(torch.full(size, value, dtype=torch.float64), scale), expected)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 5))
@settings(max_examples=100)
def test_size_is_exact_for_any_float(numerator: int, denominator: int, parts: int) -> None:
    x = torch.empty(parts * denominator, 1, device="meta")  # a whole number of pixels, unless rounding adds one
    for scale in (numerator / denominator, 1 / (denominator / numerator)):
        assert imresize(x, scale).shape == (parts * numerator, -(-numerator // denominator))


@given(SIZES, SCALES, st.floats(-5, 5), st.floats(-5, 5))
@settings(max_examples=60)
def test_it_is_linear(size: tuple[int, int], scale: Fraction, a: float, b: float) -> None:
    x, y = picture((2, *size))
    torch.testing.assert_close(imresize(a * x + b * y, scale), a * imresize(x, scale) + b * imresize(y, scale))


@given(SIZES, SCALES)
@settings(max_examples=80)
def test_it_treats_all_directions_alike(size: tuple[int, int], scale: Fraction) -> None:
    """Transposing commutes with it, and so does mirroring if the output has no fractional pixel."""
    x = picture(size)
    resized = imresize(x, scale)
    torch.testing.assert_close(imresize(x.mT, scale), resized.mT)
    for axis in (0, 1):
        if size[axis] * scale % 1 == 0:
            torch.testing.assert_close(imresize(x.flip(axis), scale), resized.flip(axis))


@given(st.integers(0, 30), SCALES)
@settings(max_examples=80)
def test_it_commutes_with_shifts(more: int, scale: Fraction) -> None:
    """Shifts are whole pixels of both sizes; mirrored borders are left out."""
    reach = 2 * max(1, 1 / scale)  # of the kernel, in pixels of the input
    x = picture((math.ceil(2 * reach) + 2 + scale.denominator + more, 3))
    moved, whole = imresize(x[scale.denominator :], scale), imresize(x, scale)[scale.numerator :]
    border = math.ceil(reach * scale + Fraction(1, 2))
    assert len(moved) == len(whole) > border
    torch.testing.assert_close(moved[border:], whole[border:])


@given(SIZES, st.sampled_from([1, 3, 5, 7]))
@settings(max_examples=40)
def test_enlarging_interpolates_the_pixels(size: tuple[int, int], scale: int) -> None:
    """With an odd factor, the middle pixel lies on the old one and has its value."""
    x = picture(size)
    torch.testing.assert_close(imresize(x, scale)[scale // 2 :: scale, scale // 2 :: scale], x)


@given(st.integers(6, 30), st.fractions(1, 6, max_denominator=12), st.floats(-3, 3), st.floats(-3, 3))
@settings(max_examples=60)
def test_enlarging_keeps_ramps(size: int, scale: Fraction, start: float, slope: float) -> None:
    place = (torch.arange(math.ceil(size * scale), dtype=torch.float64) + 0.5) / float(scale) - 0.5
    resized = imresize((start + slope * torch.arange(size, dtype=torch.float64))[:, None], scale)[:, 0]
    inner = (place >= 1) & (place <= size - 2)  # without mirrored pixels
    torch.testing.assert_close(resized[inner], (start + slope * place)[inner])
