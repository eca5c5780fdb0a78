"""BT.601 limited-range luma."""

from __future__ import annotations

import pytest
import torch

from src.ops.color import luma


def test_black_white_and_primaries() -> None:
    """ITU-R BT.601 in 8 bits: black 16, white 235, red 81.481, green 144.553, blue 40.966."""
    colours = torch.tensor(
        [[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64
    )  # five images of one pixel
    expected = torch.tensor([16, 235, 81.481, 144.553, 40.966], dtype=torch.float64)
    torch.testing.assert_close(luma(colours[..., None, None]).flatten() * 255, expected, rtol=0, atol=1e-9)


def test_shape_dtype_and_gradient() -> None:
    clip = torch.rand(2, 5, 3, 4, 6, requires_grad=True)
    y = luma(clip)
    assert y.shape == (2, 5, 1, 4, 6)
    assert y.dtype == clip.dtype
    y.sum().backward()
    assert clip.grad is not None
    torch.testing.assert_close(clip.grad[0, 0, :, 0, 0], torch.tensor([65.481, 128.553, 24.966]) / 255)


@pytest.mark.parametrize("wrong", [torch.rand(1, 4, 4), torch.rand(4, 3), torch.zeros(3, 4, 4, dtype=torch.uint8)])
def test_other_tensors_than_rgb_raise(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="RGB"):
        luma(wrong)
