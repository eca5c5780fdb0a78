"""Files of safetensors load as any other; damaged, foreign and lying ones are refused in a sentence."""

from __future__ import annotations

import builtins
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import save_file
from torch import nn

from src.checkpoints import from_reference, load, read_contents
from src.checkpoints.safetensors_files import ENTRY, MAX_HEADER, describe_geometry, to_safetensors
from src.config.composition import compose, to_plain
from src.errors import CheckpointError
from tests.checkpoints.test_loading import one_sentence
from tests.conftest import golden_network

MODELS = ["wdvr2d", "wdvr3d", "edvr_m", "edvr_deblur", "edvr_s2", "zsm", "dsfn", "dsfn_single", "vtsr", "blend"]
SMALL = ("size=mini", "size.width=0.125", "size.depth=0.01")
EDVR = to_plain(compose("model=edvr_m", *SMALL).model.network)
WDVR_DEEPER = to_plain(compose("model=wdvr2d", *SMALL, "size.depth=0.2").model.network)


def mini(model: str) -> tuple[nn.Module, Any]:
    """A small network of a model, with weights that no construction makes, and its description."""
    description = to_plain(compose(f"model={model}", *SMALL).model.network)
    torch.manual_seed(1)
    network = instantiate(description).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return network, description


def packed(file: Path, made: nn.Module, description: Any, **changes: Any) -> Path:
    about = {"network": description, "geometry": describe_geometry(made.geometry), "card": {"name": file.stem}}
    file.write_bytes(to_safetensors(made.state_dict(), **{**about, **changes}))
    return file


def lying(file: Path, header: dict, data: bytes = bytes(8), length: int | None = None) -> Path:
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


@pytest.mark.parametrize("model", MODELS)
def test_a_network_of_every_kind_returns(tmp_path, model):
    network, description = mini(model)
    returned = load(packed(tmp_path / "a.safetensors", network, description))
    assert type(returned) is type(network)
    assert returned.geometry == network.geometry
    clip = torch.rand(1, network.geometry.window, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(returned(clip), network(clip))


def test_contents_of_a_file_of_the_suite(tmp_path):
    network, description = mini("wdvr2d")
    file = packed(tmp_path / "a.safetensors", network, description)
    content = read_contents(file)
    assert content["network"] == description
    assert content["card"] == {"name": "a"}
    assert content["geometry"] == {"scale": 4, "window": 5, "times": ["2"], "stride": 1, "exposures": None}
    assert content["state_dict"].keys() == {f"network.{name}" for name in network.state_dict()}
    again = packed(tmp_path / "b.safetensors", network, description, card={"name": "a"})
    assert again.read_bytes() == file.read_bytes()


def test_the_content_decides_not_the_name(tmp_path):
    network, description = mini("wdvr2d")
    file = packed(tmp_path / "a.safetensors", network, description).rename(tmp_path / "a.ckpt")
    assert load(file).geometry == network.geometry
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"network": description, "state_dict": state}, tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(pickle.dumps({"network": description}))
    (tmp_path / "d.safetensors").write_bytes(b"")
    (tmp_path / "e.safetensors").write_text('{"a": 1}')
    for name in "bcde":
        with pytest.raises(CheckpointError, match="is no safetensors file") as caught:
            load(tmp_path / f"{name}.safetensors")
        assert one_sentence(caught)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_computed_in_float32(tmp_path, half):
    network, description = mini("edvr_m")
    rounded = {name: tensor.to(half) for name, tensor in network.state_dict().items()}
    file = tmp_path / "half.safetensors"
    file.write_bytes(to_safetensors(rounded, network=description))
    torch.save(
        {"network": description, "state_dict": {f"network.{n}": t for n, t in rounded.items()}}, tmp_path / "h.pth"
    )
    for path in (file, tmp_path / "h.pth"):
        for name, tensor in load(path).state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, rounded[name].float())
    assert next(load(file, dtype=half).parameters()).dtype == half
    assert next(load(file, dtype=torch.float64).parameters()).dtype == torch.float64


def test_counters_stay_whole(tmp_path):
    network, description = mini("vtsr")
    counters = {name: tensor for name, tensor in network.state_dict().items() if not tensor.is_floating_point()}
    assert counters  # of batch normalisations
    returned = load(packed(tmp_path / "a.safetensors", network, description)).state_dict()
    assert all(returned[name].dtype == tensor.dtype for name, tensor in counters.items())


