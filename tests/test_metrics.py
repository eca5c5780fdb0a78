"""PSNR, SSIM and flicker: against reference numbers, on Vid4, and gathered over processes."""

from __future__ import annotations

import json
import math
import socket
import sys
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from PIL import Image
from torch import Tensor

from src.errors import UserError
from src.metrics import FrameScore, Scores, psnr, psnr_oscillation, ssim, summarise, temporal_difference_error
from src.ops.resize import imresize

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "metrics.json").read_text())["cases"]

# Y, nothing cropped: EDVR, Table 1, and the decimals of shared/data/README.md
VID4_Y = {
    "calendar": (20.39, 0.5720),
    "city": (25.16, 0.6028),
    "foliage": (23.47, 0.5666),
    "walk": (26.10, 0.7974),
}
VID4_Y_CROP_4 = {"calendar": (20.54, 0.571), "city": (25.13, 0.602), "foliage": (23.51, 0.566), "walk": (26.06, 0.798)}


def golden(number: int) -> tuple[Tensor, Tensor]:
    arrays = np.load(GOLDEN / "metrics.npz")
    estimate, target = (torch.from_numpy(arrays[f"{number}_{name}"]).movedim(-1, 0) for name in ("estimate", "target"))
    return estimate / 255, target / 255


def clip(seed: int, frames: int = 5, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Return a noisy estimate of a moving target, and the target (T, 3, 20, 24)."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.nn.functional.avg_pool2d(torch.rand(3, 24, 48, generator=generator), 5, 1)
    target = torch.stack([scene[:, :, t : t + 24] for t in range(frames)])
    return (target + noise * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


# Functions


@pytest.mark.parametrize("number", range(len(CASES)))
@pytest.mark.parametrize("crop", [0, 4])
@pytest.mark.parametrize("channel", ["rgb", "y"])
def test_reference_numbers(number: int, crop: int, channel: str) -> None:
    estimate, target = golden(number)
    expected = CASES[number][f"crop{crop}_{channel}"]
    assert psnr(estimate, target, luma=channel == "y", crop=crop).item() == pytest.approx(expected["psnr"], abs=2e-5)
    assert ssim(estimate, target, luma=channel == "y", crop=crop).item() == pytest.approx(expected["ssim"], abs=1e-6)


LEVELS = [(0, 0), (0, 1), (1, 2), (16, 17), (127, 129), (235, 236), (254, 255), (255, 255), (3, 250)]


@pytest.mark.parametrize(("x", "y"), LEVELS)
@pytest.mark.parametrize("size", [(16, 16), (70, 1000)], ids=str)  # the second in several bands
def test_ssim_of_flat_frames_is_the_formula_of_their_means(x: int, y: int, size: tuple[int, int]) -> None:
    def by_means(x: float, y: float) -> float:
        return (2 * x * y + 2.55**2) / (x * x + y * y + 2.55**2)

    flat = torch.tensor([x, y])[:, None, None, None].expand(2, 3, *size) / 255
    assert ssim(*flat).item() == pytest.approx(by_means(x, y), abs=1e-9)
    assert ssim(*flat).item() <= 1
    black, scale = 16, 219 / 255  # the luma of greys
    expected = by_means(black + scale * x, black + scale * y)
    assert ssim(*flat, luma=True).item() == pytest.approx(expected, abs=1e-7)  # luma is in single precision
    halves = flat.clone()  # next to an edge a region is as flat: 235 beside 16
    halves[..., size[1] // 2 :] = 16 / 255
    assert ssim(halves[0], halves[0]).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("size", [(11, 11), (30, 40), (50, 3000)], ids=str)
def test_ssim_equals_five_convolutions_in_float64(size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size).mul(255).round()
    y = (0.7 * x + 70 * torch.rand(x.shape)).round()
    x[..., : size[1] // 3], y[..., : size[1] // 3] = 235, 236  # flat beside noise
    taps = torch.exp(-((torch.arange(11).double() - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(taps, taps).div(taps.sum() ** 2).expand(3, 1, 11, 11)
    a, b = x.double(), y.double()
    means = [torch.nn.functional.conv2d(v, window, groups=3) for v in (a, b, a * a, b * b, a * b)]
    covariance, variances = means[4] - means[0] * means[1], means[2] + means[3] - means[0] ** 2 - means[1] ** 2
    structure = (2 * covariance + 7.65**2) / (variances + 7.65**2)
    brightness = (2 * means[0] * means[1] + 2.55**2) / (means[0] ** 2 + means[1] ** 2 + 2.55**2)
    assert ssim(x[0] / 255, y[0] / 255).item() == pytest.approx((structure * brightness).mean().item(), abs=1e-10)


def test_one_value_a_frame() -> None:
    estimate, target = clip(0, frames=6)
    batch = estimate.view(2, 3, 3, 20, 24), target.view(2, 3, 3, 20, 24)
    for measure in (psnr, ssim):
        values = measure(*batch)
        assert values.shape == (2, 3)
        assert values.dtype == torch.float64
        assert values[1, 2] == measure(estimate[5], target[5])
        assert measure(estimate[:0], target[:0]).shape == (0,)


def test_both_are_quantised_and_clamped() -> None:
    _, target = clip(1)
    target = (target * 255).round() / 255
    assert psnr(target + 0.49 / 255, target).isinf().all()
    assert psnr(target, target - 0.49 / 255).isinf().all()
    assert ssim(target + 0.49 / 255, target) == pytest.approx(1)
    white = torch.ones(3, 16, 16)
    assert psnr(white + 2, white).isinf()
    half = psnr(target.half(), target)  # half precision still tells 8-bit levels apart
    assert half.isinf().all()


def test_psnr_of_a_known_error() -> None:
    black = torch.zeros(3, 16, 16)
    assert psnr(black + 1 / 255, black).item() == pytest.approx(20 * math.log10(255))
    # grey differs by a level of 219/255 in luma
    assert psnr(black + 1 / 255, black, luma=True).item() == pytest.approx(20 * math.log10(255 * 255 / 219))


def test_psnr_of_each_channel() -> None:
    black = torch.zeros(3, 16, 16)
    estimate = black + torch.tensor([1, 2, 4])[:, None, None] / 255
    expected = [20 * math.log10(255 / error) for error in (1, 2, 4)]
    assert psnr(estimate, black, per_channel=True).item() == pytest.approx(sum(expected) / 3)
    assert psnr(estimate, black).item() == pytest.approx(10 * math.log10(255**2 / 7))
    estimate[1] = 0  # a channel without error has no PSNR to average
    assert psnr(estimate, black, per_channel=True).item() == pytest.approx((expected[0] + expected[2]) / 2)
    assert psnr(black, black, per_channel=True).isinf()
    scores = Scores(per_channel=True)
    scores.update(0, Fraction(0), estimate, black)
    assert scores.compute()["psnr"] == psnr(estimate, black, per_channel=True)


def test_crop_leaves_the_border_out() -> None:
    estimate, target = clip(2)
    spoilt = estimate.clone()
    spoilt[..., :4, :] = 0
    spoilt[..., -4:] = 1
    assert torch.equal(psnr(spoilt, target, crop=4), psnr(estimate, target, crop=4))
    assert torch.equal(ssim(spoilt, target, crop=4), ssim(estimate, target, crop=4))
    assert (psnr(spoilt, target) < psnr(estimate, target)).all()


def test_invalid_frames_raise() -> None:
    x = torch.rand(3, 12, 40)
    with pytest.raises(UserError, match="SSIM needs frames of at least 11x11 pixels after cropping, got 38x10"):
        ssim(x, x, crop=1)
    with pytest.raises(UserError, match="leaves no pixels of a frame of 40x12"):
        psnr(x, x, crop=6)
    with pytest.raises(ValueError, match="same shape"):
        psnr(x, x[:, :-1])
    with pytest.raises(ValueError, match="floating point"):
        psnr((x * 255).byte(), (x * 255).byte())


def test_oscillation() -> None:
    assert psnr_oscillation(torch.tensor([30.0, 32.0, 29.0])) == 2.5
    assert psnr_oscillation(torch.tensor([30.0])) == psnr_oscillation(torch.tensor([])) == 0
    assert psnr_oscillation(torch.tensor([math.inf, math.inf, math.inf])) == 0
    assert psnr_oscillation(torch.tensor([30.0, 32.0, math.inf, 20.0, 24.0])) == 3


def test_temporal_difference_error_measures_flicker_beyond_psnr() -> None:
    _, target = clip(3, frames=4)
    target = 0.25 + target / 2
    steady = target + 8 / 255
    pulsing = target + torch.tensor([8, -8, 8, -8])[:, None, None, None] / 255
    torch.testing.assert_close(psnr(steady, target), psnr(pulsing, target), atol=0.05, rtol=0)
    exact = (target * 255).round() / 255
    assert torch.equal(temporal_difference_error(exact + 8 / 255, exact), torch.zeros(3, dtype=torch.float64))
    assert (temporal_difference_error(pulsing, target) > 15).all()
    assert temporal_difference_error(pulsing[None, :1], target[None, :1]).shape == (1, 0)
    estimate, target = clip(4, frames=4)
    quantised = [(x.double() * 255).round()[..., 2:-2, 2:-2] for x in (estimate, target)]
    expected = (quantised[0].diff(dim=0) - quantised[1].diff(dim=0)).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(temporal_difference_error(estimate, target, crop=2), expected)


# The Vid4 benchmark: bicubic down to 8 bits and up again


@lru_cache
def vid4(folder: Path) -> tuple[Tensor, Tensor]:
    """Return a clip (T, 3, H, W) reduced and enlarged by 4 (bicubic, 8 bits in between), and the original."""
    frames = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))) for file in sorted(folder.glob("*.png"))]
    target = torch.stack(frames).movedim(-1, 1) / 255
    low = (imresize(target, 0.25).clamp(0, 1) * 255).round() / 255
    return imresize(low, 4), target


@pytest.mark.long
def test_bicubic_on_a_vid4_clip(shared: Path) -> None:
    pair = vid4(shared / "data" / "vid4" / "city")
    assert round(psnr(*pair, luma=True).mean().item(), 2) == VID4_Y["city"][0]
    assert round(ssim(*pair, luma=True).mean().item(), 4) == VID4_Y["city"][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("luma", "crop", "mean_psnr", "mean_ssim", "clips"),
    [(True, 0, 23.784, 0.6347, VID4_Y), (True, 4, 23.807, 0.6342, VID4_Y_CROP_4), (False, 0, 22.369, 0.6098, {})],
    ids=["y", "y_crop_4", "rgb"],
)
def test_bicubic_on_vid4(
    shared: Path, luma: bool, crop: int, mean_psnr: float, mean_ssim: float, clips: dict[str, tuple[float, float]]
) -> None:
    decibels, similarities = {}, {}
    for name in VID4_Y:
        pair = vid4(shared / "data" / "vid4" / name)
        decibels[name] = psnr(*pair, luma=luma, crop=crop).mean().item()
        similarities[name] = ssim(*pair, luma=luma, crop=crop).mean().item()
    assert round(sum(decibels.values()) / 4, 3) == mean_psnr
    assert round(sum(similarities.values()) / 4, 4) == mean_ssim
    for name, (decibel, similarity) in clips.items():
        assert round(decibels[name], 2) == decibel
        assert similarities[name] == pytest.approx(similarity, abs=5e-4 if crop else 5e-5)


# Metrics that gather


def give(scores: Scores, index: int, frames: range, step: Fraction = Fraction(1, 2), seed: int | None = None) -> None:
    estimate, target = clip(index if seed is None else seed, frames=9, noise=0.02 * (index + 1))
    for t in frames:
        scores.update(index, t * step, estimate[t], target[t])


def expected_summary(clips: dict[int, int], luma: bool = False, crop: int = 0) -> dict[str, float]:
    """Compute means over clips of ``clips[index]`` frames each, by the functions."""
    sums: dict[str, list[float]] = {}
    for index, frames in clips.items():
        estimate, target = (x[:frames] for x in clip(index, frames=9, noise=0.02 * (index + 1)))
        decibels = psnr(estimate, target, luma, crop)
        figures = {
            "psnr": decibels.mean(),
            "ssim": ssim(estimate, target, luma, crop).mean(),
            "psnr_oscillation": psnr_oscillation(decibels),
            "temporal_difference_error": temporal_difference_error(estimate, target, luma, crop).mean(),
            "psnr_existing": decibels[::2].mean(),
            "psnr_interpolated": decibels[1::2].mean(),
            "psnr_balanced": (decibels[::2].mean() + decibels[1::2].mean()) / 2,
        }
        for name, value in figures.items():
            sums.setdefault(name, []).append(value.item())
    return {name: sum(values) / len(values) for name, values in sums.items()}


@pytest.mark.parametrize(("luma", "crop"), [(False, 0), (True, 2)])
def test_scores_are_means_over_clips(luma: bool, crop: int) -> None:
    scores = Scores(luma=luma, crop=crop)
    give(scores, 0, range(7))
    give(scores, 1, range(3))  # a short clip weighs as much as a long one
    summary = scores.compute()
    for name, value in expected_summary({0: 7, 1: 3}, luma, crop).items():
        assert summary[name].item() == pytest.approx(value, rel=1e-12), name


def test_a_frame_counts_once() -> None:
    scores = Scores()
    give(scores, 0, range(5))
    once = scores.compute()
    give(scores, 0, range(2, 5), seed=9)  # an overlapping window, a padded sampler
    assert {name: value.item() for name, value in scores.compute().items()} == {n: v.item() for n, v in once.items()}
    assert len(scores.frames()[0]) == 5
    scores.reset()
    give(scores, 0, range(5))
    assert scores.compute()["psnr"] == once["psnr"]


def test_interleaved_clips_and_exact_times() -> None:
    scores = Scores()
    third = Fraction(1, 3)
    for t in range(4):
        for index in range(3):
            give(scores, index, range(t, t + 1), step=third)
    frames = scores.frames()
    assert [frame.time for frame in frames[2]] == [0, third, 2 * third, 1]
    estimate, target = clip(2, frames=9, noise=0.06)
    changes = [frame.temporal_difference_error for frame in frames[2]]
    assert changes[0] is None
    assert changes[1:] == pytest.approx(temporal_difference_error(estimate[:4], target[:4]).tolist())


def test_a_change_across_a_gap_does_not_count() -> None:
    scores = Scores()
    for t in (0, 2, 1):  # neither 0 to 2 nor 2 to 1 are neighbours in the end
        give(scores, 0, range(t, t + 1))
    assert [frame.temporal_difference_error for frame in scores.frames()[0]] == [None, None, None]
    assert "temporal_difference_error" not in scores.compute()


def test_figures_that_do_not_exist_are_left_out() -> None:
    scores = Scores()
    give(scores, 0, range(1))
    assert set(scores.compute()) == {"psnr", "ssim"}
    give(scores, 1, range(2), step=Fraction(1))
    assert set(scores.compute()) == {"psnr", "ssim", "psnr_oscillation", "temporal_difference_error"}
    assert summarise(scores.frames()[0])["psnr_oscillation"] is None


def test_frames_on_input_frames_are_measured_at_the_size_of_the_input() -> None:
    scores = Scores(reduction=2)
    target = torch.nn.functional.avg_pool2d(torch.rand(4, 3, 44, 48), 5, 1)
    estimate = (target + 0.05 * torch.randn_like(target)).clamp(0, 1)
    for number in range(4):
        scores.update(0, Fraction(number, 2), estimate[number], target[number])
    small = [imresize((frames[::2] * 255).round() / 255, 0.5).clamp(0, 1) for frames in (estimate, target)]
    frames = scores.frames()[0]
    assert [frame.psnr_input_scale for frame in frames][1::2] == [None, None]
    assert [frame.psnr_input_scale for frame in frames][::2] == pytest.approx(psnr(*small).tolist(), rel=1e-9)
    assert scores.compute()["psnr_input_scale"].item() == pytest.approx(psnr(*small).mean().item(), rel=1e-9)
    assert scores.compute()["ssim_input_scale"].item() == pytest.approx(ssim(*small).mean().item(), rel=1e-9)
    assert "psnr_input_scale" not in summarise(frames[1:2])
    same = Scores(reduction=1)  # the output of a network that does not enlarge has the size of its input
    same.update(0, Fraction(0), estimate[0], target[0])
    (frame,) = same.frames()[0]
    assert (frame.psnr_input_scale, frame.ssim_input_scale) == (frame.psnr, frame.ssim)


def test_existing_and_interpolated_frames_count_alike_in_the_balanced_mean() -> None:
    frames = [FrameScore(0, Fraction(n, 2), psnr, psnr / 100) for n, psnr in enumerate([30.0, 20.0, 40.0])]
    figures = summarise(frames)
    assert (figures["psnr_balanced"], figures["psnr"]) == (27.5, 30.0)
    assert figures["ssim_balanced"] == pytest.approx(0.275)
    assert "psnr_balanced" not in summarise(frames[::2])
    exact = [FrameScore(0, Fraction(0), float("inf"), 1.0), *frames[1:2]]
    assert summarise(exact)["psnr_balanced"] is None


def test_an_exact_frame_leaves_a_mean_finite() -> None:
    scores = Scores()
    estimate, target = clip(0, frames=6)
    black = torch.zeros_like(target[0])
    for t in range(6):
        exact = t in (0, 3)  # one on an input frame, one between
        pair = (black, black) if exact else (estimate[t], target[t])
        scores.update(0, Fraction(t, 2), *pair)
        scores.update(1, Fraction(t, 2), black, black)
    decibels, similarities = psnr(estimate, target), ssim(estimate, target)
    summary = scores.compute()
    assert summary["psnr"].item() == pytest.approx(decibels[[1, 2, 4, 5]].mean().item())
    assert summary["psnr_existing"].item() == pytest.approx(decibels[[2, 4]].mean().item())
    assert summary["psnr_oscillation"].item() == pytest.approx(decibels[[1, 2, 4, 5]].diff()[::2].abs().mean().item())
    assert summary["ssim"].item() == pytest.approx((similarities[[1, 2, 4, 5]].sum().item() + 2 + 6) / 12)
    assert summary["exact_frames"] == 8
    first, second = (summarise(frames) for frames in scores.frames().values())
    assert first["exact_frames"] == 2
    assert (second["psnr"], second["psnr_existing"], second["psnr_oscillation"]) == (None, None, None)
    alone = Scores()
    alone.update(0, Fraction(0), black, black)
    assert alone.compute()["psnr"].isinf()  # so that validation does not take a perfect network for one without a score


def test_swing_without_exact_frames() -> None:
    def swing(*decibels: float) -> float | None:
        return summarise([FrameScore(0, Fraction(2 * t + 3, 4), d, 0.9) for t, d in enumerate(decibels)])["psnr_swing"]

    assert swing(30, 20, math.inf, 24) == 8
    assert swing(30, math.inf, 32, math.inf) is None


def test_forward_gives_the_score_of_one_frame() -> None:
    scores = Scores()
    estimate, target = clip(0)
    for t in range(3):
        assert scores(0, Fraction(t), estimate[t], target[t])["psnr"] == psnr(estimate[t], target[t])
    assert scores.compute()["psnr"].item() == pytest.approx(psnr(estimate[:3], target[:3]).mean().item())


# Several processes


def worker(rank: int, world: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    found: dict[str, Any] = {}

    nothing = Scores()
    found["nobody"] = nothing.compute()

    lone = Scores()  # the second process has no clip at all
    if rank == 0:
        give(lone, 0, range(7))
        give(lone, 1, range(3))
    found["lone"] = lone.compute()
    found["lone_frames"] = len(lone.frames())

    padded = Scores()  # an uneven number of rows, and clip 0 on both, as a padding sampler deals them out
    give(padded, 0, range(7)) if rank == 0 else (give(padded, 1, range(3)), give(padded, 0, range(7), seed=9))
    found["padded"] = padded.compute()
    give(padded, 2, range(2 + rank))  # and accumulation goes on from each process's own rows
    found["onwards"] = padded.compute()

    torch.save(found, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_one_of_them_empty(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    method = "fork" if sys.platform == "linux" else "spawn"  # which would import torch twice more
    torch.multiprocessing.start_processes(worker, (2, port, str(tmp_path)), nprocs=2, start_method=method)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second
    assert first["nobody"] == {}
    assert first["lone_frames"] == 2
    expected = expected_summary({0: 7, 1: 3})
    for name, value in expected.items():
        assert first["lone"][name].item() == pytest.approx(value, rel=1e-12), name
        assert first["padded"][name].item() == pytest.approx(value, rel=1e-12), name
    assert first["onwards"]["psnr"].item() == pytest.approx(expected_summary({0: 7, 1: 3, 2: 3})["psnr"], rel=1e-12)
