"""The Triton kernels against the PyTorch implementation in float64, on a CUDA device or in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src.ops.deform_conv import _by_grid_sample
from tests.ops.test_deform_conv import CASES, GOLDEN, draw, golden_inputs

pytest.importorskip("triton", reason="triton is not installed")
from src.ops import deform_conv_triton
from src.ops.deform_conv_triton import deform_conv2d_fused, fits

# Triton reads this when it is imported and then runs kernels program by program in NumPy, for a whole process.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PLACE = "cpu" if INTERPRETED else "cuda"


def on_both(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test for a CUDA device; in the interpreter it runs in a separate process, started by the next test."""
    return test if INTERPRETED else pytest.mark.accelerator(test)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_this_file_passes_in_tritons_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.manual_seed(0)
    precision = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    if INTERPRETED:
        from triton.runtime import interpreter

        def dot(self: Any, a: Any, b: Any, total: Any, *_: Any) -> Any:
            a, b = (self.create_fp_to_fp(x, interpreter.tl.float32, None) if x.dtype.is_bf16() else x for x in (a, b))
            return interpreter.TensorHandle(
                np.matmul(a.data, b.data, dtype=np.float32) + total.data, total.dtype.scalar
            )

        # The interpreter's own product treats the bits of bfloat16, unknown to NumPy, as integers.
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    yield
    torch.backends.cuda.matmul.fp32_precision = precision


def compared(tensors: list[Tensor], tolerance: float, **how: int) -> None:
    """Compare output and gradients with float64, relative to the largest; ``tensors`` as from ``draw``, on PLACE."""
    pairs = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)} | {k: (v, v) for k, v in how.items()}
    results, grad = [], None
    for function, dtype in ((deform_conv2d_fused, None), (_by_grid_sample, torch.float64)):
        leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors]
        x, offset, weight, bias, mask = (*leaves, None)[:5]
        y = function(x, offset, weight, bias, *pairs.values(), mask)
        if grad is None:
            grad = torch.randn(y.shape, device=y.device).to(y.dtype)
        y.backward(grad.to(y.dtype))
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    names = ("output", "input", "offset", "weight", "bias", "mask")
    for name, ours, expected in zip(names, *results, strict=False):
        error = (ours.double() - expected).abs().max() / expected.abs().max()
        assert error < tolerance, f"{name}: {error:.1e}"
    for leaf, ours in zip(tensors, results[0][1:], strict=True):
        assert ours.dtype == leaf.dtype


def drawn(*shapes: Any, dtype: torch.dtype = torch.float32, **how: Any) -> list[Tensor]:
    return [t.to(PLACE) for t in draw(*shapes, dtype=dtype, **how)]


@on_both
@pytest.mark.parametrize("index", [i for i, case in enumerate(CASES) if case["groups"] == 1])
def test_outputs_and_gradients_equal_torchvision(index: int) -> None:
    case = CASES[index]
    tensors, grad = golden_inputs(case)
    leaves = {name: t.float().to(PLACE).requires_grad_() for name, t in tensors.items()}
    how = [(case[name], case[name]) for name in ("stride", "padding", "dilation")]
    y = deform_conv2d_fused(*(leaves[n] for n in ("input", "offset", "weight", "bias")), *how, leaves.get("mask"))
    y.backward(grad.to(y))
    ours = {"y": y} | {f"grad_{name}": leaf.grad for name, leaf in leaves.items()}
    ours["grad_x"] = ours.pop("grad_input")
    with np.load(GOLDEN / "deform_conv2d.npz") as stored:
        for name, value in ours.items():
            expected = torch.as_tensor(stored[f"{index}_{name}"]).double()
            error = (value.detach().cpu().double() - expected).abs().max() / expected.abs().max()
            assert error < 1e-5, f"{name}: {error:.1e}"


