"""Slide windows over a video of unknown length, also beyond its ends."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice
from typing import TypeVar

from src.engine.options import Edges
from src.geometry import Geometry

Frame = TypeVar("Frame")  # or anything else that is kept of one


def slide_windows(frames: Iterable[Frame], geometry: Geometry) -> Iterator[tuple[int, list[Frame]]]:
    """Slide windows of ``geometry.window`` frames over a video, so that they cover every output time.

    The last window is moved back so that it ends with the video instead of being filled up.

    Yields:
        The number, in the video, of the window's first frame (negative before its start), and the window's items.
    """
    for start, held in slide(extend(frames, geometry), geometry.window, geometry.stride):
        yield start - geometry.lead, held


def slide(items: Iterable[Frame], window: int, stride: int) -> Iterator[tuple[int, list[Frame]]]:
    """Yield every ``stride``-th window of items with the number of its first; the last window ends with them.

    Fewer items than a window yield nothing.
    """
    held: deque[Frame] = deque(maxlen=window)
    start, latest = 0, None
    for pushed, item in enumerate(items, start=1):
        held.append(item)
        start = pushed - window
        if start >= 0 and start % stride == 0:
            latest = start
            yield start, list(held)
    if start >= 0 and len(held) == window and start != latest:
        yield start, list(held)


def extend(frames: Iterable[Frame], geometry: Geometry, begin: int = 0, edges: Edges = "replicate") -> Iterator[Frame]:
    """Extend the video from ``begin`` on by the frames that windows reach beyond its ends; at least one window."""
    if edges == "none":
        yield from frames
        return
    before = max(0, geometry.lead - begin)
    frames = iter(frames)
    if not (head := list(islice(frames, before + 1 if edges == "reflect" else 1))):
        return
    yield from (_mirrored(head, before) if edges == "reflect" else head[:1] * before)
    tail: deque[Frame] = deque(maxlen=geometry.trail + 1)
    length = before
    for frame in chain(head, frames):
        length += 1
        tail.append(frame)
        yield frame
    missing = max(geometry.trail, geometry.window - length)
    yield from (reversed(_mirrored([*tail][::-1], missing)) if edges == "reflect" else [tail[-1]] * missing)


def slide_with_new_info(frames: Iterable[Frame], geometry: Geometry, begin: int) -> Iterator[tuple[int, list[Frame]]]:
    """Slide the window over a video, filling it up with the frames that follow its other end.

    Of five frames around frame 0 the window is 4, 3, 0, 1, 2; around the last, n, it is n-2, n-1, n, n-3, n-4.
    """
    held: dict[int, Frame] = {}
    next_start, count = begin - geometry.lead, locate_frame(geometry, begin, "new_info")

    def fill(start: int) -> list[Frame]:
        end = start + geometry.window - 1
        places = (end - i if i < 0 else start - (i - count) - 1 if i >= count else i for i in range(start, end + 1))
        return [held[min(max(place, 0), count - 1)] for place in places]

    for frame in frames:
        held[count] = frame
        count += 1
        while next_start + geometry.window - 1 - min(next_start, 0) < count:
            yield next_start + geometry.lead - begin, fill(next_start)
            next_start += geometry.stride
            for place in [place for place in held if place < next_start - geometry.trail]:
                del held[place]
    if not held:
        return
    last = max(0, count + geometry.lead + geometry.trail - geometry.window) - geometry.lead
    for start in [*range(next_start, last, geometry.stride), *([last] if next_start <= last else [])]:
        yield start + geometry.lead - begin, fill(start)


def measure_overhang(geometry: Geometry, edges: Edges) -> tuple[int, int]:
    """Return the number of frames by which windows reach beyond the first and the last frame of the video."""
    return (0, 0) if edges == "none" else (geometry.lead, geometry.trail)


def locate_window(geometry: Geometry, after: Fraction | None, context: int, edges: Edges) -> int:
    """Return the place, in the extended video, of the window before the first with outputs later than ``after``.

    The first alone is not enough: at the end of the video the last window is moved back.
    """
    if after is None:
        return 0
    lead = measure_overhang(geometry, edges)[0]
    beyond = math.floor((after + lead - geometry.times[-1] + context) / geometry.stride) + 1
    return max(0, beyond - 1) * geometry.stride


def locate_frame(geometry: Geometry, window: int, edges: Edges) -> int:
    """Return the number of the first frame that windows from ``window`` on, a place in the extended video, take."""
    behind = geometry.trail if edges == "new_info" else 0  # the last windows are filled up with earlier frames
    return max(0, window - measure_overhang(geometry, edges)[0] - behind)


def _mirrored(frames: list[Frame], count: int) -> list[Frame]:
    """Mirror ``count`` frames in the first; the farthest repeats if there are not enough."""
    return [frames[min(k, len(frames) - 1)] for k in range(count, 0, -1)]
