"""Restore a video that comes or goes through a pipe: in one pass, with nothing to resume from."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.engine.compare import to_picture
from src.engine.file_job import prepare_network
from src.engine.losses import describe_losses
from src.engine.memory import fit_to_memory
from src.engine.options import RestoreOptions
from src.engine.prefetch import DEPTH, BackgroundWriter
from src.engine.restore_video import RecentFrames, ReplayedFrames, restore_scenes
from src.engine.scenes import AHEAD, BEFORE
from src.engine.stream import find_first_frame, resolve_passes
from src.engine.timing import FINE, STEADY, OutputTiming
from src.errors import UserError
from src.video.colorspace import to_tensor
from src.video.encoders import can_store_alpha
from src.video.pipe import PipeReader, Y4MWriter, open_pipe
from src.video.reader import FrameReader, open_video
from src.video.writer import VideoWriter
from src.wording import number_of

PIPE = "-"
DISTANT = 10_000  # an output time far from the beginning of any video


def restore_pipe(
    network: nn.Module,
    source: str,
    output: str,
    options: RestoreOptions,
    device: torch.device,
    log: Callable[[str], None],
) -> None:
    """Restore standard input (``-``, anything that FFmpeg reads without seeking) or to standard output (YUV4MPEG2).

    Args:
        network: see :func:`src.engine.stream.stream`; on ``device``, in evaluation mode.
        source, output: a file, a folder of frames, or ``-``.
        options: a pipe has no parts, and standard output has one rate and no sound.
        device: of the network.
        log: receives news for the user.

    Raises:
        UserError: a codec is requested for standard output, or options and network do not go together.
    """
    from_pipe, to_pipe = source == PIPE, output == PIPE
    if to_pipe and (options.codec, options.quality, options.preset, options.chroma) != ("auto", None, None, None):
        raise UserError(
            "Standard output is YUV4MPEG2, which has no codec, quality, preset or chroma: pipe it into ffmpeg -i -."
        )
    opening: dict[str, Any] = {"deep": True, "fps": options.rate, "deinterlace": options.deinterlace}
    alpha = options.alpha and not to_pipe and can_store_alpha(Path(output), options.codec)
    opening |= {"stream": options.stream, "alpha": alpha}
    reader: Any = open_pipe(sys.stdin.buffer, **opening) if from_pipe else open_video(source, **opening)
    network, options = prepare_network(network, options)
    options = fit_to_memory(network, options, reader.size, device, memory=options.memory_bytes)
    geometry = resolve_passes(network, options)

    def frames(number: int = 0) -> Iterator[Tensor]:
        if from_pipe:
            samples = islice(reader.frames(), options.max_frames)
        else:
            samples = reader.frames(number, options.max_frames)
        return (to_tensor(frame, reader.signal.depth).to(device) for frame in samples)

    whole = options.clip_length == "all"
    back = DISTANT - find_first_frame(network, Fraction(DISTANT), options)
    kept = None if whole else 2 * (back + geometry.window + BEFORE + AHEAD + DEPTH)
    lookback = 0 if not options.compare else None if whole else geometry.window
    recent = RecentFrames(ReplayedFrames(frames(), kept) if from_pipe else frames, lookback)
    outputs = restore_scenes(network, recent, reader.size, options, cuts=options.cuts, log=log)
    fps, stretch, lag = OutputTiming.of(geometry, reader.fps, options.slow_motion)
    timed = (
        (
            _seconds(reader, item.time - lag) * stretch,
            to_picture(
                item.frame, recent[int(item.time)], item.time / reader.fps, reader.signal.depth, options.compare
            ),
        )
        for item in outputs
    )
    writing: dict[str, Any] = {"aspect": reader.aspect, "signal": reader.signal, "source_size": reader.size}
    writer: VideoWriter | Y4MWriter
    if to_pipe:
        writer = Y4MWriter(sys.stdout.buffer, fps, **writing)
    else:
        writing |= {name: getattr(options, name) for name in ("codec", "quality", "preset", "chroma")} | {"tick": FINE}
        if reader.layout and not options.compare:
            writing["layout"] = reader.layout.enlarge(geometry.scale)
        writer = VideoWriter(Path(os.path.expanduser(output)), fps, **writing)
    names = "standard input" if from_pipe else source, "standard output" if to_pipe else output
    size = geometry.scale * reader.size[0], geometry.scale * reader.size[1] * (2 if options.compare == "side" else 1)
    for sentence in describe_losses(reader, *names, writer if isinstance(writer, VideoWriter) else None, size):
        log(sentence)
    count = 0
    with writer, BackgroundWriter[Any](lambda item: writer.write(*item)) as background:
        for time, frame in _steady(timed, fps) if to_pipe else timed:
            background.put((frame,) if to_pipe else (frame, time))
            count += 1
    log(
        f"{names[1]}: {number_of(count, 'frame')}, {float(fps):.3f} a second; pictures only, as no sound comes "
        "through a pipe here"
    )


def _seconds(reader: FrameReader | PipeReader, time: Fraction) -> Fraction:
    """Seconds from the first frame to an output, as far as a pipe has shown by now."""
    times, below = reader.times, max(0, int(time // 1))

    def mark(number: int) -> Fraction:
        if number >= len(times):
            return mark(len(times) - 1) + (number - len(times) + 1) / reader.fps
        steady, exact = number / reader.fps, times[number] - times[0]
        return steady if abs(steady - exact) <= STEADY else exact

    return mark(below) + (time - below) * (mark(below + 1) - mark(below))


def _steady(timed: Iterator[tuple[Fraction, Tensor]], fps: Fraction) -> Iterator[tuple[Fraction, Tensor]]:
    """Resample frames to a steady rate: each of its moments shows the latest frame by then."""
    number, before = 0, None
    for time, frame in timed:
        while before is not None and number / fps < time - STEADY:
            yield number / fps, before
            number += 1
        before = frame
    if before is not None:
        yield number / fps, before
