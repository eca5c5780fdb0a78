"""Parts of a video into one file, not encoded again, with all that went with the video they were made from."""

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
from src.video.containers import About, Output, failed
from src.video.probe import in_words
from src.video.stream_copy import Companions, heard_from


def join(
    parts: Sequence[Path],
    path: str | Path,
    *,
    source: Path | None = None,
    start: Fraction = Fraction(0),
    origin: Fraction = Fraction(0),
    until: Fraction | None = None,
    since: Fraction | None = None,
    words_alone: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Put parts of one video one after another, not encoded again, together with what goes with it.

    Args:
        parts: ``.nut`` files of :class:`src.video.writer.VideoWriter`, encoded alike, with times on one clock. Where
            they, or the sound with them, begin before 0, all is moved so that it begins there.
        path: the video file to write; an old one is replaced.
        source: a file whose sound, subtitles, chapters and metadata are copied (see :class:`Companions`).
        start: time of the first frame, on the clock of the parts, in seconds.
        origin: the time in ``source`` that falls on ``start``: that of its first frame shown.
        until: when the last frame ends, and all else with it; the last frame is shown for one period unless told.
        since: what ends before in ``source``, on the clock of the parts, is left out; nothing is unless told.
        words_alone: of ``source`` what it says of itself, and nothing that lasts.
        metadata: what the file says of itself, beside or instead of what ``source`` does.

    Raises:
        VideoError: a part is damaged or unlike the others, or the file cannot be written.
    """
    path = Path(path)
    about, base, order = _surveyed(parts)
    marks = sorted(order)
    period = max(1, round(1 / about.fps / base))
    end = marks[-1] + period if until is None else max(marks[-1] + 1, round(until / base))
    decoded, lasts = _schedule(order, marks, end, period)
    shift = Fraction(start) - Fraction(origin)
    heard = heard_from(source) if source and since is None and not words_alone else None
    early = 0 if heard is None else -math.floor((heard + shift) / base)
    # MP4 leaves out what comes before 0. Less than a frame of that is what encoders of sound put there to begin with.
    lift = max(0, -marks[0], early if early > period else 0)
    with Output(path) as output, ExitStack() as stack:
        try:
            first = stack.enter_context(av.open(os.path.abspath(parts[0]))).streams.video[0]
            video = output.container.add_stream_from_template(first, opaque=True)
        except (ValueError, av.FFmpegError) as error:
            raise VideoError(f"{path} cannot hold {_codec(parts[0])}, write {path.stem}.mkv instead") from error
        output.describe(video, about, base)
        shift += lift * base
        since, until = (None if time is None else time + lift * base for time in (since, until))
        companions = Companions(
            output, source, shift, since=since, until=until, words_alone=words_alone, picture=video, metadata=metadata
        )
        stack.callback(companions.close)
        try:
            for number, packet in enumerate(_packets(parts)):
                packet.pts, packet.dts, packet.duration = order[number] + lift, decoded[number] + lift, lasts[number]
                packet.stream = video
                output.container.mux_one(packet)
                companions.feed(until=packet.dts * base)
            companions.feed()
        except (av.FFmpegError, OSError) as error:
            raise failed(path, error) from error


def _schedule(order: list[int], marks: list[int], end: int, period: int) -> tuple[list[int], list[int]]:
    """When packets are decoded, strictly ascending and none after it is shown, and how long each lasts.

    Decoding runs ``ahead`` frames ahead of showing, and begins by ``lead`` earlier. MP4 takes for the length of a track
    the time from the first decoding to the end of the last packet decoded, and for its end the latest of any packet: by
    choice of ``lead`` and of how long that last packet lasts, both are right.
    """
    count, rank = len(order), {mark: number for number, mark in enumerate(marks)}
    ahead = max(number - rank[mark] for number, mark in enumerate(order))
    lasts = [(marks[rank[mark] + 1] if rank[mark] + 1 < count else end) - mark for mark in order]
    if not ahead:
        return list(order), lasts
    late = marks[count - 1 - ahead]  # when the last packet is decoded
    least, most = order[-1] - late, end - late - 1
    lead = least if order[-1] == marks[-1] else min(max(ahead * period, least, ahead), most)
    lasts[-1] = end - lead - late
    return [marks[0] - lead + i * (lead // ahead) for i in range(ahead)] + marks[: count - ahead], lasts


def _surveyed(parts: Sequence[Path]) -> tuple[About, Fraction, list[int]]:
    """What the parts say of their picture, their unit of time, and when frames are shown in the order of packets."""
    if not parts:
        raise VideoError("there are no parts to join, so no video")
    kinds: list[tuple[Any, ...]] = []
    order: list[int] = []
    for part in parts:
        try:
            with av.open(os.path.abspath(part)) as container:
                stream = container.streams.video[0]
                context, words = stream.codec_context, container.metadata.get("comment", "")
                about, base = About.read(part, words), Fraction(stream.time_base or 1)
                kinds.append(
                    (about._replace(shift=0), base, context.name, context.width, context.height, context.extradata)
                )
                found = [packet.pts for packet in container.demux(stream) if packet.size]
        except (av.FFmpegError, IndexError, OSError) as error:
            raise VideoError(f"{part} cannot be read as a part of a video: {in_words(error)}") from error
        if kinds[-1] != kinds[0]:
            raise VideoError(f"{part} was encoded otherwise than {parts[0]}, so they cannot be joined")
        marks = [mark + about.shift for mark in found if mark is not None]
        if not marks or len(set(marks)) < len(found) or (order and min(marks) <= max(order)):
            raise VideoError(f"{part} does not go on where the part before it ends")
        order += marks
    return kinds[0][0], kinds[0][1], order


def _packets(parts: Sequence[Path]) -> Iterator[av.Packet]:
    for part in parts:
        with av.open(os.path.abspath(part)) as container:
            yield from (packet for packet in container.demux(container.streams.video[0]) if packet.size)


def _codec(part: Path) -> str:
    with av.open(os.path.abspath(part)) as container:
        return str(container.streams.video[0].codec_context.codec.canonical_name)
