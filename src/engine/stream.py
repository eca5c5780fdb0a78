"""One way to run a network over a whole video, whatever its length: windows in, frames out, constant memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial, reduce
from itertools import chain, tee
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from src.engine.ensemble import FLIPS, turn
from src.engine.memory import frames_within
from src.geometry import Geometry

Frame = TypeVar("Frame")  # or whatever is kept of one


def stream(
    network: nn.Module,
    frames: Iterable[Tensor],
    *,
    clip_length: int | None = None,
    padding: int | None = None,
    length: int | None = None,
    memory: int | None = None,
    copies: int = 1,
    watch: Callable[[int, Fraction, Tensor], None] | None = None,
) -> Iterator[tuple[Fraction, Tensor]]:
    """Restores a video frame by frame.

    Args:
        network: maps (1, T, 3, H, W) to (1, T', 3, s*H, s*W) as its ``geometry`` says. Where it has
            ``frame_features`` and ``restore`` (the former computes of each frame alone, or of every ``feature_window``
            neighbouring ones, what the latter makes a window's output of), features are computed once and kept for as
            long as a window needs them. Where it has ``stages``, they stream one behind the other.
        frames: the video's frames, (3, H, W) each, RGB in [0, 1]; read only as far as needed.
        clip_length: output frames of one pass, for networks that take windows of any length; by default the
            network's own.
        padding: input frames on either side of those, for networks that have such a ``padding``; by default their own.
        length: of the video, where it is known: networks that have a ``padding`` then make no longer passes, and
            passes of about the same length.
        memory: bytes that a pass may take: networks that have a ``padding`` then restore as many frames in one pass as
            fit, unless ``clip_length`` says how many.
        copies: flipped and turned copies whose mean is the result (see :mod:`src.engine.ensemble`).
        watch: is told what each stage but the last restores: its number, and what is yielded of the last.

    Yields:
        ``(time, frame)``, time in input frames, ascending, every output time of the video exactly once; the
        frame is (3, s*H, s*W) float32, not clamped.
    """
    if memory is not None and clip_length is None and hasattr(network, "padding"):
        frames = iter(frames)
        if (first := next(frames, None)) is None:
            return
        height, width = first.shape[-2:]
        clip_length = frames_within(network, height, width, memory, padding)
        frames = chain([first], frames)
    if length is not None and hasattr(network, "padding"):
        most = clip_length or len(passes(network).times)
        clip_length = math.ceil(length / math.ceil(length / most))
    geometry = passes(network, clip_length, padding)
    if copies > 1:
        yield from _together(network, frames, copies, clip_length=clip_length, padding=padding)
        return
    if stages := list(getattr(network, "stages", {}).values()):
        yield from _stages(stages, frames, watch)
        return
    separable = hasattr(network, "frame_features")
    encode: Any = network.frame_features if separable else lambda clip: (clip,)
    restore: Any = network.restore if separable else network
    if padding is not None:
        restore = partial(restore, padding=padding)
    seen: int = getattr(network, "feature_window", 1)  # frames that features are made of
    total = 0

    def counted() -> Iterator[Tensor]:
        nonlocal total
        for total, frame in enumerate(frames, start=1):  # noqa: B007 - the count is what is wanted
            yield frame[None, None]

    def encoded() -> Iterator[tuple[Tensor, ...]]:
        before: list[Tensor] = []
        features: tuple[Tensor, ...] = ()
        for _, some in _slide(_extended(counted(), geometry), seen, 1):
            if [*map(id, some)] != [*map(id, before)]:  # beyond the ends of the video frames are repeated
                with torch.inference_mode():
                    features = encode(torch.cat(some, dim=1))
            before = some
            yield features

    last: Fraction | None = None
    for number, window in _slide(encoded(), geometry.window - seen + 1, geometry.stride):
        start = number - geometry.lead
        with torch.inference_mode():
            restored = restore(*(torch.cat(parts, dim=1) for parts in zip(*window, strict=True)))[0].float()
        earliest, latest = geometry.span(total)
        for time, frame in zip((start + t for t in geometry.times), restored, strict=True):
            if earliest <= time <= latest and (last is None or time > last):
                last = time
                yield time, frame
        del restored, frame  # before the next pass takes its memory


def passes(network: nn.Module, clip_length: int | None = None, padding: int | None = None) -> Geometry:
    """The geometry of the passes in which :func:`stream` restores.

    Raises:
        ValueError: the network cannot take such passes.
    """
    geometry: Geometry = network.geometry  # type: ignore[assignment]
    if padding is not None:
        if not hasattr(network, "padding"):
            raise ValueError("this network has no padding in time to choose")
        geometry = geometry.padded(padding)
    return geometry if clip_length is None else geometry.lengthened(clip_length)


def _together(
    network: nn.Module, frames: Iterable[Tensor], copies: int, **passes: Any
) -> Iterator[tuple[Fraction, Tensor]]:
    """A self-ensemble: all copies of the video side by side."""
    flips = FLIPS[copies]
    runs = [
        stream(network, map(partial(turn, flip=flip), some), **passes)
        for flip, some in zip(flips, tee(frames, copies), strict=True)
    ]
    for restored in zip(*runs, strict=True):
        total = sum(turn(frame, flip, back=True) for flip, (_, frame) in zip(flips, restored, strict=True))
        yield restored[0][0], torch.as_tensor(total) / copies


def _stages(
    stages: list[nn.Module], frames: Iterable[Tensor], watch: Callable[[int, Fraction, Tensor], None] | None
) -> Iterator[tuple[Fraction, Tensor]]:
    """A cascade: each stage streams over what the one before it restores."""
    *before, last = stages
    if not before:
        yield from stream(last, frames)
        return
    origin: list[Fraction] = []  # where, in input frames, the time of the last stage begins
    exposed = passes(last).exposures is not None
    step = reduce(Geometry.then, map(passes, before)).spacing

    def given() -> Iterator[Tensor]:
        for time, frame in _stages(before, frames, watch):
            if not origin:
                origin.append(time - step / 2 if exposed else time)
            if watch:
                watch(len(before) - 1, time, frame)
            yield frame

    for time, frame in stream(last, given()):
        yield origin[0] + time * step, frame


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


def _extended(frames: Iterable[Frame], geometry: Geometry) -> Iterator[Frame]:
    """The video with its first and last frame repeated where windows reach beyond it, and at least one window long."""
    length, frame = 0, None
    for frame in frames:
        for _ in range(1 + (geometry.lead if length == 0 else 0)):
            length += 1
            yield frame
    if frame is not None:
        for _ in range(max(geometry.trail, geometry.window - length)):
            yield frame
