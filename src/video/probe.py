"""What a video file is: which frames it shows and when, and whether decord may read them.

A file is indexed by its packets, which costs about as much as copying it; where packets do not tell how many frames
are shown, it is decoded. decord returns other frames than PyAV, silently, wherever an edit list, an open group of
pictures or a hidden frame makes packets and frames differ: an index says what there is to object to. The decoding at
the end of this file is what probing and reading have in common, so that both meet the same frames.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import av
import av.buffer
from av.video.frame import PictureType

from src.errors import VideoError
from src.video.colorspace import Signal

# fmt: off
# Codecs of which one packet, where it has a time of its own and is not hidden, is one frame shown. Of any other
# codec (fields in packets of their own, skipped frames, packed B-frames) only decoding tells how many there are.
PACKET_IS_FRAME = frozenset({
    "av1", "dnxhd", "ffv1", "ffvhuff", "h264", "hevc", "huffyuv", "libdav1d", "mjpeg", "mpeg4", "png", "prores", "vp8",
    "vp9",
})
# fmt: on
UPRIGHT = (1, 0, 0, 1)
MOST_PIXELS = 36_000_000  # of a frame, 8192x4320 and a little: decoders hold up to 16, which takes more than 1 GB
MOST_BLOCK = 640 << 20  # bytes: the largest image that is read (src/video/images.py) of four channels and 16 bits
DECORD_PIXELS = 4096 * 2304  # of a frame: its threads take twice the memory, and it has nobody to tell it a limit

DAMAGE = (av.FFmpegError, IndexError)  # the latter from PyAV, of a packet whose stream begins in the middle of a file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """What probing learns of a file: its video stream, and when which frames of it are shown."""

    stream: int
    count: int
    marks: tuple[int, ...]  # when frames are shown, ascending, in units of base; empty where the stream has no times
    keys: tuple[int, ...]  # when key frames are shown, ascending; empty where there is no seeking
    goals: tuple[int, ...]  # what to seek to get to each
    base: Fraction
    rates: tuple[Fraction, ...]  # as declared, the likeliest first
    stored: tuple[int, int]  # height and width before turning
    turn: tuple[int, int, int, int]
    aspect: Fraction
    interlaced: bool
    flagged: bool  # each frame says itself whether it is interlaced
    signal: Signal  # at the depth that the file has
    last: int  # how long the last frame is shown, in units of base; 0 where nobody knows
    objection: str  # why decord may not read it; empty where it may
    sums: tuple[int, ...] = ()  # checksums of the frames of a packed video (src/video/packed.py)

    def timing(self, default: Fraction) -> tuple[tuple[Fraction, ...], Fraction, Fraction]:
        """When the frames are shown, in seconds, their rate, and when the last of them ends.

        The rate is a declared one that fits all of them to the tick, else the mean; ``default`` where there is none.
        """
        times, rate = self._times(default)
        return times, rate, times[-1] + (self.last * self.base or 1 / rate)

    def _times(self, default: Fraction) -> tuple[tuple[Fraction, ...], Fraction]:
        if not self.marks:
            rate = next(iter(self.rates), default)
            return tuple(i / rate for i in range(self.count)), rate
        times, first = tuple(mark * self.base for mark in self.marks), self.marks[0]
        for rate in self.rates:
            ticks = rate * self.base  # in frames: p / q of one
            p, q = ticks.numerator, ticks.denominator
            if all(abs((mark - first) * p - i * q) <= p for i, mark in enumerate(self.marks)):
                return times, rate
        if len(times) > 1:
            return times, (len(times) - 1) / (times[-1] - times[0])
        return times, next(iter(self.rates), default)


def probe(path: Path, beat: Callable[[], None]) -> Index:
    """Index a file by its packets, or by decoding it where packets do not tell.

    Args:
        path: the file.
        beat: is called at each packet and frame that comes: work goes on.

    Raises:
        VideoError: no video in it, or nothing that can be decoded.
    """
    with open_input(path) as container:
        stream, found = _packets(container, beat, path)
        packets = found[stream.index]
        overstated = any(other.frames > len(found.get(other.index, ())) for other in container.streams.video)
        check_pixels(path, (stream.codec_context.height, stream.codec_context.width))
        context, kind, chosen = stream.codec_context, container.format.name, stream.index
        codec, reordered = context.name, context.has_b_frames
        interlaced, base = context.field_order > 1, Fraction(stream.time_base)
        rates = tuple(Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate)
        aspect = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        until = _said_end(stream, kind, {k.lower(): v for k, v in container.metadata.items()}.get("encoder", ""))
    shown = [packet.pts for packet in packets if packet.shown]
    marks = sorted({pts for pts in shown if pts is not None})
    keyed = sorted((p for p in packets if p.key and p.pts is not None), key=lambda packet: packet.pts or 0)
    keys = [cast(int, packet.pts) for packet in keyed]
    # Transport and programme streams are searched by when frames are decoded.
    goals = [p.dts if kind.startswith("mpeg") and p.dts is not None else cast(int, p.pts) for p in keyed]
    ahead = _keys_of_open_groups(packets)
    whole = kind.startswith(("mov,", "matroska,"))  # such containers keep both fields of a frame in one packet
    countable = (
        codec in PACKET_IS_FRAME
        and len(marks) == len(shown)
        and packets[0].key
        and packets[0].pts not in ahead
        and (whole or not interlaced)
        and (kind != "avi" or not reordered)  # which tells when frames are decoded, not when shown
    )
    if not countable:
        log.info("%s is decoded to count its frames", path)
    container, stream = open_stream(path, chosen)
    with container:
        first, times = _survey(container, stream, beat, path, whole=not countable)
        alone = len(keys) < 2 or _stands_alone(container, stream, keys[1], goals[1])
    count = len(shown) if countable else len(times)
    if not countable:
        marks = sorted({mark for mark in times if mark is not None})
        marks = marks if marks == times else []

    turn, pixels = turn_of(first), first.format.name
    flagged, signal = bool(first.interlaced_frame), Signal.of(first, deep=True)
    interlaced = interlaced or flagged
    last = (_end(packets, until) - marks[-1]) if countable and marks else 0
    objections = {
        f"is coded as {codec}": codec not in ("h264", "hevc", "mpeg4"),
        f"stores its pixels as {pixels}": pixels not in ("yuv420p", "yuvj420p", "gbrp"),
        "has frames larger than 4K": first.height * first.width > DECORD_PIXELS,
        "is interlaced": interlaced,
        "has key frames that cannot be decoded alone": not alone,
        "is turned or mirrored": turn != UPRIGHT,
        "has an edit list": not all(packet.shown for packet in packets),
        "has open groups of pictures": bool(ahead),
        "changes its parameters on the way": any(packet.changes for packet in packets[1:]),
        "lies in a container other than MP4, MOV and Matroska": not whole,
        "tells its frames only on decoding": not countable,
        "says that it has more frames than it holds": overstated,  # decord takes memory for them, and crashes
    }
    objection = next((words for words, holds in objections.items() if holds), "")
    stored = (first.height, first.width)
    if not (marks and alone):
        keys, goals = [], []
    return Index(
        stream=chosen,
        count=count,
        marks=tuple(marks),
        keys=tuple(keys),
        goals=tuple(goals),
        base=base,
        rates=rates,
        stored=stored,
        turn=turn,
        aspect=aspect,
        interlaced=interlaced,
        flagged=flagged,
        signal=signal,
        last=max(0, last),
        objection=objection,
    )


def _said_end(stream: Any, kind: str, encoder: str) -> int | None:
    """When the stream ends, where the container says it better than its last packet does."""
    if kind.startswith("mov,") and None not in (stream.start_time, stream.duration):  # packets are timed by decoding
        return int(stream.start_time + stream.duration)
    said = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
    if kind.startswith("matroska,") and said:
        hours, minutes, seconds = map(Fraction, said.groups())
        begin = 0 if encoder.startswith("Lavf") else stream.start_time or 0  # FFmpeg counts from 0 on
        return begin + round((hours * 3600 + minutes * 60 + seconds) / stream.time_base)
    return None


def _end(packets: Sequence[_Packet], until: int | None) -> int:
    """When the last frame shown ends."""
    last = max((p for p in packets if p.shown and p.pts is not None), key=lambda packet: packet.pts or 0)
    begin = last.pts or 0
    return until if until is not None and until > begin else begin + last.duration


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int  # 0: unknown
    key: bool
    shown: bool
    changes: bool  # brings new parameters for the decoder


def _packets(container: Any, beat: Callable[[], None], path: Path) -> tuple[Any, dict[int, list[_Packet]]]:
    """The first video stream that is not empty, and the packets of each in the order of the file, by its number."""
    cover = av.stream.Disposition.attached_pic  # a picture beside the sound, not a video
    streams = [s for s in container.streams.video if s.codec_context and not s.disposition & cover]
    packets: dict[int, list[_Packet]] = {stream.index: [] for stream in streams}
    if not streams:
        raise VideoError(f"{path} has no video stream that can be read")
    try:
        for packet in container.demux(streams):
            beat()
            if packet.size:
                shown = not packet.is_discard and not _hidden(packet)
                changes = packet.has_sidedata("new_extradata")
                packets[packet.stream_index].append(
                    _Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, shown, changes)
                )
    except DAMAGE as error:
        log.warning("%s is damaged, only what precedes that is read: %s", path, in_words(error))
    filled = [stream for stream in streams if packets[stream.index]]
    if not filled:
        raise VideoError(f"{path} holds no frames, its video stream is empty")
    return filled[0], packets


def _keys_of_open_groups(packets: Sequence[_Packet]) -> set[int]:
    """Times of the key frames before which frames are shown that follow them in the file."""
    found, key = set(), None
    for packet in packets:
        if packet.key:
            key = packet.pts
        elif key is not None and packet.pts is not None and packet.pts < key:
            found.add(key)
    return found


def _survey(
    container: Any, stream: Any, beat: Callable[[], None], path: Path, whole: bool
) -> tuple[av.VideoFrame, list[Any]]:
    """The first frame and, of the ``whole`` file, when decoding says that each frame is shown."""
    first: av.VideoFrame | None = None
    found: list[int | None] = []
    try:
        for frame in decoded(container, stream):
            beat()
            first = first or frame
            check_size(path, len(found), frame, (first.height, first.width))
            found.append(frame.pts)
            if not whole:
                break
    except av.FFmpegError as error:
        if not found:
            raise
        log.warning("%s is damaged, only its first %d frames are read: %s", path, len(found), in_words(error))
    if first is None:
        raise VideoError(f"{path} holds no frames that can be decoded")
    return first, found


def _stands_alone(container: Any, stream: Any, key: int, goal: int) -> bool:
    """Whether seeking ``goal`` comes to the key frame at ``key`` and it is decoded without those before it."""
    try:
        container.seek(goal, stream=stream)
        return next(decoded(container, stream, key)) is not None
    except (Missed, StopIteration, av.FFmpegError):
        return False


def _hidden(packet: av.Packet) -> bool:
    """Whether a VP8 or VP9 packet only holds a frame that others are predicted from (``show_frame`` of its header)."""
    name = packet.stream.codec_context.name
    if name not in ("vp8", "vp9"):
        return False
    data = memoryview(packet)
    head, tail = data[0], data[len(data) - 1]
    if name == "vp8":
        return not head & 0x10
    if tail & 0xE0 == 0xC0:  # a superframe, which ends in the frame shown
        return False
    shift = 1 if head & 0x30 == 0x30 else 0  # profile 3 has one more bit before the flags
    return not (head << shift) & 0x0A  # neither show_existing_frame nor show_frame


def turn_of(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Signs of the display matrix: 16.16 numbers a b u c d v x y w, with x' = a x + c y and y' = b x + d y.

    A turn that is not by quarters is taken for the nearest that is.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(cast(Any, data)))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return 0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0
    return -1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1


# --- Decoding, for probing and for reading ---


class Missed(Exception):  # noqa: N818 - a turn of events, not an error
    """A frame did not come where it was looked for."""


@cache
def _bounded() -> None:
    """Lets FFmpeg take no larger block than ``MOST_BLOCK``: a few damaged bytes make tables of billions of entries."""
    with suppress(AttributeError, OSError):  # not everywhere does a library lead to those that it is linked with
        ctypes.CDLL(av.buffer.__file__).av_max_alloc(ctypes.c_size_t(MOST_BLOCK))


def open_input(
    source: Any, options: Mapping[str, str] = MappingProxyType({}), *, most: int = MOST_PIXELS, **more: Any
) -> Any:
    """A container to read from, of a path or an open file; the same for all that reads.

    Decoders do not take the memory for a frame of more than ``most`` pixels, whatever a file says that it is. What it
    says of itself in words that are not UTF-8 is read as far as it is.
    """
    _bounded()
    limit = {"max_pixels": str(most)}
    if isinstance(source, Path):
        source = os.path.abspath(source)  # a relative a:b.mp4 would be asked of a protocol called a
    container = av.open(source, "r", options={**limit, **options}, metadata_errors="replace", **more)
    for stream in container.streams.video:
        if stream.codec_context:
            stream.codec_context.options = limit
    return container


def open_stream(path: Path, index: int, *, known: bool = False) -> tuple[Any, Any]:
    """The container, and stream ``index`` of it, to be decoded without frame threads.

    ``known``: what the stream is need not be found out by decoding its first frame, which takes as long as that.

    These make damaged streams decode differently from run to run, and to stop in the middle of them has been seen
    to hang.
    """
    container = (
        open_input(path, {"probesize": "32"}, stream_options=[{"skip_frame": "all"}]) if known else open_input(path)
    )
    stream = container.streams[index]
    stream.thread_type = "SLICE"
    return container, stream


def decoded(container: Any, stream: Any, wanted: int | None = None) -> Iterator[av.VideoFrame]:
    """Frames from where ``container`` stands; after a seek for ``wanted``, from the first key frame that comes.

    Raises:
        Missed: that key frame lies behind ``wanted``, or leans on frames before it (gradual refresh), or what follows
            it is damaged.
    """
    key: int | None = None
    sought = wanted is not None
    for packet in until_damaged(container.demux(stream)):
        if wanted is not None and key is None and packet.size:
            if not packet.is_keyframe:
                continue
            if packet.pts is None or packet.pts > wanted:
                raise Missed("a seek went too far")
            key = packet.pts
        for frame in packet.decode():
            if wanted is not None and frame.pts is not None and key is not None:
                if frame.pts < key:
                    continue  # predicted from what the seek left out
                # A pair of fields may be one of each kind, and goes by the second.
                if frame.pts > key or not (frame.pict_type == PictureType.I or frame.interlaced_frame):
                    raise Missed("a key frame cannot be decoded alone")
                wanted = None
            if sought and frame.is_corrupt:
                raise Missed("what a decoder makes of damage depends on what it has seen before")
            yield frame


def until_damaged(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """``packets``, the last of which is empty and makes a decoder give what it holds back, even if the file is cut."""
    last: av.Packet | None = None
    try:
        for last in packets:
            yield last
    except DAMAGE:
        if last is not None and last.size:
            end = av.Packet()
            end.stream = last.stream
            yield end


def check_pixels(path: Path | str, size: tuple[int, int], most: int = MOST_PIXELS) -> None:
    """Raises a VideoError where frames of ``(height, width)`` are larger than any that are read."""
    if size[0] * size[1] > most:
        at_most = f"those of more than {most / 1e6:.0f} million pixels are not read"
        raise VideoError(f"{path} has frames of {dimensions(size)}, {at_most}; make them smaller first")


def check_size(path: Path, number: int, frame: av.VideoFrame, size: tuple[int, int]) -> None:
    """Raises a VideoError where a decoded frame is not of the ``(height, width)`` of those before it."""
    now = (frame.height, frame.width)
    if now != size:
        change = f"from {dimensions(size)} to {dimensions(now)}"
        raise VideoError(f"{path} changes {change} at frame {number}; cut it there and read the parts")


def dimensions(size: Sequence[int]) -> str:
    """``(height, width, ...)`` as people write it, width first."""
    return f"{size[1]}x{size[0]}"


def in_words(error: BaseException | None) -> str:
    """An error in one line, without the time and the source line that decord adds."""
    if isinstance(error, av.ArgumentError):  # what FFmpeg says of too large frames, too
        return f"{error.strerror} (it is damaged, or its frames are larger than any that are read)"
    if isinstance(error, av.FFmpegError):
        return error.strerror or type(error).__name__
    lines = re.sub(r"\[[\d:]+\] \S+: ", "", str(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
