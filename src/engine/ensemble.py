"""Self-ensemble: the mean over flipped and turned copies of the input (EDVR, Section 4.4; WDVR, Section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.nn.video_network import VideoNetwork, as_video_network

FLIPS: dict[int, list[tuple[bool, bool, bool]]] = {  # (left-right, up-down, transposed)
    1: [(False, False, False)],
    2: [(False, False, False), (True, False, False)],
    4: [(a, b, False) for a in (False, True) for b in (False, True)],
    8: [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)],
}


class Ensemble(VideoNetwork):
    """Runs a network on flipped and transposed copies of a clip, turns the results back, and averages them.

    (B, T, C, H, W) to what the network makes of it. On an accelerator copies of one shape are one batch, split where
    its memory does not take them; on the CPU they come one by one.

    Args:
        network: any network of the suite.
        copies: 2 (mirrored), 4 (mirrored along both axes) or 8 (transposed as well).
    """

    def __init__(self, network: nn.Module, *, copies: int) -> None:
        super().__init__()
        if copies not in FLIPS:
            raise ValueError(f"copies must be one of {list(FLIPS)}, got {copies}")
        self.network, self.copies = network, copies
        self.geometry = as_video_network(network).geometry

    def forward(self, clip: Tensor) -> Tensor:
        total: Tensor | float = 0.0
        for transposed in (False, True):
            flips = [flip for flip in FLIPS[self.copies] if flip[2] == transposed]
            if flips:
                copies = [turn(clip, flip) for flip in flips]
                restored = self._run(copies) if clip.is_cuda else [self.network(copy) for copy in copies]
                for flip, copy in zip(flips, restored, strict=True):
                    total = total + turn(copy, flip, back=True)
        return torch.as_tensor(total) / self.copies

    def _run(self, copies: list[Tensor]) -> list[Tensor]:
        try:
            return list(self.network(torch.cat(copies)).chunk(len(copies)))
        except torch.OutOfMemoryError:
            if len(copies) == 1:
                raise
        half = len(copies) // 2
        return self._run(copies[:half]) + self._run(copies[half:])


def turn(clip: Tensor, flip: tuple[bool, bool, bool], *, back: bool = False) -> Tensor:
    """Mirrors, then transposes the last two axes, as an entry of ``FLIPS`` says; ``back`` undoes it."""
    mirror, upend, transpose = flip
    axes = [axis for axis, wanted in ((-1, mirror), (-2, upend)) if wanted]
    if transpose and back:
        clip = clip.transpose(-1, -2)
    clip = clip.flip(axes) if axes else clip
    if transpose and not back:
        clip = clip.transpose(-1, -2)
    return clip
