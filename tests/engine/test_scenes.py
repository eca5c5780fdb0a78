"""Exactly the hard cuts are detected, from any starting frame."""

from __future__ import annotations

import weakref
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from src.engine.scenes import AHEAD, BEFORE, SIDE, downscale, mark_cuts, measure_change
from src.video.reader import open_video

H, W = 72, 128


def make_scene(seed: int, length: int, speed: float = 0.5, brightness: float = 1.0) -> Tensor:
    """Make a pan of ``speed`` pixels per frame over blotches of colour: (T, 3, H, W)."""
    random = torch.Generator().manual_seed(seed)
    blotches = torch.rand(1, 3, 7, 40, generator=random) ** 2
    wide = F.interpolate(blotches, (H, W * 6), mode="bicubic").clamp(0, 1)[0]
    wide = (wide + 0.03 * torch.rand(wide.shape, generator=random)).clamp(0, 1) * brightness
    starts = [round(speed * i) for i in range(length)]
    return torch.stack([wide[..., start : start + W] for start in starts])


def find_cuts(frames: Tensor) -> list[int]:
    marked = list(mark_cuts(frames))
    assert len(marked) == len(frames)
    return [i for i, (_, is_new) in enumerate(marked) if is_new]


@pytest.mark.parametrize("lengths", [(8, 9, 10), (3, 3, 3, 4, 5, 3), (1, 6), (6, 1), (20, 4, 3, 20)])
def test_every_join_is_a_cut(lengths: tuple[int, ...]) -> None:
    video = torch.cat([make_scene(seed, length) for seed, length in enumerate(lengths)])
    assert find_cuts(video) == list(accumulate(lengths))[:-1]


def test_dark_scenes_and_moving_ones() -> None:
    assert find_cuts(torch.cat([make_scene(1, 8, brightness=0.25), make_scene(2, 8, brightness=0.25)])) == [8]
    assert find_cuts(torch.cat([make_scene(3, 8, speed=4), make_scene(4, 8)])) == [8]


@pytest.mark.parametrize("speed", [0, 1, 5, 12])
def test_pans_are_one_scene(speed: float) -> None:
    pan = make_scene(1, 20, speed)
    assert find_cuts(torch.cat([pan[:1].expand(6, -1, -1, -1), pan, pan[-1:].expand(6, -1, -1, -1)])) == []


@pytest.mark.parametrize("at", [1, 2, 10, 17])
@pytest.mark.parametrize("length", [1, 2])
def test_flash_is_not_a_cut(at: int, length: int) -> None:
    video = make_scene(1, 20)
    for flash in (torch.ones(3, H, W), video[at] * 3 + 0.2, make_scene(9, 1)[0], torch.zeros(3, H, W)):
        flashed = video.clone()
        flashed[at : at + length] = flash.clamp(0, 1)
        assert find_cuts(flashed) == []


def test_stray_frame_at_a_cut_counts_once() -> None:
    before, after = make_scene(1, 8), make_scene(2, 8)
    blend = 0.6 * before[-1:] + 0.4 * after[:1]
    assert find_cuts(torch.cat([before, blend, after])) == [9]
    assert len(find_cuts(torch.cat([before, make_scene(3, 1), after]))) == 1


@pytest.mark.parametrize("at", [6, 9])
def test_flash_near_a_cut(at: int) -> None:
    video = torch.cat([make_scene(1, 8), make_scene(2, 8)])
    video[at] = 1
    assert find_cuts(video) == [8]


def test_exposure_and_noise_are_not_cuts() -> None:
    video = make_scene(1, 24)
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    assert find_cuts((video + 0.1 * noise).clamp(0, 1)) == []
    for gain in (0.5, 1.4):
        exposed = video.clone()
        exposed[12:] *= gain
        assert find_cuts(exposed.clamp(0, 1)) == []
    fade = torch.linspace(1, 0, 12)[:, None, None, None]
    black = torch.zeros(8, 3, H, W)
    assert find_cuts(torch.cat([video[:12] * fade, black, video[12:] * fade.flip(0)])) == []