def test_a_file_of_a_published_implementation(tmp_path):
    state, clip, expected, _ = golden_network("edvr_tsa")
    save_file({name: value.float() for name, value in state.items()}, tmp_path / "edvr.safetensors", {"format": "pt"})
    with torch.no_grad():
        frames = load(tmp_path / "edvr.safetensors")(clip.float())
    assert (frames[:, 0].double() - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert next(from_reference(state).parameters()).dtype == torch.float64


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "options", "sentence"),
    [
        ({"a": {**TENSOR, "data_offsets": [0, 80]}}, {}, "is damaged"),
        ({"a": {**TENSOR, "data_offsets": [8, 0]}}, {}, "is damaged"),
        ({"a": {**TENSOR, "data_offsets": [0, 4]}}, {}, "is damaged"),
        ({"a": {**TENSOR, "shape": [2**40, 2**40]}}, {}, "is damaged"),
        ({"a": {**TENSOR, "shape": [-2]}}, {}, "is damaged"),
        ({"a": TENSOR, "b": TENSOR}, {}, "is damaged"),  # they overlap
        ({"a": TENSOR}, {"data": bytes(4)}, "is damaged"),
        ({"a": TENSOR}, {"data": bytes(800)}, "is damaged"),
        ({"a": {**TENSOR, "dtype": "PICKLE"}}, {}, "is damaged"),
        ({"a": 5}, {}, "is damaged"),
        ({"__metadata__": {"a": {"b": 1}}, "a": TENSOR}, {}, "is damaged"),
        ({"a": TENSOR}, {"length": 2**63}, "its header would have"),
        ({"a": TENSOR}, {"length": 2**20}, "its header would have"),
        ({"a": TENSOR}, {"length": 20}, "is damaged"),
        ({"a" * MAX_HEADER: TENSOR}, {}, "more than the names of any weights need"),
        ({"a": TENSOR}, {}, "no known implementation"),
        ({"x\ny": TENSOR}, {}, "no known implementation"),
        ({"__metadata__": {ENTRY: "{"}, "a": TENSOR}, {}, "no JSON"),
        ({"__metadata__": {ENTRY: "[" * 10**6}, "a": TENSOR}, {}, "no JSON"),
        ({"__metadata__": {ENTRY: "[]"}, "a": TENSOR}, {}, "without a network"),
        ({"__metadata__": {ENTRY: '{"format": 1}'}, "a": TENSOR}, {}, "without a network"),
        ({"__metadata__": {ENTRY: '{"format": 2, "network": {}}'}, "a": TENSOR}, {}, "has the format 2"),
        ({"__metadata__": {ENTRY: '{"format": 1, "network": {}}'}, "a": TENSOR}, {}, "describes no network"),
    ],
)
def test_lies_are_refused_in_a_sentence(tmp_path, header, options, sentence):
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load(lying(tmp_path / "a.safetensors", header, **options))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network": {"_target_": "os.mkdir", "path": "trace"}}, "has the target 'os.mkdir'"),
        ({"network": {"_target_": "src.checkpoints.cascade", "stages": ["a.safetensors"]}}, "has the target"),
        ({"geometry": {"scale": 2}}, "states another scale, window, times, stride than"),
        ({"geometry": "x4"}, "states another scale"),
        ({"network": {**EDVR, "scale": 4}}, "cannot be built: .*unexpected keyword"),
        ({"network": EDVR}, "missing: .* left over"),
        ({"network": WDVR_DEEPER}, "missing: trunk"),
    ],
)  # fmt: skip
def test_descriptions_that_belong_to_other_weights_are_refused(tmp_path, monkeypatch, changes, sentence):
    monkeypatch.chdir(tmp_path)
    network, description = mini("wdvr2d")
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load(packed(tmp_path / "a.safetensors", network, description, **changes))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8])
def test_weights_of_another_type_are_refused(tmp_path, dtype):
    network, description = mini("wdvr2d")
    state = {name: tensor.abs().to(dtype) for name, tensor in network.state_dict().items()}
    (tmp_path / "a.safetensors").write_bytes(to_safetensors(state, network=description))
    torch.save(
        {"network": description, "state_dict": {f"network.{n}": t for n, t in state.items()}}, tmp_path / "a.pth"
    )
    for name in ("a.safetensors", "a.pth"):
        with pytest.raises(CheckpointError, match="of another type: "):
            load(tmp_path / name)


def test_surplus_tensors_are_refused(tmp_path):
    network, description = mini("wdvr2d")
    tensors = {**network.state_dict(), "surplus": torch.ones(1)}
    (tmp_path / "a.safetensors").write_bytes(to_safetensors(tensors, network=description))
    with pytest.raises(CheckpointError, match="left over: surplus"):
        load(tmp_path / "a.safetensors")


def test_truncated_and_damaged_files_raise_one_sentence(tmp_path):
    """Random bytes change: the file still loads, if they are harmless, or raises one sentence."""
    network, description = mini("wdvr2d")
    whole = packed(tmp_path / "whole.safetensors", network, description).read_bytes()
    file, rng, messages = tmp_path / "damaged.safetensors", np.random.default_rng(0), list[str]()
    for stop in (0, 1, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:stop])
        with pytest.raises(CheckpointError) as caught:
            load(file)
        assert "\n" not in str(caught.value)
    header = struct.unpack("<Q", whole[:8])[0]
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, 8 + header, 3):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            load(file)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not [message for message in messages if "\n" in message]


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    network, description = mini("wdvr2d")
    file, state = packed(tmp_path / "a.safetensors", network, description), network.state_dict()
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "safetensors":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CheckpointError, match="pip install safetensors"):
        load(file)
    torch.save(
        {"network": description, "state_dict": {f"network.{n}": t for n, t in state.items()}}, tmp_path / "a.ckpt"
    )
    assert load(tmp_path / "a.ckpt").geometry.window == 5  # other files do not need it
