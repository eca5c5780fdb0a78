"""A CUDA device computes the same as the CPU. Only `make accelerator` runs these tests."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from src.config.build import build_inference_network, build_restorer, build_training_network
from src.config.composition import compose
from src.engine.stream import stream
from src.metrics import psnr, ssim
from src.ops.deform_conv import deform_conv2d
from src.ops.resize import imresize

pytestmark = pytest.mark.accelerator


@pytest.fixture(autouse=True)
def cuda() -> None:
    assert torch.cuda.is_available(), "make accelerator is for machines with a CUDA device"
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.mark.parametrize(("channels", "groups", "spread"), [(16, 2, 1.0), (64, 8, 5.0), (24, 1, 60.0)])
def test_deformable_convolution(channels: int, groups: int, spread: float) -> None:
    shapes = {
        "input": (2, channels, 33, 47),
        "offset": (2, 18 * groups, 33, 47),
        "weight": (channels, channels, 3, 3),
        "bias": (channels,),
        "mask": (2, 9 * groups, 33, 47),
    }
    exact = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    exact["offset"] *= spread
    grad = torch.randn(shapes["input"], dtype=torch.float64)
    results = []
    for tensors in (exact, {name: tensor.float().cuda() for name, tensor in exact.items()}):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        y = deform_conv2d(**leaves, padding=1)
        y.backward(grad.to(y))
        results.append([y, *(leaf.grad for leaf in leaves.values())])
    for expected, value in zip(*results, strict=True):
        error = (value.detach().cpu().double() - expected.detach()).abs()
        # within float32's rounding of a grid line a sample takes either side's gradient: rare, hence the quantile
        assert error.flatten()[:: max(1, error.numel() // 1_000_000)].quantile(0.999) < 1e-4 * expected.abs().max()


def test_resize_and_scores() -> None:
    frames = torch.rand(2, 3, 48, 64)
    assert (imresize(frames.cuda(), 1 / 4).cpu() - imresize(frames, 1 / 4)).abs().max() < 1e-6
    other = (frames + 0.05 * torch.randn_like(frames)).clamp(0, 1)
    for score in (psnr, ssim):
        assert torch.allclose(score(other.cuda(), frames.cuda()).cpu(), score(other, frames), atol=1e-4)


@pytest.mark.parametrize("model", ["zsm", "edvr_m", "edvr_deblur", "edvr_s2", "wdvr2d", "wdvr3d"])
def test_networks_and_streams(model: str) -> None:
    network = build_inference_network(compose(f"model={model}", "size=mini")).eval()
    clip = torch.rand(1, network.geometry.window, 3, 36, 52)
    with torch.no_grad():
        expected, before = network(clip), [frame for _, frame in stream(network, clip[0])]
        moved = copy.deepcopy(network).cuda()
        after = [frame.cpu() for _, frame in stream(moved, clip[0].cuda())]
        assert (moved(clip.cuda()).cpu() - expected).abs().max() < 1e-4
    assert (torch.stack(after) - torch.stack(before)).abs().max() < 1e-4


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_training_step(precision: torch.dtype) -> None:
    config: Any = compose("model=zsm", "size=mini")
    restorer = build_restorer(config, build_training_network(config))
    batch = restorer.make_batch(2, 24, torch.rand)
    expected = sum(restorer.losses_of(batch).values())
    restorer.cuda()
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == torch.bfloat16):
        loss: Any = sum(restorer.losses_of({name: clip.cuda() for name, clip in batch.items()}).values())
    loss.backward()
    assert abs(loss.item() / float(expected) - 1) < (1e-4 if precision == torch.float32 else 2e-2)
    assert all(torch.isfinite(p.grad).all() for p in restorer.network.parameters() if p.grad is not None)
