"""Networks one after another: geometry, what is trained, streaming without restoring a frame twice."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from src.config.build import build_inference_network
from src.config.composition import compose, to_plain
from src.engine.cascade import Cascade
from src.engine.ensemble import Ensemble
from src.engine.stream import find_first_frame, stream
from src.errors import UserError
from src.geometry import Geometry, evenly
from src.nn.blocks import count_parameters
from src.nn.encode import BlurredFrameEncoder, FrameEncoder
from src.nn.flops import count
from src.tasks.train import train
from tests.papers.test_edvr import awaken, edvr

ZSM = Geometry(4, 4, evenly(0, "1/2", 7), 3, elastic=True)
EDVR5 = Geometry(1, 5, (Fraction(2),))
DSFN = Geometry(4, 4, (Fraction(1), Fraction(3, 2), Fraction(2)), 1)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (Geometry(4, 5, (Fraction(2),)), EDVR5, Geometry(4, 9, (Fraction(4),))),
        (EDVR5, ZSM, Geometry(4, 8, evenly(2, "1/2", 7), 3)),
        (ZSM, EDVR5, Geometry(4, 4, (Fraction(1), Fraction(3, 2)), 1, inner=(Fraction(1), Fraction(2), 4))),
        (DSFN, EDVR5, Geometry(4, 6, (Fraction(2), Fraction(5, 2)), 1, inner=(Fraction(2), Fraction(3), 5))),
    ],
)
def test_geometry_of_two(first, second, expected):
    assert first.then(second) == expected


class Mean(nn.Module):
    """The mean of its window, at its middle: shows which frames came in."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.geometry = Geometry(1, window, (Fraction(window // 2),))
        self.passes = 0

    def forward(self, clip):
        self.passes += len(clip)
        return clip.mean(1, keepdim=True)


def test_a_window_is_what_the_stages_make_of_it():
    cascade = Cascade(stages={"first": Mean(3), "second": Mean(3)})
    clip = torch.rand(2, 5, 3, 2, 2)
    weights = torch.tensor([1, 2, 3, 2, 1]) / 9
    assert torch.allclose(cascade(clip)[:, 0], torch.einsum("t,btchw->bchw", weights, clip))


def test_streaming_restores_each_frame_once_a_stage():
    cascade = Cascade(stages={"first": Mean(3), "second": Mean(3)})
    frames = torch.rand(7, 3, 2, 2)
    streamed = list(stream(cascade, frames))
    assert [time for time, _ in streamed] == list(range(7))
    assert [stage.passes for stage in cascade.stages.values()] == [7, 7]
    for k in range(2, 5):  # away from the ends, where stage two repeats what stage one made
        assert torch.allclose(streamed[k][1], cascade(frames[None, k - 2 : k + 3])[0, 0])


@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("encoder", [FrameEncoder, BlurredFrameEncoder])
def test_streaming_equals_windows(encoder, eight_bits):
    second = edvr(shrink=4, encoder=encoder)
    cascade = Cascade(stages={"first": edvr(), "second": second}, eight_bits=eight_bits).eval()
    awaken(cascade)
    frames = torch.rand(7, 3, 8, 12)
    streamed = dict(stream(cascade, frames))
    with torch.no_grad():
        for k in range(2, 5):
            expected = cascade(frames[None, k - 2 : k + 3])[0, 0]
            assert (streamed[Fraction(k)] - expected).abs().max() < 1e-5


def test_frames_between_stages_are_rounded():
    cascade = Cascade(stages={"first": Mean(1), "second": Mean(1)}, eight_bits=True)
    clip = torch.tensor([-0.1, 0.3, 1.2]).view(1, 1, 3, 1, 1).requires_grad_()
    restored = cascade(clip)
    assert torch.allclose(restored.flatten(), torch.tensor([0, 77 / 255, 1]), atol=1e-6)  # 0.3 is 76.5 of 255
    assert torch.equal(torch.autograd.grad(restored.sum(), clip)[0], torch.ones_like(clip))
    (streamed,) = (frame for _, frame in stream(cascade, list(clip.detach()[0])))
    assert torch.allclose(streamed, restored[0, 0])


