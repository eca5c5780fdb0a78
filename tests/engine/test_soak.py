"""The engine at length: thousands of frames, cut off again and again, take no more than tens do, and come out equal."""

from __future__ import annotations

import gc
import os
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.engine.cascade import Cascade
from src.engine.file_job import FileRestoration
from src.engine.options import InferenceOptions, RestoreOptions
from src.engine.restore_video import restore_scenes
from src.geometry import Geometry
from src.ops.allocator import give_freed_memory_back
from src.papers.baselines import Blend
from src.video.writer import write_video

CPU = torch.device("cpu")
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="counts what a process holds in /proc")


class Held(NamedTuple):
    """Memory that this process holds."""

    memory: int
    files: int
    threads: int


def held() -> Held:
    gc.collect()
    give_freed_memory_back()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(
        pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    )


def steady(course: list[Held], leak: int) -> None:
    """Asserts that after a warm-up of a quarter nothing grows, memory by no more than ``leak`` bytes."""
    warm = course[len(course) // 4 :]
    half = len(warm) // 2
    assert half > 2
    before, behind = warm[:half], warm[half:]
    assert max(h.memory for h in behind) - max(h.memory for h in before) < leak
    assert behind[-1].files <= max(h.files for h in before)
    assert behind[-1].threads <= max(h.threads for h in before)


class Film:
    """A film whose frames are a function of their number: shots of random lengths, alternately dark and bright."""

    def __init__(self, seed: int, length: int, height: int, width: int) -> None:
        rng = random.Random(seed)
        self.seed, self.length, self.height, self.width = seed, length, height, width
        self.starts = [0]
        while self.starts[-1] < length:
            self.starts.append(self.starts[-1] + rng.choice((4, 5, 9, 30, 80, 150)))

    def __call__(self, number: int) -> Iterator[Tensor]:
        """Frames (3, H, W) from a number on."""
        shot = max(k for k, start in enumerate(self.starts) if start <= number)
        texture = self._texture(shot)
        for at in range(number, self.length):
            if at == self.starts[shot + 1]:
                shot += 1
                texture = self._texture(shot)
            moved = 2 * ((at - self.starts[shot]) % 30)
            yield texture[..., moved : moved + self.width].contiguous()

    def _texture(self, shot: int) -> Tensor:
        coarse = np.random.default_rng([self.seed, shot]).random((1, 3, 4, 12), dtype=np.float32)
        wide = nn.functional.interpolate(torch.from_numpy(coarse), (self.height, self.width + 60), mode="bilinear")[0]
        return wide * 0.4 + 0.6 * (shot % 2)


class Tiny(nn.Module):
    """Twice the size, from three frames and their neighbours in space."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = Geometry(2, 3, (Fraction(1),))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(9, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1))
        self.up = nn.PixelShuffle(2)

    def forward(self, clip: Tensor) -> Tensor:
        return self.up(self.body(clip.flatten(1, 2)))[:, None]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tiny": Tiny,
    "blend": lambda: Blend(scale=1, frames=4),
    "cascade": lambda: Cascade(stages={"tiny": Tiny(), "blend": Blend(scale=1)}),
}


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length", "size", "tile"),
    [("tiny", 700, (40, 56), 0), ("blend", 900, (33, 47), 0), ("cascade", 320, (72, 100), 64)],
)
def test_thousands_of_frames_are_as_good_as_uninterrupted(
    name: str, length: int, size: tuple[int, int], tile: int
) -> None:
    film, network, rng = Film(1, length, *size), NETWORKS[name](), random.Random(name)
    options = InferenceOptions(tile=tile, overlap=16)
    whole, course, scenes = [], [], set()
    for item in restore_scenes(network, film, size, options):
        whole.append((item.time, zlib.crc32(item.frame.numpy())))
        scenes.add(item.scene)
        if len(whole) % 50 == 0:
            course.append(held())
    leak = 2 << 20  # 0.3 MB were measured; input frames of half the warm part alone would be 4 MB and more
    steady(course, leak)
    assert [time for time, _ in whole] == network.geometry.output_times(length)
    assert len(scenes) > length / 80  # cuts have been found

    again: list[tuple[Fraction, int]] = []
    after, scene, course, cut_off = None, 0, [], 0
    while len(again) < len(whole):
        left, fails_at = int(rng.expovariate(1 / 40)), rng.randrange(length) if rng.random() < 0.3 else length
        items = restore_scenes(network, failing(film, fails_at), size, options, after=after, scene=scene)
        try:
            for item in items:
                again.append((item.time, zlib.crc32(item.frame.numpy())))
                after, scene = item.time, item.scene
                left -= 1
                if left < 0:
                    cut_off += 1
                    items.close() if rng.random() < 0.5 else None
                    break
        except ConnectionError:
            cut_off += 1
        del items
        course.append(held())
    assert again == whole
    assert cut_off > 5
    steady(course, leak)


def failing(film: Film, at: int) -> Callable[[int], Iterator[Tensor]]:
    """The film, but for a frame at which it cannot be read."""

    def source(number: int) -> Iterator[Tensor]:
        for place, frame in enumerate(film(number), start=number):
            if place == at:
                raise ConnectionError("the disk is gone")
            yield frame

    return source


class Interrupted(Exception):  # noqa: N818 - what a person does
    """Somebody has had enough."""


@needs_proc
@pytest.mark.slow
def test_files_that_are_cut_off_again_and_again_are_the_same_files(tmp_path: Path) -> None:
    rng, course, cut_off, frames = random.Random(0), [], 0, 0
    for round_number in range(7):
        length, height, width = rng.randrange(150, 400), rng.randrange(16, 50), rng.randrange(16, 90)
        film, source = Film(round_number, length, height, width), tmp_path / f"in{round_number}.mkv"
        pictures = (frame.mul(255).round().byte().permute(1, 2, 0) for frame in film(0))
        write_video(source, pictures, Fraction(25), codec="lossless")
        name = rng.choice([*NETWORKS])
        options = RestoreOptions(
            codec="ffv1", segment=rng.choice((7, 24, 48)), tile=rng.choice((0, 48)), overlap=16, cuts=rng.random() < 0.8
        )
        outputs = [tmp_path / f"{kind}{round_number}.mkv" for kind in ("whole", "again")]
        for output in outputs:
            while True:
                work = FileRestoration(NETWORKS[name](), source, output, options, CPU)
                missing, left = work.journal.list_missing(work.parts), [int(rng.expovariate(1 / 120))]

                def advance(left: list[int] = left, whole: bool = output is outputs[0]) -> None:
                    left[0] -= 1
                    if left[0] < 0 and not whole:
                        raise Interrupted

                done = False
                try:
                    work.run(missing, advance)
                    work.finish()
                    done = True
                except Interrupted:
                    cut_off += 1
                shown = len(work.schedule)
                del work
                course.append(held())
                if done:
                    frames += shown
                    break
        assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert frames > 2500
    assert cut_off > 5
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # nothing is left behind
    steady(course, 12 << 20)  # 4 MB were measured, as sizes change
