"""Names of run folders."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.config.composition import CONF
from src.config.overrides import translate
from src.config.resuming import expand_resume
from src.config.run_directory import claim_directory
from src.config.run_names import former_name, label_path, name_overrides

TEN = [
    *("size=mini", "data=folder", "data.root=/videos/clips", "data.crop=64", "data.batch_size=4", "model=edvr_m"),
    *("model/network/fuse=conv", "model.network.channels=32", "trainer.max_steps=2000", "model.optimizer.lr=1e-3"),
]


def test_ten_options_are_readable():
    name = name_overrides(TEN)
    assert re.fullmatch(r"[\w.=,+-]{1,80}", name)
    for part in ("fuse=conv", "size=mini", "data=folder", "model=edvr_m", "batch_size=4"):
        assert part in re.split("[,-]", name)
    assert re.search(r",\+\d+-[0-9a-f]{8}$", name)  # the number of those left out
    assert name_overrides(TEN[::-1]) == name
    assert name_overrides([*TEN, "seed=3", "resume=true", "paths.runs=/x", "test=own"]) == name


@pytest.mark.parametrize("number", range(len(TEN)))
def test_every_option_of_a_long_name_counts(number):
    """Also those that are not shown, and folders of one name in different places."""
    other = [*TEN]
    other[number] = other[number].replace("=/videos", "=/films") if "/videos" in other[number] else f"{other[number]}0"
    assert name_overrides(other) != name_overrides(TEN)
    assert name_overrides([*TEN[:number], *TEN[number + 1 :]]) != name_overrides(TEN)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["protocol.name=a b"], ["protocol.name=a_b"]),
        (["data.size={a:1}"], ["data.size=_a:1_"]),
        (["data.crop=64"], ["data.crop=640"]),
        (["model.network.a.channels=8", *TEN], ["model.network.b.channels=8", *TEN]),
    ],
)
def test_different_options_have_different_names(one, other):
    names = [name_overrides(options) for options in (one, other)]
    assert names[0] != names[1]
    assert not any(re.search(r"[^\w.,=+\-\[\]]", name) for name in names)


def test_own_parts_come_first_in_a_long_name():
    options = ["size=mini", "code=/a/fusion.py", "model.network.fuse._target_=fusion.GatedFuse", "data=folder"]
    long = [f"data.layout.hold_back={number / 8}" for number in range(1)] + ["trainer.max_steps=1000", "data.crop=96"]
    name = name_overrides([*options, *long])
    assert name.startswith("fuse=GatedFuse,data=folder,size=mini,code=fusion.py-")


def test_edited_code_is_another_run(tmp_path):
    (tmp_path / "own").mkdir()
    for path in (tmp_path / "fusion.py", tmp_path / "own" / "__init__.py", tmp_path / "own" / "part.py"):
        path.write_text("WIDTH = 1\n")
    for code, edited in (("fusion.py", "fusion.py"), ("own", "own/part.py")):
        override = f"code={tmp_path / code}"
        before = name_overrides([override])
        assert before == name_overrides([override])
        (tmp_path / edited).write_text("WIDTH = 2\n")
        assert name_overrides([override]) != before
    log = tmp_path / "notes.txt"
    log.write_text("a")
    assert label_path(str(log)) == label_path(str(log), labelled=False)


def test_few_options_are_named_in_full_as_before():
    options = ["size=mini", "data=folder", "data.crop=64"]
    assert name_overrides(options) == former_name(options) == "data=folder,data.crop=64,size=mini"


def checkpoint(run: Path, step: int, name: str = "last") -> Path:
    """Write a checkpoint as training does, in a run's folder."""
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text("seed: 0\n")
    torch.save({"global_step": step, "state_dict": {"a": torch.zeros(2)}}, run / "checkpoints" / f"{name}.ckpt")
    return run / "checkpoints" / f"{name}.ckpt"


def test_a_checkpoint_is_named_after_its_run_and_its_step(tmp_path):
    runs = [tmp_path / "zsm_vimeo" / place for place in ("seed=0", "data.crop=64,size=mini/seed=0", "size=mini/seed=1")]
    plain, small, seed = (checkpoint(run, 500) for run in runs)
    assert re.fullmatch(r"zsm_vimeo\+seed=0\+step500-\w{6}", label_path(str(plain)))
    assert re.fullmatch(r"zsm_vimeo\+data\.crop=64\+size=mini\+seed=0\+step500-\w{6}", label_path(str(small)))
    assert re.fullmatch(r"zsm_vimeo\+size=mini\+seed=1\+step500-\w{6}", label_path(str(seed)))
    assert re.fullmatch(r"zsm_vimeo\+size=mini\+seed=1-\w{6}", label_path(str(seed), with_step=False))
    before = name_overrides([f"checkpoint={small}", "data=vid4"])
    checkpoint(runs[1], 12345)  # trained further: other weights under the same path
    after = name_overrides([f"checkpoint={small}", "data=vid4"])
    assert "step12345" in after
    assert after != before
    best = label_path(str(checkpoint(runs[2], 400, "best")))
    assert re.fullmatch(r"zsm_vimeo\+size=mini\+seed=1\+best\+step400-\w{6}", best)
    long = name_overrides([f"checkpoint={small}", *TEN])
    assert "step12345" in long
    assert len(long) <= 80


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_other_files_are_named_by_themselves(tmp_path, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    assert re.fullmatch(r"last\.ckpt-\w{6}", label_path(str(tmp_path / "last.ckpt")))
    damaged = checkpoint(tmp_path / "run" / "seed=0", 1)
    damaged.write_bytes(content)
    assert re.fullmatch(r"run\+seed=0\+last-\w{6}", label_path(str(damaged)))


def composed(*overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", translate(overrides), return_hydra_config=True)


@pytest.fixture
def as_a_command(monkeypatch):
    """Make a configuration Hydra's current one, as in a run."""

    def set_config(config: DictConfig) -> DictConfig:
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
        HydraConfig.instance().set_config(config)
        return config

    return set_config


def test_a_run_with_its_former_name_is_found(tmp_path, as_a_command):
    many = [option for option in TEN if "channels" not in option and ".lr" not in option]
    options = ["experiment=edvr_vimeo", f"paths.runs={tmp_path}", *many]
    config = as_a_command(composed(*options))
    assert config.hydra.run.dir == f"{tmp_path}/edvr_vimeo/{name_overrides(many)}/seed=0"
    (tmp_path / "edvr_vimeo" / former_name(many)).mkdir(parents=True)
    config = as_a_command(composed(*options))
    assert config.hydra.run.dir == f"{tmp_path}/edvr_vimeo/{former_name(many)}/seed=0"


def test_the_command_of_a_point_runs_that_point_alone(tmp_path, as_a_command):
    """And is the whole command: the run goes on by its path."""
    config = as_a_command(composed("ablation=wdvr_window_size", "model.network.frames=3", "hydra.verbose=true"))
    with claim_directory(config, tmp_path / "run"):
        pass
    words = shlex.split((tmp_path / "run" / "command.txt").read_text())
    assert words[:3] == ["python", "-m", "src.run"]
    assert words[3:] == ["ablation=wdvr_window_size", "model.network.frames=3", "hydra.verbose=true", "hydra.mode=RUN"]
    arguments = expand_resume([f"resume={tmp_path / 'run'}"])
    assert [word for word in arguments if word.startswith("hydra.run.dir")] == [f"hydra.run.dir='{tmp_path / 'run'}'"]
    assert "hydra.mode=RUN" in arguments
