"""A video file in the making: which containers there are, and how one appears under its name only when it is whole."""

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
from src.video.matroska import write_aspect

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".nut": "nut"}

FRAME = re.compile(r"\d{8,}\.png")  # the name of a frame in a folder

log = logging.getLogger(__name__)


class About(NamedTuple):
    """What a part says of its picture beyond what NUT has a place for."""

    fps: Fraction
    aspect: Fraction
    signal: Signal
    shift: int = 0  # what to add to times, in their unit, as NUT has none below 0

    def words(self) -> str:
        meaning = [self.signal.matrix, self.signal.range, self.signal.primaries, self.signal.transfer]
        said = {"fps": str(self.fps), "aspect": str(self.aspect), "signal": meaning, "shift": self.shift}
        return json.dumps(said)

    @classmethod
    def read(cls, path: Path, words: str) -> About:
        try:
            said = json.loads(words)
            matrix, full, primaries, transfer = said["signal"]
            signal = Signal(matrix=matrix, range=full, primaries=primaries, transfer=transfer)
            return cls(Fraction(said["fps"]), Fraction(said["aspect"]), signal, said["shift"])
        except (ValueError, KeyError, TypeError) as error:
            raise VideoError(f"{path} is no part of a video as they are written here; write it again") from error


class Output:
    """A video file in the making, under a hidden name beside its own; to be used in a ``with`` statement.

    Attributes:
        container: what streams are added to and packets are put into.

    Args:
        path: where it is to be.
        encoder: what encodes the picture of a part.
        called: what errors call it, ``path`` unless told.

    Raises:
        VideoError: there is no such container, or it cannot be written there.
    """

    def __init__(self, path: Path, encoder: str = "", called: Path | None = None) -> None:
        self.path, self.suffix, self._called = path, path.suffix.lower(), called or path
        self.container: Any = None
        self._part = path.absolute().with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._kind = CONTAINERS.get(self.suffix, "")
        if self._kind == "nut" and encoder == "prores_ks":
            self._kind = "mov"  # NUT has no name for ProRes
        self._aspect = Fraction(1)

    def __enter__(self) -> Output:
        check(self.path)
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            # Makes no file before the first packet; without names drawn by lot, so that equal videos are equal files.
            self.container = av.open(str(self._part), "w", format=self._kind, options={"fflags": "+bitexact"})
        except (av.FFmpegError, OSError) as error:
            raise failed(self._called, error) from error
        return self

    def describe(self, stream: Any, about: About, base: Fraction) -> None:
        """Say of the video ``stream`` what it is, before the first packet; ``base`` is its unit of time, in seconds."""
        context, signal = stream.codec_context, about.signal
        context.framerate, context.sample_aspect_ratio, stream.time_base = about.fps, about.aspect, base
        if context.is_encoder:
            context.time_base = base
        context.colorspace, context.color_range = signal.matrix, signal.range
        context.color_primaries, context.color_trc = signal.primaries, signal.transfer
        options = self.container.container_options
        if self._kind in ("mp4", "mov"):
            options["movie_timescale"] = str(base.denominator * -(-1000 // base.denominator))  # exact delays
            if context.name.startswith(("hevc", "libx265")):
                context.codec_tag = "hvc1"  # the only kind of HEVC that Apple's players open
        elif self._kind == "nut":
            options["avoid_negative_ts"] = "disabled"  # which would move the part
            context.flags |= Flags.global_header
        elif not context.name.startswith(("h264", "hevc")):  # which say it themselves
            self._aspect = about.aspect
        if self.suffix == ".nut":
            self.container.metadata["comment"] = about.words()

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None:
                self._finish()
        except (av.FFmpegError, OSError) as error:
            raise failed(self._called, error) from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what is not whole; does nothing to what is."""
        try:
            if self.container is not None:
                self.container.close()
        except (av.FFmpegError, ValueError) as error:
            log.debug("%s was left: %s", self._part, error)
        self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        self.container.close()
        if self._aspect != 1:
            write_aspect(self._part, self._aspect)
        fsync(self._part)
        os.replace(self._part, self.path)
        fsync(self._part.parent)


def check(path: Path, encoder: str = "") -> None:
    """Raises a VideoError where no video can be written to ``path``, or none that ``encoder`` encodes."""
    if path.suffix.lower() not in CONTAINERS:
        raise VideoError(f"{path} cannot be written, as a video is written to {', '.join(list(CONTAINERS)[:-1])}")
    if path.is_dir():
        raise VideoError(f"{path} is a folder, name a file to write the video to")
    if encoder and path.suffix.lower() != ".nut":
        with av.open(os.devnull, "w", format=CONTAINERS[path.suffix.lower()]) as container:
            listed = encoder in container.supported_codecs and (encoder, path.suffix.lower()) != ("libsvtav1", ".mov")
            if not listed:  # QuickTime's muxer lists AV1, and refuses it at last
                fit = ".mov" if encoder == "prores_ks" else ".mkv"
                raise VideoError(f"{path} cannot hold {encoder.removesuffix('_ks')}, write {path.stem}{fit} instead")


def check_folder(path: Path) -> None:
    """Raises a VideoError where a folder of frames cannot be put: what is there is no such folder, nor empty."""
    if path.exists() and (not path.is_dir() or not all(FRAME.fullmatch(entry.name) for entry in path.iterdir())):
        raise VideoError(f"{path} is not empty and holds more than frames, name another folder to write frames to")


def put_folder(draft: Path, path: Path) -> None:
    """Puts a folder of frames in its place, instead of the frames that are there."""
    old = path.absolute().with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.is_dir():
        os.replace(path, old)
    os.replace(draft, path)
    fsync(path.absolute().parent)
    shutil.rmtree(old, ignore_errors=True)


def failed(path: Path, error: Exception) -> VideoError:
    """The sentence for what the disk or FFmpeg does not take."""
    return VideoError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}")
