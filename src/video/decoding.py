"""Decode with PyAV, shared by probing and reading so that both return the same frames: open, demux, decode, orient."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import av
import av.buffer
import av.logging
import numpy as np
from av.codec.codec import UnknownCodecError
from av.video.frame import PictureType

from src.errors import UserError, VideoError

MAX_PIXELS = 36_000_000  # of a frame, just over 8192x4320: decoders hold up to 16 frames, more than 1 GB
MAX_ALLOCATION = 640 << 20  # bytes: the largest image accepted (src/video/images.py), four channels of 16 bits
COVER_ART = av.stream.Disposition.attached_pic  # a still image in an audio or video file
# PyAV raises IndexError for a packet of a stream that starts in the middle of a file.
DAMAGE_ERRORS = (av.FFmpegError, IndexError)

Orientation = tuple[int, int, int, int]
UPRIGHT: Orientation = (1, 0, 0, 1)
Cropping = tuple[int, int, int, int]  # columns left and right, lines above and below, before rotation
UNCROPPED: Cropping = (0, 0, 0, 0)
# Streams that accompany a video: pictures of it, and layers that need another stream.
SECONDARY = av.stream.Disposition.timed_thumbnails | av.stream.Disposition.still_image | av.stream.Disposition.dependent
_dump_lock = threading.Lock()


class MissingFrameError(Exception):
    """A frame was not found at its expected position; decoding from an earlier key frame may find it."""


@cache
def _limit_allocations() -> None:
    """Cap FFmpeg's allocations at ``MAX_ALLOCATION``: a few damaged bytes can declare tables of billions of entries."""
    with suppress(AttributeError, OSError):  # not every platform resolves symbols of linked libraries
        ctypes.CDLL(av.buffer.__file__).av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION))


def open_input(
    source: Any, options: Mapping[str, str] = MappingProxyType({}), *, max_pixels: int = MAX_PIXELS, **av_options: Any
) -> Any:
    """Open a path or a binary file as an input container.

    Decoders refuse to allocate frames of more than ``max_pixels``, whatever size the file declares. Metadata that is
    not UTF-8 is decoded with replacement characters.
    """
    _limit_allocations()
    limit = {"max_pixels": str(max_pixels)}
    if isinstance(source, Path):
        source = os.path.abspath(source)  # FFmpeg would parse a relative a:b.mp4 as protocol a
    container = av.open(source, "r", options={**limit, **options}, metadata_errors="replace", **av_options)
    for stream in container.streams.video:
        if stream.codec_context:
            stream.codec_context.options = limit
    return container


def open_stream(path: Path, index: int, *, skip_analysis: bool = False) -> tuple[Any, Any]:
    """Open a container and prepare its stream ``index`` for decoding without frame threads.

    With frame threads, damaged streams decode differently from run to run, and closing them early can hang.

    Args:
        path: the file.
        index: the stream's index in the container.
        skip_analysis: do not decode the first frame to determine stream parameters, for files with a known format.
    """
    container = (
        open_input(path, {"probesize": "32"}, stream_options=[{"skip_frame": "all"}])
        if skip_analysis
        else open_input(path)
    )
    stream = container.streams[index]
    stream.thread_type = "SLICE"
    return container, stream


def list_video_streams(container: Any) -> list[Any]:
    """List the video streams that have a decoder, without cover art."""
    return [s for s in container.streams.video if s.codec_context and not s.disposition & COVER_ART]


