"""Any folder of videos, with splits of its own or made here."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from src.data.splits import Clip, DamagedClips, Splits, abbreviate, read_list, spread_evenly
from src.errors import UserError, VideoError
from src.video.discovery import IMAGE_SUFFIXES, find_videos
from src.wording import number_of

log = logging.getLogger(__name__)

SHORTEST = 9  # frames of the shortest useful held-back part: four odd ones, the frames between, and one to spare
FEWEST = 3  # videos of which whole ones can be held back: one to train on, to validate on, and to score
ClipList = Sequence[str] | str | None  # names, or a file of them
FOLDERS = {"train": ("train",), "validate": ("val", "valid", "validate", "validation"), "test": ("test",)}


def folder(
    root: Path | str,
    hold_back: float = 0.2,
    by: str = "time",
    step: int = 1,
    gap: int = 4,
    skip: int = 0,
    score: str = "held_back",
    train: ClipList = None,
    validate: ClipList = None,
    test: ClipList = None,
) -> Splits:
    """Return the clips of a folder of video files or frame folders.

    Folders ``train``, ``val`` and ``test`` in it are the splits if one exists; lists of clips are, if one is given.
    Otherwise a part is held back: its first half for validation, its second for the test.

    Args:
        root: the folder.
        hold_back: the fraction that is never trained on.
        by: ``time`` holds back the end of every video (and trains on all of a video too short for it); ``video`` holds
            back whole videos.
        step: every ``step``-th frame of a file is a source frame (4 makes 60 fps of 240).
        gap: source frames excluded between the splits of a video, so that no frame is shared.
        skip: number of videos that may be excluded because they cannot be opened to split them by time.
        score: ``whole`` holds nothing back: all clips are test clips, and none is trained on.
        train, validate, test: names of clips, or a file that lists them, one a line. Clips that are in no list are
            trained on if ``train`` is not given.

    Raises:
        UserError: there is no video, too little to hold anything back, or too many damaged videos.
    """
    if step < 1:
        raise UserError(f"data.layout.step must be 1 or more, got {step}")
    find, lists = partial(list_clips, step=step), (train, validate, test)
    return split_folder(Path(root), find, lists, hold_back=hold_back, by=by, gap=gap, score=score, skip=skip)


def split_folder(
    root: Path,
    find: Callable[[Path], list[Clip]],
    lists: Sequence[ClipList],
    *,
    hold_back: float,
    by: str,
    gap: int,
    score: str,
    skip: int = 0,
) -> Splits:
    """Split the clips that ``find`` lists in a folder, as :func:`folder` does.

    Raises:
        UserError: as :func:`folder`.
    """
    if gap < 0 or not 0 <= hold_back < 1 or by not in ("time", "video") or score not in ("held_back", "whole"):
        raise UserError(
            "data.layout needs gap >= 0, hold_back within [0, 1), by=time or by=video, and score=held_back or "
            f"score=whole, got gap={gap}, hold_back={hold_back}, by={by}, score={score}"
        )
    if not root.exists():
        raise _no_videos(root)
    parts = {split: [root / name for name in names if (root / name).is_dir()] for split, names in FOLDERS.items()}
    if any(parts.values()) and not any(lists):
        clips_of = {split: [clip for part in folders for clip in find(part)] for split, folders in parts.items()}
        return Splits(clips_of["train"], clips_of["validate"], clips_of["test"])
    clips = find(root)
    if not clips:
        raise _no_videos(root)
    if any(lists):
        return _split_by_lists(clips, lists)
    if score == "whole":
        return Splits(test=clips)
    if not hold_back:
        return Splits(train=clips)
    if by == "video":
        return _split_by_video(clips, hold_back)
    return split_by_time(clips, hold_back, gap, DamagedClips(skip))


def _split_by_lists(clips: Sequence[Clip], lists: Sequence[ClipList]) -> Splits:
    """Split by the names of the clips to train on, to validate on and to test.

    Raises:
        UserError: a listed clip does not exist.
    """
    by_name, chosen = {clip.name: clip for clip in clips}, []
    for split, names in zip(FOLDERS, lists, strict=True):
        listed = read_list(Path(os.path.expanduser(names))) if isinstance(names, str) else names or ()
        found = [
            next((n for n in (name, Path(name).with_suffix("").as_posix()) if n in by_name), name) for name in listed
        ]
        if unknown := [name for name in found if name not in by_name]:
            raise UserError(
                f"data.layout.{split} lists {unknown[0]}, not among the {len(clips)} clips of {_common_folder(clips)}: "
                f"{abbreviate(by_name)}"
            )
        chosen.append(dict.fromkeys(found))
    train, validate, test = chosen
    rest = [name for name in by_name if name not in validate and name not in test]
    parts = [[by_name[name] for name in names] for names in (train or rest, validate, test)]
    return Splits(parts[0], parts[1], parts[2])


def _find_lone_images(root: Path) -> Iterator[Path]:
    """Find the folders under ``root`` with one image and nothing else."""
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        shown = [name for name in names if not name.startswith(".")]
        if len(shown) == 1 and not inner and Path(shown[0]).suffix.lower() in IMAGE_SUFFIXES:
            yield Path(folder)


def _no_videos(root: Path) -> UserError:
    return UserError(f"No videos in {root.absolute()}. Set data.root=<folder>, or try data=procedural size=mini.")


def list_clips(root: Path, step: int = 1) -> list[Clip]:
    """List the clips in and under a folder; every ``step``-th frame of a file is a source frame."""
    clips = []
    if alone := [str(folder) for folder in _find_lone_images(root)]:
        log.warning("%d folders hold a single image, which is no clip: left out: %s", len(alone), abbreviate(alone))
    for path in find_videos(root):
        shown = Path(path.name) if path == root else path.relative_to(root)
        name = (shown if path.is_dir() else shown.with_suffix("")).as_posix()
        clips.append(Clip(name, path.resolve(), step=step))
    stems = [clip.name for clip in clips]
    return [replace(c, name=f"{c.name}{c.path.suffix}") if stems.count(c.name) > 1 else c for c in clips]


def split_by_time(clips: Sequence[Clip], hold_back: float, gap: int, damaged: DamagedClips) -> Splits:
    """Hold back the end of every clip, half for validation, half for the test; clips that are too short are trained on.

    Raises:
        UserError: all clips are too short.
    """
    train, validate, test, short = [], [], [], []
    for clip in clips:
        try:
            frames = clip.length()
        except VideoError as error:
            damaged.skip(clip.path, str(error))
            continue
        held = max(round(frames * hold_back / 2), SHORTEST)
        trained = frames - 2 * held - 2 * gap
        if trained < SHORTEST:
            train.append(_cut(clip, 0, frames))
            short.append(f"{clip.name} ({number_of(frames, 'frame')})")
            continue
        train.append(_cut(clip, 0, trained))
        validate.append(_cut(clip, trained + gap, trained + gap + held))
        test.append(_cut(clip, frames - held, frames))
    if test and short:
        message = "%d of %d clips are too short to hold back their ends: trained on, but not validated or scored: %s"
        log.warning(message, len(short), len(clips), abbreviate(short))
    if not test:
        way_out = "hold back whole videos with data.layout.by=video"
        if len(clips) < FEWEST:
            way_out = f"take longer ones, or at least {FEWEST} with data.layout.by=video"
        raise UserError(
            f"No video in {_common_folder(clips)} has the {3 * SHORTEST + 2 * gap} frames needed to hold back its end"
            f"{' (and some are damaged)' if damaged else ''}: {way_out}"
        )
    return Splits(train, validate, test, damaged)


def _cut(clip: Clip, start: int, stop: int) -> Clip:
    """Return source frames ``start`` to ``stop`` of a clip."""
    return replace(clip, start=clip.start + start * clip.step, stop=clip.start + (stop - 1) * clip.step + 1)


def _split_by_video(clips: Sequence[Clip], hold_back: float) -> Splits:
    if len(clips) < FEWEST:
        raise UserError(
            f"{_common_folder(clips)} holds {number_of(len(clips), 'video')}, and holding back whole ones takes "
            f"{FEWEST}: add some, or hold back the ends of longer ones with data.layout.by=time"
        )
    held = min(max(2, round(len(clips) * hold_back)), len(clips) - 1)
    chosen = spread_evenly(held, len(clips))
    rest = [clip for i, clip in enumerate(clips) if i not in chosen]
    return Splits(rest, [clips[i] for i in chosen[::2]], [clips[i] for i in chosen[1::2]])


def _common_folder(clips: Sequence[Clip]) -> str:
    return os.path.commonpath([clip.path.parent for clip in clips])
