"""Augmentation: disabled parts change nothing, jitter commutes with degradation, noise affects inputs only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from kornia.enhance import adjust_hue, adjust_saturation_with_gray_subtraction
from torch import Tensor

from src.config.build import build_data, build_inference_network, build_restorer
from src.config.composition import compose
from src.data.augment import Augmentation, Jitter, hue_rotation, orient
from src.errors import UserError
from src.ops.resize import imresize

OFF = Augmentation(flip=False, rotate=False)
STRONG = Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def clip(frames: int, side: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return low + (high - low) * torch.rand(frames, 3, side, side, generator=generator)


def augment(augmentation: Augmentation, seed: int = 0, frames: int = 4) -> tuple[Tensor, Tensor]:
    return augmentation(clip(frames, 8), clip(5, 32), np.random.default_rng(seed))


def test_further_clips_change_like_the_targets() -> None:
    augmentation = Augmentation(flip_vertical=True, reverse=True, jitter=STRONG, noise=0.05)
    for seed in range(16):
        targets = clip(5, 32)
        plain = augmentation(clip(4, 8), targets, np.random.default_rng(seed))
        more = augmentation(clip(4, 8), targets, np.random.default_rng(seed), targets)
        assert len(plain) == 2
        assert all(torch.equal(a, b) for a, b in zip((*plain, plain[1]), more, strict=True))


# --- Orientation ---


@pytest.mark.parametrize("jitter", [None, Jitter()])
def test_disabled_augmentation_changes_nothing(jitter: Jitter | None) -> None:
    for seed in range(8):
        inputs, targets = augment(replace(OFF, jitter=jitter), seed)
        assert torch.equal(inputs, clip(4, 8))
        assert torch.equal(targets, clip(5, 32))


def test_the_first_three_draws_are_those_of_flip_rotate_and_reverse() -> None:
    for seed in range(16):
        rng = np.random.default_rng(seed)
        mirrored, turns, backwards = rng.random() < 0.5, int(rng.integers(4)), rng.random() < 0.5
        for part, expected in zip(augment(Augmentation(reverse=True), seed), (clip(4, 8), clip(5, 32)), strict=True):
            expected = expected.flip(-1) if mirrored else expected
            expected = expected.rot90(turns, (-2, -1))
            expected = expected.flip(0) if backwards else expected
            assert torch.equal(part, expected)
            assert part.is_contiguous()


def test_flip_vertical_flips_half_of_the_samples() -> None:
    found = []
    for seed in range(64):
        inputs, targets = augment(replace(OFF, flip_vertical=True), seed)
        upended = torch.equal(targets, clip(5, 32).flip(-2))
        assert torch.equal(inputs, clip(4, 8).flip(-2) if upended else clip(4, 8))
        assert upended or torch.equal(targets, clip(5, 32))
        found.append(upended)
    assert 20 < sum(found) < 44


def test_options_do_not_change_the_draws_of_others() -> None:
    for seed in range(8):
        moved = augment(Augmentation(flip_vertical=True), seed)
        coloured = augment(Augmentation(flip_vertical=True, jitter=STRONG), seed)
        still = augment(replace(OFF, jitter=STRONG), seed)
        orientations = [
            {"flip": flip, "flip_vertical": flip_vertical, "quarters": quarters, "reverse": False}
            for flip in (False, True)
            for flip_vertical in (False, True)
            for quarters in range(4)
        ]
        (*_, orientation) = [o for o in orientations if torch.equal(orient(clip(5, 32), **o), moved[1])]
        assert torch.equal(orient(still[1], **orientation), coloured[1])
        noisy = augment(Augmentation(flip_vertical=True, jitter=STRONG, noise=0.1), seed)
        assert torch.equal(noisy[1], coloured[1])


def test_a_sample_is_a_function_of_its_generator() -> None:
    augmentation = Augmentation(flip_vertical=True, reverse=True, jitter=STRONG, noise=0.05)
    first = [augment(augmentation, seed) for seed in range(6)]
    torch.manual_seed(9)
    np.random.seed(9)
    again = [augment(augmentation, seed) for seed in reversed(range(6))][::-1]
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len({targets.sum().item() for _, targets in first}) == 6


# --- Colours ---


def rotate_hue(pixels: Tensor, fraction: float) -> Tensor:
    return torch.einsum("ij,tjhw->tihw", torch.from_numpy(hue_rotation(fraction)).to(pixels), pixels)


def test_jitter_is_equal_for_inputs_and_targets() -> None:
    same = clip(3, 16)
    for seed in range(8):
        inputs, targets = Augmentation(jitter=STRONG)(same, same, np.random.default_rng(seed))
        assert torch.equal(inputs, targets)
    assert len({augment(Augmentation(jitter=STRONG), seed)[1].sum().item() for seed in range(8)}) == 8


@pytest.mark.parametrize(
    "jitter",
    [Jitter(brightness=0.2), Jitter(contrast=0.3), Jitter(saturation=0.4), Jitter(hue=0.5), Jitter(0.1, 0.2, 0.2, 0.1)],
    ids=["brightness", "contrast", "saturation", "hue", "all"],
)
@pytest.mark.parametrize(
    "degrade",
    [lambda x: x.mean(0, keepdim=True), lambda x: imresize(x, 0.25).clamp(0, 1)],
    ids=["exposure", "bicubic"],
)
def test_jitter_commutes_with_degradation(jitter: Jitter, degrade: Callable[[Tensor], Tensor]) -> None:
    """Jitter before and after the degradation gives the same result, apart from clamping."""
    sharp = clip(11, 32, 0.4, 0.6)
    moved = 0.0
    for draws in np.random.default_rng(0).uniform(-1, 1, (8, 4)):
        coloured = jitter(sharp, draws)
        assert 0 < coloured.min() < coloured.max() < 1
        assert torch.allclose(degrade(coloured), jitter(degrade(sharp), draws), atol=1e-6)
        moved = max(moved, (coloured - sharp).abs().max().item())
    assert moved > 0.03


def test_hsv_hue_does_not_commute() -> None:
    red_green = torch.eye(3)[:2, :, None, None]
    averaged = red_green.mean(0, keepdim=True)
    turned = adjust_hue(red_green, math.pi / 6).mean(0, keepdim=True)
    assert (turned - adjust_hue(averaged, math.pi / 6)).abs().max() > 0.2
    assert torch.allclose(rotate_hue(red_green, 1 / 12).mean(0, keepdim=True), rotate_hue(averaged, 1 / 12), atol=1e-6)


def test_jitter_formulas() -> None:
    pixels, draws = clip(2, 16, 0.3, 0.5), np.array([0.5, -0.5, 0.25, 1.0])
    assert torch.allclose(Jitter(brightness=0.2)(pixels, draws), pixels + 0.1)
    assert torch.allclose(Jitter(contrast=0.4)(pixels, draws), pixels * 0.8)
    assert torch.allclose(Jitter(saturation=0.4)(pixels, draws), adjust_saturation_with_gray_subtraction(pixels, 1.1))
    assert torch.allclose(Jitter(hue=1 / 3)(pixels, draws), adjust_hue(pixels, 2 * math.pi / 3), atol=1e-6)
    assert torch.allclose(Jitter(hue=1 / 3)(pixels, -draws), adjust_hue(pixels, -2 * math.pi / 3), atol=1e-6)
    assert torch.allclose(Jitter(brightness=0.2, contrast=0.4)(pixels, draws), pixels * 0.8 + 0.1)


def test_hue_keeps_greys_and_is_periodic() -> None:
    grey = torch.linspace(0, 1, 16).expand(1, 3, 4, 16)
    for part in (0.05, -0.2, 0.5):
        assert torch.allclose(rotate_hue(grey, part), grey, atol=1e-6)
    pixels = clip(2, 8)
    assert torch.equal(rotate_hue(pixels, 0), pixels)
    assert torch.allclose(rotate_hue(rotate_hue(pixels, 0.3), 0.7), pixels, atol=1e-6)
    assert torch.allclose(rotate_hue(pixels, 0.13).mean(-3), pixels.mean(-3), atol=1e-6)


# --- Noise and limits ---


def test_noise_has_its_deviation_and_affects_inputs_only() -> None:
    inputs, targets = clip(5, 64, 0.2, 0.8), clip(5, 64, 0.2, 0.8)
    noisy, clean = replace(OFF, noise=0.01)(inputs, targets, np.random.default_rng(1))
    assert torch.equal(clean, targets)
    noise = noisy - inputs
    assert noise.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(noise.mean().item()) < 2e-4
    assert not torch.equal(noise[0], noise[1])
    assert ((noisy * 255).frac() > 0.1).any()  # not rounded


def test_values_stay_in_range() -> None:
    augmentation = Augmentation(jitter=Jitter(1, 1, 1, 0.5), noise=0.5)
    for seed in range(16):
        for part in augment(augmentation, seed):
            assert part.dtype == torch.float32
            assert 0 <= part.min() <= part.max() <= 1


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (lambda: Jitter(brightness=-0.1), r"data\.jitter\.brightness must be within \[0, 1\] .* got -0\.1"),
        (lambda: Jitter(contrast=1.1), r"data\.jitter\.contrast"),
        (lambda: Jitter(saturation=math.nan), r"data\.jitter\.saturation"),
        (lambda: Jitter(hue=0.6), r"data\.jitter\.hue must be within \[0, 0\.5\] .* got 0\.6"),
        (lambda: Augmentation(noise=-0.01), r"data\.noise .* got -0\.01"),
        (lambda: Augmentation(noise=math.inf), r"data\.noise"),
    ],
)
def test_strengths_out_of_range_are_refused(make: Callable[[], object], pattern: str) -> None:
    with pytest.raises(UserError, match=pattern) as caught:
        make()
    assert "\n" not in str(caught.value)


# --- The command line ---


def test_options_reach_the_samples() -> None:
    blend = compose("model=blend")
    restorer = build_restorer(blend, build_inference_network(blend))
    config = compose("data.flip=false", "data.rotate=false", "data.flip_vertical=true", "data.jitter.hue=0.05")
    data = build_data(config, restorer)
    assert data.augmentation == replace(OFF, flip_vertical=True, jitter=Jitter(hue=0.05))
    data = build_data(compose("data.jitter=null", "data.noise=0.01"), restorer)
    assert data.augmentation == Augmentation(jitter=None, noise=0.01)
    for options in ([], ["data.reverse=true"]):
        data = build_data(compose("data=procedural", *options), restorer)
        assert data.augmentation == Augmentation(reverse=bool(options), jitter=Jitter())
