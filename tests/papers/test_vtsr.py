"""VTSR: any size, live gradients, exact recursion, its training schemes, streaming."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from src.config.build import build_data, build_restorer, build_training_network
from src.config.composition import compose
from src.engine.cascade import apply_recursively
from src.engine.stream import stream
from src.engine.windows import slide_windows
from src.errors import UserError
from src.nn.backbones import VGG16
from src.papers.vtsr import PAIR, Multilevel
from src.training.callbacks import SampleFrames
from src.video.writer import VideoWriter

MINI = ("model=vtsr", "size=mini", "degradation=exposure", "protocol=vtsr", "logger=csv")
ALIGN = ["unaligned", "affine", "deformable"]
ATTEND = ["equally", "attention"]


def made(*overrides, seed=0):
    """A mini VTSR with every weight off its start, where some gradients are zero on purpose."""
    torch.manual_seed(seed)
    config = compose(*MINI, *overrides)
    network = build_training_network(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return config, network.eval()


@pytest.mark.parametrize("attend", ATTEND)
@pytest.mark.parametrize("align", ALIGN)
def test_any_size_and_every_fusion(align, attend):
    _, network = made(f"model/network/align={align}", f"model/network/attend={attend}")
    clip = torch.rand(2, 3, 3, 37, 50)
    halves = network(clip)
    assert halves.shape == (2, 4, 3, 37, 50)
    torch.testing.assert_close(halves[:, 2:], network(clip[:, 1:]))  # pairs know nothing of other pairs
    assert not torch.equal(network(clip.flip(1))[:, 1], halves[:, 2])  # the two sides have weights of their own


@pytest.mark.parametrize("scheme", ["basic", "reconstruction", "multilevel"])
@pytest.mark.parametrize("attend", ATTEND)
@pytest.mark.parametrize("align", ALIGN)
def test_every_parameter_learns_in_every_scheme(align, attend, scheme):
    config, network = made(f"model/network/align={align}", f"model/network/attend={attend}", f"model/scheme={scheme}")
    restorer = build_restorer(config, network.train())
    geometry = restorer.training_geometry
    inputs, targets = (torch.rand(2, count, 3, 64, 64) for count in (geometry.window, len(geometry.times)))
    terms = restorer.losses(inputs, targets)
    assert set(terms) == {"l1", "sharpness", *(["reconstruction"] if scheme == "reconstruction" else [])}
    torch.stack(list(terms.values())).sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still


@pytest.mark.parametrize("align", ALIGN)
def test_starts_as_doing_nothing_where_asked_to(align):
    torch.manual_seed(0)
    network = build_training_network(compose(*MINI, f"model/network/align={align}")).eval()
    clip = torch.rand(1, 2, 3, 32, 32)
    assert (network(clip) - clip).abs().max() < 1e-2


def test_streaming_is_window_by_window_and_features_are_computed_once():
    _, network = made("model/network/align=deformable", "model/network/attend=attention")
    clip = torch.rand(6, 3, 33, 40)
    seen = []
    network.encode.register_forward_hook(lambda module, inputs, outputs: seen.append(len(inputs[0])))
    restored = list(stream(network, clip))
    assert sum(seen) == len(clip)  # frames repeated beyond the ends are not encoded again
    assert [time for time, _ in restored] == network.geometry.output_times(6)
    expected = {}
    for start, window in slide_windows(clip, network.geometry):
        with torch.no_grad():
            for time, frame in zip(PAIR.times, network(torch.stack(window)[None])[0], strict=True):
                expected.setdefault(start + time, frame)
    for time, frame in restored:
        torch.testing.assert_close(frame, expected[time], atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_recursion_streams_as_if_each_round_were_a_run_of_its_own(factor):
    _, network = made()
    clip = torch.rand(3, 3, 32, 32)
    given, rounds = list(clip), PAIR.rounds(factor)
    told = []
    restored = list(stream(apply_recursively(network, factor), clip, watch=lambda *round: told.append(round)))
    for number in range(rounds):
        alone = list(stream(network, given))
        given = [frame for _, frame in alone]
        got = restored if number == rounds - 1 else [(t, frame) for k, t, frame in told if k == number]
        assert [time for time, _ in got] == PAIR.again(number + 1).output_times(3)
        for (_, one), two in zip(got, given, strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


class Oracle(nn.Module):
    """Knows all halves of a video: (B, 2, 3, H, W) to (B, 2, 3, H, W)."""

    def __init__(self, frames: torch.Tensor) -> None:
        super().__init__()
        self.geometry = PAIR
        self.levels = [frames]
        while len(self.levels[0]) > 1:
            self.levels.insert(0, (self.levels[0][::2] + self.levels[0][1::2]) / 2)

    def halves(self, frame):
        for level, finer in zip(self.levels, self.levels[1:], strict=False):
            for number, known in enumerate(level):
                if torch.allclose(frame, known, atol=1e-6):
                    return finer[2 * number], finer[2 * number + 1]
        raise AssertionError("a frame that the video does not have")

    def forward(self, clip):
        (first, second) = clip[0]
        return torch.stack([self.halves(first)[1], self.halves(second)[0]])[None]


def synthetic(folder, frames):
    """A video of so many frames, whose 8-bit values may be halved again and again without rounding."""
    values = np.random.default_rng(0).integers(0, 16, (frames, 16, 16, 3), dtype=np.uint8) * 16
    with VideoWriter(folder / "scene.mkv", Fraction(240), codec="lossless") as writer:
        for frame in values:
            writer.write(torch.from_numpy(frame))
    return torch.from_numpy(values).permute(0, 3, 1, 2) / 255


def test_an_oracle_gives_back_the_video_through_every_round(tmp_path):
    frames = synthetic(tmp_path, 32)
    config = compose(*MINI, "data=folder", f"data.root={tmp_path}", "data.layout.hold_back=0")
    restorer = build_restorer(config, Oracle(frames))
    data = build_data(config, restorer)
    (clip,) = [*data._evaluation_loader(data.splits.train, None).dataset]
    assert clip.frames == 4
    restorer.evaluation_step(clip)
    for rounds, scores in enumerate(restorer.scores, start=1):
        measured = scores.frames()[0]
        assert [frame.time for frame in measured] == PAIR.again(rounds).output_times(4)[2**rounds - 1 : 1 - 2**rounds]
        assert all(frame.psnr == float("inf") for frame in measured)
    truth = [target for _, target in clip.targets(restorer.geometries[-1])]
    torch.testing.assert_close(torch.stack(truth), frames)  # f, f, f: the original frames


def test_every_round_of_a_frame_is_shown(tmp_path):
    frames = synthetic(tmp_path, 24)
    config = compose(*MINI, "data=folder", f"data.root={tmp_path}", "data.layout.hold_back=0")
    restorer = build_restorer(config, Oracle(frames))
    data = build_data(config, restorer)
    (clip,) = [*data._evaluation_loader(data.splits.train, None).dataset]
    shown = SampleFrames().compare_rounds(restorer, clip).permute(2, 0, 1) / 255
    entire, half, quarter, single, target = shown.split(16, dim=-1)
    place = next(k for k, frame in enumerate(frames) if torch.allclose(frame, target, atol=1e-3))
    torch.testing.assert_close(single, target)
    for mean, count in ((quarter, 2), (half, 4), (entire, 8)):
        first = place - place % count
        torch.testing.assert_close(mean, frames[first : first + count].mean(0), atol=2.1e-3, rtol=0)


def test_halves_average_to_the_frame(tmp_path):
    synthetic(tmp_path, 32)
    config = compose(*MINI, "data=folder", f"data.root={tmp_path}", "data.layout.hold_back=0", "data.crop=16")
    data = build_data(config, build_restorer(config, build_training_network(config)))
    (clip,) = [*data._evaluation_loader(data.splits.train, None).dataset]
    halves = torch.stack([frame for _, frame in clip.targets(PAIR)])
    torch.testing.assert_close((halves[::2] + halves[1::2]) / 2, torch.stack(list(clip.inputs())))


def test_multilevel_is_recursion():
    _, network = made()
    clip = torch.rand(1, 2, 3, 32, 32)
    halves = network(clip)
    given = Multilevel()(network, clip)
    torch.testing.assert_close(given[:, [0, 3]], halves)
    torch.testing.assert_close(given[:, 1:3], network(halves))


def test_the_reconstruction_term_is_of_the_middle_frame():
    class Still(nn.Module):
        geometry = PAIR

        def forward(self, clip):
            return torch.stack([clip[:, :-1], clip[:, 1:]], dim=2).flatten(1, 2) + shift

    config = compose(*MINI, "model/scheme=reconstruction")
    restorer = build_restorer(config, Still())
    clip, shift = torch.rand(2, 3, 3, 16, 16), 0.0
    assert restorer.losses(clip, torch.rand(2, 4, 3, 16, 16))["reconstruction"] == 0
    shift = torch.tensor([0.5, 0.1, 0.3, 0.5]).view(4, 1, 1, 1)
    term = restorer.losses(clip, torch.rand(2, 4, 3, 16, 16))["reconstruction"]
    torch.testing.assert_close(term, torch.tensor(0.15 * 0.2))  # halves that are off by 0.1 and 0.3


def test_a_temporal_loss_is_the_change_of_the_error_from_frame_to_frame():
    class Shifted(torch.nn.Module):
        geometry = PAIR

        def forward(self, clip):
            return torch.tensor([0.1, -0.2]).view(2, 1, 1, 1).expand(len(clip), 2, *clip.shape[2:]) + targets

    targets = torch.rand(2, 2, 3, 16, 16)
    terms = build_restorer(compose(*MINI, "model.weights.temporal=0.5"), Shifted()).losses(targets, targets)
    torch.testing.assert_close(terms["temporal"], torch.tensor(0.5 * 0.3))
    assert "temporal" not in build_restorer(compose(*MINI), Shifted()).losses(targets, targets)


def test_the_backbone_is_frozen_for_the_first_of_a_hundred_epochs():
    config = compose("experiment=vtsr_gopro")
    restorer = build_restorer(config, build_training_network(config))
    (rate,) = restorer.rates
    (backbone,) = rate.modules(restorer.network)
    assert backbone is restorer.network.encode.backbone
    assert [rate.factor(step, 5000) for step in (0, 49, 50, 4999)] == [0, 0, 1, 1]
    factors = [restorer.schedule(step, 5000) for step in (0, 499, 500, 4999)]
    assert factors == pytest.approx([1, 1, 0.7, 0.7**9])


def test_imagenet_weights_are_taken_from_files(tmp_path):
    torch.manual_seed(0)
    config = compose("experiment=vtsr_gopro", "logger=csv")
    source = build_training_network(config).encode.backbone.state_dict()
    torch.save({**source, "classifier.1.weight": torch.zeros(3)}, tmp_path / "mobile.pth")
    torch.save(VGG16().state_dict(), tmp_path / "vgg.pth")
    config.model.encoder_weights, config.model.vgg_weights = str(tmp_path / "mobile.pth"), str(tmp_path / "vgg.pth")
    restorer = build_restorer(config, build_training_network(config))
    restorer.initialise(fresh=True)
    assert torch.equal(restorer.network.encode.backbone.features[0][0].weight, source["features.0.0.weight"])
    terms = restorer.losses(torch.rand(1, 2, 3, 64, 64), torch.rand(1, 2, 3, 64, 64))
    assert terms["perceptual"] > 0
    assert not any("vgg" in name or "features.21" in name for name in restorer.state_dict())


def test_missing_imagenet_weights_are_told_in_a_sentence(tmp_path):
    config = compose("experiment=vtsr_gopro", f"model.encoder_weights={tmp_path}/none.pth", "logger=csv")
    restorer = build_restorer(config, build_training_network(config))
    with pytest.raises(UserError, match=r"none\.pth.*download\.pytorch\.org.*model\.imagenet=false"):
        restorer.initialise(fresh=True)


def test_a_factor_that_cannot_be():
    with pytest.raises(UserError, match="may be 2, 4, 8, 16; got 3"):
        build_restorer(compose(*MINI, "protocol.factor=3"), build_training_network(compose(*MINI)))
    with pytest.raises(UserError, match="upscales by 4"):
        apply_recursively(build_training_network(compose("model=blend")), 4)


@pytest.mark.slow
def test_overfits_one_pair():
    torch.manual_seed(0)
    config = compose(*MINI)
    restorer = build_restorer(config, build_training_network(config).train())
    targets = torch.nn.functional.interpolate(torch.rand(4, 3, 12, 12), (64, 64), mode="bicubic").clamp(0, 1)
    inputs = ((targets[::2] + targets[1::2]) / 2)[None]
    optimizer = torch.optim.Adam(restorer.parameters(), 2e-3)
    losses = []
    for _ in range(150):
        loss = torch.stack(list(restorer.losses(inputs, targets[None, 1:3]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_step_has_eight_samples_of_the_scheme():
    for scheme, frames in (("basic", 2), ("reconstruction", 3), ("multilevel", 2)):
        config = compose("experiment=vtsr_gopro", f"model/scheme={scheme}", "logger=csv")
        data = build_data(config, build_restorer(config, build_training_network(config)))
        assert data.training_geometry.window == frames
        assert (data.batch_size, data.samples) == (8, 20)


def test_a_step_is_timed_with_the_perceptual_loss(capsys):
    config = compose("model=vtsr", "size=mini", "model.imagenet=true")
    restorer = build_restorer(config, build_training_network(config))
    restorer.initialise(fresh=True, pretrained=False)
    assert "Random weights" in capsys.readouterr().out
    assert set(restorer.losses(torch.rand(1, 2, 3, 32, 32), torch.rand(1, 2, 3, 32, 32))) == {
        "l1",
        "sharpness",
        "perceptual",
    }


def test_each_term_of_the_loss_has_its_weight():
    config = compose("model=vtsr", "size=mini", "data=procedural")
    config.model.weights.reconstruction = 0.25
    torch.manual_seed(0)
    restorer = build_restorer(config, build_training_network(config))
    inputs, targets = torch.rand(1, 2, 3, 32, 32), torch.rand(1, 2, 3, 32, 32)
    losses = restorer.losses(inputs, targets)
    assert set(losses) <= {*restorer.terms, "temporal"}
    estimate = restorer.scheme(restorer.network, inputs)
    for name, term in restorer.terms.items():
        assert losses[name].item() == pytest.approx(restorer.weights[name] * term(estimate, targets).item(), rel=1e-5)
