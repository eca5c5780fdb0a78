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
from itertools import chain, tee
from typing import Any

import torch
from torch import Tensor, nn

from src.engine.cascade import Cascade, apply_recursively
from src.engine.ensemble import FLIPS, apply_flip
from src.engine.options import Edges, InferenceOptions
from src.engine.tiles import Tiles
from src.engine.windows import extend, locate_frame, locate_window, measure_overhang, slide, slide_with_new_info
from src.geometry import Geometry
from src.nn.clips import cat_clips
from src.nn.video_network import VideoNetwork, as_video_network
from src.ops.allocator import keep_freed_memory

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
    cascade, and rounds of ``factor``, stream one after the other, each with an ensemble of its own: the next one gets
    the mean of the copies, as from a file (EDVR's published tests).

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
    elif isinstance(network, Cascade):  # before the ensemble: each stage has its own
        yield from _stream_stages(network.networks, frames, options, watch, after, network.hand_on)
    elif options.ensemble > 1:
        yield from _stream_ensemble(network, frames, options, watch, after=after, length=length)
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
    lead = measure_overhang(geometry, options.edges)[0]
    begin = locate_window(geometry, after, _discarded_frames(options), options.edges)
    total = locate_frame(geometry, begin, options.edges)

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
        for _, neighbours in slide(frames, network.encode_window, 1):
            if [*map(id, neighbours)] != [*map(id, previous)]:  # frames beyond the ends of the video repeat
                features = infer(network.encode_frames, cat_clips(neighbours))
            previous = neighbours
            yield features

    if options.edges == "new_info":
        windows = slide_with_new_info(encoded(counted()), geometry, begin)
    else:
        extended = extend(counted(), geometry, begin, options.edges)
        windows = slide(encoded(extended), geometry.window - network.encode_window + 1, geometry.stride)
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
    return locate_frame(geometry, locate_window(geometry, after, options.context, options.edges), options.edges)


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
    options = InferenceOptions(edges=options.edges, ensemble=options.ensemble, precision=options.precision)
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
