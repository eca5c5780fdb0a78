"""Video over pipes: read any streamable format once, in order, and write YUV4MPEG2.

Shapes: a frame is ``(H, W, 3)``, RGB, or ``(H, W, 4)`` with alpha: uint8, or uint16 with values of ``signal.depth``
bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from src.errors import VideoError
from src.video.colorspace import Signal, from_rgb, guess_matrix, has_alpha, is_transparent, to_rgb, to_rgba
from src.video.decode_timeout import Watchdog
from src.video.decoding import (
    UNCROPPED,
    UPRIGHT,
    check_pixel_limit,
    choose_stream,
    crop_and_orient,
    crop_size,
    decode,
    describe_cropping,
    describe_error,
    format_size,
    list_video_streams,
    open_input,
    read_cropping,
    read_orientation,
    wrap_decoder_errors,
)
from src.video.deinterlace import Deinterlacer
from src.video.reader import DEFAULT_FPS
from src.video.spatial import read_layout

STDIN = Path("-")


def open_pipe(
    file: BinaryIO,
    timeout: float = 60,
    fps: Fraction | None = None,
    *,
    deep: bool = False,
    deinterlace: bool = False,
    stream: int | None = None,
    alpha: bool = False,
) -> PipeReader:
    """Open a video from a pipe: y4m, Matroska, MPEG-TS and other formats with their headers at the start.

    Args:
        file: binary stream at its beginning.
        timeout, fps, deep, deinterlace, stream, alpha: as in :func:`src.video.reader.open_video`.

    Raises:
        VideoError: the input is not a video, or has no such stream.
    """
    return PipeReader(file, timeout, Fraction(fps) if fps else DEFAULT_FPS, deep, deinterlace, stream, alpha)


class PipeReader:
    """Frames of a video that can be read once, in order; their number is unknown until the end.

    Attributes:
        path: ``-``.
        name: name of the clip.
        fps: frames per second, as declared in the header.
        size: ``(height, width)`` of the frames returned.
        aspect: pixel aspect ratio, width over height.
        signal: colour description; its ``depth`` and ``alpha`` are those of the frames returned.
        has_alpha: the source has an alpha channel, whether it is returned or not.
        interlaced: frames of the source hold two fields each.
        times: presentation time of each frame yielded by :meth:`frames` so far, in seconds.
        end: end of the last of these frames, in seconds.
        notes: predicates about the source that its user needs to know: several streams, cropping.
        layout: spatial layout of the frames (360 degrees, 3D); None: flat.
    """

    path = STDIN
    name = "stdin"

    def __init__(
        self,
        file: BinaryIO,
        timeout: float,
        fps: Fraction,
        deep: bool,
        deinterlace: bool,
        number: int | None = None,
        alpha: bool = False,
    ) -> None:
        self._watchdog = watchdog = Watchdog(Path("standard input"), timeout)
        self._container, stream, choice, self._frames, first = watchdog.run(lambda: _open(file, number))
        self._stream, context = stream, stream.codec_context
        self._first: av.VideoFrame | None = first
        self._coded_size, self._orientation = (first.height, first.width), read_orientation(first)
        self._cropping = read_cropping(self._container, stream, first)
        self.notes = tuple(filter(None, (choice, describe_cropping(self._coded_size, self._cropping))))
        self._frames_flagged = bool(first.interlaced_frame)
        self._reformatter = VideoReformatter()
        transposed = bool(self._orientation[1])
        aspect = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        height, width = crop_size(self._coded_size, self._cropping)
        self.size = (width, height) if transposed else (height, width)
        self.aspect = 1 / aspect if transposed else aspect
        self.fps = Fraction(stream.average_rate or stream.guessed_rate or fps)
        self.interlaced = context.field_order > 1 or self._frames_flagged
        self.has_alpha = has_alpha(first.format) and (
            not first.format.has_palette or is_transparent(first, self._reformatter)
        )
        is_whole = (self._orientation, self._cropping) == (UPRIGHT, UNCROPPED)
        self.layout, lost = read_layout(first, is_whole)
        signal = Signal.from_frame(first, deep)
        self.signal = replace(signal, alpha=alpha and self.has_alpha, dropped=(*signal.dropped, *lost))
        self._deinterlace = deinterlace and self.interlaced
        self.times: list[Fraction] = []
        self.end = Fraction(0)

    def frames(self) -> Iterator[torch.Tensor]:
        """Yield the frames in order, ``(H, W, 3)``; can be called only once.

        Raises:
            VideoError: on reaching a frame that cannot be decoded, after all frames before it.
        """
        if self._first is None:
            raise VideoError("standard input can be read only once")
        deinterlacer: Deinterlacer | None = None
        pending: list[tuple[Fraction, Fraction]] = []  # start and end of the frames inside the deinterlacer
        for frame in self._decode_all():
            if frame is not None:
                pending.append(self._time_frame(frame, pending[-1][0] if pending else None))
            with wrap_decoder_errors("standard input"):
                if self._deinterlace and frame is not None and deinterlacer is None:
                    deinterlacer = Deinterlacer(frame, self._frames_flagged)
                ready = deinterlacer.push(frame) if deinterlacer else (frame,) if frame is not None else ()
                convert = to_rgba if self.signal.alpha else to_rgb
                converted = [convert(progressive, self.signal.depth, self._reformatter) for progressive in ready]
            for pixels in converted:
                start, self.end = pending.pop(0)
                self.times.append(start)
                yield torch.from_numpy(crop_and_orient(pixels, self._cropping, self._orientation))

    def _decode_all(self) -> Iterator[av.VideoFrame | None]:
        """Yield all frames as decoded, then None."""
        frame, self._first = self._first, None
        number = 0
        while frame is not None:
            if (frame.height, frame.width) != self._coded_size:
                change = f"from {format_size(self._coded_size)} to {format_size((frame.height, frame.width))}"
                raise VideoError(f"standard input changes {change} at frame {number}; cut it there")
            yield frame
            number += 1
            try:
                frame = self._watchdog.run(partial(next, self._frames, None))
            except VideoError as error:
                cause = describe_error(error.__cause__ or error)
                raise VideoError(f"standard input breaks at frame {number}: {cause}") from error
        yield None

    def _time_frame(self, frame: av.VideoFrame, previous: Fraction | None) -> tuple[Fraction, Fraction]:
        """Return the start and end of a frame: its timestamps, or one period after the ``previous`` start."""
        if previous is None and self.times:
            previous = self.times[-1]
        time_base = Fraction(frame.time_base or self._stream.time_base)
        start = None if frame.pts is None else frame.pts * time_base
        if start is None or (previous is not None and start <= previous):
            start = Fraction(0) if previous is None else previous + 1 / self.fps
        return start, start + (frame.duration * time_base or 1 / self.fps)

    def close(self) -> None:
        """Close the stream, unless an abandoned thread may still be decoding it."""
        if not self._watchdog.expired:
            self._container.close()

    def __enter__(self) -> PipeReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _UnseekableStream:
    """A binary stream without ``seek``, so that FFmpeg reads it forward only.

    It bypasses the lock of a buffered reader: the process could not exit while a thread waits for input inside it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.read = getattr(file, "raw", file).read


