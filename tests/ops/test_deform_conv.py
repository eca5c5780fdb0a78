"""deform_conv2d against torchvision's numbers, against eq. 1 as a loop, and in every mode of torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from src.ops import deform_conv
from src.ops.deform_conv import deform_conv2d

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "deform_conv2d.json").read_text())["cases"]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def golden_inputs(case: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
    """Return the tensors of a case by argument name, and the gradient of its output, float64."""
    rng = np.random.Generator(np.random.PCG64([case["seed"]]))
    (batch, channels, _, _), (_, _, *size) = case["input"], case["output"]
    taps = case["offset_groups"] * math.prod(case["kernel"])
    kernel = [case["out_channels"], channels // case["groups"], *case["kernel"]]
    drawn = {"input": rng.standard_normal(case["input"])}
    drawn["offset"] = rng.standard_normal([batch, 2 * taps, *size]) * case["offset_scale"]
    drawn["mask"] = rng.random([batch, taps, *size])
    drawn["weight"] = rng.standard_normal(kernel) / math.sqrt(math.prod(kernel[1:]))
    drawn["bias"] = rng.standard_normal(kernel[0]) * 0.1
    grad = torch.as_tensor(rng.standard_normal(case["output"]))
    if not case["mask"]:
        del drawn["mask"]  # drawn anyway, for the same random state
    return {name: torch.as_tensor(value) for name, value in drawn.items()}, grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 2e-7)])
@pytest.mark.parametrize("index", range(len(CASES)))
def test_outputs_and_gradients_equal_torchvision(index: int, dtype: torch.dtype, tolerance: float) -> None:
    case = CASES[index]  # stored in float32, hence no closer than 2e-7 in float64
    tensors, grad = golden_inputs(case)
    leaves = {name: t.to(dtype).requires_grad_() for name, t in tensors.items()}
    y = deform_conv2d(**leaves, stride=case["stride"], padding=case["padding"], dilation=case["dilation"])
    y.backward(grad.to(dtype))
    ours = {"y": y} | {f"grad_{name}": leaf.grad for name, leaf in leaves.items()}
    ours["grad_x"] = ours.pop("grad_input")
    with np.load(GOLDEN / "deform_conv2d.npz") as stored:
        names = {name for name in stored.files if name.startswith(f"{index}_")}
        assert names == {f"{index}_{name}" for name in ours}
        for name, value in ours.items():
            expected = torch.as_tensor(stored[f"{index}_{name}"]).double()
            error = (value.double() - expected).abs().max() / expected.abs().max()
            assert error < tolerance, f"{name}: {error:.1e}"


def by_the_formula(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    mask: Tensor,
) -> Tensor:
    """Compute eq. 1 tap by tap, each pixel weighted by its hat function: max(0, 1 - |distance|) on each axis."""
    (B, C, H, W), (out, c, kh, kw), (P, Q) = input.shape, weight.shape, offset.shape[2:]
    offset, mask = offset.view(B, -1, kh, kw, 2, P, Q), mask.view(B, -1, kh, kw, P, Q)
    per_offset, per_weight = C // offset.shape[1], out // (C // c)
    y = bias.view(1, -1, 1, 1).repeat(B, 1, P, Q)
    stride, padding, dilation = (n if isinstance(n, tuple) else (n, n) for n in (stride, padding, dilation))
    rows, columns = torch.arange(P)[:, None] * stride[0] - padding[0], torch.arange(Q) * stride[1] - padding[1]
    for o in range(out):
        for i in range(c):
            channel = o // per_weight * c + i
            g = channel // per_offset
            for u in range(kh):
                for v in range(kw):
                    at_y = rows + u * dilation[0] + offset[:, g, u, v, 0]  # (B, P, Q)
                    at_x = columns + v * dilation[1] + offset[:, g, u, v, 1]
                    hat_y = (1 - (at_y[..., None] - torch.arange(H)).abs()).clamp_min(0)  # (B, P, Q, H)
                    hat_x = (1 - (at_x[..., None] - torch.arange(W)).abs()).clamp_min(0)
                    sampled = torch.einsum("bpqh,bhw,bpqw->bpq", hat_y, input[:, channel], hat_x)
                    y[:, o] += weight[o, i, u, v] * sampled * mask[:, g, u, v]
    return y


def draw(
    input: tuple[int, int, int, int],
    kernel: tuple[int, int, int, int],
    groups: int,
    scale: float = 2.0,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Draw random input, offset, weight, bias and mask of matching shapes."""
    rng = torch.Generator().manual_seed(sum(input))
    strides, paddings, dilations = (n if isinstance(n, tuple) else (n, n) for n in (stride, padding, dilation))
    size = [(input[i + 2] + 2 * paddings[i] - dilations[i] * (kernel[i + 2] - 1) - 1) // strides[i] + 1 for i in (0, 1)]
    taps = groups * kernel[2] * kernel[3]
    shapes = [input, (input[0], 2 * taps, *size), kernel, kernel[:1], (input[0], taps, *size)]
    x, offset, weight, bias, mask = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    return [t.to(dtype) for t in (x, offset * scale, weight, bias, mask.sigmoid())]


@pytest.mark.parametrize(
    ("input", "kernel", "groups", "how"),
    [
        ((2, 4, 7, 11), (6, 4, 3, 3), 2, {}),
        ((1, 6, 13, 5), (4, 3, 3, 3), 3, {"stride": 2, "padding": 2}),  # 2 weight groups across 3 offset groups
        ((3, 4, 9, 9), (4, 1, 1, 5), 1, {"dilation": 2, "padding": 4}),  # depthwise
        ((1, 2, 10, 6), (3, 2, 4, 2), 2, {"stride": 3, "dilation": 2, "padding": 3, "scale": 40.0}),
        ((2, 2, 1, 8), (2, 2, 3, 3), 1, {}),
        ((2, 2, 8, 1), (2, 2, 3, 3), 2, {}),
        ((1, 3, 1, 1), (2, 3, 1, 1), 3, {"padding": 0, "scale": 0.5}),
    ],
)
def test_equals_the_formula_as_a_loop(input: Any, kernel: Any, groups: int, how: dict[str, Any]) -> None:
    tensors = draw(input, kernel, groups, **how)
    how = {"stride": 1, "padding": 1, "dilation": 1} | {k: v for k, v in how.items() if k != "scale"}
    x, offset, weight, bias, mask = tensors
    expected = by_the_formula(x, offset, weight, bias, **how, mask=mask)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, bias, **how, mask=mask), expected, rtol=0, atol=1e-10)
    with torch.no_grad():  # applies the mask in place
        y = deform_conv2d(x, offset, weight, bias, **how, mask=mask)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    with torch.no_grad():  # uses a table in float32
        y = deform_conv2d(*(t.float() for t in (x, offset, weight, bias)), **how, mask=mask.float())
        rounded = [t.float().double() for t in tensors]
        expected = deform_conv2d(*rounded[:4], **how, mask=rounded[4])
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


