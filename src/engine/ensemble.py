"""Self-ensemble: the mean over flipped and transposed copies of the input (EDVR, Section 4.4; WDVR, Section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.nn.video_network import VideoNetwork, as_video_network

FLIPS: dict[int, list[tuple[bool, bool, bool]]] = {  # (horizontal, vertical, transposed)
    1: [(False, False, False)],
    2: [(False, False, False), (True, False, False)],
    4: [(a, b, False) for a in (False, True) for b in (False, True)],
    8: [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)],
}


class Ensemble(VideoNetwork):
    """Runs a network on flipped and transposed copies of a clip, reverts the outputs, and averages them.

    (B, T, C, H, W) to the output shape of the network. On an accelerator, copies of one shape form a batch, split if
    memory does not suffice; on the CPU they run one by one.

    Args:
        network: any network of the suite.
        copies: 1, 2 (flipped horizontally), 4 (along both axes) or 8 (transposed, too).
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
                copies = [apply_flip(clip, flip) for flip in flips]
                outputs = self._run(copies) if clip.is_cuda else [self.network(copy) for copy in copies]
                for flip, output in zip(flips, outputs, strict=True):
                    total = total + apply_flip(output, flip, inverse=True)
        return torch.as_tensor(total) / self.copies

    def _run(self, copies: list[Tensor]) -> list[Tensor]:
        try:
            return list(self.network(torch.cat(copies)).chunk(len(copies)))
        except torch.OutOfMemoryError:
            if len(copies) == 1:
                raise
        half = len(copies) // 2
        return self._run(copies[:half]) + self._run(copies[half:])


def apply_flip(clip: Tensor, flip: tuple[bool, bool, bool], *, inverse: bool = False) -> Tensor:
    """Flip, then transpose the last two axes, by an entry of ``FLIPS``, or invert that."""
    horizontal, vertical, transpose = flip
    axes = [axis for axis, is_flipped in ((-1, horizontal), (-2, vertical)) if is_flipped]
    if transpose and inverse:
        clip = clip.transpose(-1, -2)
    clip = clip.flip(axes) if axes else clip
    if transpose and not inverse:
        clip = clip.transpose(-1, -2)
    return clip
