"""Hard cuts are found, each of them and nothing else, wherever in the video one starts to look."""

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


def scene(seed: int, length: int, speed: float = 0.5, brightness: float = 1.0) -> Tensor:
    """A camera that moves ``speed`` pixels a frame to the right over blotches of colour: (T, 3, H, W)."""
    random = torch.Generator().manual_seed(seed)
    blotches = torch.rand(1, 3, 7, 40, generator=random) ** 2
    wide = F.interpolate(blotches, (H, W * 6), mode="bicubic").clamp(0, 1)[0]
    wide = (wide + 0.03 * torch.rand(wide.shape, generator=random)).clamp(0, 1) * brightness
    starts = [round(speed * i) for i in range(length)]
    return torch.stack([wide[..., start : start + W] for start in starts])


def cuts(frames: Tensor) -> list[int]:
    told = list(mark_cuts(frames))
    assert len(told) == len(frames)
    return [i for i, (_, new) in enumerate(told) if new]


@pytest.mark.parametrize("lengths", [(8, 9, 10), (3, 3, 3, 4, 5, 3), (1, 6), (6, 1), (20, 4, 3, 20)])
def test_every_join_is_a_cut(lengths: tuple[int, ...]) -> None:
    video = torch.cat([scene(seed, length) for seed, length in enumerate(lengths)])
    assert cuts(video) == list(accumulate(lengths))[:-1]


def test_dark_scenes_and_moving_ones() -> None:
    assert cuts(torch.cat([scene(1, 8, brightness=0.25), scene(2, 8, brightness=0.25)])) == [8]
    assert cuts(torch.cat([scene(3, 8, speed=4), scene(4, 8)])) == [8]


@pytest.mark.parametrize("speed", [0, 1, 5, 12])
def test_pans_are_one_shot(speed: float) -> None:
    pan = scene(1, 20, speed)
    assert cuts(torch.cat([pan[:1].expand(6, -1, -1, -1), pan, pan[-1:].expand(6, -1, -1, -1)])) == []


@pytest.mark.parametrize("at", [1, 2, 10, 17])
@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_is_no_cut(at: int, length: int) -> None:
    video = scene(1, 20)
    for flash in (torch.ones(3, H, W), video[at] * 3 + 0.2, scene(9, 1)[0], torch.zeros(3, H, W)):
        flashed = video.clone()
        flashed[at : at + length] = flash.clamp(0, 1)
        assert cuts(flashed) == []


def test_an_odd_frame_at_a_cut_counts_once() -> None:
    before, behind = scene(1, 8), scene(2, 8)
    blend = 0.6 * before[-1:] + 0.4 * behind[:1]
    assert cuts(torch.cat([before, blend, behind])) == [9]
    assert len(cuts(torch.cat([before, scene(3, 1), behind]))) == 1


@pytest.mark.parametrize("at", [6, 9])
def test_a_flash_near_a_cut(at: int) -> None:
    video = torch.cat([scene(1, 8), scene(2, 8)])
    video[at] = 1
    assert cuts(video) == [8]


def test_light_and_noise_are_no_cuts() -> None:
    video = scene(1, 24)
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    assert cuts((video + 0.1 * noise).clamp(0, 1)) == []
    for gain in (0.5, 1.4):
        exposed = video.clone()
        exposed[12:] *= gain
        assert cuts(exposed.clamp(0, 1)) == []
    fade = torch.linspace(1, 0, 12)[:, None, None, None]
    black = torch.zeros(8, 3, H, W)
    assert cuts(torch.cat([video[:12] * fade, black, video[12:] * fade.flip(0)])) == []


@pytest.mark.parametrize("times", [2, 3, 4])
def test_repeated_frames_are_no_cuts(times: int) -> None:
    assert cuts(scene(1, 12, speed=2).repeat_interleave(times, 0)) == []
    both = torch.cat([scene(1, 4, speed=2), scene(2, 4, speed=2)])
    assert cuts(both.repeat_interleave(times, 0)) == [4 * times]


def test_the_same_cuts_from_any_frame_on() -> None:
    lengths = (5, 3, 4, 1, 6, 2, 3, 7, 3)
    video = torch.cat([scene(seed, length, speed=seed / 8) for seed, length in enumerate(lengths)])
    video[28] = 1
    whole = [new for _, new in mark_cuts(video)]
    assert sum(whole) >= 5
    for start in range(len(video)):
        lead = min(start, BEFORE)
        assert [new for _, new in mark_cuts(video[start - lead :])][lead:] == whole[start:]
    for end in range(AHEAD + 1, len(video)):  # and nothing farther ahead counts
        assert [new for _, new in mark_cuts(video[:end])][:-AHEAD] == whole[: end - AHEAD]


def test_frames_pass_as_they_came_and_few_are_held() -> None:
    video = scene(1, 40)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = given = 0

    def frames():
        nonlocal most, given
        for number in range(40):
            frame = video[number].clone()
            alive.add(frame)
            given += 1
            yield frame
            del frame
            most = max(most, len(alive))

    for number, (frame, _) in enumerate(mark_cuts(frames())):
        assert given <= number + AHEAD + 1
        assert torch.equal(frame, video[number])
    assert most <= AHEAD + 3
    assert list(mark_cuts([])) == []
    assert [new for _, new in mark_cuts(scene(1, 1))] == [False]


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (1080, 1920), (1920, 1080), (480, 853), (144, 256)])
def test_frames_are_reduced(size: tuple[int, int]) -> None:
    small = downscale(torch.rand(3, *size))
    assert max(small.shape[-2:]) <= (SIDE if min(size) > 1 else 900)
    assert measure_change(small, small) == 0


def test_real_cuts(shared: Path) -> None:
    """A trip in three shots, a title burnt into all of them; the cut between the fast ones is a close call."""
    with open_video(shared / "data" / "odd" / "roadtrip_vp9_10bit_hidden_frames.webm") as video:
        told = list(mark_cuts(frame.permute(2, 0, 1) / 255 for frame in video.frames()))
    assert [i for i, (_, new) in enumerate(told) if new] in ([42], [42, 69])


def test_change_counts_as_the_published_detector_does() -> None:
    """Red to green: a third of a turn of 180 steps, over three."""
    red, green, black = (torch.zeros(3, 4, 4) for _ in range(3))
    red[0] = green[1] = 1
    assert measure_change(downscale(red), downscale(green)) == pytest.approx(60 / 255 / 3, abs=1e-5)
    assert measure_change(downscale(red), downscale(black)) == pytest.approx(1)  # value alone


def test_real_clips(shared: Path) -> None:
    """No cut inside, each join one."""
    names = ["vmaf_seeking", "davis_rollercoaster", "davis_bear", "editly_lofoten"]

    def clip(name: str) -> Tensor:
        with open_video(shared / "data" / "train" / f"{name}.mp4") as video:
            frames = [frame.permute(2, 0, 1)[None] / 255 for frame in video.frames(0, 24)]
        return torch.cat([F.interpolate(frame, (288, 512), mode="area") for frame in frames])

    clips = [clip(name) for name in names]
    assert cuts(torch.cat(clips)) == [24, 48, 72]
    for one, other in pairwise(clips):
        assert cuts(torch.cat([one[:3], other[:3], one[3:6], other[3:6]])) == [3, 6, 9]