UNEVEN: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0), "dilation": (2, 1)}  # each axis has its own


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("batch", [1, 33])
@pytest.mark.parametrize(("weight_groups", "offset_groups"), [(1, 1), (1, 3), (2, 3), (6, 2)])
def test_outputs_and_gradients_in_float32(
    batch: int, weight_groups: int, offset_groups: int, masked: bool, contiguous: bool
) -> None:
    x, offset, weight, bias, mask = draw((batch, 6, 5, 4), (6, 6 // weight_groups, 3, 2), offset_groups, **UNEVEN)
    mask = mask if masked else torch.ones_like(mask)
    expected = by_the_formula(x, offset, weight, bias, **UNEVEN, mask=mask)
    exact = [t.requires_grad_() for t in (x, offset, weight, bias, mask)]
    rounded = [t.detach().float() for t in exact]
    if not contiguous:  # the last axis is the first in memory
        rounded = [t.movedim(-1, 0).contiguous().movedim(0, -1) for t in rounded]
        assert not rounded[1].is_contiguous()
    leaves = [t.requires_grad_() for t in rounded]
    grad = torch.randn(expected.shape)
    results = []
    for tensors in (exact, leaves):
        y = deform_conv2d(*tensors[:4], **UNEVEN, mask=tensors[4] if masked else None)
        y.backward(grad.to(y.dtype))
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
        results.append([t.grad for t in tensors[: 5 if masked else 4]])
    with torch.no_grad():
        y = deform_conv2d(*leaves[:4], **UNEVEN, mask=leaves[4] if masked else None)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    for right, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "kernel", "groups", "how"),
    [
        ((5, 1280), (4, 8, 3, 3), 2, {}),
        ((900, 6), (4, 4, 3, 3), 4, {"stride": 2, "dilation": 2, "padding": 2}),
        ((110, 300), (8, 2, 3, 3), 1, {"stride": (1, 2), "padding": (0, 3)}),
        ((9, 100), (4, 8, 3, 3), 1, {}),
    ],
)
@pytest.mark.parametrize("masked", [True, False])
def test_positions_are_precise_in_a_large_image(
    size: tuple[int, int], kernel: Any, groups: int, how: dict[str, Any], masked: bool
) -> None:
    tensors = draw((1, 8, *size), kernel, groups, **how, dtype=torch.float32)
    if not masked:
        del tensors[4]
    how = {"padding": 1} | how
    whole, fraction = tensors[1].floor(), tensors[1] - tensors[1].floor()
    tensors[1] = whole + 0.1 + 0.8 * fraction  # at a whole pixel rounding would decide on a slope
    results = []
    for dtype in (torch.float64, torch.float32):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        y = deform_conv2d(*leaves[:4], **how, mask=leaves[4] if masked else None)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        with torch.no_grad():
            looked_up = deform_conv2d(*leaves[:4], **how, mask=leaves[4] if masked else None)
        results.append([y.detach(), looked_up, *torch.autograd.grad(y, leaves, grad)])
    for expected, value in zip(*results, strict=True):
        error = (value.double() - expected).abs().max() / expected.abs().max()
        assert error < 2e-5, f"{error:.1e}"


