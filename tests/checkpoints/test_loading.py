"""Files of weights load as a network of the suite or raise one sentence; code in them is never executed."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.checkpoints import MAX_DEPTH, build, from_reference, load, read_contents
from src.config.composition import compose, to_plain
from src.engine.cascade import Cascade
from src.errors import CheckpointError, UserError
from src.nn.backbones import VGG16, load_imagenet
from src.nn.blocks import count_parameters
from src.ops.resize import imresize
from tests.conftest import GOLDEN, golden_network
from tests.tasks.test_tasks import TINY, clips, run  # noqa: F401 - the fixture


class Payload:
    """Make a folder when unpickled without restrictions."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def poisoned(file: Path, trace: Path, form: str) -> Path:
    content = {"network": {"_target_": "torch.nn.Identity"}, "state_dict": Payload(trace), "global_step": 1}
    if form == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    return file


def one_sentence(error: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(error.value) and str(error.value)[-1] in ".)"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", ["evil.ckpt", "evil.pth"])
def test_code_in_a_checkpoint_is_not_executed(tmp_path, name, form):
    trace = tmp_path / "trace"
    file = poisoned(tmp_path / name, trace, form)
    with pytest.raises(
        CheckpointError, match=r"(holds more than plain weights \(\w+\.mkdir\)|cannot be read)"
    ) as caught:
        load(file)
    assert one_sentence(caught)
    assert "weights_only" not in str(caught.value)  # no advice to load it anyway
    assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace)))  # unrestricted unpickling executes it
    assert trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_imagenet_weights_is_not_executed(tmp_path, form):
    file = poisoned(tmp_path / "vgg16.pth", tmp_path / "trace", form)
    with pytest.raises(UserError, match="cannot be read as ImageNet weights") as caught:
        load_imagenet(VGG16(), file)
    assert one_sentence(caught)
    assert not (tmp_path / "trace").exists()


@pytest.mark.long
def test_code_in_the_checkpoint_of_a_resumed_run_is_not_executed(tmp_path, clips):  # noqa: F811
    command = ["model=wdvr2d", *TINY, f"data.root={clips}", "trainer.max_steps=1", f"paths.runs={tmp_path}"]
    command += ["data.test_frames=1", "callbacks.samples=null", "resume=true"]
    run(*command)
    (last,) = tmp_path.rglob("last.ckpt")
    (last.parents[1] / "results.json").unlink()
    for form in ("zip", "legacy"):
        for name in ("last.ckpt", "previous.ckpt", "good.ckpt", "best.ckpt"):
            poisoned(last.with_name(name), tmp_path / "trace", form)
        run(*command, fails=True)
        assert not (tmp_path / "trace").exists(), form


def saved(file: Path, network: object, state: object = None) -> Path:
    torch.save({"network": network, "state_dict": {} if state is None else state}, file)
    return file


VALID = {"_target_": "src.papers.baselines.Blend", "scale": 2, "frames": 3}


