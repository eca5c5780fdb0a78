"""Training that is cut off goes on as if it had not been: at any step, in any way, and nothing of it is lost."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning import Callback

from src.config.build import build_data, build_loggers, build_restorer, build_trainer, start_network
from src.config.composition import compose
from src.errors import CheckpointError
from src.training.checkpointing import DurableIO, MetricsFile, Stopped, newest
from tests.tasks.test_tasks import TINY, clips  # noqa: F401 - the fixture

QUIET = ["callbacks.narrator=null", "callbacks.samples=null", "data.test_frames=1", "data.validate_frames=2"]
STEPS = 7  # an epoch has two; validation after every third
OPTIONS = ["trainer.val_check_interval=3", "callbacks.last.every_n_train_steps=2", "trainer.log_every_n_steps=2"]


class Cut(Callback):
    """Ends training at a moment of a step, as a process that is killed would."""

    def __init__(self, moment: str, step: int, how=InterruptedError) -> None:
        def end(trainer, *rest, **more):
            if trainer.global_step == step and not trainer.sanity_checking:
                raise how

        setattr(self, moment, end)


def train(clips: Path, directory: Path, *overrides: str, watch=(), resume=False):  # noqa: F811
    """What task=train does with data, callbacks, loggers and checkpoints; returns the last checkpoint."""
    config = compose("model=edvr_m", *TINY, *QUIET, f"data.root={clips}", *OPTIONS, *overrides)
    torch.manual_seed(0)
    restorer = build_restorer(config, start_network(config))
    trainer = build_trainer(config, directory, training=True)
    trainer.callbacks[:0] = watch
    trainer.loggers = build_loggers(config, directory)
    found = newest(directory) if resume else None
    saved = torch.load(found, weights_only=True) if found else {}
    trainer.loggers[0].go_on(saved)
    trainer.fit(restorer, datamodule=build_data(config, restorer), ckpt_path=found, weights_only=True)
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


def figures(directory: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without what a clock says."""
    with (directory / "metrics.csv").open(newline="") as stream:
        rows = [{k: v for k, v in row.items() if v and "second" not in k} for row in csv.DictReader(stream)]
    return [row for row in rows if row.keys() - {"step", "epoch"}]