@pytest.mark.parametrize("copies", [4, 8])
def test_each_stage_has_an_ensemble_of_its_own(copies):
    """The second stage reads the mean of the first's copies in 8 bits, as the published one reads its files."""
    cascade = Cascade(stages={"first": edvr(), "second": edvr(shrink=4)}, eight_bits=True).eval()
    awaken(cascade)
    frames = torch.rand(7, 3, 8, 12)
    first, second = cascade.networks
    between = [cascade.hand_on(frame) for _, frame in stream(first, frames, ensemble=copies)]
    expected = [frame for _, frame in stream(second, between, ensemble=copies)]
    watched = []
    streamed = list(stream(cascade, frames, ensemble=copies, watch=lambda *item: watched.append(item)))
    assert [time for time, _ in streamed] == list(range(7))
    assert all(torch.equal(a, b) for (_, a), b in zip(streamed, expected, strict=True))
    assert all(torch.equal(cascade.hand_on(seen), b) for (*_, seen), b in zip(watched, between, strict=True))
    begin = find_first_frame(cascade, Fraction(5), ensemble=copies)
    rest = list(stream(cascade, frames[begin:], ensemble=copies, after=Fraction(5)))
    assert begin > 0
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rest, streamed[6:], strict=True))
    whole = [frame for _, frame in stream(Ensemble(cascade, copies=copies), frames)]  # averaged once, at the end
    assert all((whole[k] - expected[k]).abs().max() > 1e-4 for k in range(2, 5))


def test_each_round_has_an_ensemble_of_its_own():
    """Two rounds are the same as two commands, of which the second gets what the first has written."""

    class Uneven(nn.Module):
        geometry = Geometry(1, 2, evenly("3/4", "1/2", 2), exposures=(Fraction(1, 2),) * 2)

        def forward(self, clip):
            ramp = torch.linspace(0.5, 1, clip.shape[-1])
            return torch.stack([(clip[:, 0] * ramp).square(), (clip[:, 1] * ramp).square()], dim=1)

    frames, network = torch.rand(3, 3, 6, 6), Uneven()
    once = [frame for _, frame in stream(network, frames, ensemble=4)]
    expected = [frame for _, frame in stream(network, once, ensemble=4)]
    twice = list(stream(network, frames, ensemble=4, factor=4))
    assert len(twice) == 12
    assert all(torch.equal(a, b) for (_, a), b in zip(twice, expected, strict=True))


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_stages_have_no_gradient(frozen):
    cascade = Cascade(stages={"first": edvr(), "second": edvr(shrink=4)}, frozen=frozen)
    awaken(cascade)
    cascade(torch.rand(1, 5, 3, 8, 12)).square().mean().backward()
    for name, parameter in cascade.named_parameters():
        trained = not (frozen and name.startswith("stages.first."))
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) == trained, name


def test_two_stage_edvr():
    network = build_inference_network(compose("model=edvr_s2", "size=mini"))
    assert network.geometry == Geometry(4, 9, (Fraction(4),))
    with torch.no_grad():
        assert network(torch.rand(1, 9, 3, 8, 8)).shape == (1, 1, 3, 32, 32)


def checkpoint(file, *overrides):
    config = compose(*overrides)
    network = build_inference_network(config)
    state = {f"network.{name}": weight for name, weight in network.state_dict().items()}
    torch.save({"network": to_plain(config.model.network), "state_dict": state}, file)
    return network


def test_checkpoints_one_after_another(tmp_path):
    torch.manual_seed(0)
    files = [str(tmp_path / name) for name in ("deblur.ckpt", "enlarge.ckpt")]
    mini = ["size=mini", "size.width=0.125", "size.warm_start=false"]
    deblur = checkpoint(files[0], "model=edvr_deblur", *mini, "model.network.encode.channels=8").eval()
    enlarge = checkpoint(files[1], "model=zsm", *mini).eval()
    config = compose("model=cascade", f"model.network.stages=[{','.join(files)}]")
    network = build_inference_network(config)
    assert network.geometry == deblur.geometry.then(enlarge.geometry)
    assert count_parameters(network) == count_parameters([deblur, enlarge])
    assert count_parameters(network, trainable=True) == 0
    frames = list(torch.rand(5, 3, 16, 20))
    restored = [frame for _, frame in stream(deblur, frames)]
    expected = list(stream(enlarge, restored))
    streamed = list(stream(network, frames))
    assert [time for time, _ in streamed] == [time for time, _ in expected] == [Fraction(k, 2) for k in range(9)]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(streamed, expected, strict=True))
    assert count(instantiate(config.model.network), 16, 20)["parameters"] == count_parameters(network)
    with pytest.raises(UserError, match="nothing to train"):
        train(config, tmp_path / "run")
    with pytest.raises(InstantiationException, match=r"model.network.stages: There is no checkpoint nowhere"):
        build_inference_network(compose("model=cascade", "model.network.stages=[nowhere.ckpt]"))
    with pytest.raises(InstantiationException, match=r"A cascade is a list: set model.network.stages=\[a.ckpt,"):
        build_inference_network(compose("model=cascade", "model.network.stages=a.ckpt"))


def test_a_cascade_of_nothing():
    with pytest.raises(InstantiationException, match=r"set model.network.stages=\[<checkpoint>,<checkpoint>\]"):
        build_inference_network(compose("model=cascade"))
