"""``imresize`` against MATLAB's numbers, and what a caller may rely on besides."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

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


def test_tiny_pictures_are_mirrored_more_than_once() -> None:
    x = torch.rand(3, 2, dtype=torch.float64)
    mirrored = torch.cat([x, x.flip(0)], 0)
    mirrored = torch.cat([mirrored, mirrored.flip(1)], 1).repeat(17, 17)  # the same plane, far beyond the kernel
    wide = imresize(mirrored, Fraction(1, 8))
    rows, columns = 6 * 8, 4 * 8  # whole periods and whole output samples, so the picture begins here again
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
def test_fast_matrix_products_and_autocast_do_not_blur_it(precision: str) -> None:
    x = torch.rand(3, 64, 64)
    expected = imresize(x.double(), 0.25).float()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(imresize(x, 0.25), expected, rtol=0, atol=2e-6)
    finally:
        torch.set_float32_matmul_precision(before)


def test_first_use_in_inference_mode_leaves_training_alone() -> None:
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
def test_senseless_scale(scale: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        imresize(torch.rand(4, 4), scale)


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="floating point"):
        imresize(torch.zeros(4, 4, dtype=torch.uint8), 0.5)
