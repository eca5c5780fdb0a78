"""Evaluation clips: complete inputs and targets in constant memory, each clip on one rank."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.corruptions import Bicubic, Mpeg4, Noise
from src.data.degradation import Degradation, to_clip
from src.data.evaluation import EvaluationClip, share_of_rank
from src.data.splits import Clip
from src.errors import UserError
from src.geometry import Geometry
from tests.data.test_samples import BICUBIC, EDVR, VTSR, ZSM, average, to_levels


def evaluation(root: Path, **options: object) -> EvaluationClip:
    defaults: dict = {"geometry": ZSM, "degradation": BICUBIC}
    clip = options.pop("clip", Clip("clip", root / "clip", subset="slow"))
    return EvaluationClip(clip, **{**defaults, **options})  # type: ignore[arg-type]


def test_whole_clip(root: Path, pixels: torch.Tensor) -> None:
    clip = evaluation(root)
    whole = to_clip(pixels[:, :48, :68])
    inputs = torch.stack(list(clip.inputs()))
    assert torch.equal(inputs, BICUBIC(whole, np.random.default_rng())[::2])
    times, targets = zip(*clip.targets(), strict=True)
    assert (len(inputs), len(targets)) == (17, 33)  # the last of 34 frames follows the last odd one
    assert list(times) == ZSM.output_times(17)
    assert torch.equal(torch.stack(targets), whole[:33])
    assert (clip.frames, clip.size, clip.name, clip.subset) == (17, (48, 68), "clip", "slow")
    assert clip.fps == Fraction(25, 2)


def test_whole_clip_of_other_networks(root: Path, pixels: torch.Tensor) -> None:
    clip = evaluation(root, geometry=EDVR)
    assert [time for time, _ in clip.targets()] == list(range(34))
    assert sum(1 for _ in clip.inputs()) == 34
    plain = Geometry(1, 1, (Fraction(0),))
    clip = evaluation(root, geometry=plain, degradation=Degradation())
    assert torch.equal(torch.stack(list(clip.inputs())), to_clip(pixels))
    halves = Geometry(4, 3, (Fraction(3, 4), Fraction(5, 4)))  # VTSR's: its first output precedes the first frame
    clip = evaluation(root, geometry=halves)
    times = [time for time, _ in clip.targets()]
    assert clip.frames == 9
    assert times[:3] == [Fraction(1, 4), Fraction(3, 4), Fraction(5, 4)]
    assert max(clip.timeline.target(time) for time in times) <= 33


def test_part_of_a_clip(root: Path, pixels: torch.Tensor) -> None:
    clip = evaluation(root, max_frames=3)
    assert sum(1 for _ in clip.inputs()) == 3
    assert [time for time, _ in clip.targets()] == [Fraction(k, 2) for k in range(5)]
    clip = evaluation(root, clip=Clip("c", root / "clip", start=5, stop=30, step=3))
    targets = torch.stack([frame for _, frame in clip.targets()])
    assert torch.equal(targets, to_clip(pixels[5:30:3, :48, :68]))
    assert torch.equal(torch.stack(list(clip.inputs())), BICUBIC(targets, np.random.default_rng())[::2])
    single = evaluation(root, clip=Clip("c", root / "clip", start=33))
    assert [time for time, _ in single.targets()] == [0]
    with pytest.raises(UserError, match="has only 0 usable frames from frame 40 on, but one input frame averages 1:"):
        next(evaluation(root, clip=Clip("c", root / "clip", start=40)).inputs())


def test_targets_of_whole_windows_alone(root: Path) -> None:
    clip = evaluation(root, geometry=EDVR, max_frames=7)
    assert [time for time, _ in clip.targets(filled=False)] == [2, 3, 4]
    with pytest.raises(
        UserError, match=r"Clip clip has 4 input frames, fewer than the 5 of a window .*raise data\.test_frames"
    ):
        list(evaluation(root, geometry=EDVR, max_frames=4).targets(filled=False))


def test_noise_depends_on_the_clip(root: Path) -> None:
    noisy = Degradation([Bicubic(4), Noise()])
    first = list(evaluation(root, degradation=noisy).inputs())
    again: Iterator[torch.Tensor] = evaluation(root, degradation=noisy, max_frames=5).inputs()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=False))
    other = next(evaluation(root, degradation=noisy, clip=Clip("other", root / "clip")).inputs())
    assert not torch.equal(first[0], other)
    assert not torch.equal(first[0], next(evaluation(root, degradation=noisy, seed=1).inputs()))


def test_precomputed_frames_of_a_clip(root: Path) -> None:
    low = evaluation(root, clip=Clip("clip", root / "clip", precomputed={("bicubic",): root / "low"}))
    assert all(torch.equal(a, b) for a, b in zip(low.inputs(), evaluation(root).inputs(), strict=True))
    shifted = evaluation(
        root, clip=Clip("clip", root / "clip", precomputed={("bicubic",): root / "clip"})
    )  # another scale: not used
    assert torch.equal(next(shifted.inputs()), next(low.inputs()))


def test_real_clip(shared: Path) -> None:
    """City has 34 frames; inputs and targets are read in step, as in an evaluation."""
    clip = evaluation(shared, clip=Clip("city", shared / "data" / "vid4" / "city"), max_frames=2)
    assert clip.size == (576, 704)
    pairs = list(zip(clip.inputs(), [frame for time, frame in clip.targets() if time.denominator == 1], strict=True))
    assert len(pairs) == 2
    for image, target in pairs:
        assert torch.equal(BICUBIC(target[None], np.random.default_rng())[0], image)


def test_blurred_clip(root: Path, pixels: torch.Tensor) -> None:
    plain = Geometry(1, 1, (Fraction(0),))
    for every in (1, 2, 4):
        clip = evaluation(root, geometry=plain, degradation=Degradation(exposure=3, every=every))
        inputs, (times, targets) = list(clip.inputs()), zip(*clip.targets(), strict=True)
        assert len(inputs) == len(targets) == clip.frames == (34 - 3) // every + 1
        assert list(times) == list(range(clip.frames))
        for i, (image, target) in enumerate(zip(inputs, targets, strict=True)):
            assert torch.equal(target, to_clip(pixels[i * every + 1][None])[0])
            mean = to_clip(pixels[i * every : i * every + 3]).mean(0)
            assert (image - mean).abs().max() <= 0.5001 / 255


def test_compressed_clip_is_coded_in_groups(root: Path) -> None:
    plain = Geometry(1, 1, (Fraction(0),))
    codec = Mpeg4(6)
    clip = evaluation(root, geometry=plain, degradation=Degradation([codec]))
    inputs = torch.stack(list(clip.inputs()))
    source = torch.stack([target for _, target in clip.targets()])
    groups = [codec(group, np.random.default_rng()) for group in source.split(codec.group_size)]
    assert torch.equal(inputs, torch.cat(groups))


def test_targets_are_read_once(fast: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    clip = EvaluationClip(
        Clip("fast", fast[0], step=2), geometry=VTSR, degradation=Degradation(exposure=4), max_frames=3
    )
    assert clip.fps == Fraction(25, 2 * 4)
    reading, read = clip._read_source_frames, []
    monkeypatch.setattr(
        clip, "_read_source_frames", lambda path, sources: read.append(sources) or reading(path, sources)
    )
    truth = to_levels(torch.stack([target for _, target in clip.targets()]))
    assert np.array_equal(truth, average(fast[1][::2][:12], 2))
    assert read == [list(range(12))]


@given(st.tuples(st.integers(0, 9), st.text(max_size=3)), st.tuples(st.integers(0, 9), st.text(max_size=3)))
@settings(max_examples=15)
def test_noise_is_a_function_of_seed_clip_and_frame(root: Path, one: tuple[int, str], other: tuple[int, str]) -> None:
    """Independent of the number of frames and of earlier draws."""

    def inputs(key: tuple[int, str], frames: int) -> list[torch.Tensor]:
        seed, name = key
        clip = Clip(name, root / "clip", stop=12)
        options = {"degradation": Degradation([Noise()], every=2), "geometry": Geometry(1, 1, (Fraction(0),))}
        return [*evaluation(root, clip=clip, seed=seed, max_frames=frames, **options).inputs()]

    first, second = inputs(one, 4), inputs(other, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, inputs(one, 2), strict=False))
    assert all(torch.equal(a, b) == (one == other) for a, b in zip(first, second, strict=False))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_the_clips(world: int) -> None:
    shares = [share_of_rank(4, rank, world) for rank in range(world)]
    assert sorted(index for mine in shares for index in mine) == [0, 1, 2, 3]
    assert all(shares)


def test_more_ranks_than_clips() -> None:
    shares = [share_of_rank(3, rank, 8) for rank in range(8)]
    assert all(len(mine) == 1 for mine in shares)  # the others would wait for a rank without a clip
    assert {index for mine in shares for index in mine} == {0, 1, 2}


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=100)
def test_every_clip_is_evaluated_and_counts_once(clips: int, world: int) -> None:
    shares = [share_of_rank(clips, rank, world) for rank in range(world)]
    assert {clip for mine in shares for clip in mine} == set(range(clips))
    assert all(shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if clips >= world:
        assert sum(map(len, shares)) == clips
