"""Training from a checkpoint with some parts exchanged: what is taken, left and started anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from src.config.build import build_inference_network, build_training_network
from src.config.composition import compose, to_plain
from src.config.validation import validate
from src.errors import UserError

SIZE = ["model=edvr_m", "size.width=0.125", "size.depth=0.2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of EDVR with TSA."""
    torch.manual_seed(0)
    config = compose(*SIZE)
    state = {f"network.{name}": weight for name, weight in build_training_network(config).state_dict().items()}
    file = tmp_path_factory.mktemp("weights") / "last.ckpt"
    torch.save({"network": to_plain(config.model.network), "state_dict": state}, file)
    return file


def stored(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {name.removeprefix("network."): weight for name, weight in state.items()}


def test_a_part_is_exchanged_and_all_others_are_taken(checkpoint, capsys):
    config = compose(*SIZE, "model/network/fuse=conv", f"checkpoint={checkpoint}", "checkpoint_skip=[fuse]")
    validate(config)
    torch.manual_seed(1)
    network = build_training_network(config)
    before, now = stored(checkpoint), network.state_dict()
    outside = [name for name in before if not name.startswith("fuse.")]
    assert outside
    assert all(torch.equal(before[name], now[name]) for name in outside)
    assert {name for name in now if name.startswith("fuse.")} == {"fuse.fuse.weight", "fuse.fuse.bias"}
    assert not torch.equal(now["fuse.fuse.weight"], before["fuse.fuse.weight"])  # of the same shape, but skipped
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["Weights", "of", f"{checkpoint}:"]
    assert lines[1][:2] == ["taken", str(len(outside))]
    assert lines[2] == ["left", str(len(before) - len(outside)), "fuse", str(len(before) - len(outside))]
    assert lines[3] == ["started", "anew", "2", "fuse", "2"]


def test_a_pattern_leaves_parts_of_parts(checkpoint):
    config = compose(*SIZE, f"checkpoint={checkpoint}", "checkpoint_skip=[reconstruct.trunk.*,*.bias]")
    network = build_training_network(config)
    before, now = stored(checkpoint), network.state_dict()
    kept = {name for name in before if torch.equal(before[name], now[name])}
    anew = {name for name in now if name.startswith("reconstruct.trunk.") and name.endswith("weight")}
    assert anew
    assert not anew & kept
    weights = {name for name in now if name.endswith("weight")}
    assert weights - anew <= kept


def test_the_error_offers_the_parts_that_differ(checkpoint):
    exchanged = ["model/network/fuse=conv", f"checkpoint={checkpoint}"]
    with pytest.raises(UserError, match=r"or add checkpoint_skip=\[fuse\] to start fuse anew;") as caught:
        build_training_network(compose(*SIZE, *exchanged))
    option = str(caught.value).partition("or add ")[2].partition(" ")[0]
    build_training_network(compose(*SIZE, *exchanged, option))
    exchanged = [*exchanged, "model/network/align=four"]
    with pytest.raises(UserError, match=r"add checkpoint_skip=\[fuse,align") as caught:
        build_training_network(compose(*SIZE, *exchanged, "checkpoint_skip=fuse"))
    build_training_network(compose(*SIZE, *exchanged, "checkpoint_skip=[fuse,align]"))
    with pytest.raises(UserError, match="does not match the configured network") as caught:
        build_training_network(compose("model=edvr_m", "size.depth=0.2", "size.width=0.25", *exchanged[1:2]))
    assert "checkpoint_skip" not in str(caught.value)  # another size: nothing would be left


@pytest.mark.parametrize(
    ("skip", "sentence"),
    [
        ("fusee", r"no part or weight is called fusee: did you mean fuse\?$"),
        ("fuse.weigh.embd", r"did you mean fuse\.weigh\.embed\?$"),
        ("zzzz", r"no part or weight is called zzzz: the parts are encode, align, fuse, reconstruct\.$"),
        ("'*'", r"leaves nothing of "),
    ],
)
def test_a_pattern_without_a_match_is_refused(checkpoint, skip, sentence):
    with pytest.raises(UserError, match=sentence):
        build_training_network(compose(*SIZE, f"checkpoint={checkpoint}", f"checkpoint_skip=[fuse,{skip}]"))


def test_skipping_without_a_checkpoint_or_a_training_is_refused(checkpoint):
    with pytest.raises(UserError, match="add checkpoint=<file>"):
        build_training_network(compose(*SIZE, "checkpoint_skip=[fuse]"))
    with pytest.raises(UserError, match="is for training"):
        build_inference_network(compose(*SIZE, f"checkpoint={checkpoint}", "checkpoint_skip=[fuse]"))


def test_weights_trained_without_the_shortcut_do_not_start_a_network_that_has_it(checkpoint):
    mini = [*SIZE, "size.warm_start=true", f"checkpoint={checkpoint}"]
    with pytest.raises(UserError, match=r"was trained without the shortcut .*: add model.network.shortcut=false"):
        build_training_network(compose(*mini))
    assert not build_training_network(compose(*mini, "model.network.shortcut=false")).shortcut
