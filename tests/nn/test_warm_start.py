"""A network with a warm start interpolates, whatever its parts are."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from src.config.build import build_inference_network
from src.config.composition import compose, to_plain
from src.errors import UserError
from src.metrics import psnr
from src.nn.encode import BlurredFrameEncoder, FrameEncoder
from src.nn.fuse import init_attention
from src.nn.upsample import Reconstruct
from src.nn.warm_start import init_near_identity


@pytest.mark.parametrize("aggregate", ["none", "convlstm", "deformable_convlstm", "bidirectional"])
@pytest.mark.parametrize("interpolate", ["naive", "deformable"])
def test_starts_as_enlargement_and_blending(interpolate, aggregate):
    torch.manual_seed(0)
    parts = [f"model/network/interpolate={interpolate}", f"model/network/aggregate={aggregate}"]
    network = build_inference_network(compose("model=zsm", "size=mini", *parts)).eval()
    clip = torch.rand(3, 3, 20, 24)
    frames = network(clip.unsqueeze(0)).detach()[0]
    existing = torch.nn.functional.interpolate(clip, scale_factor=4, mode="bicubic")
    torch.testing.assert_close(frames[::2], existing, atol=2e-3, rtol=0)
    torch.testing.assert_close(frames[1::2], (existing[1:] + existing[:-1]) / 2, atol=2e-3, rtol=0)


class Mean(nn.Module):
    """A fusion without parameters: (B, T, C, H, W) to (B, C, H, W)."""

    def forward(self, aligned):
        return aligned.mean(1)


class Loudest(nn.Module):
    """A fusion by the largest features, mixed: (B, T, C, H, W) to (B, C, H, W)."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.GELU(), nn.Conv2d(64, 16, 1))

    def forward(self, aligned):
        return self.mix(aligned.amax(1))


class Gated(nn.Module):
    """A fusion by a gate for each frame, five times as strong as usual: (B, T, C, H, W) to (B, C, H, W)."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(16, 16)

    def forward(self, aligned):
        gates = self.gate(aligned.movedim(2, -1)).softmax(1).movedim(-1, 2)
        return 5 * (aligned * gates).sum(1)


class Shifted(nn.Module):
    """An alignment that only mixes the neighbour and the reference, (N, C, H, W) each."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(32, 16, 5, padding=2)

    def pyramid(self, features):
        return [features]

    def forward(self, neighbours, reference):
        return self.mix(torch.cat([neighbours[0], reference[0]], dim=1))


class Untouched(Shifted):
    """No alignment."""

    def forward(self, neighbours, reference):
        return neighbours[0]


class Differences(Shifted):
    """The difference to the reference instead of an alignment."""

    def forward(self, neighbours, reference):
        return 3 * (neighbours[0] - reference[0])


class Smooth(nn.Module):
    """Features of all frames, averaged over time: (B, T, C, H, W) to the same."""

    def forward(self, features):
        return (features + features.roll(1, 1) + features.roll(-1, 1)) / 3


class Recurrent(nn.Module):
    """A recurrence over time for each pixel: (B, T, C, H, W) to the same."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(16, 16, batch_first=True)

    def forward(self, features):
        b, t, c, h, w = features.shape
        states = self.gru(features.permute(0, 3, 4, 1, 2).reshape(-1, t, c))[0]
        return states.reshape(b, h, w, t, c).permute(0, 3, 4, 1, 2)


class Mixed(nn.Module):
    """A convolution over space and time: (B, T, C, H, W) to the same."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv3d(16, 16, 3, padding=1)

    def forward(self, features):
        return 4 * self.mix(features.transpose(1, 2)).transpose(1, 2)


def scored(network, clip, target):
    return psnr(network(clip).detach(), target).mean().item()


@pytest.mark.parametrize(
    ("model", "name", "own"),
    [
        ("edvr_m", "fuse", [Mean, Loudest, Gated]),
        ("edvr_m", "align", [Shifted, Untouched, Differences]),
        ("zsm", "aggregate", [Smooth, Recurrent, Mixed]),
    ],
)
def test_any_part_starts_with_the_same_score(model, name, own):
    """Parts that know nothing of the warm start, put in by the constructor, as a researcher's own are."""
    torch.manual_seed(0)
    config = to_plain(compose(f"model={model}", "size=mini").model)["network"]
    network = instantiate(config)
    target = torch.rand(1, 5, 3, 12, 12).repeat_interleave(8, 3).repeat_interleave(8, 4)
    clip = torch.nn.functional.avg_pool2d(target[0], 4)[None, : network.geometry.window]
    target = target[:, 2:3] if model == "edvr_m" else target[:, :1].expand(-1, 2 * clip.shape[1] - 1, -1, -1, -1)
    known = scored(network, clip, target)
    for part in own:
        other = instantiate(config, **{name: part()})
        assert scored(other, clip, target) == pytest.approx(known, abs=0.05), part


