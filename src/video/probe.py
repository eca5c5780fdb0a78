"""Probe a video file: find its visible frames and their timestamps, and determine whether decord may read it.

A file is indexed by its packets, which costs about as much as copying it. Where packets do not determine the visible
frames, the whole file is decoded. Wherever an edit list, an open group of pictures or a hidden frame makes packets and
frames differ, decord silently returns other frames than PyAV; the index names the reason.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
from av.video.reformatter import VideoReformatter

from src.errors import VideoError
from src.video.colorspace import DROPPED, Signal, has_alpha, is_transparent
from src.video.decoding import (
    DAMAGE_ERRORS,
    UNCROPPED,
    UPRIGHT,
    Cropping,
    MissingFrameError,
    Orientation,
    check_frame_size,
    check_pixel_limit,
    choose_stream,
    crop_size,
    decode,
    describe_cropping,
    describe_error,
    list_video_streams,
    open_input,
    open_stream,
    read_cropping,
    read_orientation,
)
from src.video.dolby_vision import has_dolby_vision
from src.video.spatial import SpatialLayout, read_layout

# fmt: off
# Codecs with one visible frame per packet, unless it is hidden or has no timestamp. For other codecs (packets of single
# fields, skipped frames, packed B-frames), only decoding determines the number of frames.
ONE_FRAME_PER_PACKET = frozenset({
    "av1", "dnxhd", "ffv1", "ffvhuff", "h264", "hevc", "huffyuv", "libdav1d", "mjpeg", "mpeg4", "png", "prores", "vp8",
    "vp9",
})
# fmt: on
MAX_DECORD_PIXELS = 4096 * 2304  # of a frame: decord's threads double the memory, and it has no limit of its own

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoIndex:
    """The visible frames of a file's video stream. Timestamps are integers in units of ``time_base``.

    Attributes:
        stream: index of the stream in the container.
        count: visible frames.
        timestamps: presentation time of each frame, ascending; empty if the stream has none.
        keyframes: presentation time of each key frame, ascending; empty if the stream cannot be seeked.
        seek_targets: the timestamp to seek to for each key frame.
        time_base: seconds.
        frame_rates: rates that the container declares, most reliable first.
        coded_size: height and width of decoded frames, before cropping and rotation.
        orientation: display orientation (:func:`src.video.decoding.read_orientation`).
        aspect: sample aspect ratio, before rotation.
        interlaced: frames hold two fields of different times.
        frames_flagged: each frame carries an interlacing flag.
        signal: colour description at the bit depth of the file.
        last_duration: duration of the last frame; 0 if unknown.
        decord_objection: the reason not to read the file with decord, as a predicate; empty if there is none.
        checksums: CRC-32 of each frame of a packed video (:mod:`src.video.packed`).
        cropping: edges that the container hides, before rotation.
        notes: predicates about the file that its user needs to know: several streams, cropping.
        layout: spatial layout of the frames (360 degrees, 3D).
    """

    stream: int
    count: int
    timestamps: tuple[int, ...]
    keyframes: tuple[int, ...]
    seek_targets: tuple[int, ...]
    time_base: Fraction
    frame_rates: tuple[Fraction, ...]
    coded_size: tuple[int, int]
    orientation: Orientation
    aspect: Fraction
    interlaced: bool
    frames_flagged: bool
    signal: Signal
    last_duration: int
    decord_objection: str
    checksums: tuple[int, ...] = ()
    cropping: Cropping = UNCROPPED
    notes: tuple[str, ...] = ()
    layout: SpatialLayout | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames, cropped and upright."""
        height, width = crop_size(self.coded_size, self.cropping)
        return (width, height) if self.orientation[1] else (height, width)

    def compute_timing(self, default_rate: Fraction) -> tuple[tuple[Fraction, ...], Fraction, Fraction]:
        """Return the time of each frame, the frame rate, and the end of the last frame, in seconds and 1/s.

        The rate is a declared one if it fits all timestamps to the tick, otherwise the mean, otherwise
        ``default_rate``.
        """
        times, rate = self._compute_times(default_rate)
        return times, rate, times[-1] + (self.last_duration * self.time_base or 1 / rate)

    def _compute_times(self, default_rate: Fraction) -> tuple[tuple[Fraction, ...], Fraction]:
        if not self.timestamps:
            rate = next(iter(self.frame_rates), default_rate)
            return tuple(i / rate for i in range(self.count)), rate
        times, first = tuple(pts * self.time_base for pts in self.timestamps), self.timestamps[0]
        for rate in self.frame_rates:
            frames_per_tick = rate * self.time_base
            p, q = frames_per_tick.numerator, frames_per_tick.denominator
            if all(abs((pts - first) * p - i * q) <= p for i, pts in enumerate(self.timestamps)):
                return times, rate
        if len(times) > 1:
            return times, (len(times) - 1) / (times[-1] - times[0])
        return times, next(iter(self.frame_rates), default_rate)


