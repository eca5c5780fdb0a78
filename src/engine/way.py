"""How a video is restored and shown: the options, the pace and clock of what comes out, the picture that is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from src.engine.memory import frames_within, free
from src.engine.restoration import fitting_tile
from src.engine.stream import Edges, passes
from src.engine.tiles import GRID
from src.errors import Problem
from src.geometry import Geometry
from src.ops.resize import imresize
from src.video.pixels import to_samples

STEADY = Fraction(2, 1000)  # seconds that a frame may be off its place in a steady rate: containers round to 1 ms
FINE = Fraction(1, 90000)  # seconds that times are rounded to where there is no steady rate
OVERLAP = 32  # input pixels that tiles share, where the network does not ask for more
SWEEP = Fraction(4)  # seconds that a moving divider takes from one side to the other and back


@dataclass(frozen=True, kw_only=True)
class Way:
    """How videos are restored and written; see conf/task/restore.yaml for what is not said here.

    Args:
        codec, quality, preset: see :class:`src.video.writer.VideoWriter`.
        max_frames: only so many input frames.
        memory: bytes that a pass may take; None: half of what is free.
        padding, edges, precision: see :func:`src.engine.stream.stream`.
        context: see there; for recurrent networks, whose passes become so much longer at either end.
        cuts: see :func:`src.engine.restoration.restored`.
        overlap: input pixels that tiles share; None: what the network asks for.
        tile: side of the tiles in input pixels; 0: whole frames; None: as large as memory allows.
        segment: output frames in a part: what is lost at most when a restoration is cut off.
        slow_motion: keeps the frame rate, so that a network that adds frames stretches time; without sound.
        constant_rate: frames evenly in time where the input's are not.
        deinterlace: fields become frames.
        fps: frames a second of folders of images; None: 25.
        compare: ``side`` writes input and output beside each other, ``divider`` with a divider that moves.
    """

    codec: str = "auto"
    quality: int | None = None
    preset: str | None = None
    max_frames: int | None = None
    memory: int | None = None
    padding: int | None = None
    context: int = 1
    edges: Edges = "replicate"
    precision: torch.dtype = torch.float32
    cuts: bool = True
    tile: int | None = None
    overlap: int | None = None
    segment: int = 48
    slow_motion: bool = False
    constant_rate: bool = False
    deinterlace: bool = True
    fps: float | None = None
    compare: Literal["side", "divider"] | None = None

    @property
    def rate(self) -> Fraction | None:
        """``fps`` as a fraction: 29.97 is 30000/1001."""
        if self.fps is None:
            return None
        exact = Fraction(round(self.fps * 1001), 1001)
        return exact if abs(float(exact) - self.fps) < 5e-4 and exact.numerator % 1000 == 0 else Fraction(str(self.fps))

    def plan(self) -> dict[str, Any]:
        """What the pixels and parts of an output depend on, ready for JSON."""
        options = {name: value for name, value in vars(self).items() if name not in ("memory", "tile")}
        return {**options, "precision": str(self.precision)}


class Pace(NamedTuple):
    """What a network makes of a video's time.

    Attributes:
        fps: frames a second of the output; the mean where they are not evenly spaced.
        stretch: how much longer it lasts than the input.
        lag: by how much of an input frame an output is shown before its time: an exposure from where it begins.
    """

    fps: Fraction
    stretch: Fraction
    lag: Fraction

    @classmethod
    def of(cls, geometry: Geometry, fps: Fraction, slow_motion: bool) -> Pace:
        """The pace of what is made of ``fps`` frames a second."""
        lag = geometry.exposures[0] / 2 if geometry.exposures else Fraction(0)
        if slow_motion:
            return cls(fps, 1 / geometry.spacing, lag)
        return cls(fps / geometry.spacing, Fraction(1), lag)


class Clock:
    """From output times, in input frames, to seconds since the first frame.

    Args:
        times: when input frames are shown, in seconds.
        end: when the last ends.
        fps: their rate.
    """

    def __init__(self, times: Sequence[Fraction], end: Fraction, fps: Fraction) -> None:
        self.fps = fps
        self._marks = [time - times[0] for time in (*times, end)]
        self.steady = all(abs(mark - number / fps) <= STEADY for number, mark in enumerate(self._marks[:-1]))

    def __call__(self, time: Fraction) -> Fraction:
        if self.steady:
            return time / self.fps
        below = min(max(0, int(time // 1)), len(self._marks) - 2)
        return self._marks[below] + (time - below) * (self._marks[below + 1] - self._marks[below])


def choose(network: nn.Module, size: tuple[int, int], way: Way, device: torch.device) -> dict[str, Any]:
    """What a restoration has to know beside ``way``, by the names that :func:`src.engine.restoration.restored` has.

    Returns:
        ``tile``, as memory allows, and ``overlap``; ``clip_length`` and ``context`` where passes may have any length.

    Raises:
        Problem: tiles of the size asked for would be nothing but overlap.
    """
    memory = way.memory or free(device) // 2
    modules: Any = network.modules()
    asked = max((part.overlap for part in modules if hasattr(part, "overlap")), default=OVERLAP)
    overlap = asked if way.overlap is None else way.overlap
    if way.tile and way.tile < overlap + GRID:
        raise Problem(f"tile={way.tile} is too small: it is at least {GRID} more than overlap={overlap}.")
    tile = fitting_tile(network, size, overlap, memory) if way.tile is None else way.tile or None
    geometry = passes(network)
    clip_length, context = None, 0
    if hasattr(network, "padding"):
        height, width = (min(length, tile or length) for length in size)
        clip_length = frames_within(network, height, width, memory, way.padding)
    elif geometry.elastic and geometry.window > 1:
        context = way.context
        clip_length = int((geometry.window + 2 * context - 1) / geometry.spacing) + 1
    return {"tile": tile, "overlap": overlap, "clip_length": clip_length, "context": context}


def picture(frame: Tensor, before: Tensor, time: Fraction, depth: int, way: Way) -> Tensor:
    """An output frame (3, s*H, s*W) as it is written, (s*H, s*W, 3) of ``depth`` bits; ``before`` is the input's."""
    if way.compare:
        frame = compared(imresize(before, frame.shape[-1] // before.shape[-1]), frame, time, way.compare)
    return to_samples(frame, depth)


def compared(before: Tensor, after: Tensor, time: Fraction, how: str) -> Tensor:
    """Two frames (3, H, W) in one: side by side, or with a divider that moves with the time in seconds."""
    if how == "side":
        return torch.cat([before.to(after), after], dim=-1).clamp(0, 1)
    width = after.shape[-1]
    phase = float((time + SWEEP / 4) % SWEEP) / SWEEP  # from the middle on
    place = round(width * (1 - abs(1 - 2 * phase)))
    both = torch.cat([before.to(after)[..., :place], after[..., place:]], dim=-1).clamp(0, 1)
    both[..., max(0, place - 1) : place + 1] = 1
    return both
