"""What goes with a picture, from file to file: sound, subtitles, chapters, fonts and words, copied as they are."""

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
from src.video.containers import Output
from src.video.probe import open_input, until_damaged

TEXT = {".mp4": "mov_text", ".m4v": "mov_text", ".mov": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}
# What a container says of itself, or of streams that are other ones now.
OWN = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate", "vendor_id", "bps")
OWN_OF_TRACKS = ("number_of_", "_statistics_", "source_id", "creation_time")
# QuickTime knows languages by a list of its own, where FFmpeg looks for these under other names than ISO 639-2/T.
# fmt: off
QUICKTIME_NAMES = {
    "deu": "ger", "ell": "gre", "isl": "ice", "mkd": "mac", "nld": "dut", "sqi": "alb", "swe": "sve", "zho": "chi",
}
# fmt: on
QUICKTIME = "com.apple.quicktime."  # what names of Apple's begin with
COVER = av.stream.Disposition.attached_pic

log = logging.getLogger(__name__)


def opened(source: Path) -> Any:
    """A file to copy from, open."""
    try:
        return open_input(source)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{source} cannot be opened to copy its audio: {error.strerror}") from error


def heard_from(source: Path) -> Fraction | None:
    """When the first sound of a file begins, on its clock, in seconds; None where there is none."""
    with opened(source) as container:
        return min(((stream.start_time or 0) * stream.time_base for stream in container.streams.audio), default=None)


