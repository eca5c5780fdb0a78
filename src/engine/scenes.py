"""Streaming detection of hard cuts between scenes.

As in PySceneDetect's AdaptiveDetector (0.7), the mean change in hue, saturation and value between downscaled frames is
compared with the changes around it. Two conditions are added. *Every* frame shortly before a cut must differ from every
frame shortly after, unlike at a flash. And the frames on both sides must differ in structure, unlike at a change of
exposure.

Shapes: a frame is ``(3, H, W)``, RGB in [0, 1]; downscaled, ``(3, h, w)``, h and w at most ``SIDE``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_hsv
from torch import Tensor

REACH = 3  # frames on each side of a cut that must all differ: a flash can last two
BEFORE = REACH + 1  # a decision depends on this many frames before a frame, since neighbouring decisions count, too,
AHEAD = REACH  # and on this many after it
SIDE = 160  # longest side of a downscaled frame; finds as many cuts as 256, PySceneDetect's width
MIN_CHANGE = 15 / 255  # at a cut: AdaptiveDetector's min_content_val
MIN_RATIO = 3.0  # of the change at a cut to the mean change around it: AdaptiveDetector's adaptive_threshold
DARK = 16 / 255  # value below which hue and saturation are ignored: 8 bits leave too few steps
# Correlation of values above which two frames show the same scene. Without it, two of three sudden changes of exposure
# to 0.6 times are cuts, with 0.9 one of 31; none of 500 joins is lost. 0.8 loses a real cut under a burnt-in title.
MAX_CORRELATION = 0.9
CORRELATION_SIZE = (18, 32)  # coarse, so that a few pixels of motion do not matter


def mark_cuts(frames: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Mark the first frame of each scene while frames pass through.

    The decision for a frame depends only on the ``BEFORE`` frames before and the ``AHEAD`` frames after it, so starting
    ``BEFORE`` frames early finds the same cuts. Scenes of three frames or more are separated. A scene of one or two
    frames (a flash, a stray frame) is separated only from different neighbours; of two adjacent cuts, the stronger
    counts. Pans, noise, fades and repeated frames are not cuts. Cuts between very similar scenes are missed, as are
    some right beside a flash.

    Args:
        frames: (3, H, W) each, RGB in [0, 1], or (4, H, W), RGBA; floating point, of one size; ``AHEAD`` are read
            ahead.

    Yields:
        ``(frame, is_new)`` for every frame, unchanged: True for the first of a new scene, except the video's first.
    """
    held: list[Tensor] = []  # read, not yet yielded
    near: list[Tensor] = []  # downscaled, from BEFORE frames before the first of held
    changes: list[float] = []  # from the frame before each of near
    strengths: dict[int, float] = {}  # of cuts, by frame number
    start = total = 0  # number of the first of near; frames read

    def strength(number: int) -> float:
        if number not in strengths:
            position = number - start
            strengths[number] = _measure_cut(near, changes, position) if 0 < position < len(near) else 0.0
        return strengths[number]

    def decide() -> tuple[Tensor, bool]:
        nonlocal start
        number = total - len(held)
        is_new = strength(number) > 0 and strength(number - 1) < strength(number) >= strength(number + 1)
        if number - start == BEFORE:
            del near[0], changes[0]
            start += 1
        strengths.pop(number - 1, None)
        return held.pop(0), is_new

    for frame in frames:
        small = downscale(frame[:3])
        changes.append(measure_change(near[-1], small) if near else 0.0)
        near.append(small)
        held.append(frame)
        total += 1
        del frame
        if len(held) > AHEAD:
            yield decide()
    while held:
        yield decide()


def downscale(frame: Tensor) -> Tensor:
    """Average square blocks, and convert to hue (in half turns, [0, 2)), saturation and value ([0, 1]): (3, h, w)."""
    height, width = frame.shape[-2:]
    block = min(math.ceil(max(height, width) / SIDE), height, width)
    h, w = height // block, width // block
    rows = frame[:, : h * block, : w * block].unflatten(1, (h, block)).mean(2)  # rows first: they are contiguous
    hue, saturation, value = rgb_to_hsv(rows.unflatten(2, (w, block)).mean(3).float())
    return torch.stack([hue / math.pi, saturation, value])


def measure_change(before: Tensor, after: Tensor) -> float:
    """Return the mean change between two downscaled frames, in [0, 1].

    Per pixel, it is the mean change of hue, saturation and value, or that of value alone if either frame is dark.
    """
    hue, saturation, value = (before - after).abs()
    hue = 1 - (1 - hue).abs()  # the shorter way around the circle
    is_bright = torch.minimum(before[2], after[2]) > DARK
    # AdaptiveDetector counts hue in 180 steps of a turn and the others in 255.
    return torch.where(is_bright, (hue * (90 / 255) + saturation + value) / 3, value).mean().item()


def _measure_cut(near: list[Tensor], changes: list[float], position: int) -> float:
    """Return the smallest change across a cut before the frame at ``position`` of ``near``; 0 without a cut."""
    if changes[position] < MIN_CHANGE:
        return 0.0
    first, end = max(position - REACH, 0), min(position + REACH, len(near))
    before, after = near[first:position], near[position:end]
    around: list[float] = []
    for side, inner_changes in ((before, changes[first + 1 : position]), (after, changes[position + 1 : end])):
        across_side = measure_change(side[0], side[-1]) if len(side) == REACH else math.inf  # skips a flash within
        around += [min(inner, across_side) for inner in inner_changes]
    threshold = max(MIN_CHANGE, MIN_RATIO * sum(around) / max(len(around), 1))
    across = min(measure_change(a, b) for a in before for b in after)
    if across < threshold or _correlate(before, after) > MAX_CORRELATION:
        return 0.0
    return across


def _correlate(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the highest correlation of coarse values between a frame of either side."""

    def normalize(frames: list[Tensor]) -> Tensor:
        values = F.adaptive_avg_pool2d(torch.stack([frame[2] for frame in frames]), CORRELATION_SIZE).flatten(1)
        centered = values - values.mean(1, keepdim=True)
        return centered / (centered.norm(dim=1, keepdim=True) + 1e-3)  # nothing correlates with a blank frame

    return (normalize(before) @ normalize(after).mT).max().item()