def probe(path: Path, on_progress: Callable[[], None], number: int | None = None) -> VideoIndex:
    """Index a file by its packets, or by decoding all of it where packets do not determine the frames.

    Args:
        path: the file.
        on_progress: called for each packet and frame.
        number: index of the video stream in the container; None: the main one.

    Raises:
        VideoError: the file has no such video stream, or no frame can be decoded.
    """
    with open_input(path) as container:
        packets_by_stream = _read_packets(container, on_progress, path)
        nonempty = [stream for stream in container.streams.video if packets_by_stream.get(stream.index)]
        lengths = {stream.index: _measure_length(stream, packets_by_stream[stream.index]) for stream in nonempty}
        stream, choice = choose_stream(path, nonempty, number, lengths)
        packets = packets_by_stream[stream.index]
        has_siblings = len(container.streams.video) > 1
        overstated = any(s.frames > len(packets_by_stream.get(s.index, ())) for s in container.streams.video)
        check_pixel_limit(path, (stream.codec_context.height, stream.codec_context.width))
        context, format_name, stream_index = stream.codec_context, container.format.name, stream.index
        codec, reordered = context.name, context.has_b_frames
        interlaced, time_base = context.field_order > 1, Fraction(stream.time_base)
        frame_rates = tuple(Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate)
        aspect = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        muxer = {key.lower(): value for key, value in container.metadata.items()}.get("encoder", "")
        declared_end = _read_declared_end(stream, format_name, muxer)
    visible = [packet.pts for packet in packets if packet.visible]
    timestamps = sorted({pts for pts in visible if pts is not None})
    key_packets = sorted((p for p in packets if p.key and p.pts is not None), key=lambda packet: packet.pts or 0)
    keyframes = [cast(int, packet.pts) for packet in key_packets]
    # MPEG transport and program streams are seeked by decoding time.
    by_dts = format_name.startswith("mpeg")
    seek_targets = [p.dts if by_dts and p.dts is not None else cast(int, p.pts) for p in key_packets]
    open_gops = _find_open_gops(packets)
    whole_frames = format_name.startswith(("mov,", "matroska,"))  # both fields of a frame share one packet
    countable = (
        codec in ONE_FRAME_PER_PACKET
        and len(timestamps) == len(visible)
        and packets[0].key
        and packets[0].pts not in open_gops
        and (whole_frames or not interlaced)
        and (format_name != "avi" or not reordered)  # AVI stores decoding times only
    )
    if not countable:
        log.info("Decoding all of %s to count its frames", path)
    container, stream = open_stream(path, stream_index)
    with container:
        first, decoded_times, alpha = _decode_times(container, stream, on_progress, path, first_only=countable)
        cropping = read_cropping(container, stream, first)
        seekable = len(keyframes) < 2 or _can_decode_from(container, stream, keyframes[1], seek_targets[1])
    count = len(visible) if countable else len(decoded_times)
    if not countable:
        timestamps = sorted({pts for pts in decoded_times if pts is not None})
        timestamps = timestamps if timestamps == decoded_times else []

    orientation, pixel_format = read_orientation(first), first.format.name
    frames_flagged = bool(first.interlaced_frame)
    layout, lost = read_layout(first, is_whole=(orientation, cropping) == (UPRIGHT, UNCROPPED))
    signal = Signal.from_frame(first, deep=True)
    signal = replace(signal, alpha=alpha, dropped=(*signal.dropped, *lost))
    if DROPPED["DOVI_METADATA"] not in signal.dropped and has_dolby_vision(path):
        signal = replace(signal, dropped=(DROPPED["DOVI_METADATA"], *signal.dropped))
    interlaced = interlaced or frames_flagged
    last_duration = (_compute_end(packets, declared_end) - timestamps[-1]) if countable and timestamps else 0
    objections = {
        f"is coded as {codec}": codec not in ("h264", "hevc", "mpeg4"),
        f"stores its pixels as {pixel_format}": pixel_format not in ("yuv420p", "yuvj420p", "gbrp"),
        "has several video streams": has_siblings,  # decord may open another one
        "is cropped by its container": cropping != UNCROPPED,
        "has frames larger than 4K": first.height * first.width > MAX_DECORD_PIXELS,
        "is interlaced": interlaced,
        "has key frames that cannot be decoded alone": not seekable,
        "is rotated or mirrored": orientation != UPRIGHT,
        "has an edit list": not all(packet.visible for packet in packets),
        "has open groups of pictures": bool(open_gops),
        "changes its codec parameters": any(packet.new_parameters for packet in packets[1:]),
        "is not an MP4, MOV or Matroska file": not whole_frames,
        "must be decoded to count its frames": not countable,
        "declares more frames than it holds": overstated,  # decord allocates memory for them and crashes
    }
    if not (timestamps and seekable):
        keyframes, seek_targets = [], []
    return VideoIndex(
        stream=stream_index,
        count=count,
        timestamps=tuple(timestamps),
        keyframes=tuple(keyframes),
        seek_targets=tuple(seek_targets),
        time_base=time_base,
        frame_rates=frame_rates,
        coded_size=(first.height, first.width),
        orientation=orientation,
        aspect=aspect,
        interlaced=interlaced,
        frames_flagged=frames_flagged,
        signal=signal,
        last_duration=max(0, last_duration),
        decord_objection=next((reason for reason, holds in objections.items() if holds), ""),
        cropping=cropping,
        layout=layout,
        notes=tuple(filter(None, (choice, describe_cropping((first.height, first.width), cropping)))),
    )


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int  # 0: unknown
    key: bool
    visible: bool
    new_parameters: bool  # carries new codec parameters