def test_a_description_of_plain_values_builds(tmp_path):
    assert load(saved(tmp_path / "a.ckpt", VALID)).geometry.window == 3


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ({"_target_": "os.system", "command": "mkdir trace"}, "has the target 'os.system'"),
        ({**VALID, "frames": {"_target_": "os.mkdir", "path": "trace"}}, "has the target 'os.mkdir'"),
        ({**VALID, "frames": [[{"_target_": "os.mkdir", "path": "trace"}]]}, "has the target 'os.mkdir'"),
        ({"_target_": "hydra.utils.get_method", "path": "os.mkdir"}, "has the target"),
        ({"_target_": "src.nn.warm_start.torch.load", "f": "evil"}, "has the target"),
        ({"_target_": "src.nn.backbones.load_imagenet", "file": "evil"}, "has the target"),
        ({"_target_": "src.checkpoints.cascade", "stages": ["a.ckpt"]}, "has the target"),  # might load itself
        ({"_target_": "torch.nn.Module.__call__"}, "has the target"),
        ({"_target_": ["os.mkdir"]}, "has the target"),
        ({**VALID, "_partial_": True}, "has the target"),
        ({**VALID, "_args_": [1]}, "has the target"),
        ({**VALID, 1: 2}, "has the target"),
        ({**VALID, "scale": "${oc.env:HOME}"}, "has an interpolation"),
        ({**VALID, "scale": torch.ones(1)}, "contains a Tensor"),
        ({**VALID, "frames": 10**9}, "a number that is too large"),
        ({**VALID, "frames": float("inf")}, "a number that is too large"),
        ({**VALID, "frame": 1}, "cannot be built: .*unexpected keyword"),
        ({**VALID, "frames": 0}, "cannot be built: .*ascend"),
        ({"_target_": "src.papers.baselines.Blend2"}, "has the target"),
        ({"scale": 4}, "describes no network"),
        (["a"], "describes no network"),
        ("text", "cannot be built|describes no network"),
        (None, "describes no network"),
        ({"_target_": "torch.nn.Linear", "in_features": 10**6, "out_features": 10**6}, "cannot be built"),
        (
            {"_target_": "src.papers.wdvr.WDVR2D", "trunk":
             {"_target_": "src.papers.wdvr.Wide2D", "blocks": 10**6, "units": 8, "activations": 8}},
            "larger than any",
        ),
    ],
)  # fmt: skip
def test_a_description_without_a_network_raises_one_sentence(tmp_path, monkeypatch, description, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load(saved(tmp_path / "evil.ckpt", description))
    assert one_sentence(caught)
    assert {path.name for path in tmp_path.iterdir()} == {"evil.ckpt"}


def test_a_checkpoint_of_an_earlier_version_computes_as_before():
    file = GOLDEN / "checkpoint_before_second_edition.ckpt"
    expected = torch.load(file, weights_only=True)
    with torch.no_grad():
        output = load(file)(expected["input"])
    torch.testing.assert_close(output, expected["output"], atol=1e-5, rtol=0)


def test_names_in_descriptions_of_earlier_versions_still_build():
    stage = {
        "_target_": "src.papers.wdvr.WDVR2D",
        "trunk": {"_target_": "src.papers.wdvr.Wide2D", "blocks": 1, "units": 8, "activations": 8},
        "frames": 3,
        "scale": 2,
        "interpolating": True,
    }
    description = {"_target_": "src.papers.cascade.Cascade", "stages": {"first": stage, "second": stage}, "frozen": 1}
    torch.manual_seed(0)
    network = build(description, "earlier.ckpt")
    assert isinstance(network, Cascade)
    clip = F.interpolate(torch.rand(5, 3, 3, 3), (12, 12), mode="bicubic").clamp(0, 1)[None]
    inner = (..., slice(16, -16), slice(16, -16))
    enlarged = imresize(imresize(clip[:, 2:3], 2), 2)
    assert (network(clip) - enlarged)[inner].abs().max() < 0.1  # "interpolating" reached the networks


@pytest.mark.parametrize("model", ["zsm", "edvr_m"])
def test_networks_of_earlier_versions_have_no_shortcut(model):
    network = to_plain(compose(f"model={model}", "size=mini").model)["network"]
    now = build(network, "now.ckpt")
    del network["shortcut"]
    earlier = build({**network, "warm_start": True}, "earlier.ckpt")
    assert (now.shortcut, earlier.shortcut) == (True, False)


def nested(depth: int) -> dict:
    node: dict = {"_target_": "torch.nn.Identity"}
    for _ in range(depth):
        node = {"_target_": "torch.nn.Identity", "x": node}
    return node


def test_deep_wide_and_circular_descriptions_raise():
    many: list = ["x"]
    for _ in range(60):
        many = [many] * 10  # 10^60 parts
    circle: dict = {"_target_": "torch.nn.Identity"}
    circle["x"] = circle
    for description in (nested(100_000), {"x": [0] * 10**6}, {"x": many}, circle):
        with pytest.raises(CheckpointError, match=f"more than {MAX_DEPTH} levels or 10,000 parts") as caught:
            build(description, "evil.ckpt")
        assert one_sentence(caught)
    assert isinstance(build(nested(MAX_DEPTH - 2), "a.ckpt"), nn.Identity)


@pytest.mark.parametrize("model", ["zsm", "edvr_l", "edvr_s2", "dsfn", "wdvr3d", "vtsr"])
def test_no_network_of_the_suite_is_too_large(model):
    with torch.device("meta"):
        network = build(to_plain(compose(f"model={model}").model.network), "config.yaml")
    assert count_parameters(network) > 100_000


def test_a_run_can_have_a_cascade_of_checkpoints(tmp_path):
    stage = str(saved(tmp_path / "a.ckpt", VALID))
    description = {"_target_": "src.checkpoints.cascade", "stages": [stage, stage]}
    assert build(description, "config.yaml", allow_checkpoints=True).geometry.scale == 4
    for stages in (5, ["nowhere.ckpt"], [5], [str(tmp_path)]):
        with pytest.raises(CheckpointError, match="cannot be built"):
            build({**description, "stages": stages}, "config.yaml", allow_checkpoints=True)


def test_a_compressed_archive_raises(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(10**6)}}, tmp_path / "plain.ckpt")
    with zipfile.ZipFile(tmp_path / "plain.ckpt") as given, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w") as packed:
        for part in given.infolist():
            packed.writestr(part.filename, given.read(part), zipfile.ZIP_DEFLATED)
    assert read_contents(tmp_path / "plain.ckpt")["state_dict"]["w"].shape == (10**6,)
    with pytest.raises(CheckpointError, match="is compressed, unlike torch's files") as caught:
        load(tmp_path / "bomb.ckpt")
    assert one_sentence(caught)


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.ones(1)},
        {"network": VALID, "state_dict": 5},
        {"network": VALID, "state_dict": {5: 5}},
        {"network": VALID, "state_dict": {"network.surplus": torch.ones(1)}},
        {"params": {"params": {}}},
        [torch.ones(1)],
        torch.ones(1),
        {"state_dict": {"head.0.weight_v": torch.ones(()), "skip.0.weight_v": torch.ones(())}},
        {"pcd_align.cas_dcnpack.weight": torch.ones(1)},
    ],
)
def test_odd_contents_raise_one_sentence(tmp_path, content):
    torch.save(content, tmp_path / "strange.pth")
    if content == {"network": VALID, "state_dict": {5: 5}}:  # this network has no weights
        assert load(tmp_path / "strange.pth").geometry.scale == 2
        return
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "strange.pth")
    assert "\n" not in str(caught.value)


