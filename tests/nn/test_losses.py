"""Losses against plain loops, also at critical points: equal clips, flat images, zero differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.nn.backbones import VGG16, normalise_imagenet
from src.nn.losses import Perceptual, charbonnier, l1, laplacian, sharpness

KERNEL = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]


@pytest.fixture(scope="module")
def perceptual():
    torch.manual_seed(0)
    return Perceptual(VGG16())


def clips(shape=(2, 3, 3, 5, 6)):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def looped(frame_loss, estimate, target):
    """Sum a loss over frames and average it over clips."""
    total = 0.0
    for one, other in zip(estimate, target, strict=True):
        for frame, wanted in zip(one, other, strict=True):
            total += float(frame_loss(frame, wanted))
    return total / len(estimate)


def convolved(frame):
    """Compute the Laplacian of (C, H, W) pixel by pixel, with replicated borders."""
    _, height, width = frame.shape
    out = torch.zeros_like(frame)
    for y in range(height):
        for x in range(width):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    pixel = frame[:, min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                    out[:, y, x] += KERNEL[dy + 1][dx + 1] * pixel
    return out


def test_charbonnier_by_hand():
    estimate, target = clips()
    expected = sum(
        math.sqrt((a - b) ** 2 + 1e-6)
        for a, b in zip(estimate.flatten().tolist(), target.flatten().tolist(), strict=True)
    )
    assert charbonnier(estimate, target).item() == pytest.approx(expected, rel=1e-5)
    mean = charbonnier(estimate, target, reduction="mean")
    assert mean.item() == pytest.approx(expected / estimate.numel(), rel=1e-5)
    with pytest.raises(ValueError, match="must be sum or mean, got 'none'"):
        charbonnier(estimate, target, reduction="none")


def test_l1_by_hand():
    estimate, target = clips()
    expected = looped(lambda x, y: sum((x - y).abs().flatten().tolist()) / x.numel(), estimate, target)
    assert l1(estimate, target).item() == pytest.approx(expected, rel=1e-5)
    assert l1(torch.full((2, 2, 3, 4, 4), 0.75), torch.full((2, 2, 3, 4, 4), 0.5)) == 0.5  # a quarter twice


def test_sharpness_by_hand():
    estimate, target = clips()
    expected = looped(lambda x, y: (convolved(x) - convolved(y)).abs().mean(), estimate, target)
    assert sharpness(estimate, target).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (7, 5)])
def test_laplacian_is_the_convolution(size):
    frame = clips((3, *size))[0]
    torch.testing.assert_close(laplacian(frame), convolved(frame))
    if min(size) > 2:
        inside = F.conv2d(frame[:, None], torch.tensor([[KERNEL]], dtype=torch.float32))[:, 0]
        torch.testing.assert_close(laplacian(frame)[:, 1:-1, 1:-1], inside)


def test_a_constant_image_has_no_edges():
    flat = torch.tensor([0.1, 0.7, 1 / 3]).view(3, 1, 1).expand(2, 2, 3, 6, 7)
    assert laplacian(flat).abs().max() == 0
    assert sharpness(flat, torch.zeros_like(flat)) == 0
    assert l1(flat, torch.zeros_like(flat)) > 0


def test_perceptual_by_hand(perceptual):
    estimate, target = clips((2, 2, 3, 17, 24))
    vgg = perceptual.features

    def distance(x, y):
        return (vgg(normalise_imagenet(x[None])) - vgg(normalise_imagenet(y[None]))).square().mean().sqrt()

    with torch.no_grad():
        assert perceptual(estimate, target).item() == pytest.approx(looped(distance, estimate, target), rel=1e-4)


@pytest.mark.parametrize("loss", ["l1", "sharpness", "perceptual"])
def test_equal_clips_have_zero_loss_and_gradient(loss, perceptual):
    loss = {"l1": l1, "sharpness": sharpness, "perceptual": perceptual}[loss]
    target = clips((2, 2, 3, 16, 16))[0]
    estimate = target.clone().requires_grad_()
    value = loss(estimate, target)
    value.backward()
    assert value == 0
    assert torch.equal(estimate.grad, torch.zeros_like(target))


def test_an_equal_frame_does_not_change_the_gradient_of_others(perceptual):
    estimate, target = clips((1, 2, 3, 16, 16))
    estimate[:, 0] = target[:, 0]
    estimate.requires_grad_()
    perceptual(estimate, target).backward()
    assert torch.equal(estimate.grad[:, 0], torch.zeros(1, 3, 16, 16))
    assert estimate.grad.isfinite().all()
    assert estimate.grad[:, 1].abs().max() > 0


def test_minimising_any_loss_approaches_the_target(perceptual):
    target = F.interpolate(clips((1, 3, 4, 4))[1], (16, 16), mode="bicubic").clamp(0, 1)[None]
    for loss in (l1, sharpness, perceptual):
        estimate = (target + 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))).clone()
        estimate.requires_grad_()
        optimiser = torch.optim.Adam([estimate], 6e-3)
        first = loss(estimate, target).item()
        for _ in range(20):
            value = loss(estimate, target)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        assert value.item() < 0.5 * first


def test_perceptual_gradient_equals_finite_differences(perceptual):
    estimate, target = clips((1, 1, 3, 16, 16))
    direction = torch.sign(estimate - target)
    estimate.requires_grad_()
    perceptual(estimate, target).backward()
    with torch.no_grad():
        rise = perceptual(estimate + 1e-2 * direction, target) - perceptual(estimate - 1e-2 * direction, target)
    assert (estimate.grad * direction).sum().item() == pytest.approx(rise.item() / 2e-2, rel=0.05)


def test_perceptual_adds_no_parameters_to_its_owner(perceptual):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.loss = perceptual

    holder = Holder().train()
    assert not list(holder.parameters())
    assert not list(holder.modules())[1:]
    assert not holder.state_dict()
    assert not perceptual.features.training
    assert not any(parameter.requires_grad for parameter in perceptual.features.parameters())


def test_perceptual_computes_in_float32(perceptual):
    estimate, target = clips((1, 2, 3, 16, 16))
    alone = perceptual(estimate, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = perceptual(estimate, target)
    assert mixed.dtype == torch.float32
    assert mixed == alone
    assert perceptual(estimate.double(), target.double()) == alone


def test_perceptual_works_in_training_after_validation(perceptual):
    estimate, target = clips((1, 2, 3, 16, 16))
    with torch.inference_mode():
        before = perceptual(estimate, target)
    estimate.requires_grad_()
    after = perceptual(estimate, target)
    after.backward()
    assert after.item() == pytest.approx(before.item(), rel=1e-5)
    assert estimate.grad.abs().max() > 0
