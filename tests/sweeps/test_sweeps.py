"""Sweeps: a failed point ends alone and is reported; a repeated sweep runs only the missing points."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from lightning import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.config.composition import CONF, compose
from src.config.resolvers import list_trainings
from src.config.run_directory import claim_directory
from src.errors import UserError
from src.sweeps import points
from src.sweeps.callback import Study
from src.sweeps.launcher import _first_ready, assign_devices
from tests.tasks.test_tasks import ROOT, TINY, clips, run  # noqa: F401 - the fixture

SWEEP = [*TINY, "model=wdvr2d", "data.test_frames=2", "trainer.max_steps=2"]


class KillOnce(Callback):
    """Ends its process as the system does where memory runs out: once, in the run of so many frames."""

    def __init__(self, frames: int, marker: str) -> None:
        self.frames, self.marker = frames, Path(marker)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.frames == 3 and not self.marker.exists() and trainer.global_step == 1:
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def sweep(*overrides: str, values: str = "", number: int = 0) -> DictConfig:
    """The configuration that Hydra gives to callbacks; ``values``, with commas, is not resolved."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra_compose("config", list(overrides), return_hydra_config=True)
    with read_write(config), open_dict(config):
        config.hydra.job.num = number
        config.hydra.overrides.task = [*config.hydra.overrides.task, *values.split()]
        config.hydra.runtime.output_dir = f"{config.paths.runs}/train/{','.join(overrides[1:]) or 'plain'}/seed=0"
    return config


def entries(runs: Path) -> dict[str, points.PointStatus]:
    """Read the points of the only sweep under ``runs``, by the option that varies."""
    (folder,) = runs.glob("ablations/*/*")
    return {
        next(o.partition("=")[2] for o in e.overrides if o.startswith(("model.network.frames", "seed"))): e
        for e in points.read_statuses(folder)
    }


def test_a_sweep_is_named_after_its_overrides(tmp_path):
    runs = f"paths.runs={tmp_path}"
    study = sweep(runs, "ablation=wdvr_window_size", "size=mini", values="seed=0,1 model.network.frames=1,3")
    assert points.list_options(study)["seed"] == ["0", "1"]
    named = tmp_path / "ablations" / "wdvr_window_size"
    assert points.locate_sweep(study) == named / "model.network.frames=1+3,size=mini"
    assert points.locate_sweep(sweep(runs, "ablation=dsfn_levels")).relative_to(tmp_path) == Path(
        "ablations/dsfn_levels/as_published"
    )
    plain = sweep(runs, values="experiment=zsm_vimeo,edvr_vimeo size=mini")
    assert points.locate_sweep(plain) == tmp_path / "ablations" / "zsm_vimeo+edvr_vimeo" / "size=mini"


def test_a_points_command_leaves_out_options_of_the_sweep(tmp_path):
    options = [
        "ablation=wdvr_window_size",
        f"data.root='{tmp_path}/a b'",
        "hydra.launcher.at_once=2",
        "hydra.verbose=true",
    ]
    config = sweep(f"paths.runs={tmp_path}", *options, values="resume=true model.network.frames=3")
    arguments = points.build_arguments(config)
    assert arguments[:2] == ["-m", "src.run"]
    assert f"data.root={tmp_path}/a b" in arguments  # without the quotes that src.run adds
    assert arguments[-3:] == ["hydra.verbose=true", "resume=true", "hydra.mode=RUN"]
    assert not any("launcher" in argument for argument in arguments)


def test_places_share_devices_and_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    one, two, cpu = (compose(*given) for given in ([], ["trainer.devices=2"], ["trainer.accelerator=cpu"]))
    every = compose("trainer=ddp")
    devices = ["0", "1", "4", "5"]
    assert assign_devices([cpu] * 3, None, devices) == [{}]
    assert assign_devices([cpu] * 3, 2, []) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert [p["CUDA_VISIBLE_DEVICES"] for p in assign_devices([one] * 9, None, devices)] == devices
    assert [p["CUDA_VISIBLE_DEVICES"] for p in assign_devices([one, two, one], None, devices)] == ["0,1", "4,5"]
    assert assign_devices([every] * 2, None, devices) == [{"CUDA_VISIBLE_DEVICES": "0,1,4,5"}]
    assert [p["CUDA_VISIBLE_DEVICES"] for p in assign_devices([one] * 9, 3, ["7"])] == ["7"] * 3
    assert len(assign_devices([one], 4, devices)) == 1


