"""W&B up to the network's edge: what offline files hold, what sweeps and workspaces say."""

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

from src.config.composition import CONF, UNSAID, register_resolvers
from src.errors import UserError
from src.training import wandb as dashboard

STUDY = dashboard.Swept(
    "wdvr_block_design", "Designs of blocks", {"experiment": ["wdvr3d_reds"], "model/network/trunk": ["iai", "stas"]}
)


@pytest.fixture
def a_point(monkeypatch):
    """This process is a point of a study, away from any network."""
    for name in ("WANDB_API_KEY", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    register_resolvers()
    GlobalHydra.instance().clear()
    asked = ["ablation=wdvr_block_design", "experiment=wdvr3d_reds", "model/network/trunk=stas", "size=mini", "seed=3"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=asked, return_hydra_config=True)
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    yield config
    HydraConfig.instance().cfg = before


def records(file: Path) -> list[Record]:
    """What an offline run's file holds: records in LevelDB's log format, which ``wandb sync`` sends as they are."""
    data, found, part, at = file.read_bytes(), [], b"", 7
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            found.append(Record.FromString(part))
            part = b""
    return found


def test_an_offline_run_holds_what_is_to_be_seen(a_point, tmp_path):
    directory = tmp_path / "wdvr3d_reds" / "trunk=stas" / "seed=3"
    logger = dashboard.logger(save_dir=directory, project="zeitlupe")
    dashboard.describe([logger], {"parameters": 1234, "model": {"network": {"channels": 64}}}, leave_out=UNSAID)
    logger.log_metrics({"validate/psnr": 27.5}, step=1)
    logger.log_metrics({"test/psnr": 28.25}, step=2)
    clips = {"city": {"psnr": 26.5, "ssim": 0.75}, "<walk>": {"psnr": 30.0, "ssim": 0.875}}
    dashboard.log_scores([logger], clips, ["psnr", "ssim"])
    dashboard.finish(0)

    [file] = directory.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 30
    while not (found := records(file)) or not found[-1].HasField("exit"):
        assert time.monotonic() < deadline
        time.sleep(0.1)  # another process writes it
    [run] = [record.run for record in found if record.HasField("run")][:1]
    assert (run.run_group, run.project) == ("wdvr_block_design", "zeitlupe")
    assert run.run_id == (directory / "wandb_id.txt").read_text().strip()
    assert list(run.tags) == ["wdvr", "table2_block_design", "wdvr3d_reds", "size=mini", "reds_official"]
    config = {}
    for record in found:
        for update in (*record.config.update, *record.run.config.update):
            config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
    assert config["parameters"] == 1234
    point = {"experiment": "wdvr3d_reds", "trunk": "stas", "size": "mini", "seed": "3"}
    assert config["point"] == point
    logged = {}
    for record in found:
        logged |= {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
    assert (logged["validate/psnr"], logged["test/psnr"]) == (27.5, 28.25)
    [table] = directory.glob("wandb/offline-run-*/files/media/table/*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["clip", "psnr", "ssim"], "data": [["city", 26.5, 0.75], ["<walk>", 30.0, 0.875]],
    }  # fmt: skip
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [0]


def test_a_run_that_goes_on_is_the_same_run(a_point, tmp_path):
    first, again = (dashboard.logger(save_dir=tmp_path, project="zeitlupe") for _ in range(2))
    assert first._wandb_init["id"] == again._wandb_init["id"] == (tmp_path / "wandb_id.txt").read_text().strip()


def test_an_agents_run_is_the_agents(a_point, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert dashboard.logger(save_dir=tmp_path, project="zeitlupe")._wandb_init["id"] is None
    assert not (tmp_path / "wandb_id.txt").exists()


def test_a_sweep_runs_the_points_of_its_study(a_point):
    said = yaml.safe_load(yaml.safe_dump(dashboard.sweep(STUDY)))
    assert said["metric"] == {"name": "test/psnr", "goal": "maximize"}
    given = [f"{key}={values['values'][-1]}" for key, values in said["parameters"].items()]
    command = [word for word in said["command"] if not word.startswith("$")]
    assert command[:2] == ["-m", "src.run"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[*command[2:], *given], return_hydra_config=True)
    assert config.hydra.mode.name == "RUN"
    assert config.hydra.runtime.choices["model/network/trunk"] == "stas"


def test_a_workspace_has_a_section_a_study(a_point):
    said = json.dumps(dashboard.workspace([STUDY], "us", "zeitlupe")._to_model().model_dump(mode="json"), default=str)
    for word in ("wdvr_block_design", "Designs of blocks", "point.value.trunk", "test/psnr", "validate/psnr"):
        assert word in said


def test_without_a_key_the_page_is_all(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="wandb login"):
        dashboard.publish([STUDY], "zeitlupe")
