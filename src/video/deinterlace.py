"""Frames woven of two fields, taken at different times, into frames of one time each."""

from __future__ import annotations

from collections.abc import Iterator

import av


class Deinterlacer:
    """bwdif, one frame out for each frame in, of the time of its first field; frames go in and come out in order.

    A frame depends on its neighbours alone, which is why one is held back until the next has come.

    Args:
        first: a frame as all will be.
        flagged: whether frames say themselves that they are woven; those that do not then pass as they are.
    """

    def __init__(self, first: av.VideoFrame, flagged: bool) -> None:
        self._graph = graph = av.filter.Graph()
        graph.threads = 1
        shape = f"video_size={first.width}x{first.height}:pix_fmt={first.format.name}:pixel_aspect=1/1"
        meaning = f"colorspace={int(first.colorspace)}:range={int(first.color_range)}"
        source = graph.add("buffer", f"{shape}:time_base={first.time_base}:{meaning}")
        bwdif = graph.add("bwdif", f"mode=send_frame:parity=auto:deint={'interlaced' if flagged else 'all'}")
        graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()

    def __call__(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Give a frame, or None after the last, and take what is ready."""
        self._graph.push(frame)
        while True:
            try:
                yield self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
