"""Copy the companions of a video from its source file: audio, subtitles, chapters, cover art, attachments, metadata."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av

from src.errors import VideoError
from src.video.containers import ContainerWriter
from src.video.decoding import COVER_ART, open_input, stop_at_damage

TEXT_CODECS = {".mp4": "mov_text", ".m4v": "mov_text", ".mov": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}
# Tags that describe the source's container, or streams that the output does not have.
# fmt: off
CONTAINER_TAGS = (
    "major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate", "vendor_id", "bps",
    "alpha_mode",
)
# fmt: on
TRACK_TAGS = ("number_of_", "_statistics_", "source_id", "creation_time")
# QuickTime has its own list of languages, and FFmpeg looks these up by codes other than ISO 639-2/T.
# fmt: off
QUICKTIME_NAMES = {
    "deu": "ger", "ell": "gre", "isl": "ice", "mkd": "mac", "nld": "dut", "sqi": "alb", "swe": "sve", "zho": "chi",
}
# fmt: on
QUICKTIME_PREFIX = "com.apple.quicktime."

log = logging.getLogger(__name__)


def open_source(source: Path) -> Any:
    """Open a file to copy streams from.

    Raises:
        VideoError: it cannot be opened.
    """
    try:
        return open_input(source)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{source} cannot be opened to copy its audio: {error.strerror}") from error


def find_audio_start(source: Path) -> Fraction | None:
    """Return the start of the earliest audio stream of a file, in seconds on its clock; None without audio."""
    with open_source(source) as container:
        return min(((stream.start_time or 0) * stream.time_base for stream in container.streams.audio), default=None)


class CompanionStreams:
    """The streams and metadata beside the video, copied packet by packet from the source of the restored video.

    The constructor adds to ``output`` every audio and subtitle stream that its container can store, with language and
    disposition, as well as chapters, cover art, attachments (Matroska) and metadata. The rest is dropped with a
    warning.

    Args:
        output: the target.
        source: the file to copy from.
        shift: seconds added to times of the source.
        since, until: drop packets that end before or start after these times, on the output's clock; None: no limit.
        metadata_only: copy only the metadata of the source.
        video: the video stream of ``output``.
        video_source: index of the stream in the source that ``video`` comes from and receives the metadata of.
        metadata: tags of ``output``; they override those of the source.

    Raises:
        VideoError: the source cannot be opened.
    """

    def __init__(
        self,
        output: ContainerWriter,
        source: Path | None,
        shift: Fraction,
        *,
        since: Fraction | None = None,
        until: Fraction | None = None,
        metadata_only: bool = False,
        video: Any,
        video_source: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._output, self._source, self._shift, self._since, self._until = output, source, shift, since, until
        self._resources = ExitStack()
        self._streams: dict[int, Any] = {}  # output streams by index of the source's
        self._packets: Iterator[av.Packet] = iter(())
        container = output.container
        if source is not None:
            origin = self._resources.enter_context(open_source(source))
            if not metadata_only:
                self._packets = self._add_companions(origin)
            container.metadata.update(_filter_tags(origin.metadata, CONTAINER_TAGS))
            has_apple_tags = any(key.startswith(QUICKTIME_PREFIX) for key in origin.metadata)
            if has_apple_tags and output.suffix in (".mov", ".mp4", ".m4v"):
                container.container_options["movflags"] = "use_metadata_tags"  # otherwise only iTunes tags are kept
            elif location := origin.metadata.get(f"{QUICKTIME_PREFIX}location.ISO6709"):
                container.metadata.setdefault("location", location)
            if video_source is not None:
                video.metadata.update(self._convert_tags(origin.streams[video_source]))
                video.disposition = origin.streams[video_source].disposition
        container.metadata.update(metadata or {})
        self._next_packet = next(self._packets, None)

    def _add_companions(self, origin: Any) -> Iterator[av.Packet]:
        """Add streams and chapters to the output and return the packets of these streams."""
        for stream in (*origin.streams.audio, *origin.streams.subtitles):
            self._add_stream(stream)
        covers = [self._add_cover(stream) for stream in origin.streams.video if stream.disposition & COVER_ART]
        # a time code is a tag of the video, from which the output's container makes a track of its own
        tagged = any("timecode" in tags for tags in (origin.metadata, *(s.metadata for s in origin.streams.video)))
        lost = [str(stream.index) for stream in origin.streams.data if not (tagged and "timecode" in stream.metadata)]
        if lost:
            log.warning("%s: data stream %s (positions, events) is not copied", self._source, ", ".join(lost))
        if self._output.suffix == ".mkv":
            for stream in origin.streams.attachments:
                self._output.container.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
        self._copy_chapters(origin)
        return chain(filter(None, covers), self._copy_packets(origin))

    def _add_stream(self, stream: Any) -> None:
        container, codec = self._output.container, stream.codec_context
        codec_name, kind = codec.name if codec else "unknown codec", stream.type
        try:
            added = container.add_stream_from_template(stream)
        except (ValueError, av.FFmpegError):
            added = self._add_text_stream(stream) if kind == "subtitle" and codec else None
        if added is None:
            kind = "audio" if kind == "audio" else "subtitles"
            details = f"{codec_name}, stream {stream.index}"
            message = f"{self._output.path} cannot store the {kind} of {self._source} ({details})"
            elsewhere = f"{self._output.path.stem}.mkv can store them"
            if not codec or self._output.suffix == ".mkv":
                elsewhere = "this version of FFmpeg does not know their format"
            log.warning("%s: not copied; %s", message, elsewhere)
            return
        added.metadata.update(self._convert_tags(stream))
        added.disposition = stream.disposition
        self._streams[stream.index] = added

    def _add_cover(self, stream: Any) -> av.Packet | None:
        """Add cover art to the output; return its packet where it is a video stream rather than an attachment."""
        with open_source(Path(stream.container.name)) as container:  # a second time, to read ahead of the others
            packet = next((p for p in stop_at_damage(container.demux(container.streams[stream.index])) if p.size), None)
        if packet is None or self._output.suffix not in (".mp4", ".m4v", ".mkv"):
            log.warning("%s cannot store the cover art of %s: not copied", self._output.path, self._source)
            return None
        name = stream.codec_context.name.replace("mjpeg", "jpeg")
        if self._output.suffix == ".mkv":
            file_name = f"cover.{name}".replace("jpeg", "jpg")
            self._output.container.add_attachment(file_name, f"image/{name}", bytes(packet))
            return None
        packet.stream = self._output.container.add_stream_from_template(stream)
        packet.stream.disposition = stream.disposition
        packet.pts = packet.dts = 0
        return packet

    def _add_text_stream(self, stream: Any) -> Any:
        """Add a stream that converts text subtitles to the container's format; None if either side is not text."""
        text_codec = TEXT_CODECS.get(self._output.suffix)
        try:
            stream.codec_context.open(strict=False)
            header = stream.codec_context.subtitle_header
            if text_codec is None or header is None:
                return None
            added = self._output.container.add_stream(text_codec)
            added.codec_context.subtitle_header, added.codec_context.time_base = header, Fraction(1, 1000)
            return added
        except (ValueError, av.FFmpegError):
            return None

    def _copy_chapters(self, origin: Any) -> None:
        chapters = []
        for chapter in origin.chapters():
            time_base = chapter["time_base"]
            start, end = self._clip(*(chapter[key] * time_base + self._shift for key in ("start", "end")))
            if start < end:
                times = {"start": round(start / time_base), "end": round(end / time_base)}
                chapters.append({**chapter, **times, "metadata": dict(chapter["metadata"])})
        if chapters:
            self._output.container.set_chapters(chapters)

    def _clip(self, start: Fraction, end: Fraction) -> tuple[Fraction, Fraction]:
        """Clip an interval to the limits of the output."""
        low, high = self._since, self._until
        return start if low is None else max(start, low), end if high is None else min(end, high)

    def _convert_tags(self, stream: Any) -> dict[str, str]:
        """Return the tags of a stream as the output's container names them."""
        tags = _filter_tags(stream.metadata, (*CONTAINER_TAGS, *TRACK_TAGS))
        if "name" in tags:  # MP4's title
            tags.setdefault("title", tags.pop("name"))
        if self._output.suffix == ".mov" and tags.get("language") in QUICKTIME_NAMES:
            tags["language"] = QUICKTIME_NAMES[tags["language"]]
        if self._output.suffix in (".mkv", ".webm"):
            tags.pop("handler_name", None)
        return tags

    def _copy_packets(self, origin: Any) -> Iterator[av.Packet]:
        """Yield the packets of the copied streams, shifted and clipped to the limits of the output."""
        streams = [origin.streams[index] for index in self._streams]
        for packet in stop_at_damage(origin.demux(streams)) if streams else ():
            time = packet.pts if packet.pts is not None else packet.dts
            if not packet.size or time is None:
                continue
            time_base, shift = packet.time_base, round(self._shift / packet.time_base)
            start, end = (time + shift) * time_base, (time + shift + (packet.duration or 0)) * time_base
            if (self._until is not None and start >= self._until) or (self._since is not None and end <= self._since):
                continue
            target: Any = self._streams[packet.stream_index]
            if target.type == "subtitle":  # unlike audio, one packet lasts for seconds
                start, end = self._clip(start, end)
                copy = _convert_subtitle(packet, target) if target.codec_context.is_encoder else packet
                if copy is None:
                    continue
                packet = copy
                packet.pts = packet.dts = round(start / time_base)
                packet.duration = max(0, round(end / time_base) - packet.pts)
            else:
                packet.pts = None if packet.pts is None else packet.pts + shift
                packet.dts = None if packet.dts is None else packet.dts + shift
            packet.stream = target
            yield packet

    def write(self, until: Fraction | None = None) -> None:
        """Write the packets up to a time, or all that remain; called along with the video to interleave them."""
        while (packet := self._next_packet) is not None:
            time = packet.dts if packet.dts is not None else packet.pts
            if until is not None and time is not None and time * packet.time_base > until:
                break
            self._output.container.mux_one(packet)
            self._next_packet = next(self._packets, None)

    def close(self) -> None:
        """Close the source."""
        self._packets, self._next_packet = iter(()), None
        self._resources.close()


def _convert_subtitle(packet: Any, target: Any) -> av.Packet | None:
    """Convert a packet of text subtitles to the format of ``target``; None if it has no text."""
    subtitles = packet.stream.codec_context.decode2(packet)
    if subtitles is None or not len(subtitles):
        return None
    converted = target.codec_context.encode_subtitle(subtitles)
    converted.time_base = packet.time_base
    return converted


def _filter_tags(metadata: Mapping[str, str], excluded: tuple[str, ...]) -> dict[str, str]:
    """Return the tags without those that start with an excluded name."""
    return {key: value for key, value in metadata.items() if not key.lower().startswith(excluded)}
