"""Show input and output in one picture."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from src.engine.options import RestoreOptions
from src.ops.resize import imresize
from src.video.colorspace import to_samples

SWEEP = Fraction(4)  # seconds that a moving divider takes from one side to the other and back


def to_picture(frame: Tensor, before: Tensor, time: Fraction, depth: int, way: RestoreOptions) -> Tensor:
    """An output frame (3, s*H, s*W) as it is written, (s*H, s*W, 3) of ``depth`` bits; ``before`` is the input's."""
    if way.compare:
        frame = compare_frames(imresize(before, frame.shape[-1] // before.shape[-1]), frame, time, way.compare)
    return to_samples(frame, depth)


def compare_frames(before: Tensor, after: Tensor, time: Fraction, how: str) -> Tensor:
    """Two frames (3, H, W) in one: side by side, or with a divider that moves with the time in seconds."""
    if how == "side":
        return torch.cat([before.to(after), after], dim=-1).clamp(0, 1)
    width = after.shape[-1]
    phase = float((time + SWEEP / 4) % SWEEP) / SWEEP  # from the middle on
    place = round(width * (1 - abs(1 - 2 * phase)))
    both = torch.cat([before.to(after)[..., :place], after[..., place:]], dim=-1).clamp(0, 1)
    both[..., max(0, place - 1) : place + 1] = 1
    return both