def same(one, other, path="") -> None:
    """Fails where two checkpoints differ, down to the last bit and the last count."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{path}.{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


def elsewhere(content, directory: Path):
    """A checkpoint without its place, what a clock says, and what Lightning counts or tells and never uses."""
    if isinstance(content, dict):
        kept = {k: value for k, value in content.items() if k != "current_score" and "second" not in str(k)}
        if "epoch_progress" in kept:  # after a cut between two epochs Lightning has begun one less, and ended as many
            kept["epoch_progress"] = {
                k: {name: count[name] for name in ("processed", "completed")}
                for k, count in kept["epoch_progress"].items()
            }
        return {elsewhere(key, directory): elsewhere(value, directory) for key, value in kept.items()}
    return content.replace(str(directory), "") if isinstance(content, str) else content


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):  # noqa: F811
    directory = tmp_path_factory.mktemp("whole")
    return train(clips, directory, f"trainer.max_steps={STEPS}"), directory


MOMENTS = [
    ("on_train_batch_start", 3),
    ("on_before_optimizer_step", 5),
    ("on_train_batch_end", 4),
    ("on_train_batch_end", 6),
    ("on_validation_start", 3),
    ("on_validation_batch_end", 6),
    ("on_validation_end", 6),
    ("on_save_checkpoint", 2),
    ("on_save_checkpoint", 3),
    ("on_save_checkpoint", 7),
]


@pytest.mark.parametrize(("moment", "step"), MOMENTS)
def test_a_cut_at_any_moment_changes_nothing(clips, whole, tmp_path, moment, step):  # noqa: F811
    uncut, directory = whole
    more = f"trainer.max_steps={STEPS}"
    with pytest.raises(InterruptedError):
        train(clips, tmp_path, more, watch=[Cut(moment, step)])
    resumed = train(clips, tmp_path, more, resume=True)
    same(elsewhere(resumed, tmp_path), elsewhere(uncut, directory))
    assert figures(tmp_path) == figures(directory)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_cut_between_two_epochs_changes_nothing(clips, tmp_path, step):  # noqa: F811
    """An epoch has two steps."""
    more = ["trainer.max_steps=5", "data.samples=1", "data.patches_per_read=2", "callbacks.last.every_n_train_steps=1"]
    uncut = train(clips, tmp_path / "uncut", *more)
    with pytest.raises(InterruptedError):
        train(clips, tmp_path / "cut", *more, watch=[Cut("on_train_batch_start", step)])
    resumed = train(clips, tmp_path / "cut", *more, resume=True)
    assert uncut["epoch"] == 2
    same(elsewhere(resumed, tmp_path / "cut"), elsewhere(uncut, tmp_path / "uncut"))
    assert figures(tmp_path / "cut") == figures(tmp_path / "uncut")


def test_a_checkpoint_that_is_cut_off_gives_way_to_the_one_before(clips, whole, tmp_path):  # noqa: F811
    uncut, directory = whole
    more = f"trainer.max_steps={STEPS}"
    with pytest.raises(InterruptedError):
        train(clips, tmp_path, more, watch=[Cut("on_train_batch_start", 5)])
    last, previous = (tmp_path / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    assert [torch.load(file, weights_only=True)["global_step"] for file in (last, previous)] == [4, 3]
    with last.open("r+b") as stream:
        stream.truncate(last.stat().st_size // 2)
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged \(.+\) and set aside; training goes on from the one"):
        resumed = train(clips, tmp_path, more, resume=True)
    same(elsewhere(resumed, tmp_path), elsewhere(uncut, directory))
    assert figures(tmp_path) == figures(directory)


def test_a_byte_that_has_changed_is_seen_and_two_damaged_files_are_told(whole, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    content = bytearray((whole[1] / "checkpoints" / "last.ckpt").read_bytes())
    (folder / "previous.ckpt").write_bytes(content)
    content[len(content) // 2] ^= 1
    (folder / "last.ckpt").write_bytes(content)
    with pytest.warns(UserWarning, match="not what was written"):
        assert newest(tmp_path) == folder / "previous.ckpt"
    (folder / "previous.ckpt").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(CheckpointError, match=r"No checkpoint of this run.*previous\.ckpt"),
    ):
        newest(tmp_path)
    assert newest(tmp_path / "elsewhere") is None


LIMITED = """
import resource, signal, sys, warnings
import torch
from src.training.checkpointing import DurableIO
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
DurableIO().save_checkpoint({"weights": torch.zeros(100_000)}, sys.argv[1])
"""


def test_a_file_that_cannot_be_written_leaves_the_one_that_is_there(tmp_path):
    path = tmp_path / "best.ckpt"
    DurableIO().save_checkpoint({"weights": torch.ones(3)}, path)
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    assert "best.ckpt could not be written (File too large): the checkpoints before it stay" in done.stderr
    assert torch.load(path, weights_only=True)["weights"].tolist() == [1, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_has_the_step_saved_and_ends(clips, whole, tmp_path, name):  # noqa: F811
    uncut, directory = whole
    number, more = getattr(signal, name), f"trainer.max_steps={STEPS}"

    class Asks(Callback):
        def on_before_optimizer_step(self, trainer, *rest):
            if trainer.global_step == 4:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left:
        train(clips, tmp_path, more, "callbacks.last.every_n_train_steps=100", watch=[Asks()])
    assert isinstance(left.value.__context__, Stopped)
    assert left.value.__context__.number == number
    assert torch.load(newest(tmp_path), weights_only=True)["global_step"] == 5
    assert signal.getsignal(number) == before
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has turned it off
    resumed = train(clips, tmp_path, more, resume=True)
    same(elsewhere(resumed, tmp_path), elsewhere(uncut, directory))
    assert figures(tmp_path) == figures(directory)


def test_rows_that_a_killed_process_has_left_are_put_in_order(tmp_path):
    log = MetricsFile(tmp_path)
    for step in (1, 3, 5):
        log.log_metrics({"train/loss": step / 7}, step)
        log.save()
    log.log_metrics({"validate/psnr": 1.5}, 5)  # a new column
    log.save()
    file = tmp_path / "metrics.csv"
    file.write_text(file.read_text() + "7,0.1")  # cut off
    again = MetricsFile(tmp_path)
    again.go_on({"global_step": 6, "callbacks": {"LastCheckpoint": {"row": {"step": 5, "train/loss": 5 / 7}}}})
    assert len(figures(tmp_path)) == 4
    again.go_on({"global_step": 4, "callbacks": {"LastCheckpoint": {"row": {"step": 3, "train/loss": 3 / 7}}}})
    again.log_metrics({"train/loss": 0.5, "test/psnr": 2.0}, 5)
    again.save()
    rows = [(row["step"], float(row["train/loss"])) for row in figures(tmp_path)]
    assert rows == [("1", 1 / 7), ("3", 3 / 7), ("5", 0.5)]
    MetricsFile(tmp_path).go_on({})
    assert not file.exists()
