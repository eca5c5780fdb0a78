"""Any folder of videos as a data set, whose splits are made here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from src.data.splits import Clip, Damaged, Splits, missing
from src.errors import UserError, VideoError
from src.video.discovery import find_videos

SHORTEST = 9  # frames worth holding back of a video: four odd ones, what lies between, and one to spare


def folder(
    root: Path | str,
    hold_back: float = 0.2,
    by: str = "time",
    step: int = 1,
    gap: int = 4,
    low: Path | None = None,
    skip: int = 0,
) -> Splits:
    """Any folder of video files or of frame folders.

    Where it has a folder ``train``, ``val`` or ``test``, those are the splits. Otherwise part of it is held back: the
    first half of that validates, the second tests.

    Args:
        root: the folder.
        hold_back: the fraction that is never trained on.
        by: ``time`` holds back the end of every video (videos too short for it are trained on whole); ``video`` holds
            back whole videos.
        step: each ``step``-th frame of a file is a source frame (4 makes 60 fps of 240).
        gap: source frames that are left out between the splits of a video, so that they share nothing.
        low: folder of bicubically reduced frames, in which everything is named as in ``root``.
        skip: so many videos may be left out of all splits where their ends cannot be held back, since they cannot be
            opened.

    Raises:
        UserError: there is no video, too little to hold anything back, or more that is damaged.
    """
    root = Path(root)
    if step < 1 or gap < 0 or not 0 <= hold_back < 1 or by not in ("time", "video"):
        raise UserError(
            f"a folder's splits need step >= 1, gap >= 0, hold_back within [0, 1) and by=time or by=video; got "
            f"step={step}, gap={gap}, hold_back={hold_back}, by={by}"
        )
    if not root.exists():
        raise missing("folder of videos", root)
    parts = {split: [root / name for name in names if (root / name).is_dir()] for split, names in FOLDERS.items()}
    if any(parts.values()):
        found = {split: [c for f in folders for c in _clips(f, step, low)] for split, folders in parts.items()}
        return Splits(found["train"], found["validate"], found["test"])
    clips = _clips(root, step, low)
    if not clips:
        raise missing("video or frame folder", root)
    if not hold_back:
        return Splits(train=clips)
    return _by_time(clips, hold_back, gap, Damaged(skip)) if by == "time" else _by_video(clips, hold_back)


FOLDERS = {"train": ("train",), "validate": ("val", "valid", "validate", "validation"), "test": ("test",)}


def _clips(root: Path, step: int, low: Path | None) -> list[Clip]:
    clips = []
    for path in find_videos(root):
        inner = path.relative_to(root)
        shown = Path(path.name) if path == root else inner
        name = (shown if path.is_dir() else shown.with_suffix("")).as_posix()
        beside = Path(low) / inner if low else None
        ready: dict[tuple[str, ...], Path] = {("bicubic",): beside} if beside and beside.exists() else {}
        clips.append(Clip(name, path.resolve(), step=step, ready=ready))
    stems = [clip.name for clip in clips]
    return [replace(c, name=f"{c.name}{c.path.suffix}") if stems.count(c.name) > 1 else c for c in clips]


def _by_time(clips: Sequence[Clip], hold_back: float, gap: int, damaged: Damaged) -> Splits:
    train, validate, test = [], [], []
    for clip in clips:
        try:
            frames = clip.length()
        except VideoError as error:
            damaged.leave_out(clip.path, str(error))
            continue
        held = max(round(frames * hold_back / 2), SHORTEST)
        learnt = frames - 2 * held - 2 * gap
        if learnt < SHORTEST:
            train.append(_stretch(clip, 0, frames))
            continue
        train.append(_stretch(clip, 0, learnt))
        validate.append(_stretch(clip, learnt + gap, learnt + gap + held))
        test.append(_stretch(clip, frames - held, frames))
    if not test:
        raise UserError(
            f"no video in {_common(clips)} has the {3 * SHORTEST + 2 * gap} frames that holding back its end takes"
            f"{', and some are damaged' if damaged else ''}: hold back whole videos with data.layout.by=video"
        )
    return Splits(train, validate, test, damaged)


def _stretch(clip: Clip, start: int, stop: int) -> Clip:
    """Source frames ``start`` to ``stop`` of a clip."""
    return replace(clip, start=clip.start + start * clip.step, stop=clip.start + (stop - 1) * clip.step + 1)


def _by_video(clips: Sequence[Clip], hold_back: float) -> Splits:
    held = max(2, round(len(clips) * hold_back))
    if len(clips) < held + 1:
        raise UserError(
            f"{_common(clips)} holds {len(clips)} videos, too few to hold whole ones back: use data.layout.by=time"
        )
    chosen = [(2 * k + 1) * len(clips) // (2 * held) for k in range(held)]  # evenly over the folder
    rest = [clip for i, clip in enumerate(clips) if i not in chosen]
    return Splits(rest, [clips[i] for i in chosen[::2]], [clips[i] for i in chosen[1::2]])


def _common(clips: Sequence[Clip]) -> str:
    return os.path.commonpath([clip.path.parent for clip in clips])
