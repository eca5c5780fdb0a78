"""Videos of a shutter that closes early, as if it had stayed open: frames interpolated between frames, and averaged.

VTSR (thesis, Section 4.1.2) interpolates seven frames after every frame of GoPro and DVD by Super SloMo, and averages
them with it. Here libavfilter's ``minterpolate``, compensated for motion, interpolates.

Shapes: H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from av.filter import Graph
from torch import Tensor

AHEAD = 2  # frames that the filter needs behind an interval to interpolate in it


def open_shutter(frames: Iterable[Tensor], interpolated: int) -> Iterator[Tensor]:
    """Average every frame with those interpolated between it and the next: uint8 (H, W, 3) to as many of the same.

    Args:
        frames: the frames of a video; the last stays as it is.
        interpolated: number of frames between two; 0 leaves all as they are.
    """
    if not interpolated:
        yield from frames
        return
    total: np.ndarray = np.zeros(1)
    for number, frame in enumerate(_interpolate(frames, interpolated)):
        part = number % (interpolated + 1)
        total = frame.astype(np.int64) if part == 0 else total + frame
        if part == interpolated:
            yield torch.from_numpy((total / (interpolated + 1)).round().astype(np.uint8))


def _interpolate(frames: Iterable[Tensor], interpolated: int) -> Iterator[np.ndarray]:
    """Yield every frame and those after it; after the last frame, repetitions of it."""
    graph: Graph | None = None
    frame, number = None, -1
    for number, frame in enumerate(frames):
        graph = graph or _build_graph(frame, interpolated + 1)
        yield from _pass_through(graph, frame, number)
    if graph is None or frame is None:
        return
    for repetition in range(1, AHEAD + 1):
        yield from _pass_through(graph, frame, number + repetition)


def _build_graph(frame: Tensor, factor: int) -> Graph:
    graph = Graph()
    height, width = frame.shape[:2]
    filters = [
        ("buffer", f"video_size={width}x{height}:pix_fmt=rgb24:time_base=1/1:frame_rate=1/1:pixel_aspect=1/1"),
        ("format", "yuv444p"),
        ("minterpolate", f"fps={factor}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:scd=none"),
        ("format", "rgb24"),
        ("buffersink", None),
    ]
    graph.link_nodes(*(graph.add(name, arguments) for name, arguments in filters)).configure()
    return graph


def _pass_through(graph: Graph, frame: Tensor, time: int) -> Iterator[np.ndarray]:
    """Put a frame into the graph, and yield what comes out."""
    given = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.numpy()), format="rgb24")
    given.pts, given.time_base = time, Fraction(1)
    graph.push(given)
    while True:
        try:
            made: Any = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield made.to_ndarray(format="rgb24")
