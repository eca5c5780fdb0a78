"""What a data set is made of: clips, and which of them train, validate and test.

Layouts (:mod:`src.data.layouts`) find them; samples (:mod:`src.data.clips`) are cut from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.errors import Problem
from src.video.reader import open_video


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
            ``("bicubic",)`` or ``("blur", "compression")``; see :meth:`src.data.degrade.Degradation.after`.
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
            with open_video(self.path) as reader:
                stop = len(reader)
        return len(range(self.start, stop, self.step))


@dataclass(frozen=True)
class Splits:
    """Clips to train on, to validate on while training, and to test on: no frame is in two of them.

    Raises:
        Problem: a frame is in two splits, or two clips of a test or validation set share a name.
    """

    train: Sequence[Clip] = ()
    validate: Sequence[Clip] = ()
    test: Sequence[Clip] = ()

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
                    raise Problem(
                        f"frame {start} of {here} is both {other} data (clip {neighbour}) and {split} data (clip "
                        f"{name}): the splits of a data set must share nothing, so mend its lists or folders"
                    )
            if split not in reach or end > reach[split][0]:
                reach[split] = (end, split, name)
        for split in ("validation", "test"):
            seen: set[str] = set()
            for clip in named[split]:
                if clip.name in seen:
                    raise Problem(
                        f"two {split} clips are called {clip.name} ({clip.path}): give them names of their own"
                    )
                seen.add(clip.name)


def missing(what: str, root: Path, source: str = "") -> Problem:
    """That a data set is not there, where to get it, and what to do without it."""
    get = f"get it from {source} and set data.root to where it is" if source else "set data.root to where it is"
    return Problem(
        f"This data set is not at {root.absolute()}: {what}; {get}, or run on the built-in data with "
        "data=procedural size=mini."
    )
