"""W&B without a network: the content of offline files and of sweep configurations."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from wandb.proto.wandb_internal_pb2 import Record

from src.config.composition import CONF
from src.config.overrides import translate
from src.config.resolvers import register_resolvers
from src.training import wandb

STUDY = wandb.SweepSpec(
    "wdvr_block_design", "Designs of blocks", {"experiment": ["wdvr3d_reds"], "model/network/trunk": ["iai", "stas"]}
)


@pytest.fixture
def a_point(monkeypatch):
    """Make this process a point of a study, without a network."""
    for name in ("WANDB_API_KEY", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    register_resolvers()
    GlobalHydra.instance().clear()
    overrides = [
        "ablation=wdvr_block_design",
        "experiment=wdvr3d_reds",
        "model/network/trunk=stas",
        "size=mini",
        "seed=3",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=translate(overrides), return_hydra_config=True)
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    yield config
    HydraConfig.instance().cfg = before


def records(file: Path) -> list[Record]:
    """Read the records of an offline run: LevelDB's log format, uploaded unchanged by ``wandb sync``."""
    data, complete, part, at = file.read_bytes(), [], b"", 7
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            complete.append(Record.FromString(part))
            part = b""
    return complete


@pytest.mark.long
def test_an_offline_run_holds_config_metrics_and_scores(a_point, tmp_path):
    directory = tmp_path / "wdvr3d_reds" / "trunk=stas" / "seed=3"
    logger = wandb.build_logger(save_dir=directory, project="zeitlupe")
    overrides = ["experiment=wdvr3d_reds", "model/network/trunk=stas", "+seed=3"]
    wandb.log_config([logger], {"parameters": 1234, "model": {"network": {"channels": 64}}}, overrides)
    logger.log_metrics({"validate/psnr": 27.5}, step=1)
    logger.log_metrics({"test/psnr": 28.25}, step=2)
    clips = {"city": {"psnr": 26.5, "ssim": 0.75}, "<walk>": {"psnr": 30.0, "ssim": 0.875}}
    wandb.log_scores([logger], clips, ["psnr", "ssim"])
    wandb.finish(0)

    [file] = directory.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 30
    while not (logged := records(file)) or not logged[-1].HasField("exit"):
        assert time.monotonic() < deadline
        time.sleep(0.1)  # another process writes it
    [run] = [record.run for record in logged if record.HasField("run")][:1]
    assert (run.run_group, run.project) == ("wdvr_block_design", "zeitlupe")
    assert run.run_id == (directory / "wandb_id.txt").read_text().strip()
    assert list(run.tags) == ["wdvr", "table2_block_design", "wdvr3d_reds", "size=mini", "reds_official"]
    config = {}
    for record in logged:
        for update in (*record.config.update, *record.run.config.update):
            config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
    assert config["parameters"] == 1234
    assert config["overrides"] == {"experiment": "wdvr3d_reds", "trunk": "stas", "seed": "3"}
    metrics = {}
    for record in logged:
        metrics |= {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
    assert (metrics["validate/psnr"], metrics["test/psnr"]) == (27.5, 28.25)
    [table] = directory.glob("wandb/offline-run-*/files/media/table/*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["clip", "psnr", "ssim"], "data": [["city", 26.5, 0.75], ["<walk>", 30.0, 0.875]],
    }  # fmt: skip
    assert [record.exit.exit_code for record in logged if record.HasField("exit")] == [0]


def test_a_resumed_run_keeps_its_id(a_point, tmp_path):
    first, again = (wandb.build_logger(save_dir=tmp_path, project="zeitlupe") for _ in range(2))
    assert first._wandb_init["id"] == again._wandb_init["id"] == (tmp_path / "wandb_id.txt").read_text().strip()


def test_an_agent_sets_the_id(a_point, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert wandb.build_logger(save_dir=tmp_path, project="zeitlupe")._wandb_init["id"] is None
    assert not (tmp_path / "wandb_id.txt").exists()


def test_a_sweep_runs_the_points_of_its_study(a_point):
    config = yaml.safe_load(yaml.safe_dump(wandb.sweep_config(STUDY)))
    assert config["metric"] == {"name": "test/psnr", "goal": "maximize"}
    values = [f"{key}={parameter['values'][-1]}" for key, parameter in config["parameters"].items()]
    command = [word for word in config["command"] if not word.startswith("$")]
    assert command[:2] == ["-m", "src.run"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=translate([*command[2:], *values]), return_hydra_config=True)
    assert config.hydra.mode.name == "RUN"
    assert config.hydra.runtime.choices["model/wdvr/trunk"] == "stas"
