"""Forward models: degraded patches are crops of degraded frames, and each corruption meets its definition."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from src.data.corruptions import Bicubic, Jpeg, Mpeg4, Noise
from src.data.degradation import Degradation, Timeline, to_clip
from src.data.real_corruptions import Blur, Downscale, Resize, Sometimes
from src.errors import UserError
from src.geometry import Geometry, evenly
from src.ops.resize import imresize
from tests.test_geometry import networks

CONF = Path(__file__).resolve().parents[2] / "conf" / "degradation"
ZSM = Geometry(4, 4, tuple(evenly(0, "1/2", 7)), 3)
EDVR = Geometry(4, 5, (Fraction(2),))
VTSR = Geometry(1, 2, (Fraction(3, 4), Fraction(5, 4)), exposures=(Fraction(1, 2),) * 2)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """Two uint8 frames (T, H, W, C) with detail of all sizes and colours."""
    noise = torch.from_numpy(np.random.default_rng(1).random((2, 3, 144, 192), np.float32))
    coarse = torch.nn.functional.interpolate(noise[..., :12, :16], (144, 192), mode="bilinear")
    return ((0.6 * coarse + 0.4 * noise) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize(
    "steps",
    [
        [Bicubic(2)],
        [Bicubic(3)],
        [Bicubic(4)],
        [Jpeg(10)],
        [Jpeg(90)],
        [Bicubic(4), Jpeg(20)],
        [Jpeg(30), Bicubic(2)],
        [Bicubic(2), Bicubic(2), Jpeg(40)],
        [],
    ],
    ids=lambda steps: " ".join(map(str, steps)) or "none",
)
def test_degraded_patch_is_a_crop_of_the_degraded_whole(frames: torch.Tensor, steps: list) -> None:
    degradation = Degradation(steps)
    whole = degradation(to_clip(frames), rng())
    height, width = whole.shape[-2:]
    side = 11
    corners = [(0, 0), (height - side, width - side), (0, width - side), (5, 7), (height // 2, 1), (8, 16), (17, 18)]
    for top, left in corners:
        patch = degradation.degrade_patch(frames, top, left, side, rng())
        assert patch.dtype == torch.float32
        assert torch.equal(patch, whole[..., top : top + side, left : left + side]), (top, left)


def test_patch_depends_on_its_surroundings_only(frames: torch.Tensor) -> None:
    """Degrading the whole frame would satisfy the equality above; here only the patch is degraded."""
    seen = []

    class Watched(Bicubic):
        def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
            seen.append(clip.shape[-2:])
            return super().__call__(clip, rng)

    Degradation([Watched(4)]).degrade_patch(frames, 12, 12, 8, rng())
    assert seen == [(8 * 4 + 2 * 8, 8 * 4 + 2 * 8)]


def test_bicubic_is_8_bit(frames: torch.Tensor) -> None:
    small = Bicubic(4)(to_clip(frames), rng())
    exact = imresize(to_clip(frames).double(), Fraction(1, 4))
    assert small.shape == (2, 3, 36, 48)
    assert (small - exact.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    file = (small * 255).round().to(torch.uint8)
    assert torch.equal(to_clip(file.permute(0, 2, 3, 1)), small)


def test_bicubic_rounds_halves_up() -> None:
    steps = torch.tensor([[0, 1], [0, 1]], dtype=torch.uint8).repeat_interleave(4, 1).repeat(4, 1)  # mean of 0 and 1
    frame = steps.repeat(8, 8)[None, :, :, None].repeat(1, 1, 1, 3)
    exact = imresize(to_clip(frame).double() * 255, Fraction(1, 8))
    assert ((exact - 0.5).abs() < 1e-6).any()  # some values are halves
    assert (Bicubic(8)(to_clip(frame), rng()) * 255)[(exact - 0.5).abs() < 1e-6].eq(1).all()


def test_jpeg_equals_the_codec(frames: torch.Tensor) -> None:
    file = io.BytesIO()
    Image.fromarray(frames[1].numpy()).save(file, "JPEG", quality=20)  # Pillow's own default: 4:2:0
    expected = to_clip(torch.from_numpy(np.array(Image.open(file)))[None])
    clip = to_clip(frames)
    assert torch.equal(Jpeg(20)(clip, rng())[1:], expected)
    errors = [(Jpeg(quality)(clip, rng()) - clip).square().mean().item() for quality in (10, 20, 40, 90)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0


def test_jpeg_draws_its_quality(frames: torch.Tensor) -> None:
    clip = to_clip(frames)
    drawn = [Jpeg([10, 40])(clip, np.random.default_rng(seed)) for seed in (1, 1, 2, 3)]
    assert torch.equal(drawn[0], drawn[1])
    assert not all(torch.equal(drawn[0], other) for other in drawn[2:])
    worst, best = (Jpeg(q)(clip, rng()).sub(clip).square().mean() for q in (10, 40))
    assert all(best <= result.sub(clip).square().mean() <= worst for result in drawn)


def test_noise_has_its_level() -> None:
    grey = torch.full((4, 3, 128, 128), 128 / 255)
    noisy = Noise(gaussian=0.1, salt_pepper=0)(grey, rng())
    assert (noisy - grey).std().item() == pytest.approx(0.1, rel=0.02)
    noisy = Noise(gaussian=0, salt_pepper=0.1)(grey, rng())
    assert (noisy == 0).float().mean().item() == pytest.approx(0.05, abs=0.003)
    assert (noisy == 1).float().mean().item() == pytest.approx(0.05, abs=0.003)
    noisy = Noise()(grey, rng())
    assert torch.equal(noisy, Noise()(grey, rng()))
    assert torch.equal((noisy * 255).round() / 255, noisy)
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_timeline_follows_from_the_network() -> None:
    timeline = Degradation([Bicubic(4)]).timeline(ZSM)
    assert timeline.every == 2
    assert [timeline.centre(i) for i in range(4)] == [0, 2, 4, 6]
    assert [timeline.target(t) for t in ZSM.times] == [0, 1, 2, 3, 4, 5, 6]
    assert [timeline.count_inputs(n) for n in (0, 1, 2, 3, 7, 34, 41)] == [0, 1, 1, 2, 4, 17, 21]
    assert Degradation([Bicubic(4)]).timeline(EDVR).every == 1
    assert Degradation([Bicubic(4)], every=2).timeline(EDVR).target(2) == 4
    assert Degradation([Bicubic(4)], every=4).timeline(ZSM).target(Fraction(1, 2)) == 2


def test_contradictions_are_refused() -> None:
    with pytest.raises(UserError, match=r"upscales by 4, .*bicubic x2.* downscales by 2"):
        Degradation([Bicubic(2)]).check(ZSM)
    with pytest.raises(UserError, match=r"time 1/2 .* every=1 .* multiple of 2"):
        Degradation([Bicubic(4)], every=1).check(ZSM)
    Degradation([Bicubic(2), Noise(), Bicubic(2)]).check(ZSM)
    for wrong in (lambda: Jpeg(0), lambda: Jpeg([40, 10]), lambda: Jpeg([10]), lambda: Bicubic(1), lambda: Noise(-1)):
        with pytest.raises(UserError):
            wrong()


@pytest.mark.parametrize("file", sorted(CONF.glob("[!_]*.yaml")), ids=lambda file: file.stem)
def test_configuration_builds(file: Path) -> None:
    assert file.read_text().startswith("# ")
    degradation = instantiate(OmegaConf.load(file))
    assert degradation(torch.rand(1, 3, 48, 48), rng()).shape[-1] == 48 // degradation.scale
    degradation.check(VTSR if file.stem == "exposure" else Geometry(degradation.scale, 4, ZSM.times, 3))


def test_exposure() -> None:
    timeline = Timeline(every=2, exposure=5)
    assert [list(timeline.input_frames(i)) for i in (0, 1)] == [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]]
    assert [timeline.centre(i) for i in (0, 1)] == [timeline.target(i) for i in (0, 1)] == [2, 4]
    assert timeline.target(Fraction(1, 2)) == 3
    assert [timeline.count_inputs(n) for n in (4, 5, 6, 7)] == [0, 1, 1, 2]
    for wrong in ({"exposure": 0}, {"mixed": [4, 0]}, {"gamma": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Degradation(**wrong)
    with pytest.raises(UserError, match=r"exposure must be odd .*, got 4"):
        Degradation([Bicubic(4)], exposure=4).check(EDVR)


def test_a_full_shutter() -> None:
    """VTSR thesis, Equation 3.2: adjacent inputs of M source frames, outputs of M/2 of them."""
    timeline = Degradation(exposure=8).timeline(VTSR)
    assert timeline == Degradation(exposure=8, every=8).timeline(VTSR.again(3)) == Timeline(8, 8)
    take = timeline.sample_frames(VTSR)
    assert take.inputs == [range(0, 8), range(8, 16)]
    assert take.targets == [range(4, 8), range(8, 12)]
    assert (take.first, take.extent) == (0, 16)
    assert timeline.sample_frames(VTSR.again(3)).targets == [range(k, k + 1) for k in range(7, 15)]
    assert [timeline.count_inputs(n) for n in (7, 8, 15, 16)] == [0, 1, 1, 2]
    assert Timeline(3, 5).sample_frames(EDVR).targets == [range(8, 9)]  # an instant is one frame


def test_mixed_exposures() -> None:
    degradation = Degradation(exposure=2, mixed=[8, 4, 2], gamma=2.2)
    assert degradation.timeline(VTSR) == Timeline(2, 2)  # in evaluation
    assert [variant.exposure for variant in degradation.variants(VTSR)] == [8, 4, 2]
    assert [variant.exposure for variant in degradation.variants(VTSR.again(2))] == [8, 4]
    assert {variant.gamma for variant in degradation.variants(VTSR)} == {2.2}
    assert Degradation(exposure=8).variants(VTSR) == (Degradation(exposure=8),)


@pytest.mark.parametrize(
    ("options", "geometry", "pattern"),
    [
        ({}, VTSR, r"degradation.exposure=1 source frames .* multiple of 2$"),
        (
            {"exposure": 2},
            VTSR.again(2),
            r"exposure=2 .* into the 4 equal exposures .* multiple of 4$",
        ),
        ({"exposure": 8, "every": 4}, VTSR, r"every=4 and degradation.exposure=8 differ.* degradation.every=null$"),
        ({"exposure": 8, "mixed": [2, 6]}, VTSR.again(2), r"mixed=\[2, 6\] .* add a multiple of 4$"),
        ({"mixed": [3, 5]}, Geometry(1, 1, (0,)), "restores instants: choose another degradation$"),
    ],
    ids=["none", "twice", "every", "mixed", "instants"],
)
def test_indivisible_exposures_are_refused(options: dict, geometry: Geometry, pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        [variant.timeline(geometry) for variant in Degradation(**options).variants(geometry)]


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_light_is_averaged(gamma: float) -> None:
    frames = torch.tensor([0, 255, 128], dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 2, 2, 3)
    expected = (np.mean((np.array([0, 255, 128]) / 255) ** gamma)) ** (1 / gamma) * 255
    blurred = Degradation(exposure=3, gamma=gamma).expose(frames)
    assert blurred.dtype == torch.uint8
    assert blurred.unique().tolist() == [round(expected)]


def test_rest_of_the_degradation_of_precomputed_frames() -> None:
    blur = Degradation([Bicubic(4), Mpeg4(8)], exposure=5)
    assert blur.remaining_after((), 1) is None  # sharp frames in another folder would have to be exposed themselves
    assert blur.remaining_after(("blur",), 1) == Degradation([Bicubic(4), Mpeg4(8)])
    assert blur.remaining_after(("blur", "bicubic"), 4) == Degradation([Mpeg4(8)])
    assert blur.remaining_after(("blur", "bicubic"), 2) is None
    assert blur.remaining_after(("bicubic",), 4) is None
    sharp = Degradation([Bicubic(4)])
    assert sharp.remaining_after(("bicubic",), 4) == Degradation()
    assert sharp.remaining_after(("blur", "bicubic"), 4) is None
    assert sharp.remaining_after(("bicubic", "noise"), 4) is None


def test_mpeg4_is_a_video_codec(frames: torch.Tensor) -> None:
    clip = to_clip(frames[:1]).repeat(4, 1, 1, 1)[..., :95, :161]
    coarse, fine = (Mpeg4(quantiser)(clip, rng()) for quantiser in (20, 2))
    assert coarse.shape == clip.shape
    error = [(decoded - clip).abs().mean().item() for decoded in (fine, coarse)]
    assert 0 < error[0] < 0.8 * error[1]  # chroma is lost at any quantiser
    still = (coarse[1:] - coarse[:-1]).abs().mean()
    alone = Mpeg4(20)(clip[:1], rng())
    assert still < 0.2 * error[1]  # unchanged frames are not coded again
    assert torch.equal(coarse[:1], alone)
    assert torch.equal(coarse, Mpeg4(20)(clip, rng()))
    with pytest.raises(UserError, match="quantiser"):
        Mpeg4(32)


EXACT = st.one_of(
    st.integers(2, 4).map(Bicubic),
    st.integers(1, 100).map(Jpeg),
    st.just(Noise(gaussian=0, salt_pepper=0)),
    st.builds(
        Blur, st.sampled_from([0.5, 1.3, (0.3, 2.0)]), st.sampled_from([1, (0.3, 1)]), beta=st.sampled_from([1, 3])
    ),
    st.builds(Downscale, st.integers(2, 4), st.sampled_from(["bilinear", "area", {"bicubic": 1, "area": 1}])),
    st.builds(Resize, st.sampled_from([0.5, 0.8125, 1.25, (0.6, 1.4)]), st.sampled_from(["bicubic", "bilinear"])),
    st.just(Sometimes(Blur(1), 0.5)),
)
DRAWN = st.builds(Noise, st.floats(0.01, 0.3), st.floats(0, 0.3)) | st.just(Jpeg([5, 95]))


def pixels(frames: int, height: int, width: int) -> torch.Tensor:
    """uint8 frames (T, H, W, C) with detail of all sizes."""
    noise = torch.from_numpy(np.random.default_rng([frames, height, width]).random((frames, 3, height, width)))
    coarse = torch.nn.functional.interpolate(noise[..., :6, :6], (height, width), mode="bilinear")
    return ((0.6 * coarse + 0.4 * noise) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@st.composite
def degradations(draw: st.DrawFn, steps: st.SearchStrategy = EXACT) -> tuple[Degradation, torch.Tensor]:
    """Corruptions in any order, and frames with a size that is a multiple of their scale."""
    chosen = st.lists(steps, max_size=3).filter(lambda corruptions: math.prod(step.scale for step in corruptions) <= 8)
    degradation = Degradation(draw(chosen))
    height, width = (degradation.scale * draw(st.integers(6, 120 // degradation.scale)) for _ in "yx")
    return degradation, pixels(draw(st.integers(1, 2)), height, width)


@given(degradations(), st.data())
@settings(max_examples=120)
def test_any_degraded_patch_is_a_crop_of_the_degraded_whole(
    example: tuple[Degradation, torch.Tensor], data: st.DataObject
) -> None:
    degradation, frames = example
    whole = degradation(to_clip(frames), rng())
    height, width = whole.shape[-2:]
    assert (height, width) == (frames.shape[1] // degradation.scale, frames.shape[2] // degradation.scale)
    side = data.draw(st.integers(1, min(height, width, 20)), "side")
    top, left = (data.draw(st.integers(0, length - side)) for length in (height, width))
    patch = degradation.degrade_patch(frames, top, left, side, rng())
    assert torch.equal(patch, whole[..., top : top + side, left : left + side])


KEYS = st.lists(st.integers(0, 2**31), min_size=3, max_size=3)  # (seed, epoch, index) or (seed, clip, frame)


@given(degradations(EXACT | DRAWN), KEYS, KEYS)
@settings(max_examples=80)
def test_draws_are_functions_of_the_key(
    example: tuple[Degradation, torch.Tensor], key: list[int], other: list[int]
) -> None:
    degradation, frames = example
    clip = to_clip(frames)
    degraded = degradation(clip, np.random.default_rng(key))
    assert degraded.dtype == torch.float32
    assert degraded.shape == (len(frames), 3, clip.shape[2] // degradation.scale, clip.shape[3] // degradation.scale)
    assert torch.equal((degraded * 255).round().clamp(0, 255) / 255, degraded)  # 8-bit values
    different = degradation(clip, np.random.default_rng(other))  # independent of earlier draws
    assert torch.equal(degradation(clip, np.random.default_rng(key)), degraded)
    patch = degradation.degrade_patch(frames, 1, 2, 4, np.random.default_rng(key))
    assert patch.shape == (len(frames), 3, 4, 4)
    assert torch.equal(degradation.degrade_patch(frames, 1, 2, 4, np.random.default_rng(key)), patch)
    if degradation.steps and isinstance(degradation.steps[-1], Noise) and degradation.steps[-1].gaussian:
        assert torch.equal(different, degraded) == (key == other)


@given(st.integers(1, 12), st.floats(0.4, 3), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_an_exposure_is_bounded_by_its_frames(exposure: int, gamma: float, random) -> None:
    degradation = Degradation(exposure=exposure, gamma=gamma)
    frames = pixels(exposure, 6, 7)
    exposed = degradation.expose(frames)
    assert exposed.shape == frames.shape[1:]
    assert (frames.amin(0) <= exposed).all()
    assert (exposed <= frames.amax(0)).all()
    order = random.sample(range(exposure), exposure)
    assert torch.equal(degradation.expose(frames[order]), exposed)
    still = frames[:1].expand(exposure, -1, -1, -1)
    assert torch.equal(degradation.expose(still), frames[0])  # without motion there is no blur


@given(networks(exposed=False), st.integers(1, 3), st.integers(0, 3))
@settings(max_examples=80)
def test_targets_lie_at_their_instants(geometry: Geometry, times: int, half: int) -> None:
    every, exposure = times * geometry.subdivision, 2 * half + 1
    timeline = Degradation(every=every, exposure=exposure).timeline(geometry)
    take = timeline.sample_frames(geometry)
    middles = [frames[half] for frames in take.inputs]
    assert {len(frames) for frames in take.inputs} == {exposure}
    assert middles == [half + i * every for i in range(geometry.window)]
    for time, target in zip(geometry.times, take.targets, strict=True):
        assert list(target) == [half + time * every]
        assert time % 1 or target[0] == timeline.centre(int(time))


@given(networks(exposed=True), st.integers(1, 3))
@settings(max_examples=80)
def test_targets_divide_their_exposures(geometry: Geometry, times: int) -> None:
    exposure = times * geometry.subdivision
    take = Degradation(exposure=exposure).timeline(geometry).sample_frames(geometry)
    assert [*chain(*take.inputs)] == [*range(geometry.window * exposure)]
    for target, time in zip(take.targets, geometry.times, strict=True):
        assert len(target) == exposure * geometry.spacing
        assert target[0] + target[-1] + 1 == 2 * time * exposure  # its middle lies at its time
    shown = [*chain(*take.targets)]
    assert shown == [*range(shown[0], shown[-1] + 1)]  # adjacent


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 60))
def test_count_inputs_uses_all_frames(every: int, exposure: int, sources: int) -> None:
    timeline = Timeline(every, exposure)
    inputs = timeline.count_inputs(sources)
    assert inputs == 0 or timeline.input_frames(inputs - 1).stop <= sources
    assert timeline.input_frames(inputs).stop > sources


def test_targets_as_blurred_as_inputs() -> None:
    """A network that enlarges and interpolates blurred frames learns nothing else."""
    blurred = Degradation([Bicubic(4)], exposure=5, every=4, blurred_targets=True)
    sharp = replace(blurred, blurred_targets=False)
    frames = blurred.timeline(ZSM).sample_frames(ZSM)
    assert frames.targets[::2] == frames.inputs == [range(4 * i, 4 * i + 5) for i in range(4)]
    assert frames.targets[1] == range(2, 7)
    assert [exposure[2] for exposure in frames.targets] == [
        i[0] for i in sharp.timeline(ZSM).sample_frames(ZSM).targets
    ]
    with pytest.raises(UserError, match="blurred_targets is for networks that restore instants"):
        Degradation(exposure=4, blurred_targets=True).timeline(VTSR)
