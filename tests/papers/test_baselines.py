"""Interpolation at the times of another network equals the named baselines where these have the same times."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from src.engine.stream import stream
from src.geometry import Geometry, evenly
from src.papers.baselines import Bicubic, Blend, Interpolation, Nothing


def streamed(network: torch.nn.Module, frames: torch.Tensor, **options) -> dict[Fraction, torch.Tensor]:
    return dict(stream(network, frames, **options))


@pytest.mark.parametrize(
    ("geometry", "baseline", "name"),
    [
        (Geometry(4, 5, (2,)), Bicubic(scale=4), "bicubic"),
        (Geometry(2, 10, evenly(0, 1, 10), stride=10), Bicubic(scale=2), "bicubic"),
        (Blend(scale=4, frames=4).geometry, Blend(scale=4, frames=4), "bicubic and blending"),
        (Blend(scale=1, frames=4).geometry, Blend(scale=1, frames=4), "blending"),
        (Geometry(1, 4, (1, Fraction(3, 2), 2)), Blend(scale=1, frames=2), "blending"),
        (Nothing().geometry, Nothing(), "doing nothing"),
        (Geometry(1, 5, (2,)), Bicubic(scale=1), "doing nothing"),
    ],
)
@pytest.mark.parametrize("frames", [1, 4, 9])
def test_same_frames_as_the_named_baselines(geometry, baseline, name, frames):
    clip = torch.rand(frames, 3, 8, 12)
    network = Interpolation(geometry=geometry)
    assert network.name == name
    ours, theirs = streamed(network, clip), streamed(baseline, clip)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[time], theirs[time], atol=1e-6) for time in theirs)


@pytest.mark.parametrize("options", [{"clip_length": "all"}, {"clip_length": 3}, {"edges": "none"}, {"context": 1}])
def test_passes_of_any_length(options):
    blend, clip = Blend(scale=2, frames=4), torch.rand(9, 3, 8, 12)
    ours, theirs = (streamed(one, clip, **options) for one in (Interpolation(geometry=blend.geometry), blend))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[time], theirs[time], atol=1e-6) for time in theirs)


def test_applied_to_its_own_output():
    clip = torch.rand(4, 3, 8, 12)
    ours, theirs = (streamed(one, clip, factor=4) for one in (Interpolation(geometry=Nothing().geometry), Nothing()))
    assert len(ours) == 4 * 4
    assert all(torch.equal(ours[time], theirs[time]) for time in theirs)
