"""A cascade of networks as one network: each stage restores the output of the one before it.

EDVR's two-stage restoration (Section 3.4) is a cascade of two EDVRs.

Shapes: B batch, T input frames, H height, W width, s the product of all scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import reduce

import torch
from torch import Tensor, nn

from src.errors import UserError
from src.geometry import Geometry
from src.nn.video_network import VideoNetwork, as_video_network


class Cascade(VideoNetwork):
    """(B, T, 3, H, W) to (B, T', 3, s*H, s*W), T the frames that the last stage's windows take.

    Over a whole video :func:`src.engine.stream.stream` runs stage after stage, so that none restores a frame twice.

    Args:
        stages: networks in order, under names of the user's choice.
        frozen: number of stages, from the first on, that are not trained.
        eight_bits: whether frames between stages are rounded to 8 bits, as in files; gradients pass unchanged.
    """

    def __init__(self, *, stages: Mapping[str, nn.Module], frozen: int = 0, eight_bits: bool = False) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(dict(stages))
        self.frozen, self.eight_bits = frozen, eight_bits
        self.geometry = reduce(Geometry.then, [stage.geometry for stage in self.networks])
        self.tile_overlap = max(stage.tile_overlap for stage in self.networks)
        for stage in list(self.stages.values())[:frozen]:
            stage.requires_grad_(False)

    @property
    def networks(self) -> list[VideoNetwork]:
        """The stages in order."""
        return [as_video_network(stage) for stage in self.stages.values()]

    def between(self, before: Tensor, after: Tensor, time: Fraction) -> Tensor | None:
        return self.networks[-1].between(before, after, time)

    def remarks(self) -> list[str]:
        return [sentence for stage in self.networks for sentence in stage.remarks()]

    def hand_on(self, frames: Tensor) -> Tensor:
        """Return frames of a stage as the next one gets them."""
        if not self.eight_bits:
            return frames
        rounded = frames.detach().mul(255).add(0.5).floor().clamp(0, 255).div(255)
        return rounded + (frames - frames.detach())  # the last term is zero, with the gradient

    def forward(self, clip: Tensor) -> Tensor:
        for number, stage in enumerate(self.networks):
            clip = self.hand_on(clip) if number else clip
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= self.frozen):
                clip = torch.cat(list(_slide(stage, clip)), dim=1)
        return clip[:, : len(self.geometry.times)]


def _slide(stage: VideoNetwork, clip: Tensor) -> Iterator[Tensor]:
    """Yield a stage's new output frames, (B, n, 3, s*H, s*W), of every window within the clip."""
    geometry = stage.geometry
    last: Fraction | None = None
    for start in range(0, clip.shape[1] - geometry.window + 1, geometry.stride):
        restored = stage(clip[:, start : start + geometry.window])
        new = [k for k, time in enumerate(geometry.times) if last is None or start + time > last]
        last = start + geometry.times[-1]
        yield restored[:, new]


def apply_recursively(network: nn.Module, factor: int | None) -> nn.Module:
    """Apply a network to its own output until there are ``factor`` frames of each (VTSR, Equation 3.3).

    Args:
        network: multiplies frames in time, at the same size.
        factor: a power of its own factor; None: return ``network`` itself.

    Raises:
        UserError: ``factor`` is no power of the network's own factor, or the network enlarges frames.
    """
    if factor is None:
        return network
    try:
        rounds = as_video_network(network).geometry.rounds(factor)
    except ValueError as error:
        raise UserError(f"factor={factor} does not suit this network: {error}.") from error
    return Cascade(stages={f"round{number}": network for number in range(rounds)})
