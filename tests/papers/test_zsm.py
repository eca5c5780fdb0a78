"""Zooming SlowMo: equality with the published implementation, size, gradients, every row of Table 5."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from src.checkpoints import from_reference
from src.config.build import build_data, build_restorer, build_training_network
from src.config.composition import compose
from src.errors import CheckpointError
from src.metrics import Scores
from src.nn.blocks import count_parameters
from src.nn.encode import FrameEncoder
from src.nn.recur import Bidirectional, ConvLSTM, DeformableConvLSTM
from src.nn.upsample import Reconstruct
from src.papers.baselines import Bicubic
from src.papers.zsm import ZSM, DeformableInterpolation, GuidedSynthesis, NaiveInterpolation, ZSMRestorer
from src.protocols import Protocol
from tests.conftest import golden_network

C = 8


def zsm(interpolate: nn.Module, aggregate: nn.Module, guide: nn.Module | None = None, scale: int = 4) -> ZSM:
    torch.manual_seed(0)
    return ZSM(
        encode=FrameEncoder(C, blocks=1),
        interpolate=interpolate,
        aggregate=aggregate,
        reconstruct=Reconstruct(C, blocks=1, scale=scale, head=16),
        guide=guide,
    )


def variant(row: str) -> ZSM:
    interpolate = NaiveInterpolation(C) if row == "a" else DeformableInterpolation(C)
    aggregate = {
        "a": nn.Identity,
        "b": nn.Identity,
        "c": lambda: ConvLSTM(C),
        "d": lambda: DeformableConvLSTM(C),
        "e": lambda: Bidirectional(DeformableConvLSTM(C), C),
        "f": lambda: Bidirectional(DeformableConvLSTM(C), C),
    }[row]()
    return zsm(interpolate, aggregate, GuidedSynthesis(C, blocks=1) if row == "f" else None)


def awaken(network: nn.Module) -> None:
    """Moves offsets off zero, where bilinear sampling has a kink and masks hide nothing."""
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-5)])
def test_equals_the_published_implementation(dtype, tolerance):
    state, clip, expected, _ = golden_network("zsm")
    network = from_reference({name: value.to(dtype) for name, value in state.items()})
    with torch.no_grad():
        frames = network(clip.to(dtype))
    assert frames.dtype == dtype
    assert frames.shape == expected.shape
    assert (frames.double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_reference_weights_in_their_wrappers():
    state, clip, _, _ = golden_network("zsm")
    plain = from_reference(state)(clip)
    wrapped = from_reference({"params_ema": {f"module.{name}": value for name, value in state.items()}})(clip)
    assert torch.equal(plain, wrapped)


def test_reference_faults_are_listed():
    state, _, _, _ = golden_network("zsm")
    state["HRconv.surplus"] = state.pop("HRconv.bias")
    with pytest.raises(
        CheckpointError, match=r"missing: reconstruct\.refine\.bias.*left over: reconstruct\.refine\.surplus"
    ):
        from_reference(state)
    with pytest.raises(CheckpointError, match="no known implementation"):
        from_reference({"some.weight": torch.zeros(1)})


def test_size_of_the_paper():
    network = ZSM(
        encode=FrameEncoder(64, blocks=5),
        interpolate=DeformableInterpolation(64),
        aggregate=Bidirectional(DeformableConvLSTM(64), 64),
        reconstruct=Reconstruct(64, blocks=40),
    )
    assert count_parameters(network) == 11_102_771  # the 11.10 M of Table 1


@pytest.mark.parametrize("row", "abcdef")
def test_every_row_of_table_5_learns_everywhere(row):
    network = variant(row)
    awaken(network)
    restorer = ZSMRestorer(network=network, protocol=Protocol(name="rgb", channel="rgb"))
    clips = [torch.rand(1, 4, 3, 12, 16), torch.rand(1, 7, 3, 48, 64), torch.rand(1, 7, 3, 12, 16)]
    assert restorer.needs_reduced_targets == (row == "f")
    sum(restorer.losses(*clips[: 3 if row == "f" else 2]).values()).backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize("size", [(13, 10), (1, 1), (3, 17)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_any_size_and_length(size, scale):
    network = zsm(DeformableInterpolation(C), Bidirectional(DeformableConvLSTM(C), C), scale=scale)
    assert network(torch.rand(1, 3, 3, *size)).shape == (1, 5, 3, scale * size[0], scale * size[1])


def test_padding_changes_nothing_inside():
    network = variant("e")
    awaken(network)
    clip = torch.rand(1, 2, 3, 16, 20)
    cut = clip[..., :18].contiguous()
    whole = network(torch.cat([cut, cut[..., -1:], cut[..., -1:]], dim=-1))
    assert torch.allclose(network(cut), whole[..., : 18 * 4], atol=1e-6)


def test_one_frame_stays_one_frame():
    assert variant("e")(torch.rand(1, 1, 3, 8, 8)).shape == (1, 1, 3, 32, 32)


def test_batch_entries_do_not_mix():
    network = variant("e")
    awaken(network)
    clip = torch.rand(2, 3, 3, 8, 12)
    assert torch.allclose(network(clip)[1:], network(clip[1:]), atol=1e-6)


def test_reversed_in_time_by_symmetric_weights():
    """A naive interpolation whose two halves are equal cannot tell the direction of time."""
    network = variant("a")
    weight = network.interpolate.blend.weight.data
    weight[:, C:] = weight[:, :C]
    clip = torch.rand(1, 4, 3, 8, 8)
    assert torch.allclose(network(clip).flip(1), network(clip.flip(1)), atol=1e-5)


def test_guidance_leaves_the_frames_alone_and_meets_its_times():
    network = variant("f")
    awaken(network)
    clip = torch.rand(1, 4, 3, 10, 9)
    frames, first, second = network.guided(clip)
    assert torch.allclose(frames, network(clip), atol=1e-6)
    assert first.shape == (1, 3, 3, 10, 9)
    assert second.shape == (1, 2, 3, 10, 9)
    assert network.geometry.times[1::2] == (Fraction(1, 2), Fraction(3, 2), Fraction(5, 2))
    assert network.geometry.times[2:-1:2] == (Fraction(1), Fraction(2))


def test_the_terms_of_equation_10():
    """Each order against its frames of the reduced targets, with its weight, by the loss that is configured."""
    network = variant("f")
    awaken(network)
    inputs, targets, reduced = torch.rand(1, 4, 3, 8, 8), torch.rand(1, 7, 3, 32, 32), torch.rand(1, 7, 3, 8, 8)
    frames, first, second = network.guided(inputs)

    def loss(estimate, target):
        return (estimate - target).abs().sum()

    protocol = Protocol(name="rgb", channel="rgb")
    restorer = ZSMRestorer(network=network, protocol=protocol, loss=loss, first_order=0.5, second_order=0.25)
    terms = restorer.losses_of({"inputs": inputs, "targets": targets, "reduced": reduced, "source": ["a:0"]})
    assert torch.allclose(terms["reconstruction"], loss(frames, targets))
    assert torch.allclose(terms["first_order"], 0.5 * loss(first, reduced[:, [1, 3, 5]]))  # at 2, 4, 6 of 1 to 7
    assert torch.allclose(terms["second_order"], 0.25 * loss(second, reduced[:, [2, 4]]))  # at 3, 5


@pytest.mark.parametrize("model", ["zsm", "zsm_unguided"])
def test_training_batches_carry_the_low_resolution_truth_for_the_guide(tmp_path, model):
    (tmp_path / "train" / "clip").mkdir(parents=True)
    for number in range(8):
        frame = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(frame).save(tmp_path / "train" / "clip" / f"{number}.png")
    data = ["data=folder", f"data.root={tmp_path}", "data.crop=32", "data.batch_size=2", "data.workers=0"]
    config = compose(f"model={model}", "size=mini", *data, "data.rotate=false", "data.flip=false")
    restorer = build_restorer(config, build_training_network(config))
    batch = next(iter(build_data(config, restorer).train_dataloader()))
    assert ("reduced" in batch) == (model == "zsm")
    if model == "zsm":
        assert batch["reduced"].shape == (2, 7, 3, 8, 8)
        assert torch.equal(batch["reduced"][:, ::2], batch["inputs"])
    assert all(term.isfinite() for term in restorer.losses_of(batch).values())


def test_overfits_one_clip():
    torch.manual_seed(0)
    network = variant("e")
    clip = torch.rand(1, 2, 3, 8, 8)
    target = torch.nn.functional.interpolate(torch.rand(1, 9, 2, 2), (32, 32), mode="bilinear").unflatten(1, (3, 3))
    restorer = ZSMRestorer(network=network, protocol=Protocol(name="rgb", channel="rgb"))
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3, betas=(0.9, 0.99))
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = sum(restorer.losses(clip, target).values())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_scores_are_no_part_of_the_weights():
    restorer = ZSMRestorer(network=variant("a"), protocol=Protocol(name="rgb", channel="rgb"))
    assert [type(scores) for scores in restorer.scores] == [Scores]
    assert all(name.startswith("network.") for name in restorer.state_dict())


def test_other_networks_are_scored_under_its_configuration():
    restorer = ZSMRestorer(network=Bicubic(), protocol=Protocol(name="rgb"))
    assert not restorer.needs_reduced_targets
