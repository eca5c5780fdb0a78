"""Stream a network over a whole video of any length: windows in, frames out, constant memory.

Shapes: T input frames, T' output frames, H height, W width, s scale.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial, reduce
from itertools import chain, islice, tee
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from src.engine.cascade import Cascade, apply_recursively
from src.engine.ensemble import FLIPS, apply_flip
from src.engine.options import Edges, InferenceOptions
from src.engine.tiles import Tiles
from src.geometry import Geometry
from src.nn.clips import cat_clips
from src.nn.video_network import VideoNetwork, as_video_network
from src.ops.allocator import keep_freed_memory

Frame = TypeVar("Frame")  # or anything else that is kept of one
Watch = Callable[[int, Fraction, Tensor], None]
DEFAULTS = InferenceOptions()


def stream(
    network: nn.Module,
    frames: Iterable[Tensor],
    options: InferenceOptions = DEFAULTS,
    *,
    after: Fraction | None = None,
    length: int | None = None,
    watch: Watch | None = None,
    **changes: Any,
) -> Iterator[tuple[Fraction, Tensor]]:
    """Restore a video frame by frame.

    Features that windows share (:meth:`src.nn.video_network.VideoNetwork.encode_frames`) are computed once. Stages of a
    cascade stream one after the other.

    Args:
        network: maps (1, T, 3, H, W) to (1, T', 3, s*H, s*W) as its ``geometry`` says.
        frames: the video's frames, (3, H, W) each, RGB in [0, 1]; read only as far as needed.
        options: automatic values are not resolved here (``tile=None`` means whole frames, ``clip_length="auto"`` the
            network's own length): call :func:`src.engine.memory.fit_to_memory` first.
        after: restore only later output times; ``frames`` then begin with :func:`find_first_frame`. The
            result equals that within the whole video to the last bit.
        length: number of input frames, if known: passes of networks with a temporal padding are then of about the same
            length, and ``clip_length=all`` need not collect the frames first.
        watch: called as ``(stage, time, frame)`` for every output of every stage but the last; stages count from 0,
            times are in input frames of their stage's first input.
        changes: single options instead of those in ``options``.

    Yields:
        ``(time, frame)``, time in input frames, ascending, every output time of the video exactly once; the
        frame is (3, s*H, s*W) float32, not clamped.

    Raises:
        ValueError: the options do not suit the network.
    """
    keep_freed_memory()
    options = replace(options, **changes)
    network = as_video_network(apply_recursively(network, options.factor))
    options = replace(options, factor=None)
    if options.clip_length == "all" and length is None:
        frames = list(frames)
        length = len(frames)
    geometry = resolve_passes(network, options, length)
    if options.tile:
        yield from _stream_tiles(network, frames, options, watch, after=after, length=length)
    elif options.ensemble > 1:
        yield from _stream_ensemble(network, frames, options, watch, after=after, length=length)
    elif isinstance(network, Cascade):
        yield from _stream_stages(network.networks, frames, options, watch, after, network.hand_on)
    else:
        yield from _stream_windows(network, frames, options, geometry, after)


def _stream_windows(
    network: VideoNetwork,
    frames: Iterable[Tensor],
    options: InferenceOptions,
    geometry: Geometry,
    after: Fraction | None,
) -> Iterator[tuple[Fraction, Tensor]]:
    """Slide the window over features of frames, each computed once."""
    context = _discarded_frames(options)
    passes = _run_passes(network, frames, options, geometry, after)
    if network.average_overlaps:
        yield from _average_overlaps(passes, geometry)
    else:
        yield from _keep_first(passes, geometry, after, context)


def _run_passes(
    network: VideoNetwork,
    frames: Iterable[Tensor],
    options: InferenceOptions,
    geometry: Geometry,
    after: Fraction | None,
) -> Iterator[tuple[int, list[tuple[Fraction, Tensor]]]]:
    """Yield the first input frame and the outputs of each pass, those within the video and later than ``after``."""
    decode: Any = network.decode_window
    if options.padding is not None:
        decode = partial(decode, padding=options.padding)
    lead = _overhang(geometry, options.edges)[0]
    begin = _first_window(geometry, after, _discarded_frames(options), options.edges)
    total = _first_frame(geometry, begin, options.edges)

    def counted() -> Iterator[Tensor]:
        nonlocal total
        for frame in frames:
            total += 1
            yield frame[None, None]

    def infer(function: Any, *clips: Tensor) -> Any:
        with torch.inference_mode(), torch.autocast(clips[0].device.type, options.dtype, options.precision != "32"):
            return function(*clips)

    def encoded(frames: Iterable[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        previous: list[Tensor] = []
        features: tuple[Tensor, ...] = ()
        for _, neighbours in _slide(frames, network.encode_window, 1):
            if [*map(id, neighbours)] != [*map(id, previous)]:  # frames beyond the ends of the video repeat
                features = infer(network.encode_frames, cat_clips(neighbours))
            previous = neighbours
            yield features

    if options.edges == "new_info":
        windows = _slide_with_new_info(encoded(counted()), geometry, begin)
    else:
        extended = _extended(counted(), geometry, begin, options.edges)
        windows = _slide(encoded(extended), geometry.window - network.encode_window + 1, geometry.stride)
    for number, window in windows:
        start = begin + number - lead
        if after is not None and start + geometry.times[-1] <= after:
            continue
        restored = infer(decode, *map(cat_clips, zip(*window, strict=True)))[0].float()
        earliest, latest = geometry.span(total, filled=options.edges != "none")
        outputs = [
            (start + time, frame)
            for time, frame in zip(geometry.times, restored, strict=True)
            if earliest <= start + time <= latest and (after is None or start + time > after)
        ]
        yield start, outputs
        del restored, outputs  # before the next pass allocates its memory


def _keep_first(
    passes: Iterable[tuple[int, list[tuple[Fraction, Tensor]]]],
    geometry: Geometry,
    after: Fraction | None,
    context: int,
) -> Iterator[tuple[Fraction, Tensor]]:
    """Of an output that several passes make, keep the first, but none within ``context`` of a pass that is not last."""
    last = after
    tail: list[tuple[Fraction, Tensor]] = []  # replaced by the next pass, if there is one
    for start, outputs in passes:
        new = [item for item in outputs if last is None or item[0] > last]
        tail = [item for item in new if item[0] > start + geometry.times[-1] - context]
        for item in new[: len(new) - len(tail)]:
            last = item[0]
            yield item
        del new, outputs
    yield from tail


def _average_overlaps(
    passes: Iterable[tuple[int, list[tuple[Fraction, Tensor]]]], geometry: Geometry
) -> Iterator[tuple[Fraction, Tensor]]:
    """Average each output over the passes that make it."""
    sums: dict[Fraction, Tensor] = {}
    counts: dict[Fraction, int] = {}
    for start, outputs in passes:
        for time, frame in outputs:
            sums[time] = sums[time] + frame if time in sums else frame
            counts[time] = counts.get(time, 0) + 1
        del outputs
        complete = start + 1 + geometry.times[0]  # the next pass begins one frame later or more
        for time in sorted(time for time in sums if time < complete):
            yield time, sums.pop(time) / counts.pop(time)
    for time in sorted(sums):
        yield time, sums[time] / counts[time]


def resolve_passes(network: nn.Module, options: InferenceOptions = DEFAULTS, length: int | None = None) -> Geometry:
    """Return the geometry of the passes in which :func:`stream` restores a video of ``length`` frames.

    Raises:
        ValueError: the options do not suit the network.
    """
    network = as_video_network(network)
    geometry, context = network.geometry, _discarded_frames(options)
    if options.padding is not None:
        if network.temporal_padding is None:
            raise ValueError("this network has no temporal padding, so padding must be null")
        geometry = geometry.padded(options.padding)
    if options.edges == "new_info" and network.encode_window > 1:
        raise ValueError("this network encodes several frames together, so edges=new_info is impossible")
    outputs = None if isinstance(options.clip_length, str) else options.clip_length
    if options.clip_length == "all":
        if not geometry.elastic:
            raise ValueError(
                f"this network's window is fixed at {geometry.window} frames, so clip_length=all is impossible"
            )
        outputs = _outputs_of_whole_clip(geometry, length)
    elif network.temporal_padding is not None and length is not None:  # passes of about equal length
        outputs = math.ceil(length / math.ceil(length / (outputs or len(geometry.times))))
    elif outputs is None and context and geometry.elastic:
        outputs = int((geometry.window + 2 * context - 1) / geometry.spacing) + 1
    geometry = geometry if outputs is None else geometry.lengthened(outputs)
    if context and geometry.stride <= 2 * context:
        raise ValueError(f"context={context} is too large for passes that advance by {geometry.stride} frames")
    return replace(geometry, stride=geometry.stride - 2 * context)


def _discarded_frames(options: InferenceOptions) -> int:
    """Input frames at either end of a pass whose outputs are discarded; a single pass keeps all."""
    return 0 if options.clip_length == "all" else options.context


def _outputs_of_whole_clip(geometry: Geometry, length: int | None) -> int | None:
    """Output frames of one pass over a whole clip; None (the network's own) if one frame is too short for a pass."""
    if not length or (length == 1 and geometry.spacing < 1):
        return None
    return int((length - 1) / geometry.spacing) + 1


def find_first_frame(
    network: nn.Module, after: Fraction | None, options: InferenceOptions = DEFAULTS, **changes: Any
) -> int:
    """Return the number of the first input frame that :func:`stream` needs for output times later than ``after``."""
    options = replace(options, **changes)
    network = as_video_network(apply_recursively(network, options.factor))
    if after is None or options.clip_length == "all":
        return 0
    if isinstance(network, Cascade):
        return _first_frames(network.networks, after, options.edges)[0]
    geometry = resolve_passes(network, replace(options, factor=None))
    return _first_frame(geometry, _first_window(geometry, after, options.context, options.edges), options.edges)


def _overhang(geometry: Geometry, edges: Edges) -> tuple[int, int]:
    """Frames by which windows reach beyond the first and the last frame of the video."""
    return (0, 0) if edges == "none" else (geometry.lead, geometry.trail)


def _first_window(geometry: Geometry, after: Fraction | None, context: int, edges: Edges) -> int:
    """Place, in the extended video, of the window before the first with outputs later than ``after``.

    The first alone is not enough: at the end of the video the last window is moved back.
    """
    if after is None:
        return 0
    lead = _overhang(geometry, edges)[0]
    beyond = math.floor((after + lead - geometry.times[-1] + context) / geometry.stride) + 1
    return max(0, beyond - 1) * geometry.stride


def _first_frame(geometry: Geometry, window: int, edges: Edges) -> int:
    """Number of the first frame that windows from ``window`` on, a place in the extended video, take."""
    behind = geometry.trail if edges == "new_info" else 0  # the last windows are filled up with earlier frames
    return max(0, window - _overhang(geometry, edges)[0] - behind)


# --- side by side: tiles, self-ensemble ------------------------------------------------------------------------------


def _stream_tiles(
    network: VideoNetwork, frames: Iterable[Tensor], options: InferenceOptions, watch: Watch | None, **place: Any
) -> Iterator[tuple[Fraction, Tensor]]:
    frames = iter(frames)
    if (first := next(frames, None)) is None:
        return
    overlap = network.tile_overlap if options.overlap is None else options.overlap
    layout = Tiles(first.shape[-2:], options.tile or 0, overlap)
    cuts = [partial(layout.cut, number=number) for number in range(len(layout))]
    options = replace(options, tile=0)
    yield from _side_by_side(network, chain([first], frames), cuts, layout.join, options, watch, **place)


def _stream_ensemble(
    network: VideoNetwork, frames: Iterable[Tensor], options: InferenceOptions, watch: Watch | None, **place: Any
) -> Iterator[tuple[Fraction, Tensor]]:
    flips = FLIPS[options.ensemble]

    def average(copies: Sequence[Tensor]) -> Tensor:
        total = sum(apply_flip(copy, flip, inverse=True) for flip, copy in zip(flips, copies, strict=True))
        return torch.as_tensor(total) / len(flips)

    turns = [partial(apply_flip, flip=flip) for flip in flips]
    yield from _side_by_side(network, frames, turns, average, replace(options, ensemble=1), watch, **place)


def _side_by_side(
    network: VideoNetwork,
    frames: Iterable[Tensor],
    views: Sequence[Callable[[Tensor], Tensor]],
    merge: Callable[[Sequence[Tensor]], Tensor],
    options: InferenceOptions,
    watch: Watch | None,
    **place: Any,
) -> Iterator[tuple[Fraction, Tensor]]:
    """Stream several views of a video in step and merge each output frame, those of earlier stages, too."""
    seen: list[deque[tuple[int, Fraction, Tensor]]] = [deque() for _ in views]
    runs = [
        stream(
            network, map(view, copy), options, watch=(lambda *item, to=to: to.append(item)) if watch else None, **place
        )
        for view, copy, to in zip(views, tee(frames, len(views)), seen, strict=True)
    ]

    def report() -> None:
        while watch and all(seen):
            items = [queue.popleft() for queue in seen]
            watch(items[0][0], items[0][1], merge([frame for *_, frame in items]))

    for restored in zip(*runs, strict=True):
        report()
        yield restored[0][0], merge([frame for _, frame in restored])
    report()


# --- cascades --------------------------------------------------------------------------------------------------------


def _stream_stages(
    stages: Sequence[VideoNetwork],
    frames: Iterable[Tensor],
    options: InferenceOptions,
    watch: Watch | None,
    after: Fraction | None,
    hand_on: Callable[[Tensor], Tensor],
) -> Iterator[tuple[Fraction, Tensor]]:
    """Stream each stage over the frames of the one before it."""
    options = InferenceOptions(edges=options.edges, precision=options.precision)
    *before, last = stages
    if not before:
        yield from stream(last, frames, options, after=after)
        return
    origin, step = _time_base(before, options.edges)
    after_in_last = None if after is None else (after - origin) / step
    first = _frame_time(before, find_first_frame(last, after_in_last, options) - 1, options.edges)

    def restored() -> Iterator[Tensor]:
        for time, frame in _stream_stages(before, frames, options, watch, first, hand_on):
            if watch:
                watch(len(before) - 1, time, frame)
            yield hand_on(frame)

    for time, frame in stream(last, restored(), options, after=after_in_last):
        yield origin + time * step, frame


def _first_frames(stages: Sequence[VideoNetwork], after: Fraction | None, edges: Edges) -> list[int]:
    """Return the number of the first input frame that each stage of a cascade needs to resume after ``after``."""
    *before, last = stages
    if not before or after is None:
        return [find_first_frame(stage, after, edges=edges) for stage in stages]
    origin, step = _time_base(before, edges)
    number = find_first_frame(last, (after - origin) / step, edges=edges)
    return [*_first_frames(before, _frame_time(before, number - 1, edges), edges), number]


def _first_output(stages: Sequence[VideoNetwork], edges: Edges) -> tuple[Geometry, Fraction]:
    """Return the geometry of stages one after the other, and the time of their first output."""
    geometry = reduce(Geometry.then, map(resolve_passes, stages))
    return geometry, geometry.span(1, filled=edges != "none")[0]


def _time_base(stages: Sequence[VideoNetwork], edges: Edges) -> tuple[Fraction, Fraction]:
    """Return (offset, step) of a stage after others: its input frame n lies at offset + n * step of their time."""
    geometry, first = _first_output(stages, edges)
    step = geometry.spacing
    return (first - step / 2 if geometry.exposures else first), step


def _frame_time(stages: Sequence[VideoNetwork], number: int, edges: Edges) -> Fraction | None:
    """Return the time of output frame ``number`` of a cascade; None before the first."""
    geometry, first = _first_output(stages, edges)
    return first + number * geometry.spacing if number >= 0 else None


# --- windows ---------------------------------------------------------------------------------------------------------


def slide_windows(frames: Iterable[Frame], geometry: Geometry) -> Iterator[tuple[int, list[Frame]]]:
    """Slide windows of ``geometry.window`` frames over a video, so that they cover every output time.

    The last window is moved back so that it ends with the video instead of being filled up.

    Yields:
        The number, in the video, of the window's first frame (negative before its start), and the window's items.
    """
    for start, held in _slide(_extended(frames, geometry), geometry.window, geometry.stride):
        yield start - geometry.lead, held


def _slide(items: Iterable[Frame], window: int, stride: int) -> Iterator[tuple[int, list[Frame]]]:
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


def _extended(
    frames: Iterable[Frame], geometry: Geometry, begin: int = 0, edges: Edges = "replicate"
) -> Iterator[Frame]:
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


def _slide_with_new_info(frames: Iterable[Frame], geometry: Geometry, begin: int) -> Iterator[tuple[int, list[Frame]]]:
    """Slide the window over a video, filling it up with the frames that follow its other end.

    Of five frames around frame 0 the window is 4, 3, 0, 1, 2; around the last, n, it is n-2, n-1, n, n-3, n-4.
    """
    held: dict[int, Frame] = {}
    next_start, count = begin - geometry.lead, _first_frame(geometry, begin, "new_info")

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


def _mirrored(frames: list[Frame], count: int) -> list[Frame]:
    """Mirror ``count`` frames in the first; the farthest repeats if there are not enough."""
    return [frames[min(k, len(frames) - 1)] for k in range(count, 0, -1)]
