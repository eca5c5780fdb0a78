"""A network with a warm start computes quadratic enlargement and blending."""

from __future__ import annotations

import pytest
import torch

from src.config.build import build_inference_network
from src.config.composition import compose
from src.errors import UserError
from src.metrics import psnr
from src.nn.align import DeformablePack, PyramidAlign
from src.nn.blocks import Blend, ResidualBlock
from src.nn.fuse import init_attention
from src.nn.recur import ConvLSTM
from src.nn.upsample import Reconstruct
from src.nn.warm_start import IdentityChannels, init_near_identity


@pytest.mark.parametrize("aggregate", ["none", "convlstm", "deformable_convlstm", "bidirectional"])
@pytest.mark.parametrize("interpolate", ["naive", "deformable"])
def test_starts_as_enlargement_and_blending(interpolate, aggregate):
    torch.manual_seed(0)
    parts = [f"model/network/interpolate={interpolate}", f"model/network/aggregate={aggregate}"]
    network = build_inference_network(compose("model=zsm", "size=mini", *parts)).eval()
    clip = torch.nn.functional.interpolate(torch.rand(3, 3, 10, 12), (20, 24), mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        frames = network(clip.unsqueeze(0))[0]
    inner = (..., slice(16, -16), slice(16, -16))  # away from borders, beyond which there is padding
    existing = quadratic(quadratic(clip))
    assert psnr(frames[::2][inner], existing[inner]).min() > 45
    assert psnr(frames[1::2][inner], (existing[1:] + existing[:-1])[inner] / 2).min() > 45


def quadratic(x):
    """Enlarge twice along both axes: each new pixel lies on the parabola through the three old ones around it."""
    for _ in range(2):
        before, after = x.roll(1, -1), x.roll(-1, -1)
        slope, bend = (after - before) / 2, (after + before) / 2 - x
        x = torch.stack([x + place * slope + place**2 * bend for place in (-0.25, 0.25)], dim=-1).flatten(-2)
        x = x.transpose(-1, -2)
    return x


def test_a_layer_too_narrow_for_colours_and_their_negatives_raises():
    with pytest.raises(UserError, match="6 channels or more"):
        Reconstruct(8, blocks=1, head=4).init_near_identity(IdentityChannels())


def test_parts_pass_the_identity_channels_through():
    torch.manual_seed(0)
    x, identity = torch.rand(2, 12, 8, 8), IdentityChannels()
    pyramid = [x, torch.rand(2, 12, 4, 4), torch.rand(2, 12, 2, 2)]
    parts = [ResidualBlock(12), Blend(12), DeformablePack(12, groups=1), PyramidAlign(12, groups=1)]
    for part, inputs in zip(parts, ([x], [x, x], [x, x], [pyramid, pyramid]), strict=True):
        assert init_near_identity(part, identity) == identity
        torch.testing.assert_close(part(*inputs)[:, :3], x[:, :3], atol=1e-5, rtol=0)


def test_recurrence_reports_the_gain_and_offset_of_its_identity_channels():
    torch.manual_seed(0)
    recurrence, clip = ConvLSTM(12), 0.5 + 0.1 * torch.rand(1, 3, 12, 8, 8)
    identity = init_near_identity(recurrence, IdentityChannels())
    states = recurrence(clip)[:, :, :3, 1:-1, 1:-1]  # without padded pixels
    colours = clip[:, :, :3, 1:-1, 1:-1]
    torch.testing.assert_close(states, identity.gain * (colours - identity.offset), atol=1e-3, rtol=0)


def test_full_size_starts_at_random_as_published():
    assert not compose("model=zsm").size.warm_start
    assert compose("model=zsm", "size=mini").size.warm_start


def test_attention_starts_as_the_loaded_plain_fusion():
    torch.manual_seed(0)
    plain, attentive = (
        build_inference_network(compose(f"model={name}", "size=mini")) for name in ("edvr_m_pcd", "edvr_m")
    )
    with torch.no_grad():
        plain.fuse.fuse.weight[:3] += 0.1 * torch.rand_like(plain.fuse.fuse.weight[:3])  # as if trained
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


def test_deblurring_starts_with_differences_between_frames():
    torch.manual_seed(0)
    parts = ["model/network/encode=blurred", "model.network.reconstruct.scale=1", "model.network.encode.channels=16"]
    network = build_inference_network(compose("model=edvr_deblur", "size=mini", "model/network/fuse=conv", *parts))
    clip = torch.rand(1, 5, 3, 16, 16)
    features, fused = [], []
    network.align.register_forward_hook(lambda module, inputs, output: features.append(output))
    network.fuse.register_forward_hook(lambda module, inputs, output: fused.append(output))
    assert (network(clip)[:, 0] - clip[:, 2]).abs().max() < 0.05
    identity = features[0][:, :3].unflatten(0, (1, 5))
    found = fused[0] - network.fuse.fuse.bias.view(16, 1, 1)
    torch.testing.assert_close(found[:, 3:6], 4 * (identity[:, 0] - identity[:, 2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 12:15], 4 * (identity[:, 4] - identity[:, 2]), atol=1e-5, rtol=0)
