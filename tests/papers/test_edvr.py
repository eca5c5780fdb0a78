"""EDVR: the published implementation's numbers, the paper's sizes, any frame size, streamed as in windows."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from src.checkpoints import from_reference
from src.config.build import build_inference_network, build_training_network
from src.config.composition import compose, to_plain
from src.config.options import run_task
from src.engine.stream import stream
from src.engine.windows import slide_windows
from src.errors import CheckpointError, UserError
from src.nn.align import PCD, ChainAlign, TDANAlign
from src.nn.blocks import count_parameters
from src.nn.encode import BlurredFrameEncoder, FrameEncoder
from src.nn.fuse import TSA, ConvFuse
from src.nn.upsample import Reconstruct
from src.papers.edvr import EDVR
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.conftest import golden_network

C = 8
MODELS = {
    "1": (lambda: ChainAlign(C), ConvFuse),
    "2": (lambda: TDANAlign(C), ConvFuse),
    "3": (lambda: PCD(C), ConvFuse),
    "4": (lambda: PCD(C), TSA),
}


def edvr(model: str = "4", *, shrink: int | None = None, frames: int = 3, encoder: Any = BlurredFrameEncoder) -> EDVR:
    torch.manual_seed(0)
    align, fuse = MODELS[model]
    return EDVR(
        encode=FrameEncoder(C, blocks=1) if shrink is None else encoder(C, blocks=1, shrink=shrink),
        align=align(),
        fuse=fuse(C, frames=frames),
        reconstruct=Reconstruct(C, blocks=1, head=16),
        frames=frames,
    )


def awaken(network: torch.nn.Module) -> None:
    """Moves offsets off zero, where bilinear sampling has a kink and masks hide nothing."""
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-5)])
@pytest.mark.parametrize("case", ["tsa", "no_tsa", "predeblur", "deblur"])
def test_equals_the_published_implementation(case, dtype, tolerance):
    state, clip, expected, _ = golden_network(f"edvr_{case}")
    network = from_reference({name: value.to(dtype) for name, value in state.items()})
    with torch.no_grad():
        frames = network(clip.to(dtype))
    assert frames.dtype == dtype
    assert frames[:, 0].shape == expected.shape
    assert (frames[:, 0].double() - expected).abs().max() <= tolerance * expected.abs().max()


def to_mmagic(name: str) -> str:
    """The name that mmagic gives to a parameter of BasicSR's EDVR without a pre-deblurring module."""
    plain = ("conv_offset", "dcn", "temporal_attn", "attn5", "attn_add2", "conv_hr", "conv_last", "conv_first")
    plain += ("feature_extraction", "reconstruction", "upconv", "fusion.weight", "fusion.bias")
    if not any(part in name for part in plain):
        name = re.sub(r"\.(weight|bias)$", r".conv.\1", name)
    name = re.sub(r"^conv_l(\d)_(\d)", r"feat_l\1_conv\2", name)
    name = re.sub(r"^upconv(\d)", r"upsample\1.upsample_conv", name)
    return name.replace("pcd_align.", "pcd_alignment.")


@pytest.mark.parametrize("copy", ["generator.", "generator_ema.", "generator_ema.module.", "ema_module.generator."])
@pytest.mark.parametrize("case", ["tsa", "no_tsa"])
def test_the_names_of_mmagic_load_and_averaged_weights_win(case, copy):
    state, clip, expected, _ = golden_network(f"edvr_{case}")
    theirs = {to_mmagic(name): value.float() for name, value in state.items()}
    assert len(theirs.keys() & state.keys()) < len(state) / 2
    content = {copy + name: value for name, value in theirs.items()}
    if copy != "generator.":
        content |= {f"generator.{name}": torch.zeros_like(value) for name, value in theirs.items()}
    content |= {"step_counter": torch.tensor(600_000), "generator_ema.steps": torch.tensor(1)}
    with torch.no_grad():
        frames = from_reference({"meta": {"iter": 600_000}, "state_dict": content})(clip.float())
    assert (frames[:, 0].double() - expected).abs().max() <= 1e-4 * expected.abs().max()
    lacking = f"{copy}pcd_alignment.offset_conv3.l1.conv.bias"
    with pytest.raises(CheckpointError, match=r"mmagic's EDVR .* missing: align\.align\.refine\.0\.bias"):
        from_reference({name: value for name, value in content.items() if name != lacking})


