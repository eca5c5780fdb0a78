"""One way to run a network over a whole video, whatever its length: windows in, frames out, constant memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial, reduce
from itertools import chain, islice, tee
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from src.engine.ensemble import FLIPS, turn
from src.engine.memory import frames_within
from src.engine.tiles import Tiles
from src.geometry import Geometry
from src.nn.clips import cat_clips
from src.ops.allocator import keep_freed_memory

Edges = Literal["replicate", "reflect"]
Frame = TypeVar("Frame")  # or whatever is kept of one


def stream(
    network: nn.Module,
    frames: Iterable[Tensor],
    *,
    after: Fraction | None = None,
    clip_length: int | None = None,
    padding: int | None = None,
    context: int = 0,
    length: int | None = None,
    memory: int | None = None,
    edges: Edges = "replicate",
    copies: int = 1,
    tiles: tuple[int, int] | None = None,
    precision: torch.dtype = torch.float32,
    watch: Callable[[int, Fraction, Tensor], None] | None = None,
) -> Iterator[tuple[Fraction, Tensor]]:
    """Restores a video frame by frame.

    Args:
        network: maps (1, T, 3, H, W) to (1, T', 3, s*H, s*W) as its ``geometry`` says. Where it has
            ``frame_features`` and ``restore`` (the former computes of each frame alone, or of every ``feature_window``
            neighbouring ones, what the latter makes a window's output of), features are computed once and kept for as
            long as a window needs them. Where it has ``stages``, they stream one behind the other.
        frames: the video's frames, (3, H, W) each, RGB in [0, 1]; read only as far as needed.
        after: only what lies behind that output time; ``frames`` then begin with number ``reach(network, after)``. What
            is restored is what it would be within the whole video, to the last bit.
        clip_length: output frames of one pass, for networks that take windows of any length; by default the
            network's own.
        padding: input frames on either side of those, for networks that have such a ``padding``; by default their own.
        context: input frames at either end of a pass whose outputs are dropped, since the neighbouring pass, which
            overlaps it so much more, knows them better: recurrent networks then show no seam.
        length: of the video, where it is known: networks that have a ``padding`` then make no longer passes, and
            passes of about the same length.
        memory: bytes that a pass may take: networks that have a ``padding`` then restore as many frames in one pass as
            fit, unless ``clip_length`` says how many.
        edges: what lies beyond the first and the last frame: that frame again, or the video mirrored in it.
        copies: flipped and turned copies whose mean is the result (see :mod:`src.engine.ensemble`).
        tiles: side of the square tiles that are restored one by one, and how many pixels neighbouring ones share at
            least (see :mod:`src.engine.tiles`), in input pixels; None: whole frames.
        precision: what autocast computes in.
        watch: is told what each stage but the last restores: its number, and what is yielded of the last.

    Yields:
        ``(time, frame)``, time in input frames, ascending, every output time of the video exactly once; the
        frame is (3, s*H, s*W) float32, not clamped.
    """
    keep_freed_memory()
    options: dict[str, Any] = {"after": after, "edges": edges, "precision": precision, "context": context}
    if memory is not None and clip_length is None and hasattr(network, "padding"):
        frames = iter(frames)
        if (first := next(frames, None)) is None:
            return
        height, width = first.shape[-2:]
        clip_length = frames_within(network, height, width, memory, padding)
        frames = chain([first], frames)
    clip_length = even(network, length, clip_length)
    geometry = passes(network, clip_length, padding, context)
    if tiles is not None:
        yield from _tiled(network, frames, tiles, clip_length=clip_length, padding=padding, copies=copies, **options)
        return
    if copies > 1:
        yield from _together(network, frames, copies, clip_length=clip_length, padding=padding, **options)
        return
    if stages := list(getattr(network, "stages", {}).values()):
        yield from _stages(stages, frames, watch, **options)
        return
    separable = hasattr(network, "frame_features")
    encode: Any = network.frame_features if separable else lambda clip: (clip,)
    restore: Any = network.restore if separable else network
    if padding is not None:
        restore = partial(restore, padding=padding)
    seen: int = getattr(network, "feature_window", 1)  # frames that features are made of
    begin = _begin(geometry, after, context)
    total = max(0, begin - geometry.lead)

    def counted() -> Iterator[Tensor]:
        nonlocal total
        for frame in frames:
            total += 1
            yield frame[None, None]

    def computed(function: Any, *clips: Tensor) -> Any:
        with torch.inference_mode(), torch.autocast(clips[0].device.type, precision, precision != torch.float32):
            return function(*clips)

    def encoded() -> Iterator[tuple[Tensor, ...]]:
        before: list[Tensor] = []
        features: tuple[Tensor, ...] = ()
        for _, some in _slide(_extended(counted(), geometry, begin, edges), seen, 1):
            if [*map(id, some)] != [*map(id, before)]:  # beyond the ends of the video frames are repeated
                features = computed(encode, cat_clips(some))
            before = some
            yield features

    last = after
    tail: list[tuple[Fraction, Tensor]] = []  # what the next pass gives instead, if there is one
    for number, window in _slide(encoded(), geometry.window - seen + 1, geometry.stride):
        start = begin + number - geometry.lead
        if last is not None and start + geometry.times[-1] <= last:
            continue
        restored = computed(restore, *map(cat_clips, zip(*window, strict=True)))[0].float()
        earliest, latest = geometry.span(total)
        new = [
            (start + time, frame)
            for time, frame in zip(geometry.times, restored, strict=True)
            if earliest <= start + time <= latest and (last is None or start + time > last)
        ]
        tail = [item for item in new if item[0] > start + geometry.times[-1] - context]
        for item in new[: len(new) - len(tail)]:
            last = item[0]
            yield item
        del restored, new  # before the next pass takes its memory
    yield from tail


def passes(
    network: nn.Module, clip_length: int | None = None, padding: int | None = None, context: int = 0
) -> Geometry:
    """The geometry of the passes in which :func:`stream` restores.

    Raises:
        ValueError: the network cannot take such passes.
    """
    geometry: Geometry = network.geometry  # type: ignore[assignment]
    if padding is not None:
        if not hasattr(network, "padding"):
            raise ValueError("this network has no padding in time to choose")
        geometry = geometry.padded(padding)
    geometry = geometry if clip_length is None else geometry.lengthened(clip_length)
    if context and geometry.stride <= 2 * context:
        raise ValueError(f"passes that move on by {geometry.stride} frames cannot drop {context} at either end")
    return replace(geometry, stride=geometry.stride - 2 * context)


def even(network: nn.Module, length: int | None, most: int | None) -> int | None:
    """The output frames of one pass, at most ``most``, such that passes over ``length`` frames are about equal."""
    if length is None or not hasattr(network, "padding"):
        return most
    return math.ceil(length / math.ceil(length / (most or len(passes(network).times))))


def reach(
    network: nn.Module,
    after: Fraction | None,
    clip_length: int | None = None,
    padding: int | None = None,
    context: int = 0,
) -> int:
    """The number of the first input frame that :func:`stream` needs for what lies behind the output time ``after``."""
    if after is None:
        return 0
    if stages := list(getattr(network, "stages", {}).values()):
        return _needed(stages, after)[0]
    geometry = passes(network, clip_length, padding, context)
    return max(0, _begin(geometry, after, context) - geometry.lead)


def _begin(geometry: Geometry, after: Fraction | None, context: int) -> int:
    """Where, in the extended video, the window begins before the first that has outputs behind ``after``.

    That window itself is not enough: at the end of the video the last window is moved back.
    """
    if after is None:
        return 0
    beyond = math.floor((after + geometry.lead - geometry.times[-1] + context) / geometry.stride) + 1
    return max(0, beyond - 1) * geometry.stride


def _needed(stages: list[nn.Module], after: Fraction | None) -> list[int]:
    """The number of the first frame that each stage of a cascade has to be given, to go on behind ``after``."""
    *before, last = stages
    if not before or after is None:
        return [reach(stage, after) for stage in stages]
    origin, step = _clock(before)
    number = reach(last, (after - origin) / step)
    return [*_needed(before, _time(before, number - 1)), number]


def _clock(stages: list[nn.Module]) -> tuple[Fraction, Fraction]:
    """Where the time of a stage behind others begins, and how long its input frames are, in their input frames."""
    geometry = reduce(Geometry.then, map(passes, stages))
    first, step = geometry.span(1)[0], geometry.spacing
    return (first - step / 2 if geometry.exposures else first), step


def _time(stages: list[nn.Module], number: int) -> Fraction | None:
    """When the output frame ``number`` of a cascade lies; None for what is before the first."""
    geometry = reduce(Geometry.then, map(passes, stages))
    return geometry.span(1)[0] + number * geometry.spacing if number >= 0 else None


def _tiled(
    network: nn.Module, frames: Iterable[Tensor], tiles: tuple[int, int], **options: Any
) -> Iterator[tuple[Fraction, Tensor]]:
    """All tiles of the video side by side."""
    frames = iter(frames)
    if (first := next(frames, None)) is None:
        return
    layout = Tiles(first.shape[-2:], *tiles)
    copies = tee(chain([first], frames), len(layout))
    runs = [
        stream(network, map(partial(layout.cut, number=number), some), **options) for number, some in enumerate(copies)
    ]
    for restored in zip(*runs, strict=True):
        yield restored[0][0], layout.join([tile for _, tile in restored])


def _together(
    network: nn.Module, frames: Iterable[Tensor], copies: int, **options: Any
) -> Iterator[tuple[Fraction, Tensor]]:
    """A self-ensemble: all copies of the video side by side."""
    flips = FLIPS[copies]
    runs = [
        stream(network, map(partial(turn, flip=flip), some), **options)
        for flip, some in zip(flips, tee(frames, copies), strict=True)
    ]
    for restored in zip(*runs, strict=True):
        total = sum(turn(frame, flip, back=True) for flip, (_, frame) in zip(flips, restored, strict=True))
        yield restored[0][0], torch.as_tensor(total) / copies


def _stages(
    stages: list[nn.Module],
    frames: Iterable[Tensor],
    watch: Callable[[int, Fraction, Tensor], None] | None,
    *,
    after: Fraction | None,
    context: int = 0,
    **options: Any,
) -> Iterator[tuple[Fraction, Tensor]]:
    """A cascade: each stage streams over what the one before it restores."""
    *before, last = stages
    if not before:
        yield from stream(last, frames, after=after, **options)
        return
    origin, step = _clock(before)
    behind = None if after is None else (after - origin) / step
    first = _time(before, reach(last, behind) - 1)

    def given() -> Iterator[Tensor]:
        for time, frame in _stages(before, frames, watch, after=first, **options):
            if watch:
                watch(len(before) - 1, time, frame)
            yield frame

    for time, frame in stream(last, given(), after=behind, **options):
        yield origin + time * step, frame


def windows(frames: Iterable[Frame], geometry: Geometry) -> Iterator[tuple[int, list[Frame]]]:
    """Windows of ``geometry.window`` frames that together cover every output time of a video.

    The last window is moved back so that it ends with the video instead of being filled up.

    Yields:
        The number, in the video, of the window's first frame (negative for one before its start), and what was given
        for the frames.
    """
    for start, held in _slide(_extended(frames, geometry), geometry.window, geometry.stride):
        yield start - geometry.lead, held


def _slide(items: Iterable[Frame], window: int, stride: int) -> Iterator[tuple[int, list[Frame]]]:
    """Every ``stride``-th stretch of ``window`` items with the number of its first; the last stretch ends with them."""
    held: deque[Frame] = deque(maxlen=window)
    start, latest = 0, None
    for pushed, item in enumerate(items, start=1):
        held.append(item)
        start = pushed - window
        if start >= 0 and start % stride == 0:
            latest = start
            yield start, list(held)
    if held and start != latest:
        yield start, list(held)


def _extended(
    frames: Iterable[Frame], geometry: Geometry, begin: int = 0, edges: Edges = "replicate"
) -> Iterator[Frame]:
    """The video from ``begin`` on and what windows reach beyond its ends; at least one window long."""
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
    behind = max(geometry.trail, geometry.window - length)
    yield from (reversed(_mirrored([*tail][::-1], behind)) if edges == "reflect" else [tail[-1]] * behind)


def _mirrored(frames: list[Frame], count: int) -> list[Frame]:
    """``count`` frames before the first, mirrored in it; the farthest again where there are not enough."""
    return [frames[min(k, len(frames) - 1)] for k in range(count, 0, -1)]
