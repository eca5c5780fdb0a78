"""Two real processes produce the scores and losses of one, and fail together."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from lightning import Callback

from src.errors import UserError
from tests.tasks.test_tasks import ROOT, TINY, clips, run, trained  # noqa: F401 - fixtures


@pytest.mark.slow
def test_two_ranks_score_like_one(clips, trained, tmp_path):  # noqa: F811
    last = trained / "checkpoints" / "last.ckpt"
    both = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    common = [option for option in TINY if not option.startswith("trainer.")]
    run("task=evaluate", *common, *both, f"data.root={clips}", f"checkpoint={last}", f"paths.runs={tmp_path}")
    (scores,) = tmp_path.rglob("results.json")
    ours, theirs = (json.loads(path.read_text()) for path in (scores, trained / "results.json"))
    assert ours["clips"].keys() == theirs["clips"].keys()
    for name, clip in theirs["clips"].items():
        assert len(ours["clips"][name]["frames"]) == len(clip["frames"])
        assert ours["clips"][name]["psnr"] == pytest.approx(clip["psnr"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [[], ["model.checkpointing=true", "trainer.accumulate_grad_batches=2", "data.batch_per_device=true"]]
)
def test_two_ranks_train(clips, tmp_path, more):  # noqa: F811
    both = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_steps=2"]
    common = [option for option in TINY if not option.startswith(("trainer.devices", "trainer.accelerator"))]
    run("experiment=zsm_vimeo", *both, *common, *more, f"data.root={clips}", f"paths.runs={tmp_path}")
    (scores,) = tmp_path.rglob("results.json")
    assert set(json.loads(scores.read_text())["clips"]) == {"left", "right"}


class Dies(Callback):
    """End one rank within a step: with a UserError, another error, or SIGKILL."""

    def __init__(self, rank: int, cause: str) -> None:
        self.rank, self.cause = rank, cause

    def on_before_optimizer_step(self, trainer, *rest):
        if trainer.global_rank == self.rank and trainer.global_step == 1:
            if self.cause == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError("The scene is gone.") if self.cause == "user_error" else ValueError("no such scene")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "cause", "sentence"),
    [
        (1, "user_error", "Rank 1 failed: The scene is gone."),
        (1, "error", "Rank 1 failed: ValueError: no such scene, see above"),
        (1, "killed", "died without an error message"),
        (0, "user_error", "The scene is gone."),
        (0, "killed", ""),
    ],
)
def test_a_dying_rank_ends_the_other(clips, tmp_path, rank, cause, sentence):  # noqa: F811
    dies = f"+callbacks.dies={{_target_: tests.tasks.test_distributed.Dies, rank: {rank}, cause: {cause}}}"
    both = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_steps=500"]
    common = [option for option in TINY if not option.startswith(("trainer.devices", "trainer.accelerator"))]
    before = time.monotonic()
    said = run("model=edvr_m", *both, *common, dies, f"data.root={clips}", f"paths.runs={tmp_path}", fails=True)
    assert time.monotonic() - before < 90
    last = [line for line in said.splitlines() if line and "warn" not in line.lower()][-3:]
    assert any(sentence in line for line in last), said[-3000:]
    deadline = time.monotonic() + 20
    while alive := _processes_of(tmp_path):
        assert time.monotonic() < deadline, alive
        time.sleep(0.5)


def _processes_of(place) -> list[str]:
    """Return the command lines of the processes that write to a runs folder."""
    lines = []
    for entry in os.scandir("/proc"):
        try:
            line = open(f"/proc/{entry.name}/cmdline").read().replace("\0", " ")  # noqa: SIM115
        except OSError:
            continue
        if entry.name.isdigit() and f"paths.runs={place}" in line:
            lines.append(line)
    return lines


@pytest.mark.slow
def test_two_ranks_learn_like_one(clips, tmp_path):  # noqa: F811
    """The same global batch: losses of 50 steps agree to 1e-5, and the same weights score the same to the last bit."""
    common = [option for option in TINY if not option.startswith(("trainer.devices", "trainer.accelerator"))]
    common += ["trainer.max_steps=50", "trainer.val_check_interval=50", "data.test_frames=3", "data.workers=1"]
    one = ["trainer.accelerator=cpu", "data.batch_size=4"]
    two = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=4"]
    losses, scores, last = [], [], None
    for name, ranks in (("one", one), ("two", two)):
        place = tmp_path / name
        run("model=edvr_m", *ranks, *common, f"data.root={clips}", f"paths.runs={place}")
        (file,) = place.rglob("metrics.csv")
        with file.open(newline="") as stream:
            losses.append([float(row["train/loss"]) for row in csv.DictReader(stream) if row["train/loss"]])
        last = last or file.with_name("checkpoints") / "last.ckpt"
        ranks = [option for option in ranks if not option.startswith("data")]
        run("task=evaluate", *ranks, *common, f"data.root={clips}", f"checkpoint={last}", f"paths.runs={place / 'e'}")
        (file,) = (place / "e").rglob("results.json")
        scores.append(json.loads(file.read_text())["clips"])
    assert len(losses[0]) == len(losses[1]) == 50
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) < 1e-5
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both(clips, tmp_path):  # noqa: F811
    both = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "callbacks.last.every_n_train_steps=1000"]
    common = [o for o in TINY if not o.startswith(("trainer.devices", "trainer.accelerator", "callbacks.last"))]
    command = ["model=edvr_m", *both, *common, "trainer.val_check_interval=1000", "trainer.max_steps=1000"]
    command += [f"data.root={clips}", f"paths.runs={tmp_path}"]
    start = [sys.executable, "-m", "src.run", *command]
    with subprocess.Popen(start, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not any(len(file.read_text().splitlines()) > 4 for file in tmp_path.rglob("metrics.csv")):
            assert process.poll() is None
            time.sleep(0.2)
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "SIGTERM: stopping after this step is saved" in said
    (last,) = tmp_path.rglob("last.ckpt")
    assert 2 < torch.load(last, weights_only=True)["global_step"] < 1000
    assert not _processes_of(tmp_path)
