"""A video that comes or goes through a pipe: it passes once, and nothing is kept to go on from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.engine.compare import to_picture
from src.engine.options import RestoreOptions, fit_to_memory
from src.engine.prefetch import DEPTH, BackgroundWriter
from src.engine.restore_video import Recent, Replay, restore_scenes
from src.engine.scenes import AHEAD, BEFORE
from src.engine.stream import passes, reach
from src.engine.timing import FINE, STEADY, OutputTiming
from src.errors import UserError
from src.video.colorspace import to_tensor
from src.video.pipe import PipeReader, Y4MWriter, open_pipe
from src.video.reader import FrameReader, open_video
from src.video.writer import VideoWriter

PIPE = "-"
DISTANT = 10_000  # an output time far from the beginning of any video


def restore_pipe(
    network: nn.Module, source: str, output: str, way: RestoreOptions, device: torch.device, told: Callable[[str], None]
) -> None:
    """Restores standard input (``-``, whatever FFmpeg reads without going back) or to standard output (YUV4MPEG2).

    Args:
        network: see :func:`src.engine.stream`; on ``device``, in evaluation mode.
        source, output: a file, a folder of frames, or ``-``.
        way: how; a pipe has no parts, and standard output is of one rate and without sound.
        device: of the network.
        told: is told what a person should know.

    Raises:
        UserError: standard output is to be encoded, which it is not.
    """
    coming, going = source == PIPE, output == PIPE
    if going and (way.codec, way.quality, way.preset) != ("auto", None, None):
        raise UserError(
            "Standard output is YUV4MPEG2, which has no codec, quality or preset: pipe it into ffmpeg -i -."
        )
    asked: dict[str, Any] = {"fps": way.rate, "deep": True, "deinterlace": way.deinterlace}
    reader: Any = open_pipe(sys.stdin.buffer, **asked) if coming else open_video(source, **asked)
    padding = way.padding if hasattr(network, "padding") else None
    chosen = fit_to_memory(network, reader.size, way, device)
    some: Any = {"clip_length": chosen["clip_length"], "padding": padding, "context": chosen["context"]}
    geometry = passes(network, **some)

    def frames(number: int = 0) -> Iterator[Tensor]:
        given = islice(reader.frames(), way.max_frames) if coming else reader.frames(number, way.max_frames)
        return (to_tensor(frame, reader.signal.depth).to(device) for frame in given)

    back = DISTANT - reach(network, Fraction(DISTANT), **some)
    kept = 2 * (back + geometry.window + BEFORE + AHEAD + DEPTH)
    recent = Recent(Replay(frames(), kept) if coming else frames, geometry.window if way.compare else 0)
    outputs = restore_scenes(
        network, recent, reader.size, cuts=way.cuts, tile=chosen["tile"], overlap=chosen["overlap"], told=told,
        edges=way.edges, precision=way.precision, **some,
    )  # fmt: skip
    fps, stretch, lag = OutputTiming.of(geometry, reader.fps, way.slow_motion)
    timed = (
        (
            _seconds(reader, item.time - lag) * stretch,
            to_picture(item.frame, recent[int(item.time)], item.time / reader.fps, reader.signal.depth, way),
        )
        for item in outputs
    )
    options: dict[str, Any] = {"aspect": reader.aspect, "signal": reader.signal, "source_size": reader.size}
    writer: VideoWriter | Y4MWriter
    if going:
        writer = Y4MWriter(sys.stdout.buffer, fps, **options)
    else:
        options |= {"codec": way.codec, "quality": way.quality, "preset": way.preset, "tick": FINE}
        writer = VideoWriter(Path(output).expanduser(), fps, **options)
    count = 0
    with writer, BackgroundWriter[Any](lambda item: writer.write(*item)) as behind:
        for time, frame in _steady(timed, fps) if going else timed:
            behind.put((frame,) if going else (frame, time))
            count += 1
    place = "standard output" if going else output
    told(f"{place}: {count} frames, {float(fps):.3f} a second; pictures only, as no sound comes through a pipe here")


def _seconds(reader: FrameReader | PipeReader, time: Fraction) -> Fraction:
    """When an output is shown, in seconds since the first frame, as far as a pipe has told by now."""
    times, below = reader.times, max(0, int(time // 1))

    def mark(number: int) -> Fraction:
        if number >= len(times):
            return mark(len(times) - 1) + (number - len(times) + 1) / reader.fps
        steady, told = number / reader.fps, times[number] - times[0]
        return steady if abs(steady - told) <= STEADY else told

    return mark(below) + (time - below) * (mark(below + 1) - mark(below))


def _steady(timed: Iterator[tuple[Fraction, Tensor]], fps: Fraction) -> Iterator[tuple[Fraction, Tensor]]:
    """Frames at a steady rate: at each of its moments the latest that is shown by then."""
    number, before = 0, None
    for time, frame in timed:
        while before is not None and number / fps < time - STEADY:
            yield number / fps, before
            number += 1
        before = frame
    if before is not None:
        yield number / fps, before
