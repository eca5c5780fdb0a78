"""Frames that were restored elsewhere, beside their originals: match clips by name, align them in time, crop them.

Shapes: C channels, H and W pixels.
"""

from __future__ import annotations

import os
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from src.errors import UserError
from src.video.discovery import find_videos, is_image_pattern
from src.video.reader import FrameReader, open_video

MAX_SHIFT = 3  # frames by which an offset is searched beyond those that the numbers of frames allow
SEARCHED = 48  # originals that it is searched with, from the middle of a clip: its ends are often black or still
CLEAR_GAIN = 0.5  # dB; a smaller gain of another offset is not worth a remark
IDENTICAL = 100.0  # dB of identical frames, in means


@dataclass(frozen=True)
class Matches:
    """Clips by name.

    Args:
        pairs: the restored clip and its original.
        without_restored: names of originals without a restored clip.
        without_target: names of restored clips without an original.
    """

    pairs: dict[str, tuple[Path, Path]]
    without_restored: list[str]
    without_target: list[str]


@dataclass(frozen=True)
class Alignment:
    """A restored clip beside its original.

    Args:
        offset: number of the original that the first restored frame shows; negative if that one has none.
        frames: numbers of restored frames and of originals.
        size: (height, width) that both have in common; the rest is cropped at the right and at the bottom.
        psnr: mean PSNR by offset, of those that were tried.
        remarks: sentences about the offset and the size.
    """

    offset: int
    frames: tuple[int, int]
    size: tuple[int, int]
    psnr: dict[int, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def paired(self) -> range:
        """Numbers of the originals that have a restored frame."""
        return range(max(0, self.offset), min(self.frames[1], self.offset + self.frames[0]))


def match_clips(restored: Sequence[str], targets: Sequence[str]) -> Matches:
    """Match the clips in and under ``restored`` with those of ``targets``: by their paths, or by their last names.

    Two clips that are named themselves, without a search, belong together whatever their names.

    Raises:
        UserError: there are no clips, none match, or a name has several originals.
    """
    estimates, originals = _list_clips(restored, "input"), _list_clips(targets, "target")
    last = [name.rpartition("/")[2] for name in originals]
    short = dict(zip(originals, last if len(set(last)) == len(last) else originals, strict=True))
    named = [[Path(os.path.expanduser(source)) for source in sources] for sources in (restored, targets)]
    if [*estimates.values()] == named[0] and [*originals.values()] == named[1] and len(named[0]) == len(named[1]) == 1:
        (name,) = short.values()
        return Matches({name: (named[0][0], named[1][0])}, [], [])
    pairs: dict[str, tuple[Path, Path]] = {}
    unmatched = []
    for name, clip in estimates.items():
        tail = name.rpartition("/")[2]
        fitting = [name] if name in originals else [other for other in originals if other.rpartition("/")[2] == tail]
        if len(fitting) > 1:
            raise UserError(
                f"The restored clip {name} has several originals, {' and '.join(map(str, fitting[:3]))}: name the "
                "folder of one of them in target=."
            )
        key = short[fitting[0]] if fitting else ""
        if key in pairs:
            raise UserError(f"{pairs[key][0]} and {clip} are both called {key}: name the folder of one in input=.")
        if fitting:
            pairs[key] = (clip, originals[fitting[0]])
        else:
            unmatched.append(name)
    if not pairs:
        raise UserError(
            f"No restored clip bears the name of an original: input has {_abbreviate([*estimates])}, target has "
            f"{_abbreviate([*originals])}; rename one side."
        )
    order = [name for name in short.values() if name in pairs]
    missing = [name for name in short.values() if name not in pairs]
    return Matches({name: pairs[name] for name in order}, missing, unmatched)


def _list_clips(sources: Sequence[str], option: str) -> dict[str, Path]:
    """List the clips in and under the sources by name: the path below its source without parts that all share."""
    parts: dict[tuple[str, ...], Path] = {}
    for source in map(Path, map(os.path.expanduser, sources)):
        clips = [source] if is_image_pattern(source) else find_videos(source)
        if not clips:
            fault = "holds neither videos nor folders of frames" if source.exists() else "does not exist"
            raise UserError(f"{option}={source} {fault}.")
        for clip in clips:
            name = _name_parts(clip, source)
            if name in parts:
                raise UserError(f"{parts[name]} and {clip} have the same name: remove one, or name the other alone.")
            parts[name] = clip
    if len(parts) > 1:
        for end in (0, -1):  # as in GT/calendar, or calendar/original
            while all(len(name) > 1 for name in parts) and len({name[end] for name in parts}) == 1:
                parts = {name[1:] if end == 0 else name[:-1]: clip for name, clip in parts.items()}
    return {"/".join(name): clip for name, clip in parts.items()}


def _name_parts(clip: Path, source: Path) -> tuple[str, ...]:
    """Return the path of a clip below its source without suffix, or its own name if it is the source."""
    inside = clip.relative_to(source) if clip != source else Path(clip.name if clip.exists() else clip.parent.name)
    return (*inside.parts[:-1], inside.stem if clip.is_file() else inside.name)


def _abbreviate(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def align(
    name: str,
    restored: FrameReader,
    target: FrameReader,
    *,
    scale: int,
    measure: Callable[[Tensor, Tensor], float],
    offset: int | None = None,
) -> Alignment:
    """Align a restored clip with its original in time, and find the size that they have in common.

    If their numbers of frames differ, the offset is the one with the best mean PSNR. Otherwise it is 0, with a remark
    if another one is better: a late method is not helped.

    Args:
        name: of the clip, for remarks.
        restored, target: the clips.
        scale: their sizes may differ by fewer pixels.
        measure: PSNR of a frame beside its original.
        offset: the offset, if it is known.

    Raises:
        UserError: sizes or numbers of frames differ by more.
    """
    sizes, frames = (restored.size, target.size), (len(restored), len(target))
    size = (min(sizes[0][0], sizes[1][0]), min(sizes[0][1], sizes[1][1]))
    texts = [f"{width}x{height}" for height, width in (*sizes, size)]
    if any(abs(a - b) >= max(1, scale) for a, b in zip(*sizes, strict=True) if a != b):
        raise UserError(
            f"The restored frames of {name} have {texts[0]} pixels, their originals {texts[1]}: sizes may differ by "
            f"less than scale={scale}; set target= to originals of that size."
        )
    remarks = [f"{name}: {texts[0]} restored, {texts[1]} originally; both cropped to {texts[2]}."]
    remarks = remarks if sizes[0] != sizes[1] else []
    if offset is not None:
        alignment = Alignment(offset, frames, size)
        if not alignment.paired:
            raise UserError(f"With offset={offset}, no frame of {name} has an original: it has {frames[0]} frames.")
        return Alignment(offset, frames, size, remarks=tuple(remarks))
    missing = frames[1] - frames[0]
    if abs(missing) > 2 * MAX_SHIFT:
        raise UserError(
            f"{name} has {_count(frames[0], 'restored frame')} and {_count(frames[1], 'original')}, which is more "
            "than frames left out at the ends: give originals of the same times, or offset=<number of the original "
            "that the first restored frame shows>."
        )
    means = _measure_offsets(restored, target, size, measure)
    best = max(means, key=lambda tried: (means[tried], 0 <= tried <= missing, -abs(tried)))
    if missing:
        remarks.append(_describe_offset(name, Alignment(best, frames, size), means))
        return Alignment(best, frames, size, means, tuple(remarks))
    if means[best] - means.get(0, means[best]) > CLEAR_GAIN:
        remarks.append(
            f"{name}: scored as the frames stand, at {means[0]:.2f} dB; with offset={best} they would have "
            f"{means[best]:.2f} dB, as if they were {abs(best)} too {'early' if best > 0 else 'late'}."
        )
    return Alignment(0, frames, size, means, tuple(remarks))


def _measure_offsets(
    restored: FrameReader, target: FrameReader, size: tuple[int, int], measure: Callable[[Tensor, Tensor], float]
) -> dict[int, float]:
    """Return the mean PSNR by offset, of those that leave at least half of the searched frames a partner."""
    missing = len(target) - len(restored)
    offsets = range(min(0, missing) - MAX_SHIFT, max(0, missing) + MAX_SHIFT + 1)
    first = max(0, (len(target) - SEARCHED) // 2)
    begin = max(0, first - offsets[-1])
    coming = enumerate(restored.tensors(begin), begin)
    values: dict[int, list[float]] = {offset: [] for offset in offsets}
    held: deque[tuple[int, Tensor]] = deque()  # restored frames that some offset pairs with the current original
    for number, original in enumerate(target.tensors(first, first + SEARCHED), first):
        while (not held or held[-1][0] < number - offsets[0]) and (following := next(coming, None)) is not None:
            held.append(following)
        while held and held[0][0] < number - offsets[-1]:
            held.popleft()
        for index, estimate in held:
            value = measure(_crop(estimate, size), _crop(original, size))
            values[number - index].append(min(value, IDENTICAL))
    most = max(map(len, values.values()))
    return {offset: statistics.fmean(found) for offset, found in values.items() if 2 * len(found) >= most > 0}


def _describe_offset(name: str, alignment: Alignment, means: Mapping[int, float]) -> str:
    """Describe in a sentence which frames have no partner, and how clear that is."""
    offset, (restored, originals) = alignment.offset, alignment.frames
    behind = originals - offset - restored
    parts = [
        f"the first {_count(offset, 'original')}" if offset > 0 else "",
        f"the last {_count(behind, 'original')}" if behind > 0 else "",
        f"the first {_count(-offset, 'restored frame')}" if offset < 0 else "",
        f"the last {_count(-behind, 'restored frame')}" if behind < 0 else "",
    ]
    others = [value for tried, value in means.items() if tried != offset]
    clear = f" beside {max(others):.2f} dB at the next best offset" if others else ""
    return (
        f"{name}: {_count(restored, 'restored frame')} for {_count(originals, 'original')}; without a partner are "
        f"{' and '.join(part for part in parts if part)} ({means[offset]:.2f} dB{clear})."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def paired_frames(restored: Path, target: Path, alignment: Alignment) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the number of each original, its restored frame and itself: (C, H, W) in [0, 1], of the common size."""
    numbers = alignment.paired
    with open_video(restored) as estimates, open_video(target) as originals:
        first = numbers.start - alignment.offset
        pairs = zip(
            numbers,
            estimates.tensors(first, first + len(numbers)),
            originals.tensors(numbers.start, numbers.stop),
            strict=True,
        )
        for number, estimate, original in pairs:
            yield number, _crop(estimate, alignment.size), _crop(original, alignment.size)


def _crop(frame: Tensor, size: tuple[int, int]) -> Tensor:
    return frame[..., : size[0], : size[1]]
