"""How a video is restored and shown: the options, the pace and clock of what comes out, the picture that is written."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import nn

from src.engine.memory import frames_within, free
from src.engine.restore_video import fitting_tile
from src.engine.stream import Edges, passes
from src.engine.tiles import GRID
from src.errors import UserError

OVERLAP = 32  # input pixels that tiles share, where the network does not ask for more


@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """How videos are restored and written; see conf/task/restore.yaml for what is not said here.

    Args:
        codec, quality, preset: see :class:`src.video.writer.VideoWriter`.
        max_frames: only so many input frames.
        memory: bytes that a pass may take; None: half of what is free.
        padding, edges, precision: see :func:`src.engine.stream`.
        context: see there; for recurrent networks, whose passes become so much longer at either end.
        cuts: see :func:`src.engine.restore_video.restore_scenes`.
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


def fit_to_memory(
    network: nn.Module, size: tuple[int, int], way: RestoreOptions, device: torch.device
) -> dict[str, Any]:
    """What a restoration has to know beside ``way``, by the names of ``restore_scenes``' arguments.

    Returns:
        ``tile``, as memory allows, and ``overlap``; ``clip_length`` and ``context`` where passes may have any length.

    Raises:
        UserError: tiles of the size asked for would be nothing but overlap.
    """
    memory = way.memory or free(device) // 2
    modules: Any = network.modules()
    asked = max((part.overlap for part in modules if hasattr(part, "overlap")), default=OVERLAP)
    overlap = asked if way.overlap is None else way.overlap
    if way.tile and way.tile < overlap + GRID:
        raise UserError(f"tile={way.tile} is too small: it is at least {GRID} more than overlap={overlap}.")
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
