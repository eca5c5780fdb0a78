"""The size and source of a published data set."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from src.data.splits import Splits
from src.errors import UserError
from src.video.packed import RECORD


@dataclass(frozen=True)
class Expected:
    """A complete copy of a published data set. A layout's module holds one as ``EXPECTED``.

    Args:
        content: name of the data set, with the folders or files that identify it.
        source: page or address of the download.
        counts: number of clips by list file, subset or split.
        size: (height, width) of its frames, if all are equal.
        frames: number of frames by clip name, or of every clip.
        custom_splits: names of files and folders in its root that select clips; if one exists, clips are not counted.
        list_folder: returns the folder of the list files of a copy at a given root.
    """

    content: str
    source: str
    counts: dict[str, int] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    frames: dict[str, int] | int | None = None
    custom_splits: tuple[str, ...] = ()
    list_folder: Callable[[Path], Path] = lambda root: root

    def missing_from(self, root: Path) -> UserError:
        """Return the error for a ``root`` without this data set."""
        return UserError(
            f"No {self.content} in {root.absolute()}. Download it from {self.source} and set data.root=<folder>, or "
            "try data=procedural size=mini."
        )


def expected_of(layout: Callable[..., Splits]) -> Expected | None:
    """Return the ``EXPECTED`` of a layout's module, ``None`` if it has none."""
    function = layout.func if isinstance(layout, partial) else layout
    module = sys.modules.get(getattr(function, "__module__", ""))
    return getattr(module, "EXPECTED", None)


def require_interpolated(root: Path, interpolated: int, data: str) -> None:
    """Check that a data set was packed with frames averaged with interpolated ones (VTSR, Section 4.1.2).

    Args:
        root: the packed data set.
        interpolated: number of frames interpolated after every frame; 0 accepts any data set.
        data: the choice ``data=`` of the same data set as it is.

    Raises:
        UserError: it is missing, or was packed with another number of interpolated frames.
    """
    if not interpolated:
        return
    make, record = f"task=prepare data={data} interpolated={interpolated} pack=", root / RECORD
    otherwise = f"choose data={data}, which takes frames as they are, or try data=procedural size=mini"
    if not root.is_dir():
        raise UserError(f"No frames averaged with interpolated ones in {root}. Make them by {make}{root}, {otherwise}.")
    found = _count_interpolated(record)
    if found != interpolated:
        raise UserError(
            f"The frames of {root} were averaged with {found} interpolated ones, not {interpolated}. Make such a data "
            f"set by {make}<new folder>, {otherwise}."
        )


def _count_interpolated(record: Path) -> int:
    """Return the number of interpolated frames in a packed data set's record; 0 without one, or for a damaged one."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    return content.get("interpolated", 0) if isinstance(content, dict) else 0
