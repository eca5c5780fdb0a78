"""The first optimiser steps from the published initialisation: every part moves at nearly Adam's step.

Adam divides by v + eps, v the root of the bias-corrected second moment. The factor v / (v + eps) is 1 where gradients
are far above its eps and 0 where they are far below: such a part stands still, however long Adam's memory is.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn

from src.config.composition import compose

STEPS = 4
CASES = {"edvr_m": (["model.network.frames=3"], 16), "zsm_unguided": ([], 8)}  # input frames below; pixels of a side
FRAMES = 3


def moving_texture(side: int) -> tuple[Tensor, Tensor]:
    """A texture that moves by 6 output pixels a frame: reduced by 4, (1, 3, 3, side, side), and as it is."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, side // 4, side // 4 + 4, generator=generator)
    scene = F.interpolate(coarse, scale_factor=16, mode="bicubic").clamp(0, 1)
    frames = torch.stack([scene[..., 6 * t : 6 * t + 4 * side] for t in range(FRAMES)], dim=1)
    reduced = F.interpolate(frames[0], scale_factor=0.25, mode="bicubic", antialias=True)[None]
    return reduced, frames


def part_of(name: str) -> str:
    """``align.align.compare.0.weight`` is a parameter of the part ``align.align.compare``."""
    return ".".join(key for key in name.split(".")[:-1] if not key.isdigit())


def factors_on_the_step(model: str, reduction: str) -> dict[str, float]:
    """Train for some steps; the median factor over the elements of each part."""
    overrides, side = CASES[model]
    config = compose(f"model={model}", *overrides, f"size.charbonnier={reduction}").model
    torch.manual_seed(0)
    network: nn.Module = instantiate(config.network)
    loss = instantiate(config.loss)
    optimizer = instantiate(config.optimizer)(network.parameters())
    inputs, frames = moving_texture(side)
    for _ in range(STEPS):
        estimate = network(inputs)
        target = frames[:, 1:2] if estimate.shape[1] == 1 else frames[:, [0, 0, 1, 1, 2]]
        optimizer.zero_grad()
        loss(estimate, target).backward()
        optimizer.step()
    (group,) = optimizer.param_groups
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        variance = optimizer.state[parameter]["exp_avg_sq"] / (1 - group["betas"][1] ** STEPS)
        parts.setdefault(part_of(name), []).append(variance.sqrt().flatten())
    return {
        part: (v / (v + group["eps"])).median().item()
        for part, v in ((part, torch.cat(roots)) for part, roots in parts.items())
    }


@pytest.mark.long
@pytest.mark.parametrize("model", CASES)
def test_a_summed_loss_moves_every_part(model: str) -> None:
    assert compose(f"model={model}").size.charbonnier == "sum"  # as published
    assert compose(f"model={model}", "size=mini").size.charbonnier == "mean"  # which clips gradients at a norm of 1
    factors = factors_on_the_step(model, "sum")
    assert any("compare" in part for part in factors)
    assert {part: factor for part, factor in factors.items() if factor <= 0.5} == {}


@pytest.mark.long
@pytest.mark.parametrize("model", CASES)
def test_an_averaged_loss_leaves_alignment_standing(model: str) -> None:
    factors = factors_on_the_step(model, "mean")
    alignment = {p: factor for p, factor in factors.items() if "align" in p and p.endswith((".compare", ".refine"))}
    assert alignment
    assert {part: factor for part, factor in alignment.items() if factor >= 0.5} == {}