def test_a_circular_dictionary_raises():
    circle: dict = {}
    circle["params"] = circle
    with pytest.raises(CheckpointError, match="no known implementation"):
        from_reference(circle)


def test_a_published_checkpoint_with_a_huge_block_number_raises(tmp_path):
    state, *_ = golden_network("edvr_tsa")
    state = {name: value.float() for name, value in state.items()}
    torch.save(state, tmp_path / "edvr.pth")
    load(tmp_path / "edvr.pth")
    torch.save({**state, "reconstruction.999999999.conv1.weight": torch.ones(1)}, tmp_path / "edvr.pth")
    with pytest.raises(CheckpointError, match="larger than any network"):
        load(tmp_path / "edvr.pth")


def test_damaged_files_raise_one_sentence(tmp_path):
    """Random bytes change: the file still loads, if they are harmless, or raises one sentence."""
    description = to_plain(compose("model=wdvr2d", "size=mini", "size.width=0.125", "size.depth=0.01").model.network)
    state = {f"network.{name}": value for name, value in build(description, "config.yaml").state_dict().items()}
    whole = saved(tmp_path / "whole.ckpt", description, state).read_bytes()
    assert isinstance(load(tmp_path / "whole.ckpt"), nn.Module)
    rng, messages = np.random.default_rng(0), list[str]()
    for number in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 1 + number % 5 * 40):
            damaged[place] = rng.integers(256)
        (tmp_path / "damaged.ckpt").write_bytes(damaged if number % 3 else damaged[: rng.integers(len(whole))])
        try:
            load(tmp_path / "damaged.ckpt")
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert not [message for message in messages if "\n" in message]