def choose_stream(
    path: Path | str, streams: Sequence[Any], number: int | None, lengths: Mapping[int, tuple[int, Fraction]]
) -> tuple[Any, str]:
    """Return the stream ``number``, or the main one: the default, largest, longest of those that move.

    Streams with less than a tenth of the frames of another are pictures of it, as phones store them beside a video.

    Args:
        path: the file, for messages.
        streams: its video streams with frames.
        number: index of the stream in the container; None: the main one.
        lengths: frames and seconds of each stream by index; absent if unknown.

    Returns:
        The stream, and a predicate that names it if there are several.

    Raises:
        VideoError: the file has no such video stream.
    """

    most = max((frames for frames, _ in lengths.values()), default=0)

    def rank(stream: Any) -> tuple[Any, ...]:
        frames, seconds = lengths.get(stream.index, (0, Fraction(0)))
        is_default = bool(stream.disposition & av.stream.Disposition.default)
        area = stream.codec_context.width * stream.codec_context.height
        moves = not frames or 10 * frames > most
        return not stream.disposition & SECONDARY, moves, is_default, area, seconds

    if number is not None and number not in [stream.index for stream in streams]:
        listed = ", ".join(f"stream={stream.index} ({_describe_stream(stream)})" for stream in streams)
        raise VideoError(f"{path} has no video in stream {number}; choose {listed}")
    chosen = max(streams, key=rank) if number is None else next(s for s in streams if s.index == number)
    if len(streams) == 1:
        return chosen, ""
    others = " or ".join(f"stream={s.index} ({_describe_stream(s)})" for s in streams if s is not chosen)
    description = f"{len(streams)} video streams, of which stream {chosen.index} ({_describe_stream(chosen)}) is read"
    return chosen, f"has {description}; {others} chooses another"


def _describe_stream(stream: Any) -> str:
    context = stream.codec_context
    return f"{context.name}, {format_size((context.height, context.width))}"


def read_cropping(container: Any, stream: Any, frame: av.VideoFrame) -> Cropping:
    """Return the edges of a frame that its container hides: MP4's clean aperture, Matroska's pixel crop.

    Decoders ignore them, and PyAV shows them only in FFmpeg's description of the container, which is a log message.
    """
    with _dump_lock:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            description = container.dumps_format()
        finally:
            av.logging.set_level(level)
    _, *sections = re.split(r"^ *Stream #0:(?=\d)", description, flags=re.MULTILINE)
    section = next((s for s in sections if int(cast(Any, re.match(r"\d+", s))[0]) == stream.index), "")
    edges = re.search(r"^ +Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)", section, re.MULTILINE | re.IGNORECASE)
    left, right, top, bottom = map(int, edges.groups()) if edges else UNCROPPED
    is_valid = left + right < frame.width and top + bottom < frame.height
    return (left, right, top, bottom) if is_valid else UNCROPPED


def crop_size(size: tuple[int, int], cropping: Cropping) -> tuple[int, int]:
    """Return the ``(height, width)`` that remain of ``size``."""
    left, right, top, bottom = cropping
    return size[0] - top - bottom, size[1] - left - right


def describe_cropping(size: tuple[int, int], cropping: Cropping) -> str:
    """Describe the cropping of frames of ``(height, width)`` as a predicate; empty if there is none."""
    if cropping == UNCROPPED:
        return ""
    return f"is cropped from {format_size(size)} to {format_size(crop_size(size, cropping))}, as its container demands"


def crop_and_orient(pixels: np.ndarray, cropping: Cropping, orientation: Orientation) -> np.ndarray:
    """Crop ``(H, W, C)`` pixels, then rotate and flip them for display."""
    left, _, top, _ = cropping
    height, width = crop_size((pixels.shape[0], pixels.shape[1]), cropping)
    return apply_orientation(pixels[top : top + height, left : left + width], orientation)