@pytest.mark.parametrize(
    ("overrides", "parameters"),
    [
        (["model=edvr_l", "model.network.frames=7"], 20_699_363),
        (["model=edvr_l"], 20_633_827),
        (["model=edvr_m"], 3_300_131),
        (["model=edvr_m", "model/network/fuse=conv"], 2_996_259),
        (["model=edvr_l", "model/network/encode=blurred"], 23_306_851),
        (["model=edvr_deblur"], 23_602_019),
    ],
)
def test_sizes_of_the_paper(overrides, parameters):
    with torch.device("meta"):
        assert count_parameters(instantiate(compose(*overrides).model.network)) == parameters


@pytest.mark.parametrize("model", MODELS)
def test_every_model_of_table_4_learns_everywhere(model):
    network = edvr(model)
    awaken(network)
    network(torch.rand(2, 3, 3, 12, 16)).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


def test_model_2_refines_the_offset_feature_twice_then_samples_the_neighbour_twice():
    align = TDANAlign(C)
    awaken(align)
    given = []
    for pack in align.sample:
        pack.register_forward_hook(lambda module, arguments, out: given.append((*arguments, out)))
    neighbour, reference = torch.rand(2, 1, C, 6, 8)
    align([neighbour], [reference])
    (x1, f1, first), (x2, f2, second), (x3, f3, third), (x4, f4, _) = given
    assert x1 is f1
    assert x2 is f2 is first  # no activation between them
    assert x3 is neighbour
    assert f3 is second
    assert x4 is f4 is third
    assert not torch.equal(x1, neighbour)
    assert count_parameters(align) == count_parameters(ChainAlign(C, samples=4))


@pytest.mark.parametrize("size", [(9, 14), (16, 12), (1, 1)])
@pytest.mark.parametrize("shrink", [None, 1, 4])
def test_any_size(size, shrink):
    network = edvr(shrink=shrink)
    scale = 1 if shrink == 4 else 4
    assert network.geometry.scale == scale
    with torch.no_grad():
        assert network(torch.rand(2, 3, 3, *size)).shape == (2, 1, 3, scale * size[0], scale * size[1])