@pytest.mark.parametrize("stray", [100.0, 1e30, math.nan])
@pytest.mark.parametrize("share", [0.001, 1])  # offsets that go astray
def test_stray_offsets_change_their_pixels_only(stray: float, share: float) -> None:
    x, offset, weight, bias, mask = draw((2, 4, 70, 90), (2, 4, 3, 3), 2, scale=1.0, dtype=torch.float32)
    away = torch.rand(offset.shape) < share
    offset[away] = stray
    pixels = away.any(1, keepdim=True).expand(-1, 2, -1, -1)  # of the output
    bounded = offset.nan_to_num(0)
    expected = deform_conv2d(*(t.double() for t in (x, bounded, weight, bias)), padding=1, mask=mask.double())
    results = [deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)]
    x.requires_grad_()
    results.append(deform_conv2d(x, offset, weight, bias, padding=1, mask=mask))
    for y in results:
        y = torch.where(pixels & offset.isnan().any(), expected.float(), y)  # NaN spoils its pixels
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(5, 61), (61, 5), (70, 70)])  # the last in several blocks of rows
@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4, 1e30])
def test_table_equals_grid_sample(size: tuple[int, int], scale: float) -> None:
    x, offset, weight, bias, mask = draw((2, 6, *size), (4, 6, 3, 3), 3, scale=scale, dtype=torch.float32)
    expected = deform_conv2d(*(t.double() for t in (x, offset, weight, bias)), padding=1, mask=mask.double())
    for last in (torch.contiguous_format, torch.channels_last):
        with torch.inference_mode():
            some = [t.contiguous(memory_format=last) for t in (x, offset, mask)]
            y = deform_conv2d(some[0], some[1], weight, bias, padding=1, mask=some[2])
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4)
        assert y.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        plain = deform_conv2d(x.double(), offset.double(), weight.double(), padding=1)
        torch.testing.assert_close(deform_conv2d(x, offset, weight, padding=1).double(), plain, rtol=0, atol=1e-4)