def decode(container: Any, stream: Any, target: int | None = None) -> Iterator[av.VideoFrame]:
    """Decode frames from the current position, or after a seek to timestamp ``target``, from the next key frame.

    Raises:
        MissingFrameError: that key frame lies behind ``target``, it depends on earlier frames (gradual refresh), or a
            frame after it is damaged.
    """
    keyframe: int | None = None
    after_seek, pending = target is not None, target
    decoder = _make_alpha_decoder(stream) or stream
    for packet in stop_at_damage(container.demux(stream)):
        if pending is not None and keyframe is None and packet.size:
            if not packet.is_keyframe:
                continue
            if packet.pts is None or packet.pts > pending:
                raise MissingFrameError("the seek overshot")
            keyframe = packet.pts
        for frame in decoder.decode(packet):
            if pending is not None and frame.pts is not None and keyframe is not None:
                if frame.pts < keyframe:
                    continue  # predicted from frames before the seek position
                # Of a pair of fields, only the first may be intra-coded, and pict_type is that of the second.
                if frame.pts > keyframe or not (frame.pict_type == PictureType.I or frame.interlaced_frame):
                    raise MissingFrameError("a key frame cannot be decoded alone")
                pending = None
            if after_seek and frame.is_corrupt:
                raise MissingFrameError("error concealment depends on the frames decoded before")
            yield frame


def _make_alpha_decoder(stream: Any) -> Any:
    """Return a decoder for VP8 or VP9 with alpha, which FFmpeg's own decoders ignore; None for other streams."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return None
    try:
        decoder: Any = av.CodecContext.create(name, "r")
    except UnknownCodecError:  # FFmpeg is built without libvpx
        return None
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    return decoder


def stop_at_damage(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Yield ``packets`` up to the first that cannot be demuxed, then an empty one, so that the decoder is flushed."""
    last: av.Packet | None = None
    try:
        for last in packets:
            yield last
    except DAMAGE_ERRORS:
        if last is not None and last.size:
            flush = av.Packet()
            flush.stream = last.stream
            yield flush


def read_orientation(frame: av.VideoFrame) -> Orientation:
    """Return the signs (a, b, c, d) of a frame's display matrix, rounded to the nearest quarter turn.

    The matrix holds the 16.16 fixed-point numbers a b u c d v x y w, with x' = a x + c y and y' = b x + d y.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(cast(Any, data)))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return 0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0
    return -1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1


def apply_orientation(pixels: np.ndarray, orientation: Orientation) -> np.ndarray:
    """Rotate and flip ``(H, W, C)`` pixels for display."""
    a, b, c, d = orientation
    if b:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: b or d, :: c or a])


def check_pixel_limit(path: Path | str, size: tuple[int, int], limit: int = MAX_PIXELS) -> None:
    """Refuse frames of ``(height, width)`` with more than ``limit`` pixels.

    Raises:
        VideoError: the frames are too large.
    """
    if size[0] * size[1] > limit:
        raise VideoError(
            f"{path} has frames of {format_size(size)}, above the limit of {limit / 1e6:.0f} million pixels; "
            "downscale them first"
        )


def check_frame_size(path: Path, number: int, frame: av.VideoFrame, size: tuple[int, int]) -> None:
    """Check that decoded frame ``number`` has the ``(height, width)`` of the frames before it.

    Raises:
        VideoError: the size changed.
    """
    current = (frame.height, frame.width)
    if current != size:
        change = f"from {format_size(size)} to {format_size(current)}"
        raise VideoError(f"{path} changes {change} at frame {number}; cut it there and read the parts")


def format_size(size: Sequence[int]) -> str:
    """Format ``(height, width, ...)`` as widthxheight."""
    return f"{size[1]}x{size[0]}"


@contextmanager
def wrap_decoder_errors(path: Path | str) -> Iterator[None]:
    """Convert whatever a decoder library raises to a VideoError: PyAV and decord raise exceptions of any type.

    Raises:
        VideoError: one was raised that is not a :class:`UserError` already.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise VideoError(f"{path} cannot be read as video: {describe_error(error)}") from error


def describe_error(error: BaseException | None) -> str:
    """Describe an error in one line, without the timestamps and source locations that decord adds."""
    if isinstance(error, av.ArgumentError):  # FFmpeg reports frames above max_pixels this way, too
        return f"{error.strerror} (damaged, or frames above the pixel limit)"
    if isinstance(error, av.FFmpegError):
        return error.strerror or type(error).__name__
    lines = re.sub(r"\[[\d:]+\] \S+: ", "", str(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