def test_batch_entries_do_not_mix():
    network = edvr()
    awaken(network)
    clip = torch.rand(2, 3, 3, 12, 16)
    with torch.no_grad():
        assert torch.allclose(network(clip)[1:], network(clip[1:]), atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_streaming_equals_windows_and_encodes_each_frame_once(model):
    network = edvr(model).eval()
    awaken(network)
    frames = torch.rand(6, 3, 12, 16)
    encoded = []
    network.encode.register_forward_hook(lambda module, given, out: encoded.append(len(out)))
    streamed = list(stream(network, frames))
    assert sum(encoded) == 6
    with torch.no_grad():
        expected = [network(torch.stack(window)[None])[0, 0] for _, window in slide_windows(frames, network.geometry)]
    assert [time for time, _ in streamed] == list(range(6))
    for (_, frame), alone in zip(streamed, expected, strict=True):
        assert (frame - alone).abs().max() < 1e-5


def test_overfits_one_clip():
    network = edvr()
    clip = (
        torch.nn.functional.interpolate(torch.rand(1, 9, 3, 4), (12, 16), mode="bicubic")
        .clamp(0, 1)
        .unflatten(1, (3, 3))
    )
    target = torch.nn.functional.interpolate(clip[:, 1], scale_factor=4, mode="bicubic").clamp(0, 1).sqrt().unsqueeze(1)
    optimiser = torch.optim.Adam(network.parameters(), 4e-3)
    losses = []
    for _ in range(120):
        loss = (network(clip) - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_an_even_number_of_frames_has_no_middle():
    with pytest.raises(ValueError, match=r"must be odd, .* got 4"):
        edvr(frames=4)


def test_mini_keeps_the_structure():
    network = build_inference_network(compose("model=edvr_deblur", "size=mini"))
    assert isinstance(network.encode, BlurredFrameEncoder)
    assert network.geometry.scale == 1


@pytest.mark.parametrize("model", ["edvr_m", "edvr_deblur"])
def test_mini_starts_from_the_middle_frame(model):
    network = build_inference_network(compose(f"model={model}", "size=mini"))
    clip = torch.rand(1, 5, 3, 20, 24)
    with torch.no_grad():
        started = network(clip)[:, 0]
    base = clip[:, 2]
    if model == "edvr_m":
        base = torch.nn.functional.interpolate(base, scale_factor=4, mode="bilinear")
    assert 0 < (started - base).abs().max() < 1e-3


@pytest.mark.parametrize("share", [0.2, -0.2])
@pytest.mark.parametrize("fuse", ["conv", "tsa"])
@pytest.mark.parametrize("model", ["edvr_m_one", "edvr_m_four", "edvr_m_pcd", "edvr_deblur"])
def test_what_a_mini_s_reconstruction_makes_comes_out(model, fuse, share):
    """The colours of the middle frame reach it, and nothing bends what it makes of them."""
    network = build_inference_network(compose(f"model={model}", f"model/network/fuse={fuse}", "size=mini"))
    network.fuse.register_forward_hook(lambda part, inputs, fused: torch.zeros_like(fused))
    colours = torch.rand(5, 3)
    clip = colours.view(1, 5, 3, 1, 1).expand(-1, -1, -1, 32, 40)
    enter, carriers = network.reconstruct.upscale[0].weight, 3 * network.encode.shrink**2
    with torch.no_grad():
        before = network(clip)[0, 0]
        if model == "edvr_deblur":
            enter[range(carriers), range(carriers), 1, 1] += share
        else:  # a channel and its negative, four pixels of each
            for row in range(2 * 12):
                enter[row, row // 4 % 3, 1, 1] += share if row < 12 else -share
        added = (network(clip)[0, 0] - before)[..., 8:-8, 8:-8]
    torch.testing.assert_close(added, share * colours[2].view(3, 1, 1).expand_as(added), atol=1e-4, rtol=0)


def test_attention_maps_are_pictured():
    network = edvr()
    awaken(network)
    clip = torch.rand(1, 3, 3, 10, 13)
    pictures = network.attention()
    assert (pictures.geometry.scale, pictures.geometry.window) == (1, 3)
    weighed = []
    network.fuse.weigh.register_forward_hook(lambda module, given, out: weighed.append((given[0], out)))
    with torch.no_grad():
        picture = pictures(clip)
        network(clip)
    ((aligned, result),) = weighed
    assert picture.shape == (1, 1, 3, 10, 39)
    maps = picture[0, 0].unflatten(-1, (3, 13)).movedim(-2, 0)  # (T, 3, H, W)
    assert torch.allclose(aligned[0, ..., :10, :13] * maps[:, :1], result[0, ..., :10, :13], atol=1e-6)
    assert 0 < picture.min() < picture.max() < 1
    assert edvr("3").attention() is None
    with torch.no_grad():
        assert edvr(shrink=4).attention()(clip).shape == (1, 1, 3, 10, 39)


@pytest.mark.parametrize("model", MODELS)
def test_offsets_are_pictured_as_flow(model):
    network = edvr(model)
    clip = torch.rand(1, 3, 3, 12, 16)
    with torch.no_grad():
        assert network.motion()(clip).eq(1).all()  # white, no motion: offsets start at zero
        for pack in network.align.sampling:
            pack.offset.bias[: 2 * 8 * 9].view(-1, 2)[:] = torch.tensor([0.0, 2.0])  # two pixels to the right
        picture = network.motion()(clip)
    assert picture.shape == (1, 1, 3, 12, 48)
    red = torch.tensor([1.0, 0, 0])[:, None, None]
    assert torch.allclose(picture[0, 0], red.expand(3, 12, 48), atol=1e-5)


@pytest.mark.parametrize(
    ("experiment", "edges"),
    [
        (["edvr_reds_sr_clean"], "new_info"),
        (["edvr_s2_reds_sr_clean", "test=ensemble4"], "new_info"),
        (["edvr_vimeo", "test=vid4"], "new_info"),
        (["edvr_vimeo", "test=reds4"], "new_info"),
        (["edvr_reds_sr_blur"], "replicate"),
        (["edvr_reds_deblur_clean"], "replicate"),
        (["zsm_vimeo", "test=vid4"], "replicate"),
    ],
)
def test_the_published_tests_of_sharp_frames_fill_windows_from_their_other_end(experiment, edges):
    name, *more = experiment
    protocol = compose(f"experiment={name}", *more, "checkpoint=x").protocol
    assert protocol.edges == edges
    assert protocol.ensemble == (4 if "test=ensemble4" in more else 1)


def test_training_goes_on_from_a_shallower_network_and_one_without_attention(tmp_path):
    """The three trainings of Section 4.1, at a small size: nothing that a network takes over starts afresh."""

    def configured(name, *more):
        overrides = ["size.width=0.125", "size.depth=0.2", "trainer.max_steps=600_000"]
        return compose(f"experiment=edvr_reds_sr_clean_{name}", *overrides, *more)

    path = tmp_path / "last.ckpt"
    networks, config = [], configured("shallow")
    for name in ("no_tsa", "tsa"):
        network = build_training_network(config)
        state = {f"network.{key}": value for key, value in network.state_dict().items()}
        torch.save({"network": to_plain(config.model.network), "state_dict": state}, path)
        networks.append(network)
        config = configured(name, f"checkpoint={path}")
    networks.append(build_training_network(config))
    shallow, deep, attentive = networks
    assert [len(network.reconstruct.trunk) for network in networks] == [2, 8, 8]
    assert [type(network.fuse) for network in networks] == [ConvFuse, ConvFuse, TSA]
    for before, after in ((shallow, deep), (deep, attentive)):
        kept = after.state_dict()
        assert all(torch.equal(value, kept[key]) for key, value in before.state_dict().items())
    assert config.model.rates.fusion_first.factor.start == 50_000
    assert config.model.schedule.periods == [1, 2, 3, 3, 3]


@pytest.mark.long
def test_attention_and_offsets_of_a_video(tmp_path):
    config = compose("model=edvr_m", "size.width=0.125", "size.depth=0.1")
    network = instantiate(config.model.network)
    awaken(network)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"network": to_plain(config.model.network), "state_dict": state}, tmp_path / "edvr.ckpt")
    with VideoWriter(tmp_path / "in.mp4", Fraction(25), codec="lossless") as writer:
        for frame in torch.randint(0, 256, (6, 32, 48, 3), dtype=torch.uint8):
            writer.write(frame)
    for show in ("attention", "offsets"):
        output = tmp_path / f"{show}.mp4"
        asked = [f"input={tmp_path / 'in.mp4'}", f"output={output}", "codec=lossless", f"show={show}"]
        run_task(compose("task=restore", f"checkpoint={tmp_path / 'edvr.ckpt'}", *asked), tmp_path / show)
        with open_video(output) as reader:
            assert (len(reader), reader.size) == (6, (32, 5 * 48))
    with pytest.raises(UserError, match="cannot show=attention, but EDVR with temporal attention can"):
        asked = [f"input={tmp_path / 'in.mp4'}", "output=no.mp4", "show=attention"]
        run_task(compose("task=restore", "model=bicubic", *asked), tmp_path / "no")
