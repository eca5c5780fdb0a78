"""A video restored whole: shots apart, in tiles where memory asks for it, and going on where it was cut off.

Shapes: H, W height and width of an input frame, s the network's scale.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from src.engine.memory import WORKSPACE, peak
from src.engine.prefetch import DEPTH, prefetch
from src.engine.scenes import AHEAD, BEFORE, mark_cuts
from src.engine.stream import passes, reach, stream
from src.engine.tiles import smaller
from src.errors import UserError

# The frames (3, H, W) from a number on, RGB in [0, 1]; they are read in a thread of their own.
Source = Callable[[int], Iterable[Tensor]]


class RestoredFrame(NamedTuple):
    """An output frame."""

    time: Fraction  # in input frames
    frame: Tensor  # (3, s*H, s*W) float32, not clamped
    shot: int  # the number of the input frame that its shot begins with


def restore_scenes(
    network: nn.Module,
    source: Source,
    size: tuple[int, int],
    *,
    after: Fraction | None = None,
    shot: int = 0,
    cuts: bool = True,
    tile: int | None = None,
    overlap: int = 32,
    told: Callable[[str], None] = print,
    **options: Any,
) -> Iterator[RestoredFrame]:
    """Every output frame of a video behind ``after``.

    Shots are videos of their own: no window crosses a cut, and where an output lies between two shots the last frame
    of the first is held. Where memory does not suffice, tiles of half the side are taken from the same window on.

    Args:
        network: see :func:`src.engine.stream`.
        source: gives the frames; is asked anew wherever the restoration has to go back.
        size: ``(H, W)``.
        after: an output time; None: from the beginning.
        shot: the number of the frame that the shot begins with in which ``after`` lies.
        cuts: whether to look for cuts.
        tile, overlap: side of the tiles and what they share, in input pixels; ``tile`` None: whole frames.
        told: is told, in a sentence, when tiles become smaller.
        options: of :func:`src.engine.stream`.

    Raises:
        UserError: memory does not suffice even for the smallest tiles.
    """
    while True:
        try:
            tiles = None if tile is None else (tile, overlap)
            for item in _by_shots(network, source, after, shot, cuts, tiles=tiles, **options):
                after, shot = item.time, item.shot
                yield item
            return
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            before, tile = tile, smaller(size, tile, overlap)
            if tile is None:
                what = f"tiles of {before} pixels" if before else f"frames of {size[1]}x{size[0]}"
                raise UserError(
                    f"The memory does not suffice for {what}: choose a smaller network, or more memory, or "
                    "precision=bf16."
                ) from error
        told(f"The memory did not suffice: going on in tiles of {tile} pixels.")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def fitting_tile(network: nn.Module, size: tuple[int, int], overlap: int, memory: int) -> int | None:
    """The side of the largest tiles that a pass of ``network`` restores within ``memory`` bytes; None: whole frames."""
    geometry = passes(network, 1 if hasattr(network, "padding") else None)
    tile: int | None = None
    while True:
        height, width = (min(length, tile or length) for length in size)
        if WORKSPACE * peak(network, (1, geometry.window, 3, height, width)) <= memory:
            return tile
        if (less := smaller(size, tile, overlap)) is None:
            return tile
        tile = less


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error says so; on the CPU torch has no class for it."""
    said = ("allocate memory" in str(error)) or ("not enough memory" in str(error))
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def _by_shots(
    network: nn.Module, source: Source, after: Fraction | None, shot: int, cuts: bool, **options: Any
) -> Iterator[RestoredFrame]:
    """What :func:`restored` yields, while memory suffices."""
    some: Any = {name: options[name] for name in ("clip_length", "padding", "context") if name in options}
    geometry = passes(network, **some)
    step = geometry.spacing
    back = after if after is None or step >= 1 or geometry.exposures else after - 1  # so that there is a frame to hold
    local = None if back is None or back < shot else back - shot
    begin = shot + reach(network, local, **some)
    known = 1 if after is None else max(shot, math.floor(after)) + 1  # frames before it are not of another shot
    frames = prefetch(_marked(source, begin, known, cuts))
    following = next(frames, None)

    def of_shot() -> Iterator[Tensor]:
        nonlocal following
        while following is not None:
            _, frame, _ = following
            yield frame
            following = next(frames, None)
            if following is not None and following[2]:
                return

    last: RestoredFrame | None = None
    while following is not None:
        for time, frame in stream(network, of_shot(), after=local, **options):
            item = RestoredFrame(shot + time, frame, shot)
            while last is not None and item.time - last.time > step:
                last = last._replace(time=last.time + step)
                if after is None or last.time > after:
                    yield last
            if after is None or item.time > after:
                yield item
            last = item
        if following is not None:
            shot, local = following[0], None


def _marked(source: Source, begin: int, known: int, cuts: bool) -> Iterator[tuple[int, Tensor, bool]]:
    """Frames from ``begin`` on with their numbers, and whether a shot begins there; none does before ``known``."""
    if not cuts:
        yield from ((number, frame, False) for number, frame in enumerate(source(begin), start=begin))
        return
    first = max(0, min(begin, known - BEFORE))
    for number, (frame, cut) in enumerate(mark_cuts(source(first)), start=first):
        if number >= begin:
            yield number, frame, cut and number >= known


class Replay:
    """Frames that come once, made a :data:`Source`: the last ones are kept, so that a restoration can go back.

    Args:
        frames: the video's frames.
        kept: how many.
    """

    def __init__(self, frames: Iterable[Tensor], kept: int) -> None:
        self._frames = iter(frames)
        self._kept: deque[Tensor] = deque(maxlen=kept)
        self._count = 0

    def __call__(self, number: int) -> Iterator[Tensor]:
        oldest = self._count - len(self._kept)
        if number < oldest:
            raise RuntimeError(f"frame {number} is asked for again, those before {oldest} are not kept")
        again = list(self._kept)[number - oldest :]
        return chain(again, self._new())

    def _new(self) -> Iterator[Tensor]:
        for frame in self._frames:
            self._count += 1
            self._kept.append(frame)
            yield frame


class Recent:
    """A :data:`Source` of which the latest frames can be looked at once more, by number.

    Args:
        source: what to watch.
        window: input frames that an output frame may come late; 0: nobody is going to look, and only the last is kept.
    """

    def __init__(self, source: Source, window: int) -> None:
        self._source = source
        self._kept: deque[tuple[int, Tensor]] = deque(maxlen=window + AHEAD + 2 * DEPTH if window else 1)

    def __call__(self, number: int) -> Iterator[Tensor]:
        self._kept.clear()
        for item in enumerate(self._source(number), start=number):
            self._kept.append(item)
            yield item[1]

    def __getitem__(self, number: int) -> Tensor:
        """Frame ``number``, or the nearest that is kept."""
        return min(self._kept.copy(), key=lambda item: abs(item[0] - number))[1]
