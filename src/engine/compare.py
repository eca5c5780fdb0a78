"""Show input and output in one picture."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from src.ops.resize import imresize
from src.video.colorspace import to_samples

SWEEP = Fraction(4)  # seconds of a moving divider from one side to the other and back


def to_picture(frame: Tensor, before: Tensor, time: Fraction, depth: int, compare: str | None) -> Tensor:
    """Return an output frame (C, s*H, s*W) as samples (s*H, s*W, C) of ``depth`` bits, beside the input if asked.

    Args:
        frame: the restored frame, in [0, 1].
        before: the input frame (C, H, W) at or before its time.
        time: in seconds, for the divider.
        depth: bits a sample.
        compare: ``side``, ``divider`` or None.
    """
    if compare:
        frame = compare_frames(imresize(before, frame.shape[-1] // before.shape[-1]), frame, time, compare)
    return to_samples(frame, depth)


def compare_frames(before: Tensor, after: Tensor, time: Fraction, layout: str) -> Tensor:
    """Show two frames (C, H, W) in one: side by side, or with a divider that moves with the time in seconds."""
    if layout == "side":
        return torch.cat([before.to(after), after], dim=-1).clamp(0, 1)
    width = after.shape[-1]
    phase = float((time + SWEEP / 4) % SWEEP) / SWEEP  # from the middle on
    place = round(width * (1 - abs(1 - 2 * phase)))
    both = torch.cat([before.to(after)[..., :place], after[..., place:]], dim=-1).clamp(0, 1)
    both[..., max(0, place - 1) : place + 1] = 1
    return both