def test_a_nan_offset_affects_only_its_pixel() -> None:
    x, offset, weight, bias, mask = draw((1, 4, 8, 9), (2, 4, 3, 3), 2, dtype=torch.float32)
    expected = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    offset[0, 5, 3, 4] = math.nan
    with torch.no_grad():
        y = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    assert y[0, :, 3, 4].isnan().all()
    y[0, :, 3, 4] = expected[0, :, 3, 4]
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)


def test_each_axis_has_its_own_stride_padding_and_dilation() -> None:
    x, weight = torch.randn(2, 4, 12, 9), torch.randn(6, 2, 3, 2)
    how: dict[str, Any] = {"stride": (2, 1), "padding": (0, 3), "dilation": (1, 2)}
    expected = F.conv2d(x, weight, groups=2, **how)
    offset = torch.zeros(2, 2 * 2 * 6, *expected.shape[2:])
    torch.testing.assert_close(deform_conv2d(x, offset, weight, **how), expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_exact() -> None:
    x, offset, weight, bias, mask = (t.requires_grad_() for t in draw((2, 4, 4, 3), (2, 2, 2, 3), 2, padding=1))
    assert torch.autograd.gradcheck(
        lambda *t: deform_conv2d(*t[:4], padding=1, mask=t[4]), (x, offset, weight, bias, mask), fast_mode=True
    )
    assert torch.autograd.gradcheck(lambda *t: deform_conv2d(*t, padding=1), (x, offset, weight), fast_mode=True)
    uneven = [t.requires_grad_() for t in draw((3, 6, 5, 4), (2, 3, 3, 2), 3, **UNEVEN)]
    assert torch.autograd.gradcheck(lambda *t: deform_conv2d(*t[:4], **UNEVEN, mask=t[4]), uneven, fast_mode=True)
    assert torch.autograd.gradcheck(lambda *t: deform_conv2d(*t, **UNEVEN), uneven[:3], fast_mode=True)


@pytest.mark.parametrize("width", [1, 5, 48, 99, 1000])
def test_zero_offset_is_an_ordinary_convolution_with_the_right_hand_gradient(width: int) -> None:
    x, weight = torch.randn(1, 2, 7, width), torch.randn(3, 2, 3, 3)
    offset = torch.zeros(1, 18, 7, width, requires_grad=True)
    y = deform_conv2d(x, offset, weight, padding=1)
    expected = F.conv2d(x, weight, padding=1)  # float32 positions are good to 2e-7 of the width; the input is noise
    torch.testing.assert_close(y, expected, rtol=0, atol=2e-7 * max(width, 7) * 30)
    # Interpolation has a kink at every whole pixel; torchvision always has the right-hand slope.
    y.sum().backward()
    padded = F.pad(x, (1, 2, 1, 2))
    for k, (u, v) in enumerate((u, v) for u in range(3) for v in range(3)):
        here = padded[..., u : u + 7, v : v + width]
        below, right = padded[..., u + 1 : u + 8, v : v + width], padded[..., u : u + 7, v + 1 : v + 1 + width]
        taps = weight[:, :, u, v].sum(0).view(1, 2, 1, 1)
        slopes = torch.cat([((near - here) * taps).sum(1, keepdim=True) for near in (below, right)], dim=1)
        torch.testing.assert_close(offset.grad[:, 2 * k : 2 * k + 2], slopes, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_low_precision_does_not_move_the_samples(low: torch.dtype) -> None:
    # Far from the origin bfloat16 steps by 4 pixels: positions computed in it would miss every stripe of this image.
    x = (torch.arange(1000) % 2).float().expand(1, 2, 6, 1000).contiguous()
    x, offset, weight, bias, mask = (x, *draw((1, 2, 6, 1000), (4, 2, 3, 3), 1, scale=1.0)[1:])
    rounded = [t.to(low) for t in (x, offset, weight, bias, mask)]
    x, offset, weight, bias, mask = (t.double() for t in rounded)
    expected = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    allowed = 4 * torch.finfo(low).eps * expected.abs().max().item()

    y = deform_conv2d(*rounded[:4], padding=1, mask=rounded[4])
    assert y.dtype == low
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=allowed)

    weight, bias = weight.float().requires_grad_(), bias.float()
    with torch.autocast("cpu", dtype=low):  # as behind a convolution: activations in low precision, parameters not
        y = deform_conv2d(rounded[0], rounded[1], weight, bias, padding=1, mask=rounded[4])
        assert y.dtype == F.conv2d(rounded[0], weight, bias).dtype
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=allowed)
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


