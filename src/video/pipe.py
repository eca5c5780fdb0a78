"""Video through pipes: read once and forwards, and written as YUV4MPEG2, which many programs read.

Shapes: a frame is ``(H, W, 3)``, RGB, uint8, or uint16 with values of ``signal.depth`` bits.
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
from src.video.colorspace import Signal, from_rgb, guessed, to_rgb
from src.video.decode_timeout import Watch
from src.video.deinterlace import Deinterlacer
from src.video.probe import check_pixels, decoded, dimensions, in_words, open_input, turn_of
from src.video.reader import DEFAULT_FPS, turned

STDIN = Path("-")


def open_pipe(
    file: BinaryIO, timeout: float = 60, fps: Fraction | None = None, *, deep: bool = False, deinterlace: bool = False
) -> PipeReader:
    """Open a video that comes through a pipe: y4m, Matroska, MPEG-TS and whatever else tells what it is at its head.

    Args:
        file: what to read bytes from; nothing has been read from it yet.
        timeout, fps, deep, deinterlace: as in :func:`src.video.reader.open_video`.

    Raises:
        VideoError: no video comes.
    """
    return PipeReader(file, timeout, Fraction(fps) if fps else DEFAULT_FPS, deep, deinterlace)


class PipeReader:
    """Frames of a video that comes once, in order. How many there are, nobody knows before the last.

    Attributes:
        path: ``-``.
        name: what to call the clip.
        fps: frames a second, as declared at the head of the stream.
        size: ``(height, width)`` of a frame as returned.
        aspect: width of a pixel as shown over its height.
        signal: what the samples mean; its ``depth`` is that of the frames returned.
        interlaced: whether frames are woven of two fields.
        times: when each frame that :meth:`frames` has given so far is shown, in seconds.
        end: when the last of these ends, in seconds.
    """

    path = STDIN
    name = "stdin"

    def __init__(self, file: BinaryIO, timeout: float, fps: Fraction, deep: bool, deinterlace: bool) -> None:
        self._watch = watch = Watch(Path("standard input"), timeout)
        self._container, self._stream, self._frames, first = watch(lambda: _head(file))
        context, stream = self._stream.codec_context, self._stream
        self._first: av.VideoFrame | None = first
        self._stored, self._turn = (first.height, first.width), turn_of(first)
        self._flagged = bool(first.interlaced_frame)
        self._convert = VideoReformatter()
        sideways = bool(self._turn[1])
        aspect = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        self.size = (first.width, first.height) if sideways else (first.height, first.width)
        self.aspect = 1 / aspect if sideways else aspect
        self.fps = Fraction(stream.average_rate or stream.guessed_rate or fps)
        self.interlaced = context.field_order > 1 or self._flagged
        signal = Signal.of(first, deep=True)
        self.signal = signal if deep else replace(signal, depth=8)
        self._unweave = deinterlace and self.interlaced
        self.times: list[Fraction] = []
        self.end = Fraction(0)

    def frames(self) -> Iterator[torch.Tensor]:
        """The frames one after another, ``(H, W, 3)``; once only.

        Raises:
            VideoError: on reaching what cannot be decoded, after all that precedes it.
        """
        if self._first is None:
            raise VideoError("standard input was read already, and comes only once")
        sieve = Deinterlacer(self._first, self._flagged) if self._unweave else None
        pending: list[tuple[Fraction, Fraction]] = []  # when frames begin and end that the sieve holds
        for frame in self._decoded():
            if frame is not None:
                pending.append(self._timed(frame, pending[-1][0] if pending else None))
            clear = sieve(frame) if sieve else (frame,) if frame is not None else ()
            for picture in clear:
                begin, self.end = pending.pop(0)
                self.times.append(begin)
                pixels = to_rgb(picture, self.signal.depth, self._convert)
                yield torch.from_numpy(turned(pixels, self._turn))

    def _decoded(self) -> Iterator[av.VideoFrame | None]:
        """All frames as decoded, and then None."""
        frame, self._first = self._first, None
        number = 0
        while frame is not None:
            if (frame.height, frame.width) != self._stored:
                change = f"from {dimensions(self._stored)} to {dimensions((frame.height, frame.width))}"
                raise VideoError(f"standard input changes {change} at frame {number}; cut it there")
            yield frame
            number += 1
            try:
                frame = self._watch(partial(next, self._frames, None))
            except VideoError as error:
                raise VideoError(
                    f"standard input breaks at frame {number}: {in_words(error.__cause__ or error)}"
                ) from error
        yield None

    def _timed(self, frame: av.VideoFrame, before: Fraction | None) -> tuple[Fraction, Fraction]:
        """When a frame begins and ends: as it says, or else one period after the one ``before``."""
        if before is None and self.times:
            before = self.times[-1]
        base = Fraction(frame.time_base or self._stream.time_base)
        begin = None if frame.pts is None else frame.pts * base
        if begin is None or (before is not None and begin <= before):
            begin = Fraction(0) if before is None else before + 1 / self.fps
        return begin, begin + (frame.duration * base or 1 / self.fps)

    def close(self) -> None:
        """Let go of the stream."""
        if not self._watch.lost:  # a decoder that hangs is still in it
            self._container.close()

    def __enter__(self) -> PipeReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Forwards:
    """A stream that FFmpeg cannot seek in, and reads from as bytes come.

    Without the lock of a buffered reader, which a process could not leave while a thread waits in it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.read = getattr(file, "raw", file).read


