"""WDVR: the published implementation's numbers, the paper's sizes, and frames that do not depend on the batching."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hydra.utils import instantiate

from src.checkpoints import from_reference, load
from src.config.build import build_inference_network
from src.config.composition import compose, to_plain
from src.engine.stream import stream
from src.errors import CheckpointError
from src.metrics import psnr
from src.nn.blocks import count_parameters, fold_norms
from src.ops.resize import imresize
from src.papers.wdvr import IAI, IAS, STAS, TSAS, WDVR2D, WDVR3D, Wide2D
from tests.conftest import golden_network

DESIGNS = {"IAI": IAI, "IAS": IAS, "STAS": STAS, "TSAS": TSAS}


def network_3d(design=TSAS, **options) -> WDVR3D:
    torch.manual_seed(0)
    return WDVR3D(trunk=design(blocks=3, units=8), **{"clip": 2, "padding": 4, **options})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["2d", "3d"])
def test_equals_the_published_implementation(case, dtype):
    state, clip, expected, _ = golden_network(f"wdvr_{case}")
    network = from_reference({f"module.{name}": value.to(dtype) for name, value in state.items()})
    with torch.no_grad():
        frames = network(clip.to(dtype).transpose(1, 2)).transpose(1, 2)
        folded = fold_norms(network)(clip.to(dtype).transpose(1, 2)).transpose(1, 2)
    assert frames.shape == expected.shape
    assert not network.training
    for ours in (frames, folded):
        assert (ours.double() - expected).abs().max() <= (1e-5 if dtype == torch.float32 else 1e-6)


def test_reference_that_lacks_weights_is_refused():
    state, *_ = golden_network("wdvr_3d")
    del state["body.2.body.4.weight_g"]
    with pytest.raises(CheckpointError, match=r"trunk\.blocks\.1\.3.*original0"):
        from_reference(state)


@pytest.mark.parametrize(
    ("overrides", "parameters"),
    [
        (["model=wdvr3d"], 1_212_400),
        *(
            (["model=wdvr2d", f"model.network.frames={frames}"], n)
            for frames, n in [(1, 1_203_312), (3, 1_212_240), (5, 1_221_168), (7, 1_230_096)]
        ),
    ],
)
def test_sizes_of_the_paper(overrides, parameters):
    with torch.device("meta"):
        assert count_parameters(instantiate(compose(*overrides).model.network)) == parameters


def test_3d_designs_cost_the_same_and_spend_more_or_less_of_it_on_time():
    with torch.device("meta"):
        found = {
            name: instantiate(compose("model=wdvr3d", f"model/network/trunk={name.lower()}").model.network)
            for name in DESIGNS
        }
    costs = [count_parameters(network) for network in found.values()]
    assert max(costs) <= 1.022 * min(costs)
    assert [network.trunk.activations for network in found.values()] == [42, 64, 88, 122]  # Table 2
    shares = [network.trunk.temporal_share for network in found.values()]
    assert shares == pytest.approx([1.0, 0.75, 0.314, 0.042], abs=1e-3)


def test_activations_or_their_budget_may_be_given():
    assert IAI(blocks=1, units=32).activations == 43  # the cost of TSAS
    with pytest.raises(ValueError, match=r"activations=42 and budget=9 exclude each other"):
        IAI(blocks=1, units=32, activations=42, budget=9)
    assert TSAS(blocks=1, units=32, budget=TSAS.cost(32, 100)).activations == 100
    assert Wide2D(blocks=1, units=64).activations == 256  # the challenge model: Section 4.2


def test_cost_is_what_a_block_has():
    for design in (*DESIGNS.values(), Wide2D):
        assert count_parameters(design(blocks=2, units=8, activations=20)) == 2 * design.cost(8, 20)


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_frames_that_only_pad_are_dropped_early_without_a_trace(design):
    """Trimming after every block saves work; the result is that of carrying all frames to the end."""
    network = network_3d(design)
    clip = torch.rand(1, 10, 3, 12, 10)
    with torch.no_grad():
        early = network(clip)
        whole = network(clip, padding=0)[:, 4:6]
    assert early.shape == (1, 2, 3, 48, 40)
    torch.testing.assert_close(early, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_every_parameter_learns(design):
    for network, frames in ((network_3d(design, scale=1), 11), (WDVR2D(trunk=Wide2D(blocks=2, units=8), scale=4), 5)):
        network(torch.rand(2, frames, 3, 8, 8)).square().mean().backward()
        assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def moving(frames: int) -> torch.Tensor:
    torch.manual_seed(1)
    picture = imresize(torch.rand(3, 6, 12), 4)
    return torch.stack([picture.roll(t, dims=-1)[:, :16, :24] for t in range(frames)])


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_same_frames_whatever_the_batching(design):
    """Exactly, where padding covers what the network sees; with less, up to an effect that fades as padding grows."""
    clip = moving(13)
    network = network_3d(design, padding=0)
    sees = max(3 * network.trunk.reach, network.skip.reach)  # frames to either side
    effects = []
    for padding in range(sees + 1):
        passes = [list(stream(network, clip, clip_length=length, padding=padding)) for length in (13, 1, 4, 5)]
        assert all([t for t, _ in frames] == [Fraction(t) for t in range(13)] for frames in passes)
        whole, *others = (torch.stack([frame for _, frame in frames]) for frames in passes)
        effects.append(max(float((whole - other).square().mean().sqrt()) for other in others))
    assert effects[-1] < 1e-6 < effects[-2]
    assert all(less < 0.7 * more for more, less in pairwise(effects))
    assert effects[0] < 0.3  # of frames whose values have a deviation of about one


def test_passes_are_no_longer_than_the_video_and_about_equally_long():
    seen: list[int] = []
    network = network_3d()
    network.register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    for length, most, expected in ((5, 160, [5]), (13, 6, [5, 5, 5]), (12, 4, [4, 4, 4]), (3, None, [2, 2])):
        seen.clear()
        frames = list(stream(network, moving(length), clip_length=most, length=length))
        assert ([int(t) for t, _ in frames], seen) == (list(range(length)), expected)


def test_padding_of_the_evaluation_may_differ_from_that_of_the_training():
    clip, network = moving(9), network_3d(padding=4)
    held = torch.cat([clip[:1].expand(2, -1, -1, -1), clip, clip[-1:].expand(2, -1, -1, -1)])
    with torch.no_grad():
        expected = network(held[None], padding=2)[0]
    frames = [frame for _, frame in stream(network, clip, clip_length=9, padding=2)]
    torch.testing.assert_close(torch.stack(frames), expected, atol=1e-6, rtol=0)


def test_a_clip_that_is_all_padding_is_refused():
    with pytest.raises(ValueError, match="a clip of 8 frames is too short: padding=4 needs at least 9"):
        network_3d()(torch.rand(1, 8, 3, 8, 8))


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("model", ["2d", "3d"])
def test_may_start_as_bicubic_enlargement(model, scale):
    network = (
        network_3d(warm_start=True, scale=scale)
        if model == "3d"
        else WDVR2D(trunk=Wide2D(blocks=2, units=8), scale=scale, warm_start=True)
    )
    clip = imresize(moving(11), 1.5)[None, : network.geometry.window]
    middle = [int(t) for t in network.geometry.times]
    with torch.no_grad():
        started, expected = network(clip), imresize(clip[:, middle], scale)
    inside = (..., slice(8, -8), slice(8, -8))  # zeros beyond the border come in there
    assert psnr(started[inside], expected[inside]).min() > 25


def test_folding_weight_norm_changes_no_frame_and_leaves_plain_weights():
    network, folded = network_3d().eval(), fold_norms(network_3d())
    clip = torch.rand(1, 10, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(folded(clip), network(clip))
    assert not [name for name, _ in folded.named_parameters() if "parametrizations" in name]


def test_our_checkpoint_comes_back_and_is_folded_to_restore_with(tmp_path):
    config = compose("model=wdvr3d", "size=mini", f"checkpoint={tmp_path / 'w.ckpt'}")
    network = instantiate(config.model.network)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"network": to_plain(config.model.network), "state_dict": weights}, tmp_path / "w.ckpt")
    assert load(tmp_path / "w.ckpt").state_dict().keys() == network.state_dict().keys()
    clip = torch.rand(1, network.geometry.window, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(build_inference_network(config)(clip), network(clip))
