"""Write video containers and frame folders atomically: each appears under its name only when it is complete."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.codec.context import Flags

from src.atomic import fsync
from src.errors import VideoError
from src.video.colorspace import Signal
from src.video.discovery import IMAGE_SUFFIXES
from src.video.matroska import write_properties
from src.video.spatial import MATROSKA_SUFFIXES, MP4_SUFFIXES, SpatialLayout, write_layout

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".nut": "nut"}

FRAME_NAME = re.compile(r"\d{8,}\.png")

log = logging.getLogger(__name__)


class PartHeader(NamedTuple):
    """Properties of a ``.nut`` part that NUT cannot store; kept as JSON in its ``comment`` tag."""

    fps: Fraction
    aspect: Fraction
    signal: Signal
    shift: int = 0  # added to timestamps on reading, in their time base, since NUT has no negative ones

    def to_json(self) -> str:
        """Serialise the header."""
        color = [self.signal.matrix, self.signal.range, self.signal.primaries, self.signal.transfer]
        fields = {"fps": str(self.fps), "aspect": str(self.aspect), "signal": color, "shift": self.shift}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, path: Path, text: str) -> PartHeader:
        """Parse the ``comment`` tag of the part at ``path``.

        Raises:
            VideoError: it is not a part.
        """
        try:
            fields = json.loads(text)
            matrix, color_range, primaries, transfer = fields["signal"]
            signal = Signal(matrix=matrix, range=color_range, primaries=primaries, transfer=transfer)
            return cls(Fraction(fields["fps"]), Fraction(fields["aspect"]), signal, fields["shift"])
        except (ValueError, KeyError, TypeError) as error:
            raise VideoError(f"{path} is not a video part; write it again") from error


class ContainerWriter:
    """Writes a container under a hidden temporary name and renames it on success; a context manager.

    Attributes:
        container: the open PyAV container.
        layout: spatial layout of the video, written on success; None: flat.

    Args:
        path: the final file.
        encoder: the encoder of the video stream, for a part.
        display_path: the path to name in errors, if not ``path``.

    Raises:
        VideoError: the container is unknown, or the file cannot be written.
    """

    def __init__(self, path: Path, encoder: str = "", display_path: Path | None = None) -> None:
        self.path, self.suffix, self._display_path = path, path.suffix.lower(), display_path or path
        self.container: Any = None
        self._temporary = path.absolute().with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._format = CONTAINERS.get(self.suffix, "")
        if self._format == "nut" and encoder == "prores_ks":
            self._format = "mov"  # NUT has no codec tag for ProRes
        self._aspect = Fraction(1)
        self.layout: SpatialLayout | None = None

    def __enter__(self) -> ContainerWriter:
        check_container(self.path)
        try:
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
            # Creates the file at the first packet. bitexact omits random identifiers, for reproducible files.
            options = {"fflags": "+bitexact"}
            self.container = av.open(str(self._temporary), "w", format=self._format, options=options)
        except (av.FFmpegError, OSError) as error:
            raise make_write_error(self._display_path, error) from error
        return self

    def describe(self, stream: Any, header: PartHeader, time_base: Fraction) -> None:
        """Set the properties of the video ``stream`` before its first packet; ``time_base`` is in seconds."""
        context, signal = stream.codec_context, header.signal
        context.framerate, context.sample_aspect_ratio, stream.time_base = header.fps, header.aspect, time_base
        if context.is_encoder:
            context.time_base = time_base
        context.colorspace, context.color_range = signal.matrix, signal.range
        context.color_primaries, context.color_trc = signal.primaries, signal.transfer
        options = self.container.container_options
        if self._format in ("mp4", "mov"):
            options["movie_timescale"] = str(time_base.denominator * -(-1000 // time_base.denominator))  # exact delays
            if context.name.startswith(("hevc", "libx265")):
                context.codec_tag = "hvc1"  # the only tag for HEVC that Apple's players accept
        elif self._format == "nut":
            options["avoid_negative_ts"] = "disabled"  # it would shift the part
            context.flags |= Flags.global_header
        elif not context.name.startswith(("h264", "hevc")):  # those store it in the bitstream
            self._aspect = header.aspect
        if self.suffix == ".nut":
            self.container.metadata["comment"] = header.to_json()

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None:
                self._commit()
        except (av.FFmpegError, OSError) as error:
            raise make_write_error(self._display_path, error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Delete the temporary file; has no effect after a successful exit."""
        try:
            if self.container is not None:
                self.container.close()
        except (av.FFmpegError, ValueError) as error:
            log.debug("%s did not close cleanly: %s", self._temporary, error)
        self._temporary.unlink(missing_ok=True)

    def _commit(self) -> None:
        self.container.close()
        if self.suffix in MATROSKA_SUFFIXES and (self._aspect != 1 or self.layout):
            write_properties(self._temporary, self._aspect, self.layout)
        elif self.suffix in MP4_SUFFIXES and self.layout:
            write_layout(self._temporary, self.layout)
        fsync(self._temporary)
        os.replace(self._temporary, self.path)
        fsync(self._temporary.parent)


def check_container(path: Path, encoder: str = "") -> None:
    """Check that a video can be written to ``path``, with the codec of ``encoder`` if given.

    Raises:
        VideoError: it cannot.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise VideoError(f"{path} is an image; frames are written as PNGs of 8 or 16 bits: name a folder (no suffix)")
    if path.suffix.lower() not in CONTAINERS:
        raise VideoError(f"{path} is not a supported video file; use one of {', '.join(list(CONTAINERS)[:-1])}")
    if path.is_dir():
        raise VideoError(f"{path} is a folder; name a file for the video")
    if encoder and path.suffix.lower() != ".nut":
        with av.open(os.devnull, "w", format=CONTAINERS[path.suffix.lower()]) as container:
            # QuickTime's muxer lists AV1 but rejects it on writing.
            is_refused = (encoder, path.suffix.lower()) == ("libsvtav1", ".mov")
            if encoder not in container.supported_codecs or is_refused:
                suffix = ".mov" if encoder == "prores_ks" else ".mkv"
                codec = encoder.removesuffix("_ks")
                raise VideoError(f"{path} cannot store {codec}; write {path.stem}{suffix} instead")


def check_frame_folder(path: Path) -> None:
    """Check that a folder of frames can be written to ``path``: it is absent, empty, or holds only such frames.

    Raises:
        VideoError: it is a file or holds other files.
    """
    if path.exists() and (not path.is_dir() or not all(FRAME_NAME.fullmatch(entry.name) for entry in path.iterdir())):
        raise VideoError(f"{path} exists and is not a folder of frames; name another folder")


def replace_folder(draft: Path, path: Path) -> None:
    """Move the folder ``draft`` to ``path``, replacing the folder there."""
    old = path.absolute().with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.is_dir():
        os.replace(path, old)
    os.replace(draft, path)
    fsync(path.absolute().parent)
    shutil.rmtree(old, ignore_errors=True)


def make_write_error(path: Path, error: Exception) -> VideoError:
    """Convert an error of FFmpeg or the file system to a VideoError that names the file."""
    return VideoError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}")
