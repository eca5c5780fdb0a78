"""Pairs of clips: network inputs in one folder, their targets in another, by the same names."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from src.data.layouts.folder import ClipList, list_clips, split_folder
from src.data.splits import Clip, Splits, abbreviate, measure_clip
from src.errors import UserError, VideoError
from src.video.discovery import is_video, list_images

GIVEN = (("given",), ("blur", "given"))  # the latter for networks that restore exposures


class Ratio(NamedTuple):
    """Size and frame rate of targets relative to inputs."""

    scale: int
    every: int  # target frames from one input frame to the next

    def __str__(self) -> str:
        return f"{self.scale} times as large, {self.every} frames for each input frame"


def paired(
    root: Path | str,
    low: Path | str,
    hold_back: float = 0.2,
    by: str = "time",
    gap: int = 4,
    score: str = "held_back",
    train: ClipList = None,
    validate: ClipList = None,
    test: ClipList = None,
) -> Splits:
    """Return the clips of ``root``, each with the inputs of the same name in ``low``.

    Clips are videos or frame folders, at any depth; names count without the suffixes of videos. Both folders may also
    be a single clip of frames. Splits are those of :func:`src.data.layouts.folder.folder`, by the folders in ``root``.

    Args:
        root: folder of the targets.
        low: folder of the inputs, as large as the targets or smaller by a whole factor. Targets may have more frames:
            with k for each input frame, the k-th, 2k-th, ... lie between or behind input frames.
        hold_back, by, gap, score, train, validate, test: as for a folder.

    Raises:
        UserError: a clip has no partner, or one of another length or size than the others'.
    """
    root, low = Path(root), Path(low)
    inputs = {clip.path: partner for clip, partner in find_pairs(root, low)}
    ratio = check_pairs(inputs)
    find = partial(_list_targets, inputs=inputs, every=ratio.every)
    splits = split_folder(root, find, (train, validate, test), hold_back=hold_back, by=by, gap=gap, score=score)
    parts = [[*map(_align, part)] for part in (splits.train, splits.validate, splits.test)]
    return Splits(parts[0], parts[1], parts[2])


def find_pairs(root: Path, low: Path) -> list[tuple[Clip, Path]]:
    """Return the clips of ``root`` with their inputs in ``low``.

    Raises:
        UserError: there are none, or a clip has no partner in the other folder.
    """
    for option, folder in (("low", low), ("high", root)):
        if not folder.exists():
            raise UserError(f"There is no folder {folder.absolute()}: set data.{option}=<folder>.")
    inputs, targets = list_clips(low), list_clips(root)
    for option, folder, clips in (("low", low, inputs), ("high", root, targets)):
        if not clips:
            raise UserError(f"No clips in {folder.absolute()}: set data.{option}=<folder of videos or frame folders>.")
    if is_video(low) and is_video(root):  # a single clip of frames each
        return [(targets[0], inputs[0].path)]
    partners, names = {clip.name: clip.path for clip in inputs}, {clip.name for clip in targets}
    lacking = [f"{low} has no {clip.name}" for clip in targets if clip.name not in partners]
    lacking += [f"{root} has no {name}" for name in partners if name not in names]
    if lacking:
        raise UserError(
            f"{len(lacking)} clips have no partner of the same name: {abbreviate(lacking)}. Complete data.low and "
            "data.high, or remove these clips."
        )
    return [(clip, partners[clip.name]) for clip in targets]


def measure_ratio(root: Path | str, low: Path | str) -> Ratio:
    """Measure the first pair.

    Raises:
        UserError: as for :func:`find_pairs`, or the pair does not match.
    """
    clip, partner = find_pairs(Path(root), Path(low))[0]
    return _measure_pair(clip.path, partner)


def check_pairs(inputs: dict[Path, Path]) -> Ratio:
    """Return the ratio that all pairs share; their inputs are keyed by the path of the targets.

    Raises:
        UserError: pairs do not match, or differ in their ratio.
    """
    ratios: dict[Path, Ratio] = {}
    faults = []
    for target, partner in inputs.items():
        try:
            ratios[target] = _measure_pair(target, partner)
        except UserError as error:
            faults.append(str(error))
    first = next(iter(ratios.values()), None)
    if different := [path for path, ratio in ratios.items() if ratio != first]:
        shown = next(iter(ratios))
        faults += [f"{path} is {ratios[path]}, but {shown} is {first}" for path in different]
    if faults or first is None:
        raise UserError(
            f"{len(faults)} of {len(inputs)} pairs of clips do not match: {abbreviate(faults)}. Correct them, or "
            "remove them from data.low and data.high."
        )
    return first


def _measure_pair(target: Path, partner: Path) -> Ratio:
    """Measure a pair.

    Raises:
        UserError: it has no common ratio.
    """
    (frames, (height, width)), (given, (low_height, low_width)) = _measure(target), _measure(partner)
    sizes = f"{partner} has frames of {low_width}x{low_height}, and {target} of {width}x{height}"
    scale = max(1, round(height / max(1, low_height)))
    if (low_height, low_width) != (height // scale, width // scale):
        raise UserError(f"{sizes}, which is not larger by a whole factor")
    every = max(1, math.ceil(frames / max(1, given)))
    if math.ceil(frames / every) != given:
        raise UserError(
            f"{partner} has {given} frames, and {target} has {frames}: it needs as many, or a frame for every second "
            "(third, ...) of them"
        )
    if every == 1 and target.is_dir() and partner.is_dir():
        _compare_names(target, partner)
    return Ratio(scale, every)


def _measure(path: Path) -> tuple[int, tuple[int, int]]:
    try:
        return measure_clip(path)
    except (VideoError, OSError) as error:
        raise UserError(f"{path} cannot be opened: {error}") from error


def _compare_names(target: Path, partner: Path) -> None:
    """Compare the names of frames, unless the two folders number theirs in another way altogether.

    Raises:
        UserError: one folder lacks frames of the other.
    """
    targets, inputs = ({file.stem for file in list_images(folder)} for folder in (target, partner))
    if (lacking := sorted(targets - inputs)) and targets & inputs:
        raise UserError(f"{partner} lacks frame {lacking[0]} and has {min(inputs - targets)}, unlike {target}")


def _list_targets(part: Path, *, inputs: dict[Path, Path], every: int) -> list[Clip]:
    return [
        replace(clip, precomputed=dict.fromkeys(GIVEN, inputs[clip.path]), precomputed_every=every)
        for clip in list_clips(part)
    ]


def _align(clip: Clip) -> Clip:
    """Begin a clip at a frame with an input."""
    return replace(clip, start=clip.start + -clip.start % clip.precomputed_every)