def _head(file: BinaryIO) -> tuple[Any, Any, Iterator[av.VideoFrame], av.VideoFrame]:
    container = open_input(_Forwards(file))
    cover = av.stream.Disposition.attached_pic  # a picture beside the sound, not a video
    streams = [s for s in container.streams.video if s.codec_context and not s.disposition & cover]
    if not streams:
        raise VideoError("standard input has no video stream that can be read")
    stream = streams[0]
    check_pixels("standard input", (stream.codec_context.height, stream.codec_context.width))
    stream.thread_type = "SLICE"
    frames = decoded(container, stream)
    first = next(frames, None)
    if first is None and container.format.name.startswith("mov"):
        raise VideoError(
            "standard input holds no frames that can be decoded: the index of such a file lies behind its pictures, "
            "where no pipe goes back to; give the file itself, or ffmpeg -i <file> -c copy -f matroska - |"
        )
    if first is None:
        raise VideoError("standard input holds no frames that can be decoded")
    return container, stream, frames, first


def y4m_writer(
    file: BinaryIO,
    fps: Fraction,
    *,
    aspect: Fraction | int = 1,
    signal: Signal = Signal(),  # noqa: B008 - frozen
    source_size: tuple[int, int] | None = None,
) -> Y4MWriter:
    """A writer of YUV4MPEG2 to ``file``, for a ``with`` statement: 4:4:4 of the depth, matrix and range of ``signal``.

    Which matrix that is the format cannot say: whoever reads it goes by the size, by which RGB is therefore written.
    """
    return Y4MWriter(file, Fraction(fps), Fraction(aspect), signal, source_size)


class Y4MWriter:
    """See :func:`y4m_writer`."""

    def __init__(
        self, file: BinaryIO, fps: Fraction, aspect: Fraction, signal: Signal, source_size: tuple[int, int] | None
    ) -> None:
        self._file, self._fps, self._aspect = file, fps, aspect
        self._signal, self._source_size = signal, source_size
        self._size: tuple[int, int] | None = None
        self._convert = VideoReformatter()

    def __enter__(self) -> Y4MWriter:
        return self

    def write(self, frame: torch.Tensor | np.ndarray, time: Fraction | None = None) -> None:
        """Add a frame, ``(H, W, 3)``, uint8 or, beyond 8 bits, uint16; ``time`` is not kept, there is only a rate.

        Raises:
            ValueError: not such a frame, or not of the first one's size.
            VideoError: nobody reads any more, or the disk is full.
        """
        pixels = np.ascontiguousarray(frame.cpu().numpy() if isinstance(frame, torch.Tensor) else frame)
        depth, signal = self._signal.depth, self._signal
        kind = np.uint8 if depth == 8 else np.uint16
        if pixels.dtype != kind or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"a frame is {np.dtype(kind)} (H, W, 3), got {pixels.dtype} {pixels.shape}")
        if self._size not in (None, pixels.shape[:2]):
            raise ValueError(f"a frame is {pixels.shape[:2]}, those before it are {self._size}")
        if self._size is None:
            self._signal = signal = signal.settled("yuv444p", self._source_size, guessed(pixels.shape))
        form = "yuv444p" if depth == 8 else f"yuv444p{depth}le"
        picture = from_rgb(pixels, form, signal, self._convert)
        try:
            if self._size is None:
                self._file.write(self._header(pixels.shape[0], pixels.shape[1]))
            self._file.write(b"FRAME\n")
            for plane in picture.planes:
                rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)  # type: ignore[call-overload]
                self._file.write(np.ascontiguousarray(rows[:, : plane.width * pixels.itemsize]).data)
        except OSError as error:
            raise _broken(error) from error
        self._size = pixels.shape[:2]

    def _header(self, height: int, width: int) -> bytes:
        fps, aspect, depth = self._fps, self._aspect, self._signal.depth
        chroma = "444" if depth == 8 else f"444p{depth} XYSCSS=444P{depth}"
        full = {1: " XCOLORRANGE=LIMITED", 2: " XCOLORRANGE=FULL"}.get(self._signal.range, "")
        rate, shape = f"{fps.numerator}:{fps.denominator}", f"{aspect.numerator}:{aspect.denominator}"
        return f"YUV4MPEG2 W{width} H{height} F{rate} Ip A{shape} C{chroma}{full}\n".encode()

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self._file.flush()
        except OSError as error:
            with suppress(OSError):
                self._file.close()  # else the interpreter tries again when it ends, and complains
            if kind is None:
                raise _broken(error) from error


def _broken(error: OSError) -> VideoError:
    if isinstance(error, BrokenPipeError):
        return VideoError("standard output was closed by its reader before the last frame, so the video is cut there")
    return VideoError(f"standard output cannot be written: {error.strerror}")