@pytest.mark.parametrize(
    ("model", "parts"),
    [("edvr_m", ["align", "fuse"]), ("zsm", ["interpolate", "aggregate"]), ("vtsr", ["align", "attend"])],
)
def test_parts_that_are_exchanged_keep_their_own_start(model, parts):
    """So a copy of one under another name starts, and learns, as the original."""
    networks = []
    for warm in ("true", "false"):
        torch.manual_seed(0)
        networks.append(build_inference_network(compose(f"model={model}", "size=mini", f"size.warm_start={warm}")))
    for part in parts:
        warm, cold = (getattr(network, part).state_dict() for network in networks)
        for name, weight in warm.items():
            assert torch.equal(weight, cold[name]), (part, name)


class Noisy(nn.Sequential):
    """A trunk of plain convolutions."""

    def __init__(self, units):
        super().__init__(nn.Conv2d(units, units, 3, padding=1), nn.Tanh(), nn.Conv2d(units, units, 3, padding=1))
        self.units = units


class Deep(Noisy):
    """Four times as deep, with what came in added."""

    def forward(self, x):
        for _ in range(4):
            x = x + super().forward(x)
        return x


class Strong(Noisy):
    """Three times as strong."""

    def forward(self, x):
        return 3 * super().forward(x)


@pytest.mark.parametrize("trunk", [Noisy, Deep, Strong])
def test_any_trunk_starts_with_the_same_score(trunk):
    torch.manual_seed(0)
    config = to_plain(compose("model=wdvr2d", "size=mini").model)["network"]
    target = torch.rand(1, 1, 3, 12, 12).repeat_interleave(8, 3).repeat_interleave(8, 4)
    clip = torch.nn.functional.avg_pool2d(target[0], 4)[None].expand(-1, 5, -1, -1, -1)
    known = instantiate(config)
    other = instantiate(config, trunk=trunk(known.trunk.units))
    assert scored(other, clip, target) == pytest.approx(scored(known, clip, target), abs=0.3)


def test_a_layer_too_narrow_for_colours_and_their_negatives_raises():
    with pytest.raises(UserError, match="6 channels or more"):
        Reconstruct(8, blocks=1, head=4).init_near_identity(3)


@pytest.mark.parametrize("encode", [FrameEncoder(12, blocks=2), BlurredFrameEncoder(12, blocks=2)])
def test_encoders_carry_the_colours(encode):
    x = torch.rand(2, 3, 8, 8)
    assert init_near_identity(encode, 3) == 3
    torch.testing.assert_close(encode(x)[:, :3], x, atol=1e-5, rtol=0)


def test_differences_between_frames_pass_by_the_fusion_of_a_network_that_deblurs():
    torch.manual_seed(0)
    parts = ["model/network/encode=blurred", "model.network.reconstruct.scale=1", "model.network.encode.channels=16"]
    network = build_inference_network(compose("model=edvr_deblur", "size=mini", *parts))
    clip = torch.rand(1, 5, 3, 16, 16)
    seen = []
    network.reconstruct.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network.fuse.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    assert (network(clip)[:, 0] - clip[:, 2]).abs().max() < 0.05
    torch.testing.assert_close(seen[0][:, :3], clip[:, 2], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0][:, 12:15], 4 * (clip[:, 4] - clip[:, 2]) + network.encode(clip[:, 2])[:, 12:15])


def test_full_size_starts_at_random_as_published():
    assert not compose("model=zsm").size.warm_start
    assert compose("model=zsm", "size=mini").size.warm_start


def test_attention_starts_as_the_loaded_plain_fusion():
    torch.manual_seed(0)
    plain, attentive = (
        build_inference_network(compose(f"model={name}", "size=mini", "size.warm_start=false"))
        for name in ("edvr_m_pcd", "edvr_m")
    )
    loaded = plain.state_dict()
    attentive.load_state_dict({**attentive.state_dict(), **loaded})
    clip = torch.rand(1, 5, 3, 16, 20)
    before = attentive(clip)
    init_attention(attentive, loaded.keys())
    torch.testing.assert_close(attentive(clip), plain(clip), atol=1e-5, rtol=0)
    assert (before - plain(clip)).abs().max() > 1e-3


def test_loaded_attention_is_kept():
    torch.manual_seed(0)
    network = build_inference_network(compose("model=edvr_m", "size=mini"))
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    init_attention(network, weights.keys())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
