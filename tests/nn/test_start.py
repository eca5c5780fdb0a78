"""A network that starts interpolating does what bilinear enlargement and blending do."""

from __future__ import annotations

import pytest
import torch

from src.config import build_network, compose
from src.metrics import psnr


@pytest.mark.parametrize("aggregate", ["none", "convlstm", "deformable_convlstm", "bidirectional"])
@pytest.mark.parametrize("interpolate", ["naive", "deformable"])
def test_starts_as_bilinear_enlargement_and_blending(interpolate, aggregate):
    torch.manual_seed(0)
    parts = [f"model/network/interpolate={interpolate}", f"model/network/aggregate={aggregate}"]
    network = build_network(compose("model=zsm", "size=mini", *parts)).eval()
    clip = torch.nn.functional.interpolate(torch.rand(1, 9, 5, 6), (20, 24), mode="bicubic").clamp(0, 1)
    clip = clip.unflatten(1, (3, 3))
    with torch.no_grad():
        frames = network(clip)
    existing = torch.nn.functional.interpolate(clip[0], scale_factor=4, mode="bilinear")
    inner = (..., slice(16, -16), slice(16, -16))  # away from borders, where zero padding darkens
    assert psnr(frames[0, ::2][inner], existing[inner]).min() > 30
    blended = (existing[1:] + existing[:-1]) / 2
    assert psnr(frames[0, 1::2][inner], blended[inner]).min() > 30


def test_full_size_starts_at_random_as_published():
    assert not compose("model=zsm").size.interpolating
    assert compose("model=zsm", "size=mini").size.interpolating
