"""Options of running a network over a video: one set for scores and for restored files alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Ge, Gt

from src.errors import UserError

Edges = Literal["replicate", "reflect", "new_info", "none"]
UNPLANNED = ("memory", "tile")  # the tiles that they lead to are stored in the journal instead
PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Options of running a network over a whole video.

    Args:
        clip_length: output frames of one pass, for networks that accept windows of any length; ``all``: one pass over
            the whole clip; ``auto``: as many as memory allows, for networks with a temporal padding; None: its own.
        padding: input frames of context on either side of a pass, if the network has a temporal padding; None: its own.
        context: input frames at either end of a pass whose outputs are discarded in favour of the neighbouring pass's,
            so that recurrent networks show no seam. With ``clip_length=None`` passes become longer by twice as many.
        edges: frames of windows that reach beyond the first or the last frame: ``replicate`` repeats it, ``reflect``
            mirrors the video, ``new_info`` takes the frames that follow the window's other end (EDVR's published
            tests); ``none``: such windows are left out, and with them the outputs that no whole window makes.
        ensemble: flipped and transposed copies of the input whose results are averaged: 1 (none), 2, 4 or 8; in a
            cascade after every stage.
        factor: output frames for each input frame, by applying the network to its own output (VTSR); None: once.
        tile: side of square tiles in input pixels; 0: whole frames; None: as large as memory allows.
        overlap: input pixels that neighbouring tiles share; None: as many as the network needs.
        precision: the type of autocast, ``32``, ``bf16`` or ``16``.

    Raises:
        UserError: options contradict each other or are out of range.
    """

    clip_length: Annotated[int, Ge(1)] | Literal["all", "auto"] | None = None
    padding: Annotated[int, Ge(0)] | None = None
    context: Annotated[int, Ge(0)] = 0
    edges: Edges = "replicate"
    ensemble: Literal[1, 2, 4, 8] = 1
    factor: Annotated[int, Ge(2)] | None = None
    tile: Annotated[int, Ge(0)] | None = 0
    overlap: Annotated[int, Ge(0)] | None = None
    precision: Literal["32", "bf16", "16"] = "32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", str(self.precision))  # YAML reads 32 as a number
        for name, valid, expected in self._rules():
            if not valid:
                raise UserError(self._message(name, expected))

    def _message(self, name: str, expected: str) -> str:
        return f"{name}={getattr(self, name)!r} is not valid: it must be {expected}."

    def _rules(self) -> list[tuple[str, bool, str]]:
        """Name, validity and valid values of each option that Python code might get wrong."""
        length = self.clip_length in (None, "all", "auto") or is_whole(self.clip_length, 1)
        return [
            ("clip_length", length, "a number of frames, all, auto, or null"),
            ("padding", self.padding is None or is_whole(self.padding, 0), "a number of frames, 0 or more, or null"),
            ("context", is_whole(self.context, 0), "a number of frames, 0 or more"),
            ("edges", self.edges in get_args(Edges), ", ".join(get_args(Edges)[:-1]) + f" or {get_args(Edges)[-1]}"),
            ("ensemble", is_whole(self.ensemble, 1) and self.ensemble in (1, 2, 4, 8), "1, 2, 4 or 8"),
            ("factor", self.factor is None or is_whole(self.factor, 2), "a number of frames, 2 or more, or null"),
            ("tile", self.tile is None or is_whole(self.tile, 0), "a number of pixels, 0 or more, or null"),
            ("overlap", self.overlap is None or is_whole(self.overlap, 0), "a number of pixels, 0 or more, or null"),
            ("precision", self.precision in PRECISIONS, "32, bf16 or 16"),
        ]

    @property
    def dtype(self) -> torch.dtype:
        """The type of autocast."""
        return PRECISIONS[self.precision]


@dataclass(frozen=True, kw_only=True)
class RestoreOptions(InferenceOptions):
    """Options of restoring and writing a video.

    ``padding`` is ignored unless the network has a temporal padding, ``context`` unless it is recurrent (passes of any
    length, a window of several frames, no temporal padding).

    Args:
        codec, quality, preset, chroma: see :class:`src.video.writer.VideoWriter`.
        compare: ``side`` writes input and output beside each other, ``divider`` with a divider that moves.
        slow_motion: keep the frame rate, so that a network that adds frames stretches time; without sound.
        constant_rate: space frames evenly in time where the input's are not.
        deinterlace: turn fields into frames.
        fps: frames per second of folders of images; None: 25.
        max_frames: restore only the first input frames.
        cuts: keep windows within scenes, and hold a frame across a cut.
        memory: GiB that a pass may take; None: half of the free memory.
        alpha: keep the input's alpha channel where the output can store one.
        stream: index of the input's video stream in its container, where there are several; None: the main one.
        segment: output frames per part; an interrupted restoration resumes with the first missing part.
    """

    clip_length: Annotated[int, Ge(1)] | Literal["all", "auto"] | None = "auto"
    padding: Annotated[int, Ge(0)] | None = 8
    context: Annotated[int, Ge(0)] = 1
    edges: Literal["replicate", "reflect", "new_info"] = "replicate"  # a restored video keeps its ends
    tile: Annotated[int, Ge(0)] | None = None
    codec: str = "auto"
    quality: int | None = None
    preset: str | int | None = None
    chroma: Literal["420", "422", "444", "source"] | None = None
    compare: Literal["side", "divider"] | None = None
    slow_motion: bool = False
    constant_rate: bool = False
    deinterlace: bool = True
    fps: Annotated[float, Gt(0)] | None = None
    max_frames: Annotated[int, Ge(1)] | None = None
    cuts: bool = True
    memory: Annotated[float, Gt(0)] | None = None
    alpha: bool = True
    stream: Annotated[int, Ge(0)] | None = None
    segment: Annotated[int, Ge(1)] = 48

    def __post_init__(self) -> None:
        if self.chroma is not None:
            object.__setattr__(self, "chroma", str(self.chroma))  # YAML reads 420 as a number
        super().__post_init__()

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes."""
        return None if self.memory is None else int(self.memory * 2**30)

    @property
    def rate(self) -> Fraction | None:
        """``fps`` as a fraction: 29.97 is 30000/1001."""
        if self.fps is None:
            return None
        exact = Fraction(round(self.fps * 1001), 1001)
        return exact if abs(float(exact) - self.fps) < 5e-4 and exact.numerator % 1000 == 0 else Fraction(str(self.fps))

    def plan(self) -> Mapping[str, Any]:
        """The options that the pixels and parts of an output depend on, ready for JSON."""
        return {name: getattr(self, name) for name in RestoreOptions.__dataclass_fields__ if name not in UNPLANNED}


def is_whole(value: Any, least: int) -> bool:
    """Return whether a value is a whole number of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