def test_a_point_waits_for_the_trainings_that_it_evaluates(tmp_path):
    def at(directory: str, *overrides: str) -> DictConfig:
        config = sweep(f"paths.runs={tmp_path}", "size=mini", *overrides)
        with read_write(config), open_dict(config):
            config.hydra.runtime.output_dir = f"{tmp_path}/{directory}/seed=0"
        return config

    first = at("edvr_reds_sr_clean/size=mini", "experiment=edvr_reds_sr_clean", "test=own")
    tested = at("edvr_reds_sr_clean/size=mini,test=vid4", "experiment=edvr_reds_sr_clean", "test=vid4")
    second = at("edvr_s2_reds_sr_clean/size=mini", "experiment=edvr_s2_reds_sr_clean", "test=own")
    other = at("zsm_vimeo/size=mini", "experiment=zsm_vimeo", "test=own")
    assert list_trainings(tested) == list_trainings(second) == {tmp_path / "edvr_reds_sr_clean/size=mini/seed=0"}
    assert list_trainings(first) == set()

    def then(waiting: list[DictConfig], running: list[DictConfig]) -> DictConfig | None:
        return _first_ready([(config, list_trainings(config)) for config in waiting], running)

    assert then([tested, second, first, other], []) is tested  # its training is not in this sweep
    assert then([tested, second, other], [first]) is other
    assert then([first, tested], []) is first
    assert then([tested], [first]) is None
    assert then([tested], [second]) is tested


def test_points_are_recorded_and_the_table_is_updated(tmp_path, capsys):
    """Whichever process runs a point: of each, a study knows the file alone."""
    common = [f"paths.runs={tmp_path}", "size=mini"]  # the same for all points, so no point is named after it
    whole = sweep(*common, values="model.network.frames=1,3")
    columns = {"psnr": "results/summary/psnr"}
    (folder,) = {points.locate_sweep(whole)}

    def study() -> Study:
        made = Study(name="", title="Frames", columns=columns)
        made.on_multirun_start(whole)
        return made

    for number, frames in enumerate((1, 3)):
        config, callback = sweep(*common, f"model.network.frames={frames}", number=number), study()
        directory = points.locate_run(config)
        callback.on_job_start(config)
        assert points.read_statuses(folder)[-1].status == "running"
        outcome = JobReturn(status=JobStatus.FAILED if number else JobStatus.COMPLETED)
        outcome.return_value = UserError("No such clips.") if number else None
        if not number:
            directory.mkdir(parents=True)
            (directory / "results.json").write_text('{"summary": {"psnr": 20.5}}')
        callback.on_job_end(config, outcome)
    assert [entry.status for entry in points.read_statuses(folder)] == ["finished", "failed"]
    table = (folder / "table.md").read_text()
    assert "1 of 2 points are finished, 1 failed" in table
    assert "model.network.frames=3: No such clips." in table
    assert "| 1 | 20.500 |" in table
    assert not json.loads((folder / "table.json").read_text())["complete"]
    with pytest.raises(SystemExit) as left:
        callback.on_multirun_end(whole)
    assert left.value.code == 1
    assert "hydra.launcher.retry=true" in capsys.readouterr().out
    columns["psnr"] = "results/sumary/psnr"  # Hydra turns errors of callbacks into warnings
    with pytest.raises(SystemExit) as left:
        study().on_multirun_end(whole)
    assert left.value.code == 1
    assert "KeyError" in capsys.readouterr().err


@pytest.mark.long
def test_a_running_run_is_not_resumed(tmp_path):
    config = OmegaConf.create({"resume": True})
    with claim_directory(config, tmp_path / "run"):
        with pytest.raises(UserError, match="Another process runs in "), claim_directory(config, tmp_path / "run"):
            pass
        assert (tmp_path / "run" / "config.yaml").read_text() == "resume: true\n"
    with claim_directory(config, tmp_path / "run"):
        pass


@pytest.mark.slow
def test_failed_and_killed_points_are_reported_and_the_others_run(clips, tmp_path):  # noqa: F811
    kill = "{_target_: tests.sweeps.test_sweeps.KillOnce, frames: ${model.network.frames}, marker: '%s'}"
    command = ["-m", *SWEEP, f"data.root={clips}", f"paths.runs={tmp_path / 'runs'}", "model.network.frames=9999,3,1"]
    command += [f"+callbacks.kill={kill % (tmp_path / 'killed')}", "hydra.launcher.at_once=2"]
    output = run(*command, fails=True)
    assert "Failed: model.network.frames=9999: None of the 2 training clips has the 9999 frames" in output
    assert "Failed: model.network.frames=3: Ended by SIGKILL" in output
    assert "2 of 3 points failed" in output
    found = entries(tmp_path / "runs")
    assert {key: entry.status for key, entry in found.items()} == {"9999": "failed", "3": "failed", "1": "finished"}
    finished = tmp_path / "runs" / found["1"].directory / "results.json"
    written = finished.stat().st_mtime_ns

    output = run(*command, fails=True)  # only failed points are left
    assert output.count("Failed before: ") == 2
    assert "Point" not in output
    output = run(*command, "hydra.launcher.retry=true", fails=True)
    assert output.count("Point ") == 2  # the killed one resumes from its checkpoint
    assert "1 of 3 points failed" in output
    again = entries(tmp_path / "runs")
    assert {key: entry.status for key, entry in again.items()} == {"9999": "failed", "3": "finished", "1": "finished"}
    assert finished.stat().st_mtime_ns == written
    assert again["1"] == found["1"]
    by_hand = subprocess.run(shlex.split(again["1"].command), cwd=ROOT, capture_output=True, text=True)
    assert by_hand.returncode == 0
    assert "is finished, with results.json: nothing left to do." in by_hand.stdout


