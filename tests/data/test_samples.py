"""Samples: inputs match targets, draws are functions of seed and key, evaluation clips are complete."""

from __future__ import annotations

import pickle
from dataclasses import replace
from fractions import Fraction
from itertools import chain, product
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from src.data.augment import Augmentation, orient
from src.data.codecs import VideoCodec
from src.data.corruptions import Bicubic, Jpeg, Mpeg4, Noise
from src.data.degradation import Degradation, to_clip
from src.data.evaluation import EvaluationClip
from src.data.samples import ClipDataset
from src.data.splits import Clip
from src.errors import UserError
from src.geometry import Geometry, evenly
from tests.data.layouts.copies import write_frames

ZSM = Geometry(4, 4, tuple(evenly(0, "1/2", 7)), 3, elastic=True)
EDVR = Geometry(4, 5, (Fraction(2),))
HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)
VTSR = Geometry(1, 2, (3 * QUARTER, 5 * QUARTER), exposures=(HALF, HALF))
BICUBIC = Degradation([Bicubic(4)])
PLAIN = Augmentation(flip=False, rotate=False)


def dataset(root: Path, clips: list[Clip] | None = None, **options: object) -> ClipDataset:
    defaults: dict = {"geometry": ZSM, "degradation": BICUBIC, "crop": 32, "seed": 5}
    defaults["augmentation"] = Augmentation(reverse=True)
    return ClipDataset(clips or [Clip("clip", root / "clip", stop=34)], **{**defaults, **options})


def is_equal(a: dict, b: dict) -> bool:
    return (
        torch.equal(a["inputs"], b["inputs"]) and torch.equal(a["targets"], b["targets"]) and a["source"] == b["source"]
    )


