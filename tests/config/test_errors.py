"""Errors of commands: one sentence, the place in code below it, the traceback on demand, and all of it quickly."""

from __future__ import annotations

import resource
import shlex
import subprocess
import sys

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.config.build import build_inference_network, build_restorer
from src.config.composition import CONF, compose
from src.config.error_report import locate_in_code, report_error
from src.config.validation import validate
from src.errors import CodeError, UserError

NETWORK = """
import torch
from torch import nn

from src.geometry import Geometry


class Mismatched(nn.Module):
    geometry = Geometry(scale=4, window=1, times=(0,))

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 48, 3, padding=1)

    def forward(self, clip):
        return self.conv(clip[:, 0])[:, None]


class Careless(nn.Module):
    def __init__(self):
        super().__init__()
        self.width = len(3)


class Strict(nn.Module):
    def __init__(self, frames):
        super().__init__()
        if frames % 2 == 0:
            raise ValueError("frames must be odd")
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> str:
    """The name of a module with networks of the user's own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_networks.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield "own_networks"


def test_an_error_in_a_forward_of_ones_own_shows_its_line(module, capsys):
    config = compose("model=edvr_m", "size=mini")
    config.model.network = {"_target_": f"{module}.Mismatched"}
    with pytest.raises(CodeError, match=r"do not fit together at model\.network\.conv: ") as caught:
        build_restorer(config, build_inference_network(config))
    assert "\n" not in str(caught.value)
    assert report_error(caught.value, ["model=own"])
    sentence, *lines = capsys.readouterr().err.splitlines()
    assert sentence == str(caught.value)
    line = 1 + NETWORK.splitlines().index("        return self.conv(clip[:, 0])[:, None]")
    assert any(f'own_networks.py", line {line}, in forward' in text for text in lines)
    assert lines[-1].strip() == "debug=true shows all frames."
    assert all(text.startswith("  ") for text in lines)  # a sweep records the last line that is not indented
    assert not any("site-packages" in text or "src/config" in text for text in lines)


@pytest.mark.parametrize(("name", "shown"), [("Careless", True), ("Strict", False)])
def test_an_error_in_a_constructor_is_shown_unless_it_is_raised_on_purpose(module, name, shown, capsys):
    node = {"_target_": f"{module}.{name}"} | ({"frames": 4} if name == "Strict" else {})
    with pytest.raises(Exception, match="Error in call to target") as caught:
        instantiate(OmegaConf.create({"network": node}).network)
    assert report_error(caught.value, [])
    assert ("own_networks.py" in capsys.readouterr().err.partition("\n")[2]) == shown


def test_an_error_of_a_configuration_is_one_sentence(capsys, monkeypatch):
    monkeypatch.delenv("ZEITLUPE_DEBUG", raising=False)
    with pytest.raises(UserError) as caught:
        compose("model=zms")
    assert locate_in_code(caught.value) == ""
    assert report_error(caught.value, ["model=zms"])
    assert capsys.readouterr().err == "There is no model=zms: did you mean model=zsm?\n"
    assert not report_error(RuntimeError("a bug"), [])  # Python shows its traceback


@pytest.mark.parametrize(
    ("overrides", "advice"),
    [
        (
            ["model.loss._target_=torch.nn.functional.l1_loss"],
            "epsilon of the former object remains: add '~model.loss.epsilon' to drop it.",
        ),
        (
            ["model.loss._target_=torch.nn.MSELoss"],
            "epsilon, _partial_ of the former object remain: add '~model.loss.epsilon' '~model.loss._partial_' to drop "
            "them.",
        ),
        (
            ["model.network.fuse._target_=torch.nn.Conv2d"],
            "channels, frames of the former object remain: add '~model.network.fuse.channels' "
            "'~model.network.fuse.frames' to drop them, and +model.network.fuse.in_channels=<value> "
            "+model.network.fuse.out_channels=<value> +model.network.fuse.kernel_size=<value>.",
        ),
        (["model.optimizer._target_=torch.optim.SGD"], "add '~model.optimizer.betas' to drop it."),
    ],
)
def test_what_is_left_of_a_replaced_object_is_dropped_as_the_error_says(overrides, advice):
    command = ["model=edvr_m", "size=mini", *overrides]
    with pytest.raises(UserError) as caught:
        validate(compose(*command), command)
    assert str(caught.value).endswith(advice)
    assert f"{overrides[0].partition('.')[0]}." in str(caught.value)
    words = [word for word in shlex.split(advice.rstrip(".")) if word[0] in "~+" and len(word) > 1]
    mended = [*command, *(word.replace("<value>", "8") for word in words)]
    validate(compose(*mended), mended)


def test_a_mistyped_option_of_a_replaced_object_is_not_dropped():
    command = ["model=edvr_m", "model.optimizer._target_=torch.optim.AdamW", "+model.optimizer.weight_deca=0.1"]
    with pytest.raises(UserError, match="did you mean weight_decay"):
        validate(compose(*command), command)


@pytest.mark.parametrize("where", ["command", "environment", "configuration"])
def test_debug_shows_the_traceback(where, capsys, monkeypatch):
    monkeypatch.setenv("ZEITLUPE_DEBUG", "1" if where == "environment" else "0")
    with pytest.raises(UserError) as caught:
        compose("model=zms")
    arguments = ["model=zms", *(["debug=true"] if where == "command" else [])]
    assert report_error(caught.value, arguments, debug=where == "configuration")
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert text.endswith("\nThere is no model=zms: did you mean model=zsm?\n")


@pytest.mark.long
def test_a_mistyped_choice_is_answered_without_lightning_or_torch():
    program = (
        "import sys; sys.argv = ['src.run', 'model=zsmm']\n"
        "from src.run import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, sorted({'lightning', 'torch', 'wandb'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CONF.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
    assert done.stderr == "There is no model=zsmm: did you mean model=zsm?\n"


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["model=zsmm", "--help"])
def test_mistakes_and_help_are_answered_before_lightning_could_be_imported(argument):
    def measure(*command: str) -> float:
        """Processor seconds of a process."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], cwd=CONF.parent, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert measure("-m", "src.run", argument) < 0.6 * measure("-c", "import lightning.pytorch")
