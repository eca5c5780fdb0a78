"""Clips, splits and the count of damaged clips.

Layouts (:mod:`src.data.layouts`) find clips; samples (:mod:`src.data.samples`) are cut from them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from src.data.source_size import SourceSize
from src.errors import UserError, VideoError
from src.video.discovery import list_images
from src.video.images import read_size
from src.video.reader import FrameReader, open_video
from src.wording import number_of

OPENED = 50  # clips of unknown length to open for a description
SHOWN = 10  # messages of an abbreviated list

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """A range of frames of one video file or frame folder.

    Args:
        name: key of the clip's scores; unique within a split.
        path: the file or folder.
        subset: part of a test set with a mean of its own (Vimeo-90K's ``fast``, ...).
        start, stop: first frame, and the frame after the last, in frames of the file; ``None`` is the end.
        step: every ``step``-th frame of the file is a source frame.
        precomputed: folders of degraded frames with the same numbers, by the corruptions applied to them, e.g.
            ``("bicubic",)`` or ``("blur", "compression")``; see
            :meth:`src.data.degradation.Degradation.remaining_after`. Not used if the source frames are reduced.
        precomputed_every: frames of the file from one with a precomputed frame to the next, from frame 0 on; the
            precomputed ones are numbered without gaps.
        source_size: size to which the frames of the file are reduced; the result are the source frames.
    """

    name: str
    path: Path
    subset: str = ""
    start: int = 0
    stop: int | None = None
    step: int = 1
    precomputed: Mapping[tuple[str, ...], Path] = field(default_factory=dict)
    precomputed_every: int = 1
    source_size: SourceSize = field(default_factory=SourceSize)

    @property
    def is_paired(self) -> bool:
        """True if inputs are given, and cannot be made."""
        return any("given" in corruptions for corruptions in self.precomputed)

    def length(self) -> int:
        """Return the number of source frames; opens the file if ``stop`` is ``None``."""
        stop = self.stop
        if stop is None:
            with open_clip(self.path) as reader:
                stop = len(reader)
        return len(range(self.start, stop, self.step))


@dataclass(frozen=True)
class Splits:
    """Clips for training, for validation during training, and for the test. No frame is in two splits.

    Args:
        train, validate, test: the clips.
        damaged: error message per file that could not be opened and has no clip here, keyed by path.

    Raises:
        UserError: a frame is in two splits, or two test or validation clips share a name.
    """

    train: Sequence[Clip] = ()
    validate: Sequence[Clip] = ()
    test: Sequence[Clip] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("train", "validate", "test"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self.check()

    def with_source_size(self, size: SourceSize) -> Splits:
        """Return the same clips with source frames of another size."""
        if not size:
            return self
        parts = (self.train, self.validate, self.test)
        train, validate, test = ([replace(clip, source_size=size) for clip in part] for part in parts)
        return Splits(train, validate, test, self.damaged)

    def describe(self) -> str:
        """Count the clips of each split, and their frames unless too many files would be opened for that."""
        parts = {"to train on": self.train, "to validate on": self.validate, "to score": self.test}
        unopened = sum(clip.stop is None for part in parts.values() for clip in part)
        texts = []
        for use, clips in parts.items():
            frames = ""
            if clips and unopened <= OPENED:
                with suppress(VideoError):  # damaged: said where it is read
                    frames = f" ({number_of(sum(clip.length() for clip in clips), 'frame')})"
            texts.append(f"{number_of(len(clips), 'clip')}{frames} {use}")
        return ", ".join(texts) + (f" ({self.scored_part})" if self.test else "")

    @property
    def scored_part(self) -> str:
        """The part of the test clips that is scored."""
        cut = any(clip.start for clip in self.test)
        return "the ends of clips, held back from training" if cut else "whole clips"

    def check(self) -> None:
        named = {"training": self.train, "validation": self.validate, "test": self.test}
        ranges = [
            (os.path.abspath(clip.path), clip.start, clip.stop, split, clip.name)
            for split, clips in named.items()
            for clip in clips
        ]
        ranges.sort(key=lambda entry: entry[:2])
        reach: dict[str, tuple[float, str, str]] = {}  # of the current path, by split: the farthest end and its clip
        path = ""
        for here, start, stop, split, name in ranges:
            if here != path:
                path, reach = here, {}
            end = float("inf") if stop is None else stop
            for other, (last, _, neighbour) in reach.items():
                if other != split and start < last:
                    raise UserError(
                        f"Frame {start} of {here} is in both the {other} data (clip {neighbour}) and the {split} data "
                        f"(clip {name}). Splits must not overlap: correct the data set's lists or folders"
                    )
            if split not in reach or end > reach[split][0]:
                reach[split] = (end, split, name)
        for split in ("validation", "test"):
            seen: set[str] = set()
            for clip in named[split]:
                if clip.name in seen:
                    raise UserError(f"Two {split} clips are named {clip.name} ({clip.path}): rename one of them")
                seen.add(clip.name)


class DamagedClips(dict[str, str]):
    """The error message per damaged clip, keyed by path.

    Args:
        limit: number of damaged clips to train without, ``data.skip_damaged``.
        known: damaged clips from an earlier pass.

    Raises:
        VideoError: more than ``limit`` clips are damaged (here and in the methods); the message lists them.
    """

    def __init__(self, limit: int = 0, known: Mapping[str, str] | None = None) -> None:
        if limit < 0:
            raise UserError(f"data.skip_damaged must be 0 or more damaged clips, got {limit}")
        super().__init__()
        self.limit = limit
        for path, message in (known or {}).items():
            self.add(path, message)

    def add(self, path: Path | str, message: str) -> bool:
        """Count a clip. Return ``True`` if it is new."""
        if str(path) in self:
            return False
        self[str(path)] = message
        if len(self) <= self.limit:
            return True
        advice = "task=doctor doctor.read=true lists all damaged files"
        if not self.limit:
            raise VideoError(f"{message}; replace it, or train without it: data.skip_damaged=1 ({advice})")
        raise VideoError(
            f"{len(self)} clips are damaged, more than data.skip_damaged={self.limit}: {abbreviate(self.values())}; "
            f"replace them, or raise data.skip_damaged ({advice})"
        )

    def skip(self, path: Path | str, message: str) -> None:
        """Count a clip, and log a warning if it is new."""
        if self.add(path, message):
            log.warning("%s: skipped (%d of data.skip_damaged=%d)", message, len(self), self.limit)


def abbreviate(messages: Iterable[str]) -> str:
    """Join the first ten messages; count the rest."""
    listed = list(messages)
    return "; ".join(listed[:SHOWN]) + (f"; and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")


def spread_evenly(count: int, total: int) -> list[int]:
    """Return ``count`` different indices below ``total``, evenly spread."""
    return [(2 * k + 1) * total // (2 * count) for k in range(count)]


def open_clip(path: Path) -> FrameReader:
    """Open a clip; images of more than 8 bits per channel keep them.

    Raises:
        VideoError: it cannot be opened, for any reason.
    """
    try:
        return open_video(path, deep=path.is_dir())
    except OSError as error:
        raise VideoError(f"{path} cannot be opened: {error.strerror or error}") from error


def measure_clip(path: Path) -> tuple[int, tuple[int, int]]:
    """Return the number of frames of a video or frame folder, and the (height, width) of the first."""
    if path.is_file():
        with open_video(path) as reader:
            return len(reader), reader.size
    frames = list_images(path) if path.is_dir() else []
    if not frames:
        return 0, (0, 0)
    return len(frames), read_size(frames[0])


def read_list(path: Path) -> list[str]:
    """Return the entries of a list of clips: one path a line, relative to a folder of the data set.

    Raises:
        UserError: the file cannot be read, or an entry leads out of that folder. Links inside it may lead anywhere.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable list of clips, one a line: {error}") from error
    entries = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, entry in entries:
        if Path(entry).anchor or ".." in Path(entry).parts:
            raise UserError(
                f"Line {number} of {path} is {entry}, which leads out of the data set: use relative paths without .."
            )
    return [entry for _, entry in entries]
