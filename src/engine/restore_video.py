"""Restore a whole video: scene by scene, in tiles where memory runs out, and from any frame on.

Networks restore colours. Alpha, the fourth channel of frames that have one, is enlarged by bicubic interpolation, and
blended between frames at output times between them.

Shapes: H, W height and width of an input frame, s the network's scale.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.engine.options import InferenceOptions
from src.engine.prefetch import DEPTH, prefetch
from src.engine.scenes import AHEAD, BEFORE, mark_cuts
from src.engine.stream import DEFAULTS, find_first_frame, resolve_passes, stream
from src.engine.tiles import shrink_side
from src.errors import UserError
from src.nn.video_network import as_video_network
from src.ops.resize import imresize

# The frames (3 or 4, H, W) from a number on, RGB or RGBA in [0, 1]; they are read in a thread of their own.
Source = Callable[[int], Iterable[Tensor]]


class RestoredFrame(NamedTuple):
    """An output frame."""

    time: Fraction  # in input frames
    frame: Tensor  # (3 or 4, s*H, s*W) float32, not clamped
    scene: int  # number of its scene's first input frame


def restore_scenes(
    network: nn.Module,
    source: Source,
    size: tuple[int, int],
    options: InferenceOptions = DEFAULTS,
    *,
    after: Fraction | None = None,
    scene: int = 0,
    cuts: bool = True,
    log: Callable[[str], None] = print,
) -> Iterator[RestoredFrame]:
    """Restore every output frame of a video later than ``after``.

    Scenes are videos of their own: no window crosses a cut, and an output time between two scenes shows the last frame
    of the first. Where memory runs out, tiles of half the side continue from the same window.

    Args:
        network: see :func:`src.engine.stream.stream`.
        source: ``source(n)`` iterates the frames from number n on; called again after memory ran out.
        size: ``(H, W)``.
        options: fitted to memory (:func:`src.engine.memory.fit_to_memory`).
        after: an output time; None: from the beginning.
        scene: number of the first frame of the scene that contains ``after``.
        cuts: whether to look for cuts.
        log: receives a sentence when tiles become smaller.

    Yields:
        Each output frame once, in ascending time.

    Raises:
        UserError: memory does not suffice even for the smallest tiles.
    """
    while True:
        try:
            for item in _by_scenes(network, source, options, after, scene, cuts):
                after, scene = item.time, item.scene
                yield item
            return
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            overlap = as_video_network(network).tile_overlap if options.overlap is None else options.overlap
            side, tile = options.tile, shrink_side(size, options.tile or None, overlap)
            if tile is None:
                area = f"tiles of {side} pixels" if side else f"frames of {size[1]}x{size[0]}"
                raise UserError(
                    f"Out of memory even with {area}: use a smaller network, more memory, or precision=bf16."
                ) from error
            options = replace(options, tile=tile)
        log(f"Out of memory: continuing in tiles of {tile} pixels.")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error; on the CPU torch raises a plain RuntimeError."""
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "allocate memory" in text or "not enough memory" in text
    )


def _by_scenes(
    network: nn.Module, source: Source, options: InferenceOptions, after: Fraction | None, scene: int, cuts: bool
) -> Iterator[RestoredFrame]:
    """The frames of :func:`restore_scenes` while memory suffices."""
    geometry = resolve_passes(network, options)
    step = geometry.spacing
    # one frame earlier, so that an output between two scenes can repeat the one before it
    resume_after = after if after is None or step >= 1 or geometry.exposures else after - 1
    in_scene = None if resume_after is None or resume_after < scene else resume_after - scene
    begin = scene + find_first_frame(network, in_scene, options)
    first_cut = 1 if after is None else max(scene, math.floor(after)) + 1  # earlier cuts are known from ``scene``
    frames = prefetch(_number_frames(source, begin, first_cut, cuts))
    following = next(frames, None)
    scale = as_video_network(network).geometry.scale
    alphas: dict[int, Tensor] = {}  # of the scene's frames, by number

    def of_scene() -> Iterator[Tensor]:
        nonlocal following
        alphas.clear()
        while following is not None:
            number, frame, _ = following
            if len(frame) == 4:
                alphas[number] = frame[3:]
            yield frame[:3]
            following = next(frames, None)
            if following is not None and following[2]:
                return

    last: RestoredFrame | None = None
    while following is not None:
        for time, frame in stream(network, of_scene(), options, after=in_scene):
            if alphas:
                frame = torch.cat([frame, _restore_alpha(alphas, scene + time, scale).to(frame)])
            item = RestoredFrame(scene + time, frame, scene)
            while last is not None and item.time - last.time > step:
                last = last._replace(time=last.time + step)
                if after is None or last.time > after:
                    yield last
            if after is None or item.time > after:
                yield item
            last = item
        if following is not None:
            scene, in_scene = following[0], None


def _restore_alpha(alphas: dict[int, Tensor], time: Fraction, scale: int) -> Tensor:
    """Return the alpha (1, s*H, s*W) at an output time; forget that of frames before it."""
    before = min(math.floor(time), max(alphas))
    after = min(math.ceil(time), max(alphas))
    for number in [number for number in alphas if number < before]:
        del alphas[number]
    alpha = torch.lerp(alphas[before], alphas[after], float(time - before)) if after > before else alphas[before]
    return alpha if scale == 1 else imresize(alpha, scale)


def _number_frames(source: Source, begin: int, first_cut: int, cuts: bool) -> Iterator[tuple[int, Tensor, bool]]:
    """Yield number, frame, and whether a scene begins there, from ``begin`` on; none begins before ``first_cut``."""
    if not cuts:
        yield from ((number, frame, False) for number, frame in enumerate(source(begin), start=begin))
        return
    first = max(0, min(begin, first_cut - BEFORE))
    for number, (frame, cut) in enumerate(mark_cuts(source(first)), start=first):
        if number >= begin:
            yield number, frame, cut and number >= first_cut


class ReplayedFrames:
    """A :data:`Source` of frames that come only once: it keeps the last ones, so that a restoration can go back.

    Args:
        frames: the video's frames.
        kept: number of frames to keep; None: all.
    """

    def __init__(self, frames: Iterable[Tensor], kept: int | None) -> None:
        self._frames = iter(frames)
        self._kept: deque[Tensor] = deque(maxlen=kept)
        self._count = 0

    def __call__(self, number: int) -> Iterator[Tensor]:
        oldest = self._count - len(self._kept)
        if number < oldest:
            raise RuntimeError(f"frame {number} is requested again, but those before {oldest} are not kept")
        kept = list(self._kept)[number - oldest :]
        return chain(kept, self._new())

    def _new(self) -> Iterator[Tensor]:
        for frame in self._frames:
            self._count += 1
            self._kept.append(frame)
            yield frame


class RecentFrames:
    """A :data:`Source` that keeps its latest frames for a second look, by number.

    Args:
        source: the frames.
        max_delay: input frames by which an output may lag behind the newest frame read; 0: keep one frame; None: all.
    """

    def __init__(self, source: Source, max_delay: int | None) -> None:
        self._source = source
        kept = None if max_delay is None else max_delay + AHEAD + 2 * DEPTH if max_delay else 1
        self._kept: deque[tuple[int, Tensor]] = deque(maxlen=kept)

    def __call__(self, number: int) -> Iterator[Tensor]:
        self._kept.clear()
        for item in enumerate(self._source(number), start=number):
            self._kept.append(item)
            yield item[1]

    def __getitem__(self, number: int) -> Tensor:
        """Return frame ``number``, or the nearest that is kept."""
        return min(self._kept.copy(), key=lambda item: abs(item[0] - number))[1]
