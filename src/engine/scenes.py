"""Where a video cuts from one shot to the next, told while it streams by.

Frames are compared as PySceneDetect's AdaptiveDetector (0.7) does: the mean change in hue, saturation and value, on
reduced frames, is weighed against the changes around it. What is added: a cut separates *every* frame shortly before
it from every one shortly behind, which a flash does not, and the pictures on either side differ in structure, which
those before and behind a change of exposure do not.

Shapes: a frame is ``(3, H, W)``, RGB in [0, 1]; reduced, ``(3, h, w)``, h and w at most ``SIDE``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_hsv
from torch import Tensor

REACH = 3  # frames on either side of a cut that must all differ: a flash may last two
BEFORE = REACH + 1  # frames before a frame, and
AHEAD = REACH  # frames behind it, that its decision depends on: its neighbours' decisions are weighed, too
SIDE = 160  # longest side of a reduced frame; as many cuts are found as at 256, PySceneDetect's width
LEAST = 15 / 255  # change below which nothing is a cut: AdaptiveDetector's min_content_val
RATIO = 3.0  # of the change at a cut to the mean change around it: AdaptiveDetector's adaptive_threshold
DARK = 16 / 255  # value below which hue and saturation say nothing: eight bits leave too few steps
# Correlation of values from which pictures are the same one. Without it, two of three sudden changes of exposure to 0.6
# times are cuts, with 0.9 one of 31; none of 500 joins is lost. 0.8 loses a real cut under a burnt-in title.
SAME = 0.9
COARSE = (18, 32)  # size at which it is taken: a few pixels of motion do not matter


def mark_cuts(frames: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Tells hard cuts while frames pass through.

    A frame's decision depends on the ``BEFORE`` frames before it and the ``AHEAD`` behind, and on nothing else: whoever
    starts ``BEFORE`` frames early finds the same cuts. Shots of three frames and more are told apart; of one or two,
    a flash or an odd frame, only where what surrounds them differs, and of two cuts side by side the stronger counts.
    Pans, noise, fades and repeated frames are not cuts. Cuts between pictures that are much alike are missed, and some
    right beside a flash.

    Args:
        frames: (3, H, W) each, RGB in [0, 1], floating point, of one size; ``AHEAD`` are read ahead.

    Yields:
        ``(frame, new)`` for every frame, as it came: whether it is the first of a new shot. The video's first is not.
    """
    held: list[Tensor] = []  # given, not yet yielded
    near: list[Tensor] = []  # reduced, from BEFORE before the first of held
    changes: list[float] = []  # from the frame before each of near to it
    strengths: dict[int, float] = {}  # of cuts, by number of the frame
    start = total = 0  # number of the first of near; frames seen

    def strength(number: int) -> float:
        if number not in strengths:
            at = number - start
            strengths[number] = _strength(near, changes, at) if 0 < at < len(near) else 0.0
        return strengths[number]

    def decide() -> tuple[Tensor, bool]:
        nonlocal start
        number = total - len(held)
        new = strength(number) > 0 and strength(number - 1) < strength(number) >= strength(number + 1)
        if number - start == BEFORE:
            del near[0], changes[0]
            start += 1
        strengths.pop(number - 1, None)
        return held.pop(0), new

    for frame in frames:
        small = reduced(frame)
        changes.append(change(near[-1], small) if near else 0.0)
        near.append(small)
        held.append(frame)
        total += 1
        del frame
        if len(held) > AHEAD:
            yield decide()
    while held:
        yield decide()


def reduced(frame: Tensor) -> Tensor:
    """The mean of square blocks as hue (in half turns, [0, 2)), saturation and value (in [0, 1]): (3, h, w)."""
    height, width = frame.shape[-2:]
    block = min(math.ceil(max(height, width) / SIDE), height, width)
    h, w = height // block, width // block
    rows = frame[:, : h * block, : w * block].unflatten(1, (h, block)).mean(2)  # rows first: they lie side by side
    hue, saturation, value = rgb_to_hsv(rows.unflatten(2, (w, block)).mean(3).float())
    return torch.stack([hue / math.pi, saturation, value])


def change(before: Tensor, behind: Tensor) -> float:
    """Mean change between two reduced frames, in [0, 1].

    A pixel's is the mean of those of hue, saturation and value, or that of value alone where either frame is dark.
    """
    hue, saturation, value = (before - behind).abs()
    hue = 1 - (1 - hue).abs()  # the shorter way round
    seen = torch.minimum(before[2], behind[2]) > DARK
    # AdaptiveDetector counts hue in 180 steps of a turn and the others in 255.
    return torch.where(seen, (hue * (90 / 255) + saturation + value) / 3, value).mean().item()


def _strength(near: list[Tensor], changes: list[float], at: int) -> float:
    """Least change across a cut before the frame ``at`` of ``near``; 0 where there is none."""
    if changes[at] < LEAST:
        return 0.0
    first, end = max(at - REACH, 0), min(at + REACH, len(near))
    before, behind = near[first:at], near[at:end]
    around: list[float] = []
    for side, within in ((before, changes[first + 1 : at]), (behind, changes[at + 1 : end])):
        past = change(side[0], side[-1]) if len(side) == REACH else math.inf  # a flash in the middle, if there is one
        around += [min(one, past) for one in within]
    needed = max(LEAST, RATIO * sum(around) / max(len(around), 1))
    across = min(change(a, b) for a in before for b in behind)
    if across < needed or _correlation(before, behind) > SAME:
        return 0.0
    return across


def _correlation(before: list[Tensor], behind: list[Tensor]) -> float:
    """The highest between the values of a frame of either side, coarsely."""

    def coarse(frames: list[Tensor]) -> Tensor:
        values = F.adaptive_avg_pool2d(torch.stack([frame[2] for frame in frames]), COARSE).flatten(1)
        centred = values - values.mean(1, keepdim=True)
        return centred / (centred.norm(dim=1, keepdim=True) + 1e-3)  # nothing correlates with an empty picture

    return (coarse(before) @ coarse(behind).mT).max().item()