@pytest.mark.parametrize("times", [2, 3, 4])
def test_repeated_frames_are_not_cuts(times: int) -> None:
    assert find_cuts(make_scene(1, 12, speed=2).repeat_interleave(times, 0)) == []
    both = torch.cat([make_scene(1, 4, speed=2), make_scene(2, 4, speed=2)])
    assert find_cuts(both.repeat_interleave(times, 0)) == [4 * times]


def test_cuts_do_not_depend_on_the_starting_frame() -> None:
    lengths = (5, 3, 4, 1, 6, 2, 3, 7, 3)
    video = torch.cat([make_scene(seed, length, speed=seed / 8) for seed, length in enumerate(lengths)])
    video[28] = 1
    whole = [new for _, new in mark_cuts(video)]
    assert sum(whole) >= 5
    for start in range(len(video)):
        lead = min(start, BEFORE)
        assert [new for _, new in mark_cuts(video[start - lead :])][lead:] == whole[start:]
    for end in range(AHEAD + 1, len(video)):  # frames farther ahead have no influence
        assert [new for _, new in mark_cuts(video[:end])][:-AHEAD] == whole[: end - AHEAD]


def test_frames_pass_unchanged_and_few_are_held() -> None:
    video = make_scene(1, 40)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = read = 0

    def frames():
        nonlocal most, read
        for number in range(40):
            frame = video[number].clone()
            alive.add(frame)
            read += 1
            yield frame
            del frame
            most = max(most, len(alive))

    for number, (frame, _) in enumerate(mark_cuts(frames())):
        assert read <= number + AHEAD + 1
        assert torch.equal(frame, video[number])
    assert most <= AHEAD + 3
    assert list(mark_cuts([])) == []
    assert [new for _, new in mark_cuts(make_scene(1, 1))] == [False]


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (1080, 1920), (1920, 1080), (480, 853), (144, 256)])
def test_downscale(size: tuple[int, int]) -> None:
    small = downscale(torch.rand(3, *size))
    assert max(small.shape[-2:]) <= (SIDE if min(size) > 1 else 900)
    assert measure_change(small, small) == 0


def test_real_cuts(shared: Path) -> None:
    """A trip in three scenes with a burnt-in title; the cut between the two fast scenes is borderline."""
    with open_video(shared / "data" / "odd" / "roadtrip_vp9_10bit_hidden_frames.webm") as video:
        marked = list(mark_cuts(frame.permute(2, 0, 1) / 255 for frame in video.frames()))
    assert [i for i, (_, is_new) in enumerate(marked) if is_new] in ([42], [42, 69])


def test_change_equals_the_published_detector() -> None:
    """Red to green: a third of the 180 hue steps, averaged over three channels."""
    red, green, black = (torch.zeros(3, 4, 4) for _ in range(3))
    red[0] = green[1] = 1
    assert measure_change(downscale(red), downscale(green)) == pytest.approx(60 / 255 / 3, abs=1e-5)
    assert measure_change(downscale(red), downscale(black)) == pytest.approx(1)  # value alone


def test_real_clips(shared: Path) -> None:
    """Real clips have no cuts inside; each join is one."""
    names = ["vmaf_seeking", "davis_rollercoaster", "davis_bear", "editly_lofoten"]

    def clip(name: str) -> Tensor:
        with open_video(shared / "data" / "train" / f"{name}.mp4") as video:
            frames = [frame.permute(2, 0, 1)[None] / 255 for frame in video.frames(0, 24)]
        return torch.cat([F.interpolate(frame, (288, 512), mode="area") for frame in frames])

    clips = [clip(name) for name in names]
    assert find_cuts(torch.cat(clips)) == [24, 48, 72]
    for one, other in pairwise(clips):
        assert find_cuts(torch.cat([one[:3], other[:3], one[3:6], other[3:6]])) == [3, 6, 9]
