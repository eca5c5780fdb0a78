"""Join video parts into one file without re-encoding, with the audio, subtitles and metadata of their source."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from src.errors import VideoError
from src.video.containers import ContainerWriter, PartHeader, make_write_error
from src.video.decoding import describe_error
from src.video.spatial import MATROSKA_SUFFIXES, SpatialLayout
from src.video.stream_copy import CompanionStreams, find_audio_start


def join(
    parts: Sequence[Path],
    path: str | Path,
    *,
    source: Path | None = None,
    start: Fraction = Fraction(0),
    origin: Fraction = Fraction(0),
    until: Fraction | None = None,
    since: Fraction | None = None,
    metadata_only: bool = False,
    metadata: Mapping[str, str] | None = None,
    stream: int | None = None,
    layout: SpatialLayout | None = None,
) -> None:
    """Concatenate the parts of a video without re-encoding, and copy the other streams of its source.

    Args:
        parts: ``.nut`` files of :class:`src.video.writer.VideoWriter`, encoded with the same arguments, with times on a
            common clock. If they or the audio start before 0, the output is shifted to start at 0.
        path: the video file; an existing one is replaced.
        source: file to copy audio, subtitles, chapters and metadata from (see :class:`CompanionStreams`).
        start: time of the first frame, on the clock of the parts, in seconds.
        origin: time of its first frame in ``source``; it is aligned with ``start``.
        until: end of the last frame and of all other streams; by default, the last frame lasts one period.
        since: drop what ends before this time in ``source``, on the clock of the parts; None drops nothing.
        metadata_only: copy only the metadata of ``source``, no streams or chapters.
        metadata: tags of the file; they override those of ``source``.
        stream: index of the video stream in ``source`` that the parts come from; the video receives its tags.
        layout: spatial layout of the frames (360 degrees, 3D).

    Raises:
        VideoError: a part is damaged or was encoded differently, or the file cannot be written.
    """
    path = Path(path)
    header, time_base, order = _scan_parts(parts)
    timestamps = sorted(order)
    period = max(1, round(1 / header.fps / time_base))
    end = timestamps[-1] + period if until is None else max(timestamps[-1] + 1, round(until / time_base))
    decode_times, durations = _schedule(order, timestamps, end, period)
    shift = Fraction(start) - Fraction(origin)
    audio_start = find_audio_start(source) if source and since is None and not metadata_only else None
    audio_lead = 0 if audio_start is None else -math.floor((audio_start + shift) / time_base)
    # MP4 drops samples before 0. Less than a frame of them is the priming of an audio encoder.
    lift = max(0, -timestamps[0], audio_lead if audio_lead > period else 0)
    with ContainerWriter(path) as output, ExitStack() as stack:
        try:
            template = stack.enter_context(av.open(os.path.abspath(parts[0]))).streams.video[0]
            video = output.container.add_stream_from_template(template, opaque=True)
        except (ValueError, av.FFmpegError) as error:
            codec = _read_codec(parts[0])
            raise VideoError(f"{path} cannot store {codec}; write {path.stem}.mkv instead") from error
        output.describe(video, header, time_base)
        shift += lift * time_base
        since, until = (None if time is None else time + lift * time_base for time in (since, until))
        limits: dict[str, Any] = {"since": since, "until": until, "metadata_only": metadata_only}
        try:
            companions = CompanionStreams(
                output, source, shift, **limits, video=video, video_source=stream, metadata=metadata
            )
            stack.callback(companions.close)
            if layout:
                output.layout = layout
                if layout.stereo and output.suffix in MATROSKA_SUFFIXES:
                    video.metadata["stereo_mode"] = layout.stereo
            for number, packet in enumerate(_read_packets(parts)):
                packet.pts, packet.dts = order[number] + lift, decode_times[number] + lift
                packet.duration = durations[number]
                packet.stream = video
                output.container.mux_one(packet)
                companions.write(until=packet.dts * time_base)
            companions.write()
        except (av.FFmpegError, OSError) as error:
            raise make_write_error(path, error) from error


def _schedule(order: list[int], timestamps: list[int], end: int, period: int) -> tuple[list[int], list[int]]:
    """Compute decoding times, strictly ascending and never after presentation, and durations of the packets.

    Decoding runs ``ahead`` frames before presentation and starts ``lead`` earlier. MP4 derives the track's length from
    the first decoding time to the end of the last packet decoded, and its end from the latest end of any packet:
    ``lead`` and the duration of that last packet are chosen so that both are right.

    Args:
        order: presentation times in packet order.
        timestamps: the same, ascending.
        end: end of the last frame.
        period: ticks per frame.
    """
    count, rank = len(order), {pts: number for number, pts in enumerate(timestamps)}
    ahead = max(number - rank[pts] for number, pts in enumerate(order))
    durations = [(timestamps[rank[pts] + 1] if rank[pts] + 1 < count else end) - pts for pts in order]
    if not ahead:
        return list(order), durations
    last_decode = timestamps[count - 1 - ahead]  # before the lead
    min_lead, max_lead = order[-1] - last_decode, end - last_decode - 1
    lead = min_lead if order[-1] == timestamps[-1] else min(max(ahead * period, min_lead, ahead), max_lead)
    durations[-1] = end - lead - last_decode
    decode_times = [timestamps[0] - lead + i * (lead // ahead) for i in range(ahead)] + timestamps[: count - ahead]
    return decode_times, durations


def _scan_parts(parts: Sequence[Path]) -> tuple[PartHeader, Fraction, list[int]]:
    """Return the header and time base of the parts, and presentation times in packet order; check that they fit."""
    if not parts:
        raise VideoError("no parts to join")
    formats: list[tuple[Any, ...]] = []
    order: list[int] = []
    for part in parts:
        try:
            with av.open(os.path.abspath(part)) as container:
                stream = container.streams.video[0]
                context, comment = stream.codec_context, container.metadata.get("comment", "")
                header, time_base = PartHeader.from_json(part, comment), Fraction(stream.time_base or 1)
                encoding = context.name, context.width, context.height, context.extradata
                formats.append((header._replace(shift=0), time_base, *encoding))
                raw = [packet.pts for packet in container.demux(stream) if packet.size]
        except (av.FFmpegError, IndexError, OSError) as error:
            raise VideoError(f"{part} cannot be read as a video part: {describe_error(error)}") from error
        if formats[-1] != formats[0]:
            raise VideoError(f"{part} and {parts[0]} were encoded differently and cannot be joined")
        timestamps = [pts + header.shift for pts in raw if pts is not None]
        if not timestamps or len(set(timestamps)) < len(raw) or (order and min(timestamps) <= max(order)):
            raise VideoError(f"{part} does not continue at the end of the part before it")
        order += timestamps
    return formats[0][0], formats[0][1], order


def _read_packets(parts: Sequence[Path]) -> Iterator[av.Packet]:
    for part in parts:
        with av.open(os.path.abspath(part)) as container:
            yield from (packet for packet in container.demux(container.streams.video[0]) if packet.size)


def _read_codec(part: Path) -> str:
    with av.open(os.path.abspath(part)) as container:
        return str(container.streams.video[0].codec_context.codec.canonical_name)
