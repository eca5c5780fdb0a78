"""Corruptions of ordinary footage: levels, places and colours are kept, and a clip has one draw."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from av.video.reformatter import VideoReformatter
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from src.data.augment import Augmentation
from src.data.codecs import SIGNAL, VideoCodec
from src.data.corruptions import Bicubic, Corruption, Jpeg
from src.data.degradation import Degradation, to_clip
from src.data.evaluation import EvaluationClip
from src.data.procedural.scenes import build_scene
from src.data.real_corruptions import Blur, Downscale, Resize, SensorNoise, Sometimes
from src.data.samples import ClipDataset
from src.data.splits import Clip
from src.errors import UserError
from src.geometry import Geometry
from src.metrics import psnr
from src.ops.color import luma
from src.video.colorspace import from_rgb, to_rgb

CONF = Path(__file__).resolve().parents[2] / "conf" / "degradation"
FIVE = Geometry(2, 5, (Fraction(2),))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def load(name: str) -> Degradation:
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml"))


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """Six frames of a built-in scene in motion, (T, C, H, W) of 8-bit values."""
    scene = build_scene(4, 128, 160)
    frames = torch.stack([scene.frame(Fraction(k, 30)) for k in range(6)])
    return (frames.permute(0, 3, 1, 2) * 255).round().div(255).contiguous()


def measure_shift(picture: Tensor, reference: Tensor) -> Tensor:
    """Estimate by least squares how many pixels (dy, dx) the content of ``picture`` lies beyond its place."""
    inner = (..., slice(8, -8), slice(8, -8))
    gradients = [(reference.roll(-1, axis) - reference.roll(1, axis))[inner] / 2 for axis in (-2, -1)]
    system = torch.stack([gradient.double().flatten() for gradient in gradients], 1)
    return torch.linalg.lstsq(system, (reference - picture)[inner].double().flatten()[:, None]).solution[:, 0]


def convert(clip: Tensor) -> Tensor:
    """Convert to 4:2:0 and back, as video is written and read, without a codec. The reader truncates about a level."""
    levels = (clip * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    reformatter = VideoReformatter()
    converted = [to_rgb(from_rgb(frame, "yuv420p", SIGNAL, reformatter), 8, reformatter) for frame in levels]
    return to_clip(torch.from_numpy(np.stack(converted)))


MILD: dict[str, Corruption] = {
    "isotropic blur": Blur(0.6),
    "anisotropic blur": Blur(0.8, ratio=0.4, angle=30),
    "flat blur": Blur(0.8, beta=3),
    "smaller and back": Resize(0.8125),
    "larger and back": Resize(1.25, "bilinear"),
    "noise": SensorNoise(0.01, 0.01),
    "grey noise": SensorNoise(0.01, 0.01, grey=1),
    "jpeg": Jpeg(90),
    "h264": VideoCodec("h264", 18),
    "hevc": VideoCodec("hevc", 18),
}


@pytest.mark.parametrize("step", MILD.values(), ids=MILD.keys())
def test_a_mild_step_keeps_place_and_colour(clip: Tensor, step: Corruption) -> None:
    degraded = step(clip, rng())
    assert degraded.shape == clip.shape
    assert torch.equal((degraded * 255).round() / 255, degraded)
    assert 20 < psnr(degraded, clip, luma=True).mean() < 60
    assert measure_shift(luma(degraded), luma(clip)).abs().max() < 0.02
    for channel in (0, 2):  # mostly the chroma
        colour, reference = (picture[:, channel : channel + 1] - luma(picture) for picture in (degraded, clip))
        assert measure_shift(colour, reference).abs().max() < 0.06
    before = convert(clip) if isinstance(step, VideoCodec) else clip
    assert (degraded - before).mean((0, 2, 3)).abs().max() * 255 < 0.5
    assert (degraded - clip).mean((0, 2, 3)).abs().max() * 255 < 1.5


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", ["bilinear", "area"])
def test_downscaling_filters_agree_on_place_and_colour(clip: Tensor, name: str, scale: int) -> None:
    small, reference = Downscale(scale, name)(clip, rng()), Bicubic(scale)(clip, rng())
    assert small.shape == reference.shape
    assert not torch.equal(small, reference)
    assert measure_shift(small, reference).abs().max() < 0.01
    assert (small - reference).mean((0, 2, 3)).abs().max() * 255 < 0.2  # halves are rounded up
    shifted = Downscale(scale, name)(clip.roll(1, -1), rng())
    assert measure_shift(shifted, reference)[1] == pytest.approx(1 / scale, abs=0.15)  # the measure sees one pixel
    assert torch.equal(Downscale(scale)(clip, rng()), reference)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_codec_at_the_best_quality_is_nearly_lossless(clip: Tensor, codec: str) -> None:
    best = VideoCodec(codec, 1)(clip, rng())
    assert psnr(best, convert(clip), luma=True).min() > 48
    assert psnr(best, clip, luma=True).min() > 44


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_codec_predicts_frames(clip: Tensor, codec: str) -> None:
    errors = [(VideoCodec(codec, crf)(clip, rng()) - clip).square().mean().item() for crf in (10, 22, 34)]
    assert errors == sorted(errors)
    assert errors[-1] > 2 * errors[0]
    still = VideoCodec(codec, 34)(clip[:1].repeat(6, 1, 1, 1), rng())
    moved = (still[1:] - still[:-1]).square().mean()
    assert moved < 0.2 * (still - clip[:1]).square().mean()  # an unchanged frame is hardly coded again
    alone = torch.cat([VideoCodec(codec, 34)(frame, rng()) for frame in clip.split(1)])
    assert not torch.equal(alone[3], VideoCodec(codec, 34)(clip, rng())[3])


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_equal_frames_are_coded_equally(clip: Tensor, codec: str) -> None:
    """At sizes at which encoders were observed to differ from run to run."""
    for height, width in ((128, 160), (64, 64), (96, 64), (90, 70)):
        part = clip[..., :height, :width]
        runs = [VideoCodec(codec, 34)(part, rng()) for _ in range(6)]
        assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("size", [(1, 1), (7, 90), (33, 64), (63, 65), (95, 14)], ids=str)
def test_a_codec_takes_any_size(clip: Tensor, codec: str, size: tuple[int, int]) -> None:
    part = clip[..., : size[0], : size[1]]
    coded = VideoCodec(codec, 12)(part, rng())
    assert coded.shape == part.shape
    assert (coded - part).mean((0, 2, 3)).abs().max() * 255 < 2


def test_noise_follows_the_light() -> None:
    for value, grey in ((0.2, 0), (0.7, 0), (0.7, 1)):
        flat = torch.full((4, 3, 128, 128), value)
        error = SensorNoise(0.02, 0.05, grey)(flat, rng()) - flat
        assert error.std().item() == pytest.approx((0.02**2 + 0.05**2 * value) ** 0.5, rel=0.02)
        same = (error - error[:, :1]).abs().max() < 1e-6
        assert same == bool(grey)
        assert (error[0] - error[1]).abs().max() > 0.01  # a new field in each frame


def test_blur_has_its_shape() -> None:
    point = torch.zeros(1, 3, 41, 41)
    point[..., 20, 20] = 1
    offset = torch.arange(-20.0, 21)
    spread = Blur(2, ratio=0.5, angle=0)(point, rng())[0, 0]
    assert spread.sum().item() == pytest.approx(1, abs=0.1)  # each value is rounded to 8 bits
    kernel = Blur(2, ratio=0.5, angle=0).kernel()
    assert kernel.sum().item() == pytest.approx(1)
    offset = torch.arange(-6.0, 7)
    assert (kernel.sum(0) * offset**2).sum().sqrt().item() == pytest.approx(2, rel=0.03)
    assert (kernel.sum(1) * offset**2).sum().sqrt().item() == pytest.approx(1, rel=0.03)
    torch.testing.assert_close(Blur(2, ratio=0.5, angle=90).kernel(), kernel.T)
    disc = Blur(4, beta=8).kernel()
    assert disc[12, 12:15].tolist() == pytest.approx([disc.max().item()] * 3, rel=0.01)
    assert disc[12, 18:].max() < 0.01 * disc.max()


def test_draws_are_in_range_and_leave_nothing_to_draw() -> None:
    steps = [Blur([0.3, 2], [0.4, 1], beta=[0.5, 3]), Resize([0.5, 1.5], {"bicubic": 1, "bilinear": 1})]
    steps += [SensorNoise([0, 0.1], [0, 0.1], 0.5), VideoCodec({"h264": 1, "hevc": 3}, [18, 34]), Jpeg([20, 90])]
    for seed in range(20):
        drawn = Degradation(steps).draw(rng(seed))
        assert drawn == Degradation(steps).draw(rng(seed)) != Degradation(steps).draw(rng(seed + 100))
        used = rng(seed)
        assert drawn.draw(used) == drawn
        assert used.random() == rng(seed).random()  # no number was used
        blur, resize, noise, codec, jpeg = drawn.steps
        assert 0.3 <= blur.sigma <= 2
        assert 0.4 <= blur.ratio <= 1
        assert 0.5 <= resize.factor <= 1.5
        assert noise.grey in (0, 1)
        assert codec.codec in ("h264", "hevc")
        assert codec.crf in range(18, 35)
        assert jpeg.quality in range(20, 91)
    codecs = [Degradation(steps).draw(rng(seed)).steps[3].codec for seed in range(400)]
    assert codecs.count("hevc") / 400 == pytest.approx(0.75, abs=0.08)
    few = [len(Degradation([Sometimes(Blur(1), 0.3)]).draw(rng(seed)).steps) for seed in range(400)]
    assert sum(few) / 400 == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize(("name", "share"), [("real_x2", 0.5), ("real_x4", 0.5), ("real", 0.58)])
def test_half_of_the_clips_are_reduced_and_coded_alone(name: str, share: float) -> None:
    degradation = load(name)
    drawn = [degradation.draw(rng(seed)).steps for seed in range(1000)]
    plain = [steps for steps in drawn if {type(step) for step in steps} <= {Bicubic, VideoCodec} and len(steps) < 3]
    assert all(steps and isinstance(steps[-1], VideoCodec) for steps in drawn)
    assert len(plain) / 1000 == pytest.approx(share, abs=0.06)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory, clip: Tensor) -> Path:
    """A folder of 30 equal frames."""
    folder = tmp_path_factory.mktemp("clips") / "still"
    folder.mkdir()
    picture = Image.fromarray((clip[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    for i in range(30):
        picture.save(folder / f"{i:03d}.png")
    return folder


def degrade(folder: Path, name: str, degradation: Degradation, **options: int) -> Tensor:
    clip = EvaluationClip(Clip(name, folder), geometry=FIVE, degradation=degradation, **options)
    return torch.stack(list(clip.inputs()))


def test_an_evaluated_clip_has_one_draw(still: Path) -> None:
    """Whatever the frames at a time: a draw of each frame, or of each group, would show in equal frames."""
    steps = [Sometimes(Blur([0.3, 3]), 0.5), Downscale(2, {"bicubic": 1, "area": 1}), Jpeg([5, 95])]
    inputs = degrade(still, "a", Degradation(steps))
    assert torch.equal(inputs, inputs[:1].expand_as(inputs))
    assert torch.equal(inputs, degrade(still, "a", Degradation(steps)))
    assert torch.equal(inputs[:4], degrade(still, "a", Degradation(steps), max_frames=4))
    grouped = Degradation([*steps, Sometimes(VideoCodec(gop=7), 1e-9)])  # groups of seven, and the same draws
    assert grouped.group_size == 7
    assert torch.equal(inputs, degrade(still, "a", grouped))
    others = [degrade(still, name, Degradation(steps), seed=seed) for name, seed in (("b", 0), ("c", 0), ("a", 1))]
    assert not all(torch.equal(other, inputs) for other in others)
    noisy = degrade(still, "a", Degradation([SensorNoise([0.01, 0.2]), Bicubic(2)]))
    levels = (noisy - noisy.mean(0)).std((1, 2, 3))
    assert levels.max() < 1.1 * levels.min()  # one level
    assert not torch.equal(noisy[0], noisy[1])  # and new noise in each frame


def test_an_evaluated_clip_is_coded_in_sequences(still: Path) -> None:
    codec = Degradation([Bicubic(2), VideoCodec(crf=30, gop=12)])
    inputs = degrade(still, "a", codec)
    frames = torch.from_numpy(np.array(Image.open(still / "000.png")))[None].expand(12, -1, -1, -1)
    assert torch.equal(inputs[:12], codec(to_clip(frames), rng()))
    assert torch.equal(inputs[12:24], inputs[:12])
    assert inputs.shape[0] == 30


@pytest.mark.long
def test_training_draws_depend_on_the_key_alone(still: Path) -> None:
    keys = [(epoch, 0, patch) for epoch in range(2) for patch in range(6)]

    def read(workers: int, order: list) -> dict[str, Tensor]:
        data = ClipDataset(
            [Clip("still", still)],
            geometry=FIVE,
            degradation=load("real_x2"),
            crop=48,
            augmentation=Augmentation(flip=False, rotate=False),
        )
        loader = DataLoader(data, batch_size=None, sampler=order, num_workers=workers, multiprocessing_context=None)
        return {sample["dataset_key"]: sample["inputs"] for sample in loader}

    first, again = read(0, keys), read(2, keys[::-1])
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(sample.shape == (5, 3, 24, 24) for sample in first.values())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: Blur(0), r"^The sigma of a blur must be a number from 0.05 to 20, or an ascending pair, got 0$"),
        (lambda: Blur([2, 1]), r"sigma .* got 2\.\.1$"),
        (lambda: Blur(1, ratio=[0.5, 1.5]), r"ratio .* from 0.05 to 1, "),
        (lambda: Downscale(1), r"^Downscaling needs a scale of 2 or more, got 1$"),
        (lambda: Downscale(2, "nearest"), r"^The filter of a downscaling must be one of bicubic, bilinear, area, or"),
        (lambda: Downscale(2, {"area": 0}), r"weights of some of them, got \{'area': 0\}$"),
        (lambda: Resize(0), r"^The factor of a resize must be a number from 0.125 to 4, "),
        (lambda: Resize(1, "area"), r"must be one of bicubic, bilinear, "),
        (lambda: SensorNoise(-0.1), r"^The gaussian level of noise must be a number from 0 to 1, "),
        (lambda: SensorNoise(0.1, grey=2), r"fraction of clips with grey noise must be within \[0, 1\], got 2$"),
        (lambda: VideoCodec("av1"), r"^A video codec must be one of h264, hevc, or weights of some of them, got av1$"),
        (lambda: VideoCodec(crf=60), r"^The crf of a video codec must be a whole number from 0 to 51, "),
        (lambda: VideoCodec(crf=22.5), r"must be a whole number from 0 to 51, or an ascending pair, got 22\.5$"),
        (lambda: Jpeg([40, 10]), r"^A JPEG quality must be a whole number from 1 to 100, .* got 40\.\.10$"),
        (lambda: VideoCodec(crf=[10, 20, 30]), r"or an ascending pair, got 10\.\.20\.\.30$"),
        (lambda: VideoCodec(preset="quick"), r"must be one of ultrafast, .*, got quick$"),
        (lambda: VideoCodec(gop=0), r"gop of a video codec must be 1 or more frames, got 0$"),
        (lambda: Sometimes(Blur(1), 1.5), r"^The chance of a corruption \(blur sigma=1\) must be within \[0, 1\], "),
        (lambda: Sometimes(Bicubic(2), 0.5), r"^All clips need the same size: bicubic x2 cannot be left to chance$"),
    ],
)
def test_bounds_are_refused_in_a_sentence(wrong, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        wrong()


def test_options_can_be_overridden() -> None:
    assert replace(VideoCodec(), crf=[18, 34]).crf == (18, 34)
    drawn = load("h264_x2")
    assert drawn.draw(rng()) == drawn == Degradation([Bicubic(2), VideoCodec("h264", 27)])