class Companions:
    """What goes with a picture, copied packet by packet from the file that the picture was made from.

    Made, it has added to ``output`` every audio and subtitle stream that the container can hold, with language and
    disposition, chapters, cover, attachments (Matroska) and what the source says of itself. What it cannot hold is left
    out, with a warning.

    Args:
        output: where to.
        source: where from.
        shift: what to add to times of the source for those of the output, in seconds.
        since, until: on the output's clock: what ends before or begins after is left out; None: nothing is.
        words_alone: takes of the source what it says of itself, and nothing that lasts.
        picture: the video stream of ``output``, which takes over the words said of the source's.
        metadata: what ``output`` says of itself beside, or instead of, what the source says.

    Raises:
        VideoError: the source cannot be opened.
    """

    def __init__(
        self,
        output: Output,
        source: Path | None,
        shift: Fraction,
        *,
        since: Fraction | None = None,
        until: Fraction | None = None,
        words_alone: bool = False,
        picture: Any,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._output, self._source, self._shift, self._since, self._until = output, source, shift, since, until
        self._open = ExitStack()
        self._streams: dict[int, Any] = {}
        self._packets: Iterator[av.Packet] = iter(())
        container = output.container
        if source is not None:
            origin = self._open.enter_context(opened(source))
            if not words_alone:
                self._packets = self._lasting(origin)
            container.metadata.update(_kept(origin.metadata, OWN))
            if any(key.startswith(QUICKTIME) for key in origin.metadata) and output.suffix in (".mov", ".mp4", ".m4v"):
                container.container_options["movflags"] = "use_metadata_tags"  # else only names of iTunes are kept
            elif place := origin.metadata.get(f"{QUICKTIME}location.ISO6709"):
                container.metadata.setdefault("location", place)  # which is the name that others have for it
            self._name(origin, picture)
        container.metadata.update(metadata or {})
        self._ahead = next(self._packets, None)

    def _lasting(self, origin: Any) -> Iterator[av.Packet]:
        """Adds streams and chapters to the output; what it returns are the packets of these streams."""
        for stream in (*origin.streams.audio, *origin.streams.subtitles):
            self._add(stream)
        covers = [self._cover(stream) for stream in origin.streams.video if stream.disposition & COVER]
        if data := [str(stream.index) for stream in origin.streams.data]:
            log.warning("%s has data (positions, time codes) in stream %s: left out", self._source, ", ".join(data))
        if self._output.suffix == ".mkv":
            for stream in origin.streams.attachments:
                self._output.container.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
        self._chapters(origin)
        return chain(filter(None, covers), self._moved(origin))

    def _add(self, stream: Any) -> None:
        container, codec = self._output.container, stream.codec_context
        name, kind = codec.name if codec else "of an unknown codec", stream.type
        try:
            added = container.add_stream_from_template(stream)
        except (ValueError, av.FFmpegError):
            added = self._recoded(stream) if kind == "subtitle" and codec else None
        if added is None:
            kind = "audio" if kind == "audio" else "subtitles"
            words = f"{self._output.path} cannot hold the {kind} of {self._source} ({name}, stream {stream.index})"
            log.warning("%s: left out; %s.mkv can", words, self._output.path.stem)
            return
        added.metadata.update(self._words(stream))
        added.disposition = stream.disposition
        self._streams[stream.index] = added

    def _cover(self, stream: Any) -> av.Packet | None:
        """The picture that a file is shown by, where it is one packet of the output, too."""
        with opened(Path(stream.container.name)) as again:  # as the packets of this one are still to come
            packet = next((p for p in again.demux(again.streams[stream.index]) if p.size), None)
        if packet is None or self._output.suffix not in (".mp4", ".m4v", ".mkv"):
            log.warning("%s cannot hold the cover of %s: left out", self._output.path, self._source)
            return None
        name = stream.codec_context.name.replace("mjpeg", "jpeg")
        if self._output.suffix == ".mkv":
            self._output.container.add_attachment(
                f"cover.{name}".replace("jpeg", "jpg"), f"image/{name}", bytes(packet)
            )
            return None
        packet.stream = self._output.container.add_stream_from_template(stream)
        packet.stream.disposition = stream.disposition
        packet.pts = packet.dts = 0
        return packet

    def _recoded(self, stream: Any) -> Any:
        """A stream for subtitles in the container's own format of text; None where either is none."""
        text = TEXT.get(self._output.suffix)
        try:
            stream.codec_context.open(strict=False)
            header = stream.codec_context.subtitle_header
            if text is None or header is None:
                return None
            added = self._output.container.add_stream(text)
            added.codec_context.subtitle_header, added.codec_context.time_base = header, Fraction(1, 1000)
            return added
        except (ValueError, av.FFmpegError):
            return None

    def _chapters(self, origin: Any) -> None:
        low, high = self._since, self._until
        chapters = []
        for chapter in origin.chapters():
            base = chapter["time_base"]
            start, end = (chapter[key] * base + self._shift for key in ("start", "end"))
            start, end = start if low is None else max(start, low), end if high is None else min(end, high)
            if start < end:
                words = dict(chapter["metadata"])
                chapters.append({**chapter, "start": round(start / base), "end": round(end / base), "metadata": words})
        if chapters:
            self._output.container.set_chapters(chapters)

    def _name(self, origin: Any, picture: Any) -> None:
        stream = origin.streams.best("video")
        if stream is not None and not stream.disposition & COVER:
            picture.metadata.update(self._words(stream))
            picture.disposition = stream.disposition

    def _words(self, stream: Any) -> dict[str, str]:
        """What is said of a stream, in the words of the container."""
        words = _kept(stream.metadata, (*OWN, *OWN_OF_TRACKS))
        if "name" in words:  # as MP4 calls it
            words.setdefault("title", words.pop("name"))
        if self._output.suffix == ".mov" and words.get("language") in QUICKTIME_NAMES:
            words["language"] = QUICKTIME_NAMES[words["language"]]
        if self._output.suffix in (".mkv", ".webm"):
            words.pop("handler_name", None)
        return words

    def _moved(self, origin: Any) -> Iterator[av.Packet]:
        wanted = [origin.streams[index] for index in self._streams]
        low, high = self._since, self._until
        for packet in until_damaged(origin.demux(wanted)) if wanted else ():
            at = packet.pts if packet.pts is not None else packet.dts
            if not packet.size or at is None:
                continue
            base, moved = packet.time_base, round(self._shift / packet.time_base)
            begin, end = (at + moved) * base, (at + moved + (packet.duration or 0)) * base
            if (high is not None and begin >= high) or (low is not None and end <= low):
                continue
            target: Any = self._streams[packet.stream_index]
            if target.type == "subtitle":  # unlike sound, one packet is shown for long
                begin, end = begin if low is None else max(begin, low), end if high is None else min(end, high)
                copy = _encoded(packet, target) if target.codec_context.is_encoder else packet
                if copy is None:
                    continue
                packet = copy
                packet.pts = packet.dts = round(begin / base)
                packet.duration = max(0, round(end / base) - packet.pts)
            else:
                packet.pts = None if packet.pts is None else packet.pts + moved
                packet.dts = None if packet.dts is None else packet.dts + moved
            packet.stream = target
            yield packet

    def feed(self, until: Fraction | None = None) -> None:
        """Write what comes up to a time, or all that is left: in step with the picture, so that little is held back."""
        while (packet := self._ahead) is not None:
            at = packet.dts if packet.dts is not None else packet.pts
            if until is not None and at is not None and at * packet.time_base > until:
                break
            self._output.container.mux_one(packet)
            self._ahead = next(self._packets, None)

    def close(self) -> None:
        """Let go of the source."""
        self._packets, self._ahead = iter(()), None
        self._open.close()


def _encoded(packet: Any, target: Any) -> av.Packet | None:
    """A packet of text subtitles in the format of ``target``; None where it shows nothing."""
    shown = packet.stream.codec_context.decode2(packet)
    if shown is None or not len(shown):
        return None
    recoded = target.codec_context.encode_subtitle(shown)
    recoded.time_base = packet.time_base
    return recoded


def _kept(metadata: Mapping[str, str], own: tuple[str, ...]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.lower().startswith(own)}
