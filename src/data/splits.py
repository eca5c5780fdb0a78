"""What a data set is made of: clips, and which of them train, validate and test.

Layouts (:mod:`src.data.layouts`) find them; samples (:mod:`src.data.samples`) are cut from them. What is damaged among
them is counted here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.errors import UserError, VideoError
from src.video.reader import FrameReader, open_video

SHOWN = 10  # sentences on what is damaged

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """A stretch of one video file or frame folder.

    Args:
        name: what scores are kept under; unique within a split.
        path: the file or folder.
        subset: part of a test set that has a mean of its own (Vimeo-90K's ``fast``, ...).
        start, stop: its first frame, and the one behind its last, in frames of the file; ``None`` is the end.
        step: each ``step``-th frame of the file is a source frame.
        ready: folders of frames of the same numbers that are degraded already, by what has happened to them, e.g.
            ``("bicubic",)`` or ``("blur", "compression")``; see :meth:`src.data.degradation.Degradation.after`.
    """

    name: str
    path: Path
    subset: str = ""
    start: int = 0
    stop: int | None = None
    step: int = 1
    ready: Mapping[tuple[str, ...], Path] = field(default_factory=dict)

    def length(self) -> int:
        """Source frames; opens the file where ``stop`` is not given."""
        stop = self.stop
        if stop is None:
            with opened(self.path) as reader:
                stop = len(reader)
        return len(range(self.start, stop, self.step))


@dataclass(frozen=True)
class Splits:
    """Clips to train on, to validate on while training, and to test on: no frame is in two of them.

    Args:
        train, validate, test: the clips.
        damaged: by path, a sentence on each file that should have given clips to these and could not be opened.

    Raises:
        UserError: a frame is in two splits, or two clips of a test or validation set share a name.
    """

    train: Sequence[Clip] = ()
    validate: Sequence[Clip] = ()
    test: Sequence[Clip] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("train", "validate", "test"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self.check()

    def check(self) -> None:
        named = {"training": self.train, "validation": self.validate, "test": self.test}
        stretches = [
            (os.path.abspath(clip.path), clip.start, clip.stop, split, clip.name)
            for split, clips in named.items()
            for clip in clips
        ]
        stretches.sort(key=lambda stretch: stretch[:2])
        reach: dict[str, tuple[float, str, str]] = {}  # of the path at hand, by split: the last frame, whose
        path = ""
        for here, start, stop, split, name in stretches:
            if here != path:
                path, reach = here, {}
            end = float("inf") if stop is None else stop
            for other, (last, _, neighbour) in reach.items():
                if other != split and start < last:
                    raise UserError(
                        f"frame {start} of {here} is both {other} data (clip {neighbour}) and {split} data (clip "
                        f"{name}): the splits of a data set must share nothing, so mend its lists or folders"
                    )
            if split not in reach or end > reach[split][0]:
                reach[split] = (end, split, name)
        for split in ("validation", "test"):
            seen: set[str] = set()
            for clip in named[split]:
                if clip.name in seen:
                    raise UserError(
                        f"two {split} clips are called {clip.name} ({clip.path}): give them names of their own"
                    )
                seen.add(clip.name)


class Damaged(dict[str, str]):
    """What was found damaged, by the path of its clip, with a sentence on each.

    Args:
        limit: so many clips may be, ``data.skip_damaged``.
        known: what was found before.

    Raises:
        VideoError: there are more, here and in the methods; the sentence names them.
    """

    def __init__(self, limit: int = 0, known: Mapping[str, str] | None = None) -> None:
        if limit < 0:
            raise UserError(f"data.skip_damaged counts damaged clips to train without, got {limit}")
        super().__init__()
        self.limit = limit
        for path, sentence in (known or {}).items():
            self.meet(path, sentence)

    def meet(self, path: Path | str, sentence: str) -> bool:
        """Counts a clip; whether it was not known."""
        if str(path) in self:
            return False
        self[str(path)] = sentence
        if len(self) <= self.limit:
            return True
        found = "task=doctor doctor.read=true finds all that is damaged"
        if not self.limit:
            raise VideoError(f"{sentence}; replace it, or train without it with data.skip_damaged=1 ({found})")
        raise VideoError(
            f"{len(self)} clips are damaged, and data.skip_damaged={self.limit} trains without {self.limit} at most: "
            f"{few(self.values())}; replace them, or raise it ({found})"
        )

    def leave_out(self, path: Path | str, sentence: str) -> None:
        """Counts a clip, and tells so the first time."""
        if self.meet(path, sentence):
            log.warning("%s: left out (%d of data.skip_damaged=%d)", sentence, len(self), self.limit)


def few(sentences: Iterable[str]) -> str:
    """Sentences in a row, those that would be too many counted only."""
    said = list(sentences)
    return "; ".join(said[:SHOWN]) + (f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else "")


def opened(path: Path) -> FrameReader:
    """The reader of a clip; whatever keeps it from being opened is a VideoError."""
    try:
        return open_video(path)
    except OSError as error:
        raise VideoError(f"{path} cannot be opened: {error.strerror or error}") from error


def listed(path: Path) -> list[str]:
    """The entries of a list of clips, one a line, each a path within a folder that the data set says.

    Raises:
        UserError: it cannot be read, or an entry would lead out of that folder. Links within it may lead anywhere.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of clips, one a line: {error}") from error
    entries = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, entry in entries:
        if Path(entry).anchor or ".." in Path(entry).parts:
            raise UserError(
                f"line {number} of {path} is {entry}, which leads out of the data set: name what lies in it, without "
                "a leading / and without .."
            )
    return [entry for _, entry in entries]


def missing(what: str, root: Path, source: str = "") -> UserError:
    """That a data set is not there, where to get it, and what to do without it."""
    get = f"get it from {source} and set data.root to where it is" if source else "set data.root to where it is"
    return UserError(
        f"This data set is not at {root.absolute()}: {what}; {get}, or run on the built-in data with "
        "data=procedural size=mini."
    )
