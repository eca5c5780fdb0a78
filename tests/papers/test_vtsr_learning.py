"""Mini VTSR learns to halve exposures where most of a video stands still, which L1 rewards for doing nothing."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from src.config.build import build_data, build_restorer, build_training_network
from src.config.composition import compose
from src.papers.baselines import Nothing
from src.papers.vtsr import PAIR
from src.video.writer import VideoWriter

STEPS = 300


class Mixture(nn.Module):
    """A tenth of the other frame mixed in: (B, 2, 3, H, W) to the same."""

    geometry = PAIR

    def forward(self, clip):
        return 0.9 * clip + 0.1 * clip.flip(1)


def texture(rng, height, width):
    """Smooth and fine structure, (3, H, W) in [0, 1]."""
    octaves = []
    for scale in (32, 12, 4):
        coarse = torch.from_numpy(rng.random((1, 3, height // scale + 2, width // scale + 2)).astype(np.float32))
        octaves.append(nn.functional.interpolate(coarse, scale_factor=scale, mode="bicubic")[0, :, :height, :width])
    return torch.stack(octaves).mean(0).clamp(0, 1)


def write_clip(file, rng, frames=80, height=96, width=128):
    """A static texture with two textured objects that pass over a part of it, each at a speed of its own."""
    ground = texture(rng, height, width)
    things = [
        (texture(rng, 28, 28), rng.uniform(0, 90, 2), rng.choice([-1, 1], 2) * rng.uniform(0.6, 2.5, 2)) for _ in "ab"
    ]
    with VideoWriter(file, Fraction(240), codec="lossless") as writer:
        for time in range(frames):
            frame = ground.clone()
            for thing, start, speed in things:
                top, left = ((start + time * speed) % (height - 28, width - 28)).round().astype(int)
                frame[:, top : top + 28, left : left + 28] = thing
            writer.write((frame * 255).round().byte().permute(1, 2, 0))


def score(config, network):
    """Mean PSNR of f over the clips' ends."""
    restorer = build_restorer(config, network.eval())
    for clip in build_data(config, restorer).test_dataloader():
        restorer.evaluation_step(clip)
    return restorer.scores[-1].compute()["psnr"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_learns_on_clips_with_static_parts(tmp_path, seed):
    rng = np.random.default_rng(0)
    for number in range(6):
        write_clip(tmp_path / f"clip{number}.mkv", rng)
    config = compose(
        *("experiment=vtsr_clips", "size=mini_vtsr", f"data.root={tmp_path}", f"seed={seed}", "logger=csv"),
        f"trainer.max_steps={STEPS}",
    )
    torch.manual_seed(seed)
    network = build_training_network(config)
    restorer = build_restorer(config, network.train())
    data = build_data(config, restorer)
    optimizer = restorer.optimizer(network.parameters())
    batches = iter(data.train_dataloader())
    for step in range(STEPS):
        if (batch := next(batches, None)) is None:
            data.train_dataloader().sampler.set_epoch(step)
            batches = iter(data.train_dataloader())
            batch = next(batches)
        loss = torch.stack(list(restorer.losses(batch["inputs"], batch["targets"]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * restorer.schedule(step, STEPS)
        optimizer.step()
    scores = [score(config, one) for one in (Nothing(), Mixture(), network)]
    print(scores)
    assert scores[2] > scores[0] + 0.2
