"""Comparison of a copy of a data set with the published original."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from src.data.layouts.expected import Expected, expected_of
from src.data.layouts.procedural import find_missing_scenes, procedural
from src.data.splits import Splits, measure_clip, read_list
from src.errors import UserError
from src.video.discovery import PACKED_SUFFIX

INSPECTED = 50  # clips to open and compare; all of them would take an hour


def inspect(layout: Callable[..., Splits], root: Path | str, **options: Any) -> list[str]:
    """Return one message for each defect of the data set at ``root``; an empty list if it is complete.

    Args:
        layout: a layout function, or a ``functools.partial`` of one.
        root: folder of the data set.
        options: options of the layout.
    """
    function = layout.func if isinstance(layout, partial) else layout
    if function is procedural and (defect := find_missing_scenes(Path(root))):
        return [defect]  # calling the layout would render them
    try:
        splits = layout(root, **options)
    except UserError as error:
        return [str(error)]
    expected = expected_of(layout)
    return list(_compare(splits, expected, Path(root))) if expected else []


def _compare(splits: Splits, expected: Expected, root: Path) -> Iterator[str]:
    clips = [*splits.train, *splits.validate, *splits.test]
    counts = {"all": len(clips), "train": len(splits.train) + len(splits.validate), "test": len(splits.test)}
    for clip in splits.test:
        counts[clip.subset] = counts.get(clip.subset, 0) + 1
    custom = any((root / name).exists() for name in expected.custom_splits)
    for name, count in {} if custom else expected.counts.items():
        if name.endswith(".txt"):
            counts[name] = len(read_list(expected.list_folder(root) / name))
        if name in counts and counts[name] != count:  # a subset without a list, or outside the options, has no count
            yield f"{root}: {counts[name]} clips in {name}, {count} expected"
    absent = [clip for clip in clips if not clip.path.exists()]
    if absent:
        yield f"{root}: {len(absent)} of {len(clips)} listed clips are missing, {absent[0].path} first"
    present = [
        clip for clip in clips if clip.path.is_dir() or (clip.path.suffix == PACKED_SUFFIX and clip.path.is_file())
    ]
    for clip in present[:: max(1, len(present) // INSPECTED)]:
        expected_frames = expected.frames.get(clip.name) if isinstance(expected.frames, dict) else expected.frames
        try:
            frames, size = measure_clip(clip.path)
        except UserError as error:
            yield str(error)
            continue
        if expected_frames is not None and frames != expected_frames:
            yield f"{clip.path}: {frames} frames, {expected_frames} expected"
        if frames and expected.size is not None and size != expected.size:
            yield f"{clip.path}: frames of {size[1]}x{size[0]}, {expected.size[1]}x{expected.size[0]} expected"