@on_both
@pytest.mark.parametrize(
    ("input", "kernel", "groups", "masked", "how"),
    [
        ((2, 12, 7, 9), (6, 12, 2, 2), 2, True, {}),
        ((1, 48, 5, 6), (40, 48, 1, 3), 8, True, {}),  # 6 channels a group: neither a power of two nor aligned
        ((1, 90, 4, 5), (4, 90, 2, 1), 1, True, {}),  # three blocks of one group: its offsets' gradients have layers
        ((1, 16, 3, 4), (150, 16, 1, 1), 8, True, {"padding": 0}),  # two blocks of outputs
        ((1, 90, 3, 4), (130, 90, 1, 1), 1, False, {"padding": 0}),  # blocks of both
        ((2, 6, 9, 11), (5, 6, 3, 2), 2, False, {"stride": 2, "dilation": 2, "padding": 2}),
        ((1, 8, 5, 13), (3, 8, 2, 2), 8, True, {"scale": 30.0}),  # far outside; one channel a group
        ((1, 24, 8, 6), (16, 24, 2, 2), 3, False, {"stride": 3}),
        ((2, 4, 1, 1), (2, 4, 3, 3), 1, True, {"scale": 0.7}),
        ((1, 2, 1, 150), (2, 2, 1, 2), 2, True, {}),  # several tiles
    ],
)
def test_equals_pytorch_in_float64(input: Any, kernel: Any, groups: int, masked: bool, how: dict[str, Any]) -> None:
    tensors = drawn(input, kernel, groups, **how)
    how = {name: value for name, value in how.items() if name != "scale"}
    compared(tensors if masked else tensors[:4], 2e-6, **how)


@on_both
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_low_precision(dtype: torch.dtype, tolerance: float) -> None:
    compared(drawn((2, 12, 5, 6), (8, 12, 2, 2), 2, dtype=dtype), tolerance)
    x, offset, weight, bias, mask = drawn((1, 8, 5, 6), (8, 8, 2, 2), 1, dtype=dtype)
    compared([x, offset.float(), weight, bias.float(), mask], tolerance)


@on_both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_are_precise_far_from_the_origin(dtype: torch.dtype) -> None:
    stripes = (torch.arange(20000, device=PLACE) % 2).to(dtype).expand(1, 2, 1, 20000)
    offset = torch.full((1, 2, 1, 1), 0.25, dtype=dtype, device=PLACE)
    offset[:, 1] = 16000.125 if dtype == torch.float32 else 16000.0
    weight = torch.eye(2, dtype=dtype, device=PLACE).view(2, 2, 1, 1)
    y = deform_conv2d_fused(stripes, offset, weight, None, (1, 20000), (0, 0), (1, 1), None)
    assert (y == 0.75 * (0.125 if dtype == torch.float32 else 0)).all()  # 3/4 of the row, 1/8 of the next pixel, a 1


@on_both
def test_nan_and_infinite_offsets() -> None:
    x, weight = torch.ones(1, 2, 3, 4, device=PLACE), torch.ones(1, 2, 1, 1, device=PLACE)
    offset = torch.zeros(1, 2, 3, 4, device=PLACE)
    offset[0, 0, 0, 0], offset[0, 1, 1, 1], offset[0, 1, 2, 2] = float("nan"), float("inf"), -1e30
    y = deform_conv2d_fused(x, offset, weight, None, (1, 1), (0, 0), (1, 1), None)
    expected = torch.full_like(y, 2.0)
    expected[0, 0, 0, 0], expected[0, 0, 1, 1], expected[0, 0, 2, 2] = float("nan"), 0.0, 0.0
    torch.testing.assert_close(y, expected, equal_nan=True)