def _read_packets(container: Any, on_progress: Callable[[], None], path: Path) -> dict[int, list[_Packet]]:
    """Return the packets of each video stream by its index, in file order; at least one stream has some."""
    streams = list_video_streams(container)
    packets: dict[int, list[_Packet]] = {stream.index: [] for stream in streams}
    if not streams:
        raise VideoError(f"{path} has no readable video stream")
    try:
        for packet in container.demux(streams):
            on_progress()
            if packet.size:
                visible = not packet.is_discard and not _is_hidden(packet)
                new_parameters = packet.has_sidedata("new_extradata")
                packets[packet.stream_index].append(
                    _Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, visible, new_parameters)
                )
    except DAMAGE_ERRORS as error:
        log.warning("%s is damaged, reading only up to the damage: %s", path, describe_error(error))
    if not any(packets.values()):
        raise VideoError(f"{path} has no frames: its video stream is empty")
    return packets


def _measure_length(stream: Any, packets: Sequence[_Packet]) -> tuple[int, Fraction]:
    """Return the frames and seconds of a stream."""
    times = [packet.pts for packet in packets if packet.pts is not None]
    ticks = max(times) - min(times) if times else 0
    return len(packets), ticks * Fraction(stream.time_base or 1)


def _is_hidden(packet: av.Packet) -> bool:
    """Check the ``show_frame`` bit of a VP8 or VP9 packet: hidden frames serve only as references."""
    name = packet.stream.codec_context.name
    if name not in ("vp8", "vp9"):
        return False
    data = memoryview(packet)
    head, tail = data[0], data[len(data) - 1]
    if name == "vp8":
        return not head & 0x10
    if tail & 0xE0 == 0xC0:  # a superframe ends in a visible frame
        return False
    shift = 1 if head & 0x30 == 0x30 else 0  # profile 3 has one more bit before the flags
    return not (head << shift) & 0x0A  # neither show_existing_frame nor show_frame


def _find_open_gops(packets: Sequence[_Packet]) -> set[int]:
    """Return the timestamps of key frames that start an open GOP: packets after them are presented before them."""
    open_gops, keyframe = set(), None
    for packet in packets:
        if packet.key:
            keyframe = packet.pts
        elif keyframe is not None and packet.pts is not None and packet.pts < keyframe:
            open_gops.add(keyframe)
    return open_gops


def _read_declared_end(stream: Any, format_name: str, muxer: str) -> int | None:
    """Return the end of the stream from container headers more accurate than the last packet; None without one."""
    if format_name.startswith("mov,") and None not in (stream.start_time, stream.duration):
        return int(stream.start_time + stream.duration)  # packet durations are those of decoding times
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
    if format_name.startswith("matroska,") and tag:
        hours, minutes, seconds = map(Fraction, tag.groups())
        start = 0 if muxer.startswith("Lavf") else stream.start_time or 0  # FFmpeg measures from 0
        return start + round((hours * 3600 + minutes * 60 + seconds) / stream.time_base)
    return None


def _compute_end(packets: Sequence[_Packet], declared_end: int | None) -> int:
    """Return the end of the last visible frame."""
    last = max((p for p in packets if p.visible and p.pts is not None), key=lambda packet: packet.pts or 0)
    start = last.pts or 0
    return declared_end if declared_end is not None and declared_end > start else start + last.duration


def _decode_times(
    container: Any, stream: Any, on_progress: Callable[[], None], path: Path, first_only: bool
) -> tuple[av.VideoFrame, list[int | None], bool]:
    """Decode the first frame or all frames; return the first, their timestamps, and whether they have alpha.

    Decoders of GIF and other formats always return an alpha channel. It counts if a decoded frame is transparent
    somewhere; if only the first is decoded, only a palette must be.
    """
    first: av.VideoFrame | None = None
    alpha, reformatter = False, VideoReformatter()
    times: list[int | None] = []
    try:
        for frame in decode(container, stream):
            on_progress()
            first = first or frame
            check_frame_size(path, len(times), frame, (first.height, first.width))
            times.append(frame.pts)
            if not alpha and has_alpha(frame.format):
                alpha = (first_only and not frame.format.has_palette) or is_transparent(frame, reformatter)
            if first_only:
                break
    except av.FFmpegError as error:
        if not times:
            raise
        log.warning("%s is damaged, reading only its first %d frames: %s", path, len(times), describe_error(error))
    if first is None:
        raise VideoError(f"{path} has no frames that can be decoded")
    return first, times, alpha


def _can_decode_from(container: Any, stream: Any, keyframe: int, seek_target: int) -> bool:
    """Check that a seek reaches a key frame and that it decodes without the frames before it."""
    try:
        container.seek(seek_target, stream=stream)
        return next(decode(container, stream, keyframe)) is not None
    except (MissingFrameError, StopIteration, av.FFmpegError):
        return False
