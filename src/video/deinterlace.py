"""Deinterlacing: progressive frames from frames that hold two fields of different times."""

from __future__ import annotations

from collections.abc import Iterator

import av


class Deinterlacer:
    """FFmpeg's bwdif filter: one output per input frame, at the time of its first field, in order.

    A frame depends on its neighbours, so the output is one frame behind the input.

    Args:
        first: a frame with the format of all frames.
        frames_flagged: frames carry an interlacing flag; those not flagged then pass unchanged.
    """

    def __init__(self, first: av.VideoFrame, frames_flagged: bool) -> None:
        self._graph = graph = av.filter.Graph()
        graph.threads = 1
        shape = f"video_size={first.width}x{first.height}:pix_fmt={first.format.name}:pixel_aspect=1/1"
        color = f"colorspace={int(first.colorspace)}:range={int(first.color_range)}"
        source = graph.add("buffer", f"{shape}:time_base={first.time_base}:{color}")
        selection = "interlaced" if frames_flagged else "all"
        bwdif = graph.add("bwdif", f"mode=send_frame:parity=auto:deint={selection}")
        graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()

    def push(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Push a frame, or None after the last; yield the frames that are complete."""
        self._graph.push(frame)
        while True:
            try:
                yield self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