class Deformable(torch.nn.Module):
    """Deformable convolution with offsets and mask from a convolution of the input, as in all networks."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.offsets = torch.nn.Conv2d(4, 2 * 27, 3, stride, padding=1)
        self.weight = torch.nn.Parameter(torch.randn(6, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.offsets(x).split([36, 18], dim=1)
        return deform_conv2d(x, offset, self.weight, None, self.stride, 1, mask=mask.sigmoid())

    def by_grid_sample(self, x: Tensor) -> Tensor:
        offset, mask = self.offsets(x).split([36, 18], dim=1)
        stride = self.stride, self.stride
        return deform_conv._by_grid_sample(x, offset, self.weight, None, stride, (1, 1), (1, 1), mask.sigmoid())


@pytest.mark.parametrize("width", [14, 70])
@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_without_graph_breaks(autocast: bool, width: int) -> None:
    model, x = Deformable(stride=1), torch.randn(2, 4, 9, width)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y, expected, same = compiled(x), model(x), model.by_grid_sample(x)
    torch.testing.assert_close(y, same)  # what is compiled
    torch.testing.assert_close(  # coarser than uncompiled, which samples small tiles
        y, expected, rtol=0, atol=4 * expected.abs().max().item() * (2**-8 if autocast else 1e-5)
    )
    assert torch.autograd.grad(y.float().sum(), model.offsets.weight)[0].abs().sum() > 0


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    model, x = Deformable(stride=1), torch.randn(2, 4, 9, 14)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_exports_for_any_size(stride: int) -> None:
    model, dynamic = Deformable(stride).eval(), torch.export.Dim.DYNAMIC
    with torch.no_grad():
        exported = torch.export.export(
            model, (torch.randn(2, 4, 12, 15),), dynamic_shapes={"x": {0: dynamic, 2: dynamic, 3: dynamic}}
        )
        for other in (torch.randn(3, 4, 21, 10), torch.randn(2, 4, 10, 100)):
            y = exported.module()(other)
            torch.testing.assert_close(y, model.by_grid_sample(other))
            torch.testing.assert_close(y, model(other), rtol=0, atol=4e-6 * other.shape[3] + 6e-5)


def test_an_empty_batch_stays_empty() -> None:
    x, offset, weight, bias, mask = draw((0, 4, 5, 6), (2, 2, 3, 3), 2)
    x.requires_grad_()
    y = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    assert y.shape == (0, 2, 5, 6)
    y.sum().backward()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input": torch.zeros(4, 5, 6)}, "input must have 4 dimensions"),
        ({"weight": torch.zeros(2, 3, 3, 3)}, "4 input channels"),
        ({"weight": torch.zeros(3, 2, 3, 3)}, "4 input channels"),  # 2 weight groups cannot share 3 outputs
        ({"bias": torch.zeros(3)}, "bias"),
        ({"offset": torch.zeros(1, 35, 5, 6)}, "offset"),
        ({"offset": torch.zeros(1, 54, 5, 6)}, "offset"),  # 3 groups do not divide 4 channels
        ({"offset": torch.zeros(1, 36, 5, 5)}, "offset"),
        ({"mask": torch.zeros(1, 9, 5, 6)}, "mask"),
        ({"padding": -1}, "padding"),
        ({"stride": 0}, "stride"),
        ({"padding": 0, "dilation": 4}, "smaller than the kernel"),
    ],
)
def test_mismatched_shapes_raise_one_sentence(change: dict[str, Any], named: str) -> None:
    names = ("input", "offset", "weight", "bias", "mask")
    tensors = dict(zip(names, draw((1, 4, 5, 6), (2, 4, 3, 3), 2), strict=True))
    with pytest.raises(ValueError, match=named):
        deform_conv2d(**{**tensors, "padding": 1, **change})
