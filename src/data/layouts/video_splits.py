"""Splits of data sets of high-speed videos. Whole videos are split, never parts of one.

Folders ``train`` and ``test`` in ``root``, of videos or frame folders, are the splits if they exist. Otherwise two list
files in ``root`` define them, one name a line (the suffix is optional): ``test_list.txt`` lists the test videos,
``train_list.txt`` the training videos (by default all others). Without either, each layout documents its rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.data.layouts.expected import Expected
from src.data.layouts.folder import folder
from src.data.splits import Clip, Splits, read_list, spread_evenly
from src.errors import UserError
from src.video.discovery import find_videos


def split_folders(root: Path) -> list[Path]:
    """Return the folders ``train`` and ``test`` in ``root`` that exist."""
    return [root / split for split in ("train", "test") if (root / split).is_dir()]


def split_by_folders(root: Path, expected: Expected, *, hold_back: int, step: int) -> Splits:
    """Split by the folders ``train`` and ``test``.

    Raises:
        UserError: they hold no videos.
    """
    if not any(find_videos(part) for part in split_folders(root)):
        raise expected.missing_from(root)
    splits = folder(root, step=step)
    return splits if splits.validate else _hold_back_validation(splits.train, splits.test, hold_back)


def find_clips(root: Path, expected: Expected, *, step: int) -> list[Clip]:
    """Return all videos in ``root``, unsplit.

    Raises:
        UserError: there are none.
    """
    if not find_videos(root):
        raise expected.missing_from(root)
    return list(folder(root, hold_back=0, step=step).train)


def split_by_lists(root: Path, clips: Sequence[Clip], *, test: Sequence[str], hold_back: int) -> Splits:
    """Split by the list files in ``root``; without ``test_list.txt``, the clips named in ``test`` are the test set."""
    by_name = {clip.name: clip for clip in clips}
    test_names = _read_names(root / "test_list.txt", by_name) or list(test)
    train_names = _read_names(root / "train_list.txt", by_name) or [name for name in by_name if name not in test_names]
    train, tests = ([by_name[name] for name in names] for names in (train_names, test_names))
    return _hold_back_validation(train, tests, hold_back)


def choose_share(root: Path, clips: Sequence[Clip], share: float) -> list[str]:
    """Return the names of a share of the clips, evenly spread over the names not in ``train_list.txt``.

    Raises:
        UserError: ``share`` is outside [0, 1).
    """
    if not 0 <= share < 1:
        raise UserError(f"data.layout.test must be a share of the videos within [0, 1), got {share}")
    train_names = _read_names(root / "train_list.txt", {clip.name: clip for clip in clips})
    names = [clip.name for clip in clips if clip.name not in train_names]
    count = min(len(names) - (not train_names), max(1, round(len(clips) * share))) if share else 0
    return [names[i] for i in spread_evenly(count, len(names))]


def _read_names(path: Path, by_name: dict[str, Clip]) -> list[str]:
    """Return the clips in a list file, without repetition; an empty list if there is no such file."""
    if not path.is_file():
        return []
    names = []
    for line in read_list(path):
        name = line if line in by_name else Path(line).with_suffix("").as_posix()
        if name not in by_name:
            raise UserError(f"{path} lists {line}, not among the {len(by_name)} videos beside it")
        names.append(name)
    if not names:
        raise UserError(f"{path} is empty: list one video a line, or remove it")
    return list(dict.fromkeys(names))


def _hold_back_validation(train: Sequence[Clip], test: Sequence[Clip], hold_back: int) -> Splits:
    """Use ``hold_back`` of the training clips, evenly spread, for validation."""
    if train and not 0 <= hold_back < len(train):
        raise UserError(
            f"data.layout.hold_back={hold_back} of {len(train)} training videos for validation: choose 0 to "
            f"{len(train) - 1}, so that one remains"
        )
    held = set(spread_evenly(hold_back if train else 0, len(train)))
    rest = [clip for i, clip in enumerate(train) if i not in held]
    return Splits(rest, [clip for i, clip in enumerate(train) if i in held], test)