def test_sample_has_the_shape_of_the_network(root: Path) -> None:
    sample = dataset(root)[0, 0, 0]
    assert sample["inputs"].shape == (4, 3, 8, 8)
    assert sample["targets"].shape == (7, 3, 32, 32)
    assert sample["inputs"].dtype == sample["targets"].dtype == torch.float32
    sample = dataset(root, geometry=EDVR)[0, 0, 0]
    assert sample["inputs"].shape == (5, 3, 8, 8)
    assert sample["targets"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("geometry", [ZSM, EDVR], ids=["zsm", "edvr"])
def test_inputs_are_downscaled_targets(root: Path, geometry: Geometry) -> None:
    """Crops, flips, rotations and reversals are equal for both."""
    data = dataset(root, geometry=geometry)
    samples = [data[epoch, 0, 0] for epoch in range(12)]
    for sample in samples:
        small = BICUBIC(sample["targets"], np.random.default_rng())
        for j, time in enumerate(geometry.times):
            if time.denominator == 1:
                inner = (slice(None), slice(2, -2), slice(2, -2))  # without the border of the crop
                assert torch.equal(small[j][inner], sample["inputs"][int(time)][inner])
    assert len({sample["targets"].sum().item() for sample in samples}) == 12


def test_patches_are_cut_from_the_video(root: Path, pixels: torch.Tensor) -> None:
    """Every target is a patch of consecutive frames, every input a patch of the degraded whole frame."""
    degradation = Degradation([Bicubic(4), Jpeg(30)])
    data = dataset(root, degradation=degradation, augmentation=PLAIN)
    whole = to_clip(pixels[:, :48, :68])
    small = degradation(whole, np.random.default_rng())
    seen = set()
    for epoch in range(8):
        sample = data[epoch, 1, 0]
        start = int(sample["source"].split(":")[1])
        places = [
            (top, left)
            for top in range(0, 48 - 31, 4)
            for left in range(0, 68 - 31, 4)
            if torch.equal(whole[start : start + 7, :, top : top + 32, left : left + 32], sample["targets"])
        ]
        ((top, left),) = places
        patch = small[start : start + 7 : 2, :, top // 4 : top // 4 + 8, left // 4 : left // 4 + 8]
        assert torch.equal(patch, sample["inputs"])
        seen.add((start, top, left))
    assert len(seen) > 5
    assert len({top for _, top, _ in seen}) > 1
    assert len({left for _, _, left in seen}) > 2


@pytest.mark.parametrize("low", [False, True], ids=["made", "files"])
@pytest.mark.parametrize("crop", [16, 48], ids=["inner", "whole height"])
def test_reduced_targets_are_cut_from_reduced_whole_frames(
    root: Path, pixels: torch.Tensor, crop: int, low: bool
) -> None:
    """Equal to the last bit at the border of frames, too, and without the noise and the compression of the inputs."""
    degradation = Degradation([Bicubic(4)] if low else [Bicubic(4), Noise(), Jpeg(30)])
    clips = [Clip("clip", root / "clip", stop=34, precomputed={("bicubic",): root / "low"} if low else {})]
    data = dataset(root, clips, degradation=degradation, crop=crop, augmentation=PLAIN, reduced_targets=True)
    large = to_clip(pixels[:, :48, :68])
    small = BICUBIC(large, np.random.default_rng())
    tops, lefts = (range(0, size - crop + 1, 4) for size in (48, 68))
    borders = set()
    for epoch in range(40 if crop < 48 else 12):
        sample = data[epoch, 1, 0]
        start, side = int(sample["source"].split(":")[1]), crop // 4
        ((top, left),) = [
            (y, x)
            for y, x in product(tops, lefts)
            if torch.equal(large[start : start + 7, :, y : y + crop, x : x + crop], sample["targets"])
        ]
        window = (slice(start, start + 7), slice(None), slice(top // 4, top // 4 + side))
        expected = small[(*window, slice(left // 4, left // 4 + side))]
        assert torch.equal(sample["reduced"], expected)
        assert torch.equal(sample["reduced"][::2], sample["inputs"]) == low
        borders |= {("top", top), ("left", left)}
    assert borders >= {("top", 0), ("top", tops[-1]), ("left", 0), ("left", lefts[-1])}


def test_reduced_targets_move_like_targets(root: Path) -> None:
    """Flips, rotations and reversal are equal for both, and no other draw changes."""
    augmentation = Augmentation(flip_vertical=True, reverse=True)
    options = {"augmentation": augmentation, "degradation": Degradation([Bicubic(4), Noise()])}
    plain, data = dataset(root, **options), dataset(root, reduced_targets=True, **options)
    inner = (..., slice(2, -2), slice(2, -2))  # without the border of the crop
    for epoch in range(12):
        sample = data[epoch, 0, 0]
        assert is_equal(sample, plain[epoch, 0, 0])
        assert "reduced" not in plain[epoch, 0, 0]
        assert torch.equal(BICUBIC(sample["targets"], np.random.default_rng())[inner], sample["reduced"][inner])


@pytest.mark.parametrize("options", [{"span": 4}, {"samples": 3}], ids=["span", "samples"])
def test_segments_cover_all_starts(root: Path, options: dict) -> None:
    single = Geometry(4, 1, (Fraction(0),))
    data = dataset(root, [Clip("c", root / "clip", stop=14)], geometry=single, **options)
    assert len(data) == 3
    starts = [{int(data[epoch, i, 0]["source"].split(":")[1]) for epoch in range(24)} for i in range(3)]
    assert set.union(*starts) == set(range(14))
    assert sum(map(len, starts)) == 14
    septuplet = dataset(root, [Clip("s", root / "clip", start=3, stop=10)])
    assert len(septuplet) == 1
    assert septuplet[0, 0, 0]["source"] == "s:3"
    often = dataset(root, [Clip("s", root / "clip", start=3, stop=10), Clip("c", root / "clip", stop=34)], samples=20)
    assert len(often) == 40
    assert {often[0, i, 0]["source"] for i in range(20)} == {"s:3"}  # there is only one start


def test_clip_with_a_step(root: Path, pixels: torch.Tensor) -> None:
    data = dataset(root, [Clip("c", root / "clip", start=2, stop=33, step=5)], augmentation=PLAIN)
    sample = data[0, 0, 0]
    means = to_clip(pixels[2:33:5]).flatten(1).mean(1)
    assert len(means) == 7
    frames = to_clip(pixels[2:33:5, :48, :68])
    assert any(
        torch.equal(frames[..., top : top + 32, left : left + 32], sample["targets"])
        for top in range(0, 17, 4)
        for left in range(0, 37, 4)
    )


def test_draws_are_functions_of_seed_and_key(root: Path) -> None:
    noisy = Degradation([Bicubic(4), Noise()])
    first, second = (dataset(root, degradation=noisy) for _ in range(2))
    torch.manual_seed(1)
    expected = [first[epoch, i, 0] for epoch in range(3) for i in range(4)]
    torch.manual_seed(2)
    np.random.seed(7)
    again = [second[epoch, i, 0] for epoch in (2, 1, 0) for i in range(4)]
    assert all(is_equal(a, b) for a, b in zip(expected, again[8:] + again[4:8] + again[:4], strict=True))
    assert not is_equal(expected[0], expected[4])
    assert not is_equal(expected[0], first[0, 0, 1])
    assert not is_equal(expected[0], dataset(root, degradation=noisy, seed=6)[0, 0, 0])
    assert is_equal(pickle.loads(pickle.dumps(first))[2, 3, 0], expected[11])


def test_a_cached_span_is_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [(0, 1, 0), (0, 2, 0), (0, 1, 1), (0, 3, 0), (0, 1, 2), (1, 1, 0)]
    expected = [dataset(root)[key] for key in keys]
    data, read = dataset(root, cache_size=2), []
    reading = data._read
    monkeypatch.setattr(data, "_read", lambda *place: read.append(place) or reading(*place))
    assert all(is_equal(data[key], sample) for key, sample in zip(keys, expected, strict=True))
    assert len(read) == 5  # the third key is cached; the fifth follows two others
    assert len({sample["source"] for sample in expected[::2][:3]}) == 1
    assert not torch.equal(expected[0]["targets"], expected[2]["targets"])


def test_augmentations_are_independent(root: Path) -> None:
    plain = dataset(root, augmentation=PLAIN)
    still = {"flip": False, "flip_vertical": False, "quarters": 0, "reverse": False}
    for name, part, values in (
        ("flip", "flip", [False, True]),
        ("flip_vertical", "flip_vertical", [False, True]),
        ("rotate", "quarters", [0, 1, 2, 3]),
        ("reverse", "reverse", [False, True]),
    ):
        data = dataset(root, augmentation=replace(PLAIN, **{name: True}))
        found = set()
        for epoch in range(24):
            before, after = plain[epoch, 0, 0]["targets"], data[epoch, 0, 0]["targets"]
            (value,) = [v for v in values if torch.equal(orient(before, **{**still, part: v}), after)]
            found.add(value)
        assert found == set(values)


def test_recorded_draws_are_unchanged(root: Path) -> None:
    degradation = Degradation([Bicubic(4), Noise()])  # draws before the augmentation
    plain, full = (dataset(root, degradation=degradation, augmentation=a) for a in (PLAIN, Augmentation(reverse=True)))
    noisier = dataset(root, degradation=degradation, augmentation=Augmentation(reverse=True, noise=0.01))
    recorded = [  # first frame, flip, quarters, reverse
        (13, False, 2, True),
        (13, True, 1, True),
        (11, True, 3, True),
        (8, False, 0, True),
        (10, False, 3, False),
    ]
    for epoch, (start, mirror, turns, backwards) in enumerate(recorded):
        before, after, other = (data[epoch, 1, 0] for data in (plain, full, noisier))
        assert before["source"] == after["source"] == f"clip:{start}"
        for part in ("inputs", "targets"):
            moved = orient(before[part], flip=mirror, flip_vertical=False, quarters=turns, reverse=backwards)
            assert torch.equal(moved, after[part])
        assert torch.equal(after["targets"], other["targets"])
        assert 0 < (after["inputs"] - other["inputs"]).abs().max() < 0.1


@pytest.mark.parametrize("codec", [VideoCodec(crf=24), Mpeg4(20)], ids=["h264", "mpeg4"])
@pytest.mark.parametrize("start", [0, 14, 29], ids=["first", "middle", "last"])
@pytest.mark.parametrize("folder", [None, "low"], ids=["made", "precomputed"])
def test_video_codecs_see_whole_frames_and_those_beside_the_sample(
    root: Path, pixels: torch.Tensor, codec: VideoCodec | Mpeg4, start: int, folder: str | None
) -> None:
    clip = Clip("clip", root / "clip", stop=34, precomputed={("bicubic",): root / folder} if folder else {})
    data = dataset(
        root, geometry=EDVR, degradation=Degradation([Bicubic(4), codec]), augmentation=PLAIN, crop=16, span=5
    )
    sample = data._read(clip, 34, start, data.sample_frames[0], np.random.default_rng(1))
    low, high = max(0, start - 3), min(34, start + 8)
    small = Bicubic(4)(to_clip(pixels[low:high, :48, :68]), np.random.default_rng(1))
    coded = codec(small, np.random.default_rng(1))[start - low : start - low + 5]
    assert torch.equal(to_clip(sample.inputs), coded)
    if start == 14:
        assert not torch.equal(coded, codec(small[start - low : start - low + 5], np.random.default_rng(1)))
    patch = data._cut_patch(sample, np.random.default_rng(3))
    found = [
        (y, x)
        for y in range(coded.shape[-2] - 3)
        for x in range(coded.shape[-1] - 3)
        if torch.equal(patch["inputs"], coded[..., y : y + 4, x : x + 4])
    ]
    target = to_clip(pixels[start + 2 : start + 3, :48, :68])
    assert any(torch.equal(patch["targets"], target[..., 4 * y : 4 * y + 16, 4 * x : 4 * x + 16]) for y, x in found)


def test_of_several_places_the_one_with_the_most_detail_is_cut(root: Path) -> None:
    def measure(candidates: int) -> torch.Tensor:
        data = dataset(root, candidates=candidates, augmentation=PLAIN)
        targets = torch.stack([data[0, 0, patch]["targets"] for patch in range(40)])
        return targets[:, 3].diff(dim=-1).abs().mean((1, 2, 3))

    one, two, many = (measure(candidates) for candidates in (1, 2, 64))
    assert one.mean() < two.mean() < many.mean()
    assert one.min() < many.min()
    assert torch.allclose(many, many.max(), rtol=0.2)  # nearly always the same place


def test_precomputed_low_resolution_frames_are_used_if_they_match(root: Path, tmp_path: Path) -> None:
    plain = dataset(root)[0, 0, 0]
    whole = [Clip("clip", root / "clip", stop=34, precomputed={("bicubic",): root / "low"})]
    assert is_equal(dataset(root, whole)[0, 0, 0], plain)
    marked = tmp_path / "low"
    marked.mkdir()
    for file in (root / "low").iterdir():
        Image.new("RGB", (17, 12), (9, 9, 9)).save(marked / file.name)
    clips = [Clip("clip", root / "clip", stop=34, precomputed={("bicubic",): marked})]
    sample = dataset(root, clips)[0, 0, 0]
    assert sample["inputs"].eq(9 / 255).all()  # the files were read
    assert torch.equal(sample["targets"], plain["targets"])
    compressed = Degradation([Bicubic(4), Jpeg(10)])
    sample = dataset(root, whole, degradation=compressed)[0, 0, 0]
    assert is_equal(sample, dataset(root, degradation=compressed)[0, 0, 0])
    other = {"degradation": Degradation([Bicubic(2)]), "geometry": Geometry(2, 5, (Fraction(2),))}
    assert is_equal(dataset(root, clips, **other)[0, 0, 0], dataset(root, **other)[0, 0, 0])


def test_contradictory_options_of_samples_are_refused(root: Path) -> None:
    short = [Clip("s", root / "clip", stop=6)]
    lopsided = Geometry(4, 3, (Fraction(0),))
    for options, pattern in (
        ({"crop": 30}, "must be a multiple of the network's scale, 4"),
        ({"crop": 64}, "smaller than data.crop=64"),
        ({"clips": short}, "7 frames .* longest has 6"),
        ({"span": 5}, "needs 7"),
        ({"degradation": Degradation([Bicubic(2)])}, "upscales by 4"),
        ({"geometry": lopsided}, "data.reverse=false"),
        ({"samples": 0}, "data.samples must be 1 or more samples"),
        ({"resize": [48, 64]}, r"data\.resize works only at scale 1 \(here 4\): set data\.resize=null"),
    ):
        with pytest.raises(UserError, match=pattern):
            dataset(root, **options)[0, 0, 0]
    assert len(dataset(root, [*short, Clip("clip", root / "clip", stop=34)])) == 4  # without the short one


# --- Exposure ---


def test_blurred_samples(root: Path, pixels: torch.Tensor) -> None:
    blur = Degradation(exposure=3)
    plain = Geometry(1, 5, (Fraction(2),))
    data = dataset(root, geometry=plain, degradation=blur, augmentation=PLAIN)
    assert data.extent == 7
    sample = data[0, 2, 0]
    first = int(sample["source"].split(":")[1])
    sharp = to_clip(pixels[first : first + 7])
    ((top, left),) = [
        (top, left)
        for top in range(50 - 31)
        for left in range(71 - 31)
        if torch.equal(sharp[3, :, top : top + 32, left : left + 32], sample["targets"][0])
    ]
    patch = sharp[..., top : top + 32, left : left + 32]
    for i in range(5):
        assert (patch[i : i + 3].mean(0) - sample["inputs"][i]).abs().max() <= 0.5001 / 255


def test_precomputed_blur_is_used(root: Path) -> None:
    plain = Geometry(1, 1, (Fraction(0),))
    ready = Clip("clip", root / "clip", precomputed={("blur",): root / "clip"})
    clip = EvaluationClip(ready, geometry=plain, degradation=Degradation(exposure=3))
    assert all(torch.equal(image, target) for image, (_, target) in zip(clip.inputs(), clip.targets(), strict=True))
    assert clip.frames == 32  # as many as without, so that scores cover the same frames
    data = dataset(root, [ready], geometry=plain, degradation=Degradation(exposure=3))
    sample = data[0, 1, 0]
    assert torch.equal(sample["inputs"], sample["targets"])


# --- Full shutter ---

RECONSTRUCTION = Geometry(1, 3, evenly("3/4", "1/2", 4), exposures=(HALF,) * 4)
MULTILEVEL = Geometry(1, 2, tuple(Fraction(k, 8) for k in (6, 7, 9, 10)), exposures=(HALF, QUARTER, QUARTER, HALF))
MIXED = Degradation(exposure=8, mixed=[8, 4, 2])


def average(frames: np.ndarray, count: int) -> np.ndarray:
    """Average each ``count`` frames: (T, H, W, C) -> (T // count, H, W, C)."""
    whole = frames[: len(frames) // count * count]
    return whole.reshape(-1, count, *frames.shape[1:]).mean(1)


def to_levels(clip: torch.Tensor) -> np.ndarray:
    """Convert (T, C, H, W) in [0, 1] to (T, H, W, C) in [0, 255]."""
    return (clip * 255).round().permute(0, 2, 3, 1).numpy()


def average_between(frames: np.ndarray, begin: Fraction, end: Fraction, exposure: int) -> np.ndarray:
    """Return the mean between two times, in input frames of ``exposure`` source frames."""
    return frames[int(begin * exposure) : int(end * exposure)].mean(0)


def find_exposure(sample: dict, frames: np.ndarray, geometry: Geometry) -> int:
    """Return the only exposure consistent with a sample of whole frames."""
    start = int(sample["source"].split(":")[1])
    sample_inputs, sample_targets = to_levels(sample["inputs"]), to_levels(sample["targets"])
    found = []
    for exposure in (2, 4, 8):
        if start + exposure * geometry.window > len(frames):
            continue
        times = range(geometry.window)
        inputs = [average_between(frames[start:], Fraction(i), Fraction(i + 1), exposure) for i in times]
        if np.array_equal(sample_inputs, inputs):
            edges = [geometry.interval(k) for k in range(len(geometry.times))]
            assert np.array_equal(sample_targets, [average_between(frames[start:], *edge, exposure) for edge in edges])
            found.append(exposure)
    (exposure,) = found
    return exposure


def test_exposures_halved_repeatedly(fast: tuple[Path, np.ndarray]) -> None:
    folder, frames = fast
    clip = EvaluationClip(Clip("fast", folder), geometry=VTSR, degradation=MIXED)
    assert clip.frames == 4  # five frames are left over
    inputs = to_levels(torch.stack(list(clip.inputs())))
    assert np.array_equal(inputs, average(frames, 8))
    for rounds in (1, 2, 3):
        geometry = VTSR.again(rounds)
        times, targets = zip(*clip.targets(geometry), strict=True)
        truth, parts = to_levels(torch.stack(targets)), 2**rounds
        assert list(times) == [Fraction(2 * k + 1, 2 * parts) for k in range(4 * parts)]
        assert np.array_equal(truth, average(frames[:32], 8 // parts))
        assert np.array_equal(average(truth, parts), inputs)  # the parts average to the frame
    assert np.array_equal(truth, frames[:32])
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(clip.targets(), clip.targets(VTSR), strict=True))
    with pytest.raises(UserError, match="multiple of 16"):
        next(clip.targets(VTSR.again(4)))


def test_targets_are_averaged_as_light(fast: tuple[Path, np.ndarray]) -> None:
    clip = EvaluationClip(Clip("fast", fast[0]), geometry=VTSR, degradation=Degradation(exposure=4, gamma=2.2))
    truth = to_levels(torch.stack([target for _, target in clip.targets()]))
    expected = average((fast[1] / 255) ** 2.2, 2)[: len(truth)] ** (1 / 2.2) * 255
    assert np.abs(truth - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("geometry", "exposures"),
    [(VTSR, {2, 4, 8}), (RECONSTRUCTION, {2, 4, 8}), (MULTILEVEL, {4, 8})],
    ids=["basic", "reconstruction", "multilevel"],
)
def test_samples_mix_exposures(fast: tuple[Path, np.ndarray], geometry: Geometry, exposures: set[int]) -> None:
    folder, frames = fast
    clips = [Clip("fast", folder)]
    data = dataset(folder, clips, geometry=geometry, degradation=MIXED, crop=24, augmentation=PLAIN, samples=3)
    samples = [data[epoch, i, 0] for epoch in range(30) for i in range(3)]
    drawn = [(find_exposure(sample, frames, geometry), int(sample["source"].split(":")[1])) for sample in samples]
    assert {exposure for exposure, _ in drawn} == exposures
    assert max(start + exposure * geometry.window for exposure, start in drawn) == 37  # up to the last frame
    assert min(start for _, start in drawn) == 0
    only = replace(MIXED, exposure=4, mixed=None)
    data = dataset(folder, clips, geometry=geometry, degradation=only, crop=24, augmentation=PLAIN)
    assert {find_exposure(data[epoch, 0, 0], frames, geometry) for epoch in range(5)} == {4}


def test_the_halves_of_an_exposure_average_to_it(fast: tuple[Path, np.ndarray]) -> None:
    data = dataset(fast[0], [Clip("fast", fast[0])], geometry=RECONSTRUCTION, degradation=MIXED, crop=24)
    for epoch in range(6):  # with all orientations
        sample = data[epoch, 0, 0]
        assert np.array_equal(to_levels(sample["targets"])[1:3].mean(0), to_levels(sample["inputs"])[1])


def test_exposures_can_be_reversed(fast: tuple[Path, np.ndarray]) -> None:
    clips, seen = [Clip("fast", fast[0])], set()
    backwards = replace(PLAIN, reverse=True)
    for geometry in (VTSR, RECONSTRUCTION, MULTILEVEL):
        options = {"geometry": geometry, "degradation": Degradation(exposure=4), "crop": 24}
        plain, data = (dataset(fast[0], clips, augmentation=a, **options) for a in (PLAIN, backwards))
        for epoch in range(8):
            before, after = plain[epoch, 0, 0], data[epoch, 0, 0]
            turned = not torch.equal(before["inputs"], after["inputs"])
            for part in ("inputs", "targets"):
                assert torch.equal(before[part], after[part].flip(0) if turned else after[part])
            seen.add(turned)
    assert seen == {False, True}
    with pytest.raises(UserError, match=r"data\.reverse=false"):
        second = Geometry(1, 2, (3 * QUARTER,), exposures=(HALF,))
        dataset(fast[0], clips, **{**options, "geometry": second, "augmentation": backwards})


def test_precomputed_blur_of_another_shutter_is_ignored(fast: tuple[Path, np.ndarray], root: Path) -> None:
    clip = Clip("fast", fast[0], precomputed={("blur",): fast[0]})
    whole = EvaluationClip(clip, geometry=VTSR, degradation=Degradation(exposure=4))
    assert np.array_equal(to_levels(torch.stack(list(whole.inputs()))), average(fast[1], 4))
    data = dataset(root, [clip], geometry=VTSR, degradation=MIXED, crop=24, augmentation=PLAIN)
    assert find_exposure(data[0, 0, 0], fast[1], VTSR) in (2, 4, 8)


def test_frames_are_resized_before_cropping(fast: tuple[Path, np.ndarray]) -> None:
    clips, options = [Clip("fast", fast[0])], {"geometry": VTSR, "degradation": MIXED, "augmentation": PLAIN}
    full, data = (
        dataset(fast[0], clips, crop=crop, resize=size, **options) for crop, size in ((24, None), (16, (16, 20)))
    )
    seen = set()
    for epoch in range(8):
        plain, sample = full[epoch, 0, 0], data[epoch, 0, 0]
        assert sample["inputs"].shape == sample["targets"].shape == (2, 3, 16, 16)
        for part in ("inputs", "targets"):
            pictures = [Image.fromarray(frame.astype(np.uint8)) for frame in to_levels(plain[part])]
            small = np.stack([picture.resize((20, 16), Image.Resampling.BILINEAR) for picture in pictures])
            errors = [np.abs(to_levels(sample[part]) - small[:, :, left : left + 16]).max() for left in range(5)]
            assert min(errors) <= 1  # Pillow rounds after each axis
            seen.add(int(np.argmin(errors)))
    assert len(seen) > 2


class Places(np.random.Generator):
    """A generator with predetermined relative draws; it records the ranges."""

    def __init__(self, *places: int) -> None:
        super().__init__(np.random.PCG64())
        self.places, self.ranges = places, []

    def integers(self, low: int, high: int | None = None) -> int:
        self.ranges.append(range(low) if high is None else range(low, high))
        return self.ranges[-1][self.places[len(self.ranges) - 1]]


@hypothesis.given(
    lengths=st.lists(st.integers(1, 60), max_size=4),
    mixed=st.sampled_from([None, (2,), (8, 4, 2), (4, 2)]),
    more=st.integers(0, 12),
    samples=st.none() | st.integers(1, 12),
)
@hypothesis.settings(max_examples=60)
def test_every_possible_start_belongs_to_exactly_one_segment(
    lengths: list[int], mixed: tuple | None, more: int, samples: int | None
) -> None:
    """For clips of any length and any exposure; no frame lies outside of its clip."""
    geometry, degradation = (VTSR, Degradation(exposure=2, mixed=mixed)) if mixed else (EDVR, BICUBIC)
    longest = 2 * max(mixed) if mixed else 5
    lengths = [*lengths, longest]  # at least one is long enough
    clips = [Clip(f"{k}", Path("x"), start=3, stop=3 + 2 * n, step=2) for k, n in enumerate(lengths)]
    options = {"crop": 32, "augmentation": PLAIN, "span": longest + more, "samples": samples}
    data = ClipDataset(clips, geometry=geometry, degradation=degradation, **options)
    starts: dict[tuple[int, int], list[list[int]]] = {}  # by clip and extent of a sample, those of each segment
    for index, exposure in product(range(len(data)), range(len(data.sample_frames))):
        widest = Places(exposure, 0)
        data._locate(index, widest)
        drawn = [data._locate(index, Places(exposure, place)) for place in range(len(widest.ranges[1]))]
        ((number, extent),) = {(int(clip.name), take.extent) for clip, _, _, take in drawn}
        assert extent == data.sample_frames[exposure].extent
        starts.setdefault((number, extent), []).append([first for _, _, first, _ in drawn])
        for _, length, first, take in drawn:
            assert length == lengths[number]
            taken = [first - take.first + frame for frame in chain(*take.inputs, *take.targets)]
            assert 0 <= min(taken) <= max(taken) < lengths[number]
    assert {number for number, _ in starts} == {number for number, n in enumerate(lengths) if n >= longest}
    for (number, extent), segments in starts.items():
        possible = [*range(lengths[number] - extent + 1)]
        assert len(segments) == samples or samples is None
        assert len(segments) <= len(possible) or samples is not None
        found = [*chain(*segments)]
        assert (found if len(segments) <= len(possible) else sorted(set(found))) == possible  # or shared


KEYS = st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 2))  # (epoch, index, patch), some beyond the clip


@hypothesis.given(st.integers(0, 2**32), st.lists(KEYS, min_size=2, max_size=4, unique=True), st.integers(1, 3))
@hypothesis.settings(max_examples=15)
def test_a_sample_does_not_depend_on_earlier_ones(root: Path, seed: int, keys: list[tuple], stretches: int) -> None:
    options = {"degradation": Degradation([Bicubic(4), Noise()]), "seed": seed}
    data = dataset(root, cache_size=stretches, **options)
    samples = [data[key] for key in keys]
    assert all(is_equal(sample, dataset(root, **options)[key]) for key, sample in zip(keys, samples, strict=True))
    assert len({sample["inputs"].sum().item() for sample in samples}) == len(keys)


@pytest.mark.parametrize("size", [(24, 40), (40, 24)])
def test_frames_smaller_than_the_crop_are_found_before_any_is_read(size: tuple[int, int], tmp_path: Path) -> None:
    for name, shape in (("large", (64, 64)), ("small", size)):
        write_frames(tmp_path / name, 9, size=shape)
    clips = [Clip(name, tmp_path / name, stop=9) for name in ("large", "small")]
    with pytest.raises(UserError, match=rf"1 of 2 training clips .* data.crop=32: .*small \({size[1]}x{size[0]}\)"):
        dataset(tmp_path, clips)
    assert len(dataset(tmp_path, clips[:1])) > 0


def test_clips_shorter_than_a_sample_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, count in (("long", 9), ("three", 3), ("two", 2)):
        write_frames(tmp_path / name, count, size=(64, 64))
    clips = [Clip("long", tmp_path / "long"), Clip("three", tmp_path / "three"), Clip("two", tmp_path / "two", stop=2)]
    assert [clip.name for clip, _ in dataset(tmp_path, clips).clips] == ["long"]
    assert (
        "2 of 3 training clips are left out, shorter than the 7 frames of a sample: three (3); two (2)" in caplog.text
    )