class Deformable(torch.nn.Module):
    """Deformable convolution with offsets and mask as views of one tensor, a convolution of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = torch.nn.Conv2d(4, 24, 2)
        self.weight = torch.nn.Parameter(torch.randn(6, 4, 2, 2))
        self.bias = torch.nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor, function: Any = deform_conv2d_fused) -> Tensor:
        offset, mask = self.offsets(x).split([16, 8], dim=1)
        return function(x, offset, self.weight, self.bias, (1, 1), (0, 0), (1, 1), mask)


@on_both
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_memory_format(layout: torch.memory_format) -> None:
    model, x = Deformable().to(PLACE, memory_format=layout), torch.randn(2, 4, 6, 7, device=PLACE)
    x = x.to(memory_format=layout).requires_grad_()
    with torch.backends.cudnn.flags(allow_tf32=False):
        y, expected = model(x), model.double()(x.double(), _by_grid_sample)
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    window = x[:, :, 1:5, 2:6]  # rows with gaps between them
    model.float()
    expected = model(window.contiguous())
    torch.testing.assert_close(model(window), expected, rtol=1e-4, atol=1e-4)
    model(window).sum().backward()  # its gradient is one number, expanded
    gradient = model.weight.grad
    model.weight.grad = None
    model(window, _by_grid_sample).sum().backward()
    torch.testing.assert_close(gradient, model.weight.grad, rtol=1e-4, atol=1e-4)


@on_both
def test_under_autocast() -> None:
    model, x = Deformable().to(PLACE), torch.randn(1, 4, 5, 6, device=PLACE)
    with torch.autocast(PLACE, torch.bfloat16):
        y, expected = model(x), model(x, _by_grid_sample)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected.float(), rtol=0, atol=0.02 * expected.abs().max().item())
    y.float().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.abs().sum() > 0


@on_both
@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_without_graph_breaks(autocast: bool) -> None:
    model, x = Deformable().to(PLACE), torch.randn(1, 4, 5, 6, device=PLACE)
    compiled = torch.compile(model, backend="aot_eager" if INTERPRETED else "inductor", fullgraph=True)
    results = []
    for network in (model, compiled):
        model.zero_grad()
        with torch.autocast(PLACE, torch.bfloat16, enabled=autocast), torch.backends.cudnn.flags(allow_tf32=False):
            y = network(x)
        y.float().square().sum().backward()
        results.append([y.detach(), *(parameter.grad for parameter in model.parameters())])
    for expected, value in zip(*results, strict=True):
        assert (value - expected).abs().max() < (2e-2 if autocast else 1e-4) * expected.abs().max()


@on_both
@pytest.mark.parametrize(("layout", "masked"), [(torch.contiguous_format, False), (torch.channels_last, True)])
def test_passes_pytorchs_operator_checks(layout: torch.memory_format, masked: bool) -> None:
    tensors = [t.requires_grad_() for t in drawn((2, 4, 3, 4), (2, 4, 1, 2), 2, padding=0)]
    tensors = [t.detach().to(memory_format=layout).requires_grad_() if t.dim() == 4 else t for t in tensors]
    *tensors, mask = tensors
    how = ([1, 1], [0, 0], [1, 1])
    torch.library.opcheck(deform_conv_triton._fused, (*tensors, *how, mask if masked else None), rtol=1e-4, atol=1e-4)


@on_both
def test_inference_mode_and_no_second_derivative() -> None:
    x, offset, weight, bias, mask = drawn((1, 4, 3, 4), (2, 4, 1, 2), 2, padding=0)
    how = ((1, 1), (0, 0), (1, 1))
    with torch.inference_mode():
        y = deform_conv2d_fused(x, offset, weight, bias, *how, mask)
    weight.requires_grad_()
    other = deform_conv2d_fused(x, offset, weight, bias, *how, mask)
    torch.testing.assert_close(y, other, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(other.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="deform_conv2d_fused_backward"):
        gradient.sum().backward()


@on_both
def test_an_empty_batch_stays_empty() -> None:
    x, offset, weight, bias, mask = (t.requires_grad_() for t in drawn((0, 4, 5, 6), (2, 4, 3, 3), 2))
    y = deform_conv2d_fused(x, offset, weight, bias, (1, 1), (1, 1), (1, 1), mask)
    assert y.shape == (0, 2, 5, 6)
    y.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@on_both
def test_flops() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    x, offset, weight, bias, mask = drawn((2, 4, 5, 6), (3, 4, 1, 2), 2, padding=0)
    with FlopCounterMode(display=False) as counter:
        deform_conv2d_fused(x, offset, weight, bias, (1, 1), (0, 0), (1, 1), mask)
    assert counter.get_total_flops() == 2 * (2 * 3 * 5 * 5) * (4 * 1 * 2)


def test_cpu_tensors_do_not_fit() -> None:
    x, offset, weight, _, mask = draw((1, 4, 5, 6), (2, 4, 3, 3), 2, dtype=torch.float32)
    assert not fits(x, offset, weight, mask)


# What only a device shows --------------------------------------------------------------------------------------------


@pytest.mark.accelerator
def test_fits() -> None:
    x, offset, weight, _, mask = drawn((1, 4, 5, 6), (2, 4, 3, 3), 2)
    assert fits(x, offset, weight, mask)
    assert fits(x.half(), offset, weight.bfloat16(), None)
    assert not fits(x.double(), offset, weight, mask)
    assert not fits(x, offset, weight[:, :2], mask)
    torch.use_deterministic_algorithms(True)
    try:
        assert not fits(x, offset, weight, mask)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.accelerator
@pytest.mark.parametrize("channels", [64, 128])
@pytest.mark.parametrize(
    ("dtype", "tf32", "tolerance"),
    [(torch.float32, False, 1e-5), (torch.float32, True, 5e-3), (torch.bfloat16, False, 2e-2)],
)
def test_at_the_papers_sizes(channels: int, dtype: torch.dtype, tf32: bool, tolerance: float) -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
    compared(drawn((2, channels, 180, 320), (channels, channels, 3, 3), 8, dtype=dtype), tolerance)


@pytest.mark.accelerator
def test_deterministic_results() -> None:
    results = []
    for _ in range(2):
        leaves = [t.requires_grad_() for t in drawn((1, 64, 90, 160), (64, 64, 3, 3), 8)]
        y = deform_conv2d_fused(*leaves[:4], (1, 1), (1, 1), (1, 1), leaves[4])
        y.square().sum().backward()
        results.append([y, *(leaf.grad for leaf in leaves[1:])])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.accelerator
def test_an_image_of_more_than_2_to_the_31_elements() -> None:
    size, corner = 6000, 40
    x = torch.zeros(1, 64, size, size, dtype=torch.bfloat16, device=PLACE).to(memory_format=torch.channels_last)
    offset = torch.zeros(1, 2, size, size, dtype=torch.bfloat16, device=PLACE)
    x[..., -corner:, -corner:].normal_()
    offset[..., -corner:, -corner:].uniform_(0.1, 3)  # down and to the right: only the corner sees the corner
    weight = torch.randn(16, 64, 1, 1, dtype=torch.bfloat16, device=PLACE)
    results = []
    for part in (slice(None), slice(-corner, None)):
        leaves = [t[..., part, part].detach().requires_grad_() for t in (x, offset)]
        y = deform_conv2d_fused(*leaves, weight, None, (1, 1), (0, 0), (1, 1), None)
        y[..., -corner:, -corner:].float().square().sum().backward()
        results.append([t[..., -corner:, -corner:].float() for t in (y.detach(), *(leaf.grad for leaf in leaves))])
    for whole, part in zip(*results, strict=True):
        assert (whole - part).abs().max() < 1e-2 * part.abs().max()


def seconds(run: Callable[[], Any]) -> float:
    """Return the time of the fastest of 20 runs after 5, on the device."""
    times = []
    for _ in range(25):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return min(times[5:])


@pytest.mark.accelerator
@pytest.mark.parametrize("channels", [64, 128])
def test_beside_torchvision(channels: int, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = pytest.importorskip("torchvision.ops", reason="torchvision is not installed").deform_conv2d
    measured: dict[str, dict[str, float]] = {}
    for dtype in (torch.float32, torch.bfloat16):  # torchvision has no bfloat16 and runs in float32 instead
        own = [t.requires_grad_() for t in drawn((1, channels, 180, 320), (channels, channels, 3, 3), 8, dtype=dtype)]
        leaves = [t.detach().float().requires_grad_() for t in own]

        def fused(own: list[Tensor] = own) -> Tensor:
            return deform_conv2d_fused(*own[:4], (1, 1), (1, 1), (1, 1), own[4])

        def reference(leaves: list[Tensor] = leaves) -> Tensor:
            return theirs(*leaves[:4], padding=1, mask=leaves[4])

        y, expected = fused(), reference()
        assert (y.float() - expected).abs().max() < 2e-2 * expected.abs().max()
        measured[str(dtype)] = {
            f"{name} {who}": seconds(run)
            for who, function, tensors in (("ours", fused, own), ("torchvision", reference, leaves))
            for name, run in (
                ("forward", torch.no_grad()(function)),
                ("both", lambda f=function, t=tensors: torch.autograd.grad(f().sum(), t)),
            )
        }
    with capsys.disabled():
        for dtype_name, times in measured.items():
            ratios = {n: times[f"{n} torchvision"] / times[f"{n} ours"] for n in ("forward", "both")}
            print(f"\n{channels} channels, {dtype_name}:", json.dumps({"seconds": times, "ratios": ratios}))