@pytest.mark.slow
def test_an_evaluation_waits_for_its_training_and_is_finished_in_a_repeated_sweep(clips, tmp_path):  # noqa: F811
    command = ["-m", *TINY, "model=wdvr3d", "data.test_frames=2", "trainer.max_steps=2", f"data.root={clips}"]
    command += [
        f"paths.runs={tmp_path / 'runs'}",
        "test=own,trained,ensemble4",
        "hydra.launcher.at_once=3",
    ]
    assert run(*command).count("Finished in ") == 3
    output = run(*command)
    assert output.count("Finished before: ") == 3
    assert "Point" not in output


def of(folder: Path) -> list[str]:
    """The processes that have ``folder`` on their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        found += [process.name] if any(str(folder) in word for word in words) else []
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_ends_its_points_and_resumes(clips, tmp_path, number):  # noqa: F811
    if not Path("/proc").exists():
        pytest.skip("needs /proc")
    steps = ["trainer.max_steps=60", "trainer.val_check_interval=60", "trainer.devices=2", "trainer.strategy=ddp"]
    command = ["-m", *SWEEP, *steps, f"data.root={clips}", f"paths.runs={tmp_path}", "model.network.frames=1,3"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where these tests run in a shell's background
    sweeping = subprocess.Popen([sys.executable, "-m", "src.run", *command], cwd=ROOT)
    deadline = time.monotonic() + 300
    while not list(tmp_path.rglob("last.ckpt")):
        assert time.monotonic() < deadline
        assert sweeping.poll() is None
        time.sleep(0.1)
    assert len(of(tmp_path)) >= 3  # the sweep, and a point of two ranks
    sweeping.send_signal(number)
    assert sweeping.wait(60) == 130
    assert of(tmp_path) == []
    (entry,) = entries(tmp_path).values()
    assert (entry.status, entry.message) == ("running", "Interrupted. Run the same command again to continue.")
    run(*command)
    for entry in entries(tmp_path).values():
        assert (entry.status, entry.message) == ("finished", "")
        with (tmp_path / entry.directory / "metrics.csv").open() as file:
            steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
        assert steps == sorted(set(steps))
        assert steps[-1] == 59
        assert len(steps) >= 59  # the row of the very step that was cut may be lost


@pytest.mark.slow
def test_two_ranks_in_a_sweep_are_two_ranks(clips, tmp_path):  # noqa: F811
    common = [option for option in SWEEP if not option.startswith("trainer.devices")]
    common += ["trainer=ddp", "trainer.devices=2", f"data.root={clips}"]
    os.environ["LOCAL_RANK"] = "0"  # as an earlier training leaves it
    try:
        run("-m", *common, f"paths.runs={tmp_path / 'sweep'}", "seed=0,1")
    finally:
        del os.environ["LOCAL_RANK"]
    found = entries(tmp_path / "sweep")
    assert [entry.status for entry in found.values()] == ["finished", "finished"]
    for seed, entry in found.items():
        run(*common, f"paths.runs={tmp_path / 'alone'}", f"seed={seed}")
        ours, theirs = (
            json.loads((tmp_path / place / entry.directory / "results.json").read_text())["clips"]
            for place in ("sweep", "alone")
        )
        assert ours.keys() == theirs.keys() == {"left", "right"}
        for name, clip in theirs.items():
            assert ours[name]["psnr"] == pytest.approx(clip["psnr"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "submitit_local"])
def test_other_launchers_write_the_same(clips, tmp_path, launcher):  # noqa: F811
    if launcher == "submitit_local":
        pytest.importorskip(
            "hydra_plugins.hydra_submitit_launcher", reason="needs the extra: pip install -e '.[slurm]'"
        )
    command = ["ablation=wdvr_window_size", *SWEEP, f"data.root={clips}", f"paths.runs={tmp_path}"]
    command += [f"hydra/launcher={launcher}"]
    run(*command, "model.network.frames=1,9999,3", fails=True)
    assert {k: e.status for k, e in entries(tmp_path).items()} == {"1": "finished", "9999": "failed", "3": "finished"}
    (table,) = tmp_path.rglob("table.md")
    assert "2 of 3 points are finished, 1 failed" in table.read_text()
    before = next(tmp_path.rglob("results.json")).stat().st_mtime_ns
    output = run(*command, "model.network.frames=1,9999,3", fails=True)  # resumes without resume=true
    assert "already holds a run" not in output
    assert next(tmp_path.rglob("results.json")).stat().st_mtime_ns == before