def _open(file: BinaryIO, number: int | None) -> tuple[Any, Any, str, Iterator[av.VideoFrame], av.VideoFrame]:
    """Return the container, its video stream and a note on it, the frames after the first, and the first frame."""
    container = open_input(_UnseekableStream(file))
    streams = list_video_streams(container)
    if not streams:
        raise VideoError("standard input has no readable video stream")
    # The packets, unlike in a file, are still to come.
    lengths = {s.index: (s.frames, (s.duration or 0) * Fraction(s.time_base or 1)) for s in streams}
    stream, choice = choose_stream("standard input", streams, number, lengths)
    check_pixel_limit("standard input", (stream.codec_context.height, stream.codec_context.width))
    stream.thread_type = "SLICE"
    frames = decode(container, stream)
    first = next(frames, None)
    if first is None and container.format.name.startswith("mov"):
        raise VideoError(
            "standard input cannot be decoded: the index of this MP4 or MOV follows its frames, and a pipe cannot "
            "seek; pass the file's path, or pipe the output of ffmpeg -i <file> -c copy -f matroska -"
        )
    if first is None:
        raise VideoError("standard input has no frames that can be decoded")
    return container, stream, choice, frames, first


class Y4MWriter:
    """Writes YUV4MPEG2 to a binary file: 4:4:4, with the depth, matrix and range of ``signal``; a context manager.

    The format has no field for the matrix. Readers guess it from the frame size, so RGB is converted with their guess.
    """

    def __init__(
        self,
        file: BinaryIO,
        fps: Fraction,
        *,
        aspect: Fraction | int = 1,
        signal: Signal = Signal(),  # noqa: B008 - frozen
        source_size: tuple[int, int] | None = None,
    ) -> None:
        self._file, self._fps, self._aspect = file, Fraction(fps), Fraction(aspect)
        self._signal, self._source_size = signal, source_size
        self._size: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def __enter__(self) -> Y4MWriter:
        return self

    def write(self, frame: torch.Tensor | np.ndarray, time: Fraction | None = None) -> None:
        """Append a frame, ``(H, W, 3)``, uint8 or, above 8 bits, uint16; ``time`` is ignored: the rate is constant.

        Raises:
            ValueError: wrong dtype or shape, or a size unlike the first frame's.
            VideoError: the reader has closed the pipe, or the disk is full.
        """
        pixels = np.ascontiguousarray(frame.cpu().numpy() if isinstance(frame, torch.Tensor) else frame)
        depth, signal = self._signal.depth, self._signal
        dtype = np.uint8 if depth == 8 else np.uint16
        if pixels.dtype != dtype or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"expected a frame of {np.dtype(dtype)} (H, W, 3), got {pixels.dtype} {pixels.shape}")
        if self._size not in (None, pixels.shape[:2]):
            raise ValueError(f"frame size {pixels.shape[:2]} differs from that of earlier frames, {self._size}")
        if self._size is None:
            self._signal = signal = signal.for_pixel_format("yuv444p", self._source_size, guess_matrix(pixels.shape))
        pixel_format = "yuv444p" if depth == 8 else f"yuv444p{depth}le"
        coded = from_rgb(pixels, pixel_format, signal, self._reformatter)
        try:
            if self._size is None:
                self._file.write(self._format_header(pixels.shape[0], pixels.shape[1]))
            self._file.write(b"FRAME\n")
            for plane in coded.planes:
                rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)  # type: ignore[call-overload]
                self._file.write(np.ascontiguousarray(rows[:, : plane.width * pixels.itemsize]).data)
        except OSError as error:
            raise _make_output_error(error) from error
        self._size = pixels.shape[:2]

    def _format_header(self, height: int, width: int) -> bytes:
        fps, aspect, depth = self._fps, self._aspect, self._signal.depth
        chroma = "444" if depth == 8 else f"444p{depth} XYSCSS=444P{depth}"
        color_range = {1: " XCOLORRANGE=LIMITED", 2: " XCOLORRANGE=FULL"}.get(self._signal.range, "")
        rate, ratio = f"{fps.numerator}:{fps.denominator}", f"{aspect.numerator}:{aspect.denominator}"
        return f"YUV4MPEG2 W{width} H{height} F{rate} Ip A{ratio} C{chroma}{color_range}\n".encode()

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self._file.flush()
        except OSError as error:
            with suppress(OSError):
                self._file.close()  # otherwise the interpreter flushes again at exit, and prints an error
            if kind is None:
                raise _make_output_error(error) from error


def _make_output_error(error: OSError) -> VideoError:
    if isinstance(error, BrokenPipeError):
        return VideoError("standard output was closed by its reader before the last frame; the video is incomplete")
    return VideoError(f"standard output cannot be written: {error.strerror}")
