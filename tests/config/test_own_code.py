"""Code of the user's own outside ``src``: importable by ``code=``, and built from checkpoints where it is trusted."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import src.trust
from src.checkpoints import load
from src.config.code_record import list_changed
from src.config.composition import compose
from src.config.own_code import describe_own_parts, make_importable, open_own_code
from src.config.run_directory import is_begun
from src.errors import CheckpointError, UserError
from src.sweeps.aggregate import Point
from tests.tasks.test_tasks import TINY, clips, refused, run  # noqa: F401 - the fixture

FUSION = """
from torch import nn

from {helper} import find_middle


class MeanFuse(nn.Module):
    def __init__(self, channels, *, frames):
        super().__init__()
        self.fuse = nn.Conv2d(channels, channels, 3, padding=1)
        find_middle(frames)

    def forward(self, aligned):
        return self.fuse(aligned.mean(1))


class Broken(MeanFuse):
    def forward(self, aligned):
        return self.fuse(aligned)


def make(channels, frames):
    return MeanFuse(channels, frames=frames)
"""


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch):
    monkeypatch.setattr(src.trust, "_trusted", set())
    monkeypatch.setattr(sys, "path", [*sys.path])


def write_code(folder: Path, name: str) -> Path:
    """Write a module with a fusion of frames, and another one beside it that it imports."""
    (folder / f"{name}_helper.py").write_text("def find_middle(frames):\n    return frames // 2\n")
    file = folder / f"{name}.py"
    file.write_text(FUSION.format(helper=f"{name}_helper"))
    return file


def save_checkpoint(file: Path, target: str) -> Path:
    torch.manual_seed(0)
    weights = torch.nn.Conv2d(8, 8, 3).state_dict()
    state = {f"network.fuse.{name}": weight for name, weight in weights.items()}
    torch.save({"network": {"_target_": target, "channels": 8, "frames": 5}, "state_dict": state}, file)
    return file


def test_a_checkpoint_builds_own_code_only_where_it_is_trusted(tmp_path):
    code = write_code(tmp_path, "fusion_a")
    file = save_checkpoint(tmp_path / "own.ckpt", "fusion_a.MeanFuse")
    with pytest.raises(CheckpointError, match=r"no module fusion_a here; .* add code=<folder>/fusion_a\.py\.$"):
        load(file)
    sys.path.append(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"no part of this suite; .* add trust=\[fusion_a\]\.$"):
        load(file)
    assert "fusion_a" not in sys.modules  # a refusal imports nothing
    open_own_code(compose(f"code={code}"))
    assert load(file)(torch.ones(1, 5, 8, 4, 4)).shape == (1, 8, 4, 4)
    with pytest.raises(CheckpointError, match=r"'fusion_a\.make', which is no class of torch\.nn\.Module\.$"):
        load(save_checkpoint(tmp_path / "function.ckpt", "fusion_a.make"))


@pytest.mark.parametrize("target", ["os.system", "src.run.main", "torch.load", "subprocess.run"])
def test_no_message_offers_to_trust_the_system(tmp_path, target):
    with pytest.raises(CheckpointError, match=r"no part of this suite\.$"):
        load(save_checkpoint(tmp_path / "evil.ckpt", target))
    src.trust.trust(target.rpartition(".")[0])  # even so, only classes of Modules are called
    with pytest.raises(CheckpointError, match="which is no class of torch"):
        load(save_checkpoint(tmp_path / "evil.ckpt", target))


def test_own_code_that_fails_to_import_is_one_sentence(tmp_path):
    (tmp_path / "fusion_e.py").write_text("import torch\nraise KeyError('no such part')\n")
    open_own_code(compose(f"code={tmp_path / 'fusion_e.py'}"))
    with pytest.raises(CheckpointError, match=r"fusion_e cannot be imported .KeyError: 'no such part'"):
        load(save_checkpoint(tmp_path / "own.ckpt", "fusion_e.MeanFuse"))


def test_names_of_files_of_code(tmp_path):
    with pytest.raises(UserError, match=r"is no Python file"):
        make_importable(tmp_path / "missing.py")
    (tmp_path / "random.py").touch()
    with pytest.raises(UserError, match=r"another module is called random .*; rename yours"):
        make_importable(tmp_path / "random.py")
    (tmp_path / "my-part.py").touch()
    with pytest.raises(UserError, match="rename it to a Python name"):
        make_importable(tmp_path / "my-part.py")
    (tmp_path / "fusion_p").mkdir()
    (tmp_path / "fusion_p" / "__init__.py").touch()
    assert make_importable(tmp_path / "fusion_p") == "fusion_p"


def test_the_network_of_a_command_is_trusted_and_recorded(tmp_path):
    code = write_code(tmp_path, "fusion_b")
    config = compose("model=edvr_m", "model.network.fuse._target_=fusion_b.MeanFuse", "trust=other", f"code={code}")
    assert open_own_code(config) == ["fusion_b", "other"]
    assert src.trust.is_trusted("fusion_b.parts")
    assert not src.trust.is_trusted("fusion_bb")
    sentence = describe_own_parts(config)
    assert "fusion_b.MeanFuse" in sentence
    assert sentence.endswith(f"add code={code}.")
    assert describe_own_parts(compose("model=edvr_m", "model.network.fuse._target_=fusion_b.MeanFuse")).endswith(
        "add trust=[fusion_b]."
    )
    assert not describe_own_parts(compose("model=edvr_m"))
    OmegaConf.save(config, tmp_path / "config.yaml", resolve=True)  # trust does not tell runs apart
    config.trust = ["fusion_b", "other"]
    assert is_begun(config, tmp_path)
    (tmp_path / "code.json").write_text(
        json.dumps({"untracked": [{"module": "fusion_b", "file": str(code), "sha256": digest(code)}]})
    )
    assert is_begun(config, tmp_path)
    code.write_text(code.read_text() + "# edited\n")
    assert list_changed(tmp_path) == [str(code)]
    assert not is_begun(config, tmp_path)
    code.unlink()
    assert is_begun(config, tmp_path)  # moved, perhaps
    config.code = None
    assert not is_begun(config, tmp_path)


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_columns_of_networks_that_cannot_be_built_or_run_are_empty(tmp_path):
    code = write_code(tmp_path, "fusion_c")
    own = ["model=edvr_m", "size=mini", f"code={code}"]
    config = compose(*own, "model.network.fuse._target_=fusion_c.MeanFuse")
    OmegaConf.save(config, tmp_path / "config.yaml", resolve=True)
    (tmp_path / "results.json").write_text("{}")
    point = Point(tmp_path, [])
    assert point.value("count/parameters") is None
    assert "no module fusion_c" in point.notes[0]
    open_own_code(config)
    assert Point(tmp_path, []).value("count/parameters") > 1000
    assert Point(tmp_path, []).value("network/fuse/fuse/padding") == (1, 1)
    point = Point(tmp_path, [])
    assert point.value("network/fuse/weigh") is None
    assert "AttributeError" in point.notes[0]
    OmegaConf.save(compose(*own, "model.network.fuse._target_=fusion_c.Broken"), tmp_path / "config.yaml", resolve=True)
    point = Point(tmp_path, [])
    assert point.value("count/parameters") is None
    assert "RuntimeError" in point.notes[0]


@pytest.mark.slow
def test_own_code_trains_in_a_sweep_is_evaluated_restored_and_reported(clips, tmp_path):  # noqa: F811
    code, runs = write_code(tmp_path, "fusion_d"), tmp_path / "runs"
    common = [*TINY, "model=edvr_m", "data.test_frames=2", f"data.root={clips}", f"paths.runs={runs}"]
    both = "model.network.fuse._target_=fusion_d.MeanFuse,src.nn.fuse.ConvFuse"
    sweep = ["-m", *common, f"code={code}", "trainer.max_steps=1", both, "table.columns=[psnr,parameters]"]
    log = run(*sweep)
    assert f"Own parts: fusion_d.MeanFuse. To evaluate or restore with this checkpoint, add code={code}." in log
    (table,) = runs.rglob("table.json")
    rows = json.loads(table.read_text())["rows"]
    assert len({row["parameters"] for row in rows}) == 2
    assert all(row["parameters"] for row in rows)
    (config,) = [file for file in runs.glob("*/*/*/config.yaml") if "fusion_d.MeanFuse" in file.read_text()]
    assert OmegaConf.load(config).trust == ["fusion_d"]
    record = json.loads(config.with_name("results.json").read_text())["code"]
    files = {entry["module"]: config.parent / entry["copy"] for entry in record["untracked"]}
    assert {"fusion_d", "fusion_d_helper"} <= files.keys()
    assert files["fusion_d"].read_text() == code.read_text()
    checkpoint = config.parent / "checkpoints" / "last.ckpt"
    assert "add code=<folder>/fusion_d.py" in refused("task=evaluate", *common, f"checkpoint={checkpoint}")
    run("task=evaluate", *common, f"checkpoint={checkpoint}", f"code={code}")
    (own,) = [file for file in runs.glob("evaluate/*/*/results.json")]
    scores = [json.loads(file.read_text())["summary"] for file in (own, config.with_name("results.json"))]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    output = tmp_path / "restored.mp4"
    restore = ["task=restore", f"checkpoint={checkpoint}", f"input={clips / 'left.mp4'}", f"output={output}"]
    run(*restore, f"code={code}", "max_frames=2")
    assert output.is_file()
    run("task=report", f"paths.runs={runs}", f"code={code}")


@pytest.mark.slow
def test_own_code_is_benched(tmp_path):
    code = write_code(tmp_path, "fusion_g")
    entry = "bench.models=['edvr_m model.network.fuse._target_=fusion_g.MeanFuse']"
    options = ["bench.time=false", "bench.deformable=false", "bench.size=mini", f"paths.runs={tmp_path}"]
    run("task=bench", f"code={code}", entry, *options)
    (results,) = tmp_path.rglob("results.json")
    (counted,) = json.loads(results.read_text())["models"].values()
    assert counted["parameters"] > 1000


@pytest.mark.slow
def test_own_code_trains_on_two_ranks(clips, tmp_path):  # noqa: F811
    code = write_code(tmp_path, "fusion_f")
    options = [option for option in TINY if not option.startswith("trainer.devices")]
    own = [f"code={code}", "model.network.fuse._target_=fusion_f.MeanFuse", "trainer=ddp", "trainer.devices=2"]
    run("model=edvr_m", *options, *own, "data.test_frames=2", "trainer.max_steps=1", f"data.root={clips}",
        f"paths.runs={tmp_path / 'runs'}")  # fmt: skip
    (scores,) = tmp_path.rglob("results.json")
    assert set(json.loads(scores.read_text())["clips"]) == {"left", "right"}
