"""DSFN: the paper's size, its residual, both levels supervised, each first-level result computed once over a video."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate

from src.config.build import build_restorer
from src.config.composition import compose, to_plain
from src.config.options import run_task
from src.engine.stream import find_first_frame, stream
from src.engine.windows import slide_windows
from src.errors import UserError
from src.nn.blocks import count_parameters
from src.papers.dsfn import DSFN, Level, SingleDSFN, first_maps
from src.video.reader import open_video
from src.video.writer import VideoWriter

HALF = Fraction(1, 2)


def level(inputs: int = 9, **options) -> Level:
    return Level(inputs, **{"channels": 12, "groups": 2, "scale": 2, **options})


def dsfn(**options) -> DSFN:
    torch.manual_seed(0)
    return DSFN(first=level(**options), second=level(5 * 12, **options))


def awaken(network: torch.nn.Module) -> None:
    """Moves offsets off zero, where bilinear sampling has a kink."""
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))


@pytest.mark.parametrize(("model", "parameters"), [("dsfn", 10_899_424), ("dsfn_single", 5_383_184)])
def test_sizes_of_the_paper(model, parameters):
    with torch.device("meta"):
        assert count_parameters(instantiate(compose(f"model={model}").model.network)) == parameters


def test_geometry():
    network, single = dsfn(), SingleDSFN(level=level())
    assert (network.geometry.window, network.geometry.times) == (4, (1, 3 * HALF, 2))
    assert (single.geometry.window, single.geometry.times) == (3, (HALF, 1, 3 * HALF))
    assert network.geometry.spacing == single.geometry.spacing == HALF
    with torch.no_grad():
        assert network(torch.rand(2, 4, 3, 7, 10)).shape == (2, 3, 3, 14, 20)
        assert single(torch.rand(2, 3, 3, 7, 10)).shape == (2, 3, 3, 14, 20)


def test_starts_from_repeated_frames_and_means_of_neighbours():
    """Equations 9 and 10: without what the decoders add, frames with repeated pixels."""
    clip = torch.rand(2, 4, 3, 6, 8)
    means = torch.stack([clip[:, 1], (clip[:, 1] + clip[:, 2]) / 2, clip[:, 2]], dim=1)
    expected = F.interpolate(means.flatten(0, 1), scale_factor=2, mode="nearest").unflatten(0, (2, 3))
    with torch.no_grad():
        assert (dsfn(warm_start=True)(clip) - expected).abs().max() < 2e-3
        assert (SingleDSFN(level=level(warm_start=True))(clip[:, :3])[:, 1] - expected[:, 0]).abs().max() < 2e-3


def test_the_frame_that_both_first_level_passes_make_is_their_mean():
    network, clip = dsfn(), torch.rand(1, 4, 3, 6, 8)
    with torch.no_grad():
        first, second = network.levels(*network.encode_frames(clip))
        left, right = first_maps(network.first, clip[:, :3])[:, 0], first_maps(network.first, clip[:, 1:])[:, 0]
    assert (first.shape[1], second.shape[1]) == (5, 3)
    torch.testing.assert_close(first[:, 2], F.pixel_shuffle((left[:, 2] + right[:, 0]) / 2, 2))
    torch.testing.assert_close(first[:, 1], F.pixel_shuffle(left[:, 1], 2))
    torch.testing.assert_close(first[:, 4], F.pixel_shuffle(right[:, 2], 2))


@pytest.mark.parametrize("model", ["dsfn", "dsfn_single"])
def test_every_parameter_learns_from_its_loss(model):
    config = compose(f"model={model}", "size=mini", "size.warm_start=false")
    network = instantiate(config.model.network)
    awaken(network)
    restorer = build_restorer(config, network)
    supervised = getattr(network, "training_geometry", network.geometry)
    assert len(supervised.times) == (5 if model == "dsfn" else 3)
    inputs = torch.rand(1, network.geometry.window, 3, 8, 8)
    terms = restorer.losses(inputs, torch.rand(1, len(supervised.times), 3, 32, 32))
    sum(terms.values()).backward()
    assert len(terms) == (2 if model == "dsfn" else 1)
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_loss_is_the_mean_error_of_five_and_of_three_frames():
    """Equation 12."""
    config = compose("model=dsfn", "size=mini")
    network = instantiate(config.model.network)
    inputs, targets = torch.rand(1, 4, 3, 8, 8), torch.rand(1, 5, 3, 32, 32)
    terms = build_restorer(config, network).losses(inputs, targets)
    with torch.no_grad():
        first, second = network.levels(*network.encode_frames(inputs))
    assert terms["first_level"].item() == pytest.approx(float((first - targets).abs().mean()))
    assert terms["second_level"].item() == pytest.approx(float((second - targets[:, 1:4]).abs().mean()))


@pytest.mark.parametrize(("network", "twice"), [(dsfn, 1), (lambda: SingleDSFN(level=level()), HALF)])
def test_streaming_equals_windows_and_averages_what_two_make(network, twice):
    """Section 3.7 averages the maps that both first levels make; outputs of two windows likewise."""
    network = network().eval()
    awaken(network)
    frames = torch.rand(7, 3, 6, 8)
    streamed = list(stream(network, frames))
    assert [time for time, _ in streamed] == [k * HALF for k in range(13)]
    made = {}
    with torch.no_grad():
        for start, window in slide_windows(frames, network.geometry):
            for time, frame in zip(network.geometry.times, network(torch.stack(window)[None])[0], strict=True):
                made.setdefault(start + time, []).append(frame)
    inner = {time: frames for time, frames in made.items() if 1 <= time <= 5}
    assert {time for time, frames in inner.items() if len(frames) == 2} == {t for t in inner if (t - twice) % 1 == 0}
    for time, frame in streamed:
        torch.testing.assert_close(frame, torch.stack(made[time]).mean(0), atol=1e-5, rtol=0)
    assert (made[2 + twice][0] - made[2 + twice][1]).abs().max() > 1e-3  # the windows differ
    resumed = list(stream(network, frames[find_first_frame(network, 2 * HALF) :], after=2 * HALF))
    assert [time for time, _ in resumed] == [k * HALF for k in range(3, 13)]
    assert all(torch.equal(frame, dict(streamed)[time]) for time, frame in resumed)


def test_each_first_level_result_is_computed_once():
    network = dsfn().eval()
    passes = []
    network.first.register_forward_hook(lambda module, given, out: passes.append(len(out)))
    list(stream(network, torch.rand(7, 3, 6, 8)))
    assert sum(passes) == 7  # a triple around each frame, the first and the last with a frame repeated


@pytest.mark.parametrize(("model", "first"), [("cascade_deblur_first", "EDVR"), ("cascade_deblur_last", "ZSM")])
def test_last_stage_of_a_cascade_learns_from_the_output_of_the_first(model, first):
    config = compose(f"model={model}", "size=mini", "size.width=0.125", "size.warm_start=false")
    network = instantiate(to_plain(config.model.network))
    awaken(network)
    assert type(network.stages["first"]).__name__ == first
    assert (network.geometry.scale, network.geometry.spacing) == (4, HALF)
    times = len(network.geometry.times)
    restorer = build_restorer(config, network)
    losses = restorer.losses(torch.rand(1, network.geometry.window, 3, 16, 16), torch.rand(1, times, 3, 64, 64))
    sum(losses.values()).backward()
    assert all(parameter.grad is None for parameter in network.stages["first"].parameters())
    assert not [n for n, p in network.stages["second"].named_parameters() if p.grad is None or not p.grad.any()]


def test_frames_of_section_3_1_are_scored():
    """B_0 to B_2n become I_1 to I_2n-1: of 4 input frames, outputs at times 1/2 to 5/2."""
    protocol = instantiate(compose("experiment=dsfn_adobe240").protocol)
    times = dsfn().geometry.output_times(4)
    assert [times[k] for k in protocol.counted(len(times))] == [k * HALF for k in range(1, 6)]


def test_overfits_one_clip():
    torch.manual_seed(0)
    network = SingleDSFN(level=level(warm_start=True))
    picture = F.interpolate(torch.rand(1, 3, 4, 6), (16, 24), mode="bicubic").clamp(0, 1)[0]
    moving = torch.stack([picture.roll(k, dims=-1) for k in range(5)])[None]
    inputs, targets = F.avg_pool2d(moving[0, ::2], 2)[None], moving[:, 1:4]
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    losses = []
    for _ in range(60):
        loss = F.l1_loss(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_offset_fields_are_shown_as_flow():
    """Figure 8: the mean of an offset field over its nine taps."""
    network = dsfn()
    with torch.no_grad():
        conv = network.first.motion[-1]
        conv.weight.zero_()
        taps = torch.tensor([[0.0, 3.0], [0.0, -1.0]]).repeat_interleave(18, dim=0)  # 9 taps, 2 groups; dy, dx
        conv.bias.copy_((taps + torch.linspace(-1, 1, 9).repeat(4)[:, None]).flatten())
        flows = network.first.flows(torch.rand(1, 9, 5, 6))
        assert torch.allclose(flows[0, :, :, 2, 3], torch.tensor([[0.0, 3.0], [0.0, -1.0]]), atol=1e-6)
        clip = torch.rand(1, 3, 3, 5, 6)
        picture = network.motion()(clip)[0, 0]
    assert torch.equal(picture[..., :6], clip[0, 1])
    assert torch.allclose(picture[:, 2, 8], torch.tensor([1.0, 0.0, 0.0]), atol=1e-5)  # the longest, to the right
    assert torch.allclose(picture[:, 2, 14], torch.tensor([2 / 3, 1.0, 1.0]), atol=1e-5)  # a third of it, to the left


def test_offset_fields_of_a_video(tmp_path):
    source, output, file = tmp_path / "in.mp4", tmp_path / "out.mp4", tmp_path / "a.ckpt"
    with VideoWriter(source, Fraction(30), codec="lossless") as writer:
        for _ in range(4):
            writer.write(torch.randint(0, 256, (32, 48, 3), dtype=torch.uint8))
    mini = ["model=dsfn_single", "size=mini", "size.width=0.125"]
    config = compose(*mini)
    network = instantiate(config.model.network)
    weights = {f"network.{name}": weight for name, weight in network.state_dict().items()}
    torch.save({"network": to_plain(config.model.network), "state_dict": weights}, file)
    asked = ["task=restore", f"input={source}", f"output={output}", f"checkpoint={file}"]
    run_task(compose(*asked, "show=offsets", "codec=lossless"), tmp_path)
    with open_video(output) as reader:
        assert (len(reader), reader.size, reader.fps) == (4, (32, 144), 30)
        assert (reader.read([1])[0, :, 48:] == 255).all()  # nothing moves at first
    with pytest.raises(UserError, match="cannot show=offsets, but DSFN, EDVR and model=flow can"):
        run_task(compose("task=restore", "model=bicubic", f"input={source}", "output=no.mp4", "show=offsets"), tmp_path)


def test_the_floor_of_dsfn_is_a_baseline():
    """model=blend_pixels is what DSFN adds to, Equations 9 and 10."""
    baseline = instantiate(compose("model=blend_pixels").model.network)
    clip = torch.rand(1, 4, 3, 6, 8)
    single = SingleDSFN(level=level(scale=4))
    frame = single.level.decode[-1]
    torch.nn.init.zeros_(frame.weight)
    torch.nn.init.zeros_(frame.bias)
    with torch.no_grad():
        torch.testing.assert_close(baseline(clip)[:, 1:4], single(clip[:, :3]))
