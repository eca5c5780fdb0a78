"""Interrupted training resumes bit-exactly, from any step and any kind of interruption."""

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

from src.config.build import build_data, build_loggers, build_restorer, build_trainer, build_training_network
from src.config.composition import compose
from src.errors import CheckpointError
from src.training.checkpointing import DurableIO, MetricsFile, TrainingStopped, find_last_checkpoint
from tests.tasks.test_tasks import TINY, clips  # noqa: F401 - the fixture

pytestmark = pytest.mark.long

QUIET = ["callbacks.narrator=null", "callbacks.samples=null", "data.test_frames=1", "data.validate_frames=2"]
STEPS = 7  # an epoch has two; validation after every third
OPTIONS = ["trainer.val_check_interval=3", "callbacks.last.every_n_train_steps=2", "trainer.log_every_n_steps=2"]


class Interrupt(Callback):
    """Interrupt training at a hook of a step, as a killed process would."""

    def __init__(self, moment: str, step: int, error=InterruptedError) -> None:
        def interrupt(trainer, *rest, **more):
            if trainer.global_step == step and not trainer.sanity_checking:
                raise error

        setattr(self, moment, interrupt)


def train(clips: Path, directory: Path, *overrides: str, watch=(), resume=False):  # noqa: F811
    """Train as task=train does, with its data, callbacks, loggers and checkpoints; return the last checkpoint."""
    config = compose("model=edvr_m", *TINY, *QUIET, f"data.root={clips}", *OPTIONS, *overrides)
    torch.manual_seed(0)
    restorer = build_restorer(config, build_training_network(config))
    trainer = build_trainer(config, directory, training=True)
    trainer.callbacks[:0] = watch
    trainer.loggers = build_loggers(config, directory)
    last = find_last_checkpoint(directory) if resume else None
    saved = torch.load(last, weights_only=True) if last else {}
    trainer.loggers[0].rewind(saved)
    trainer.fit(restorer, datamodule=build_data(config, restorer), ckpt_path=last, weights_only=True)
    return torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)


def figures(directory: Path) -> list[dict[str, str]]:
    """Read the rows of metrics.csv without measured times."""
    with (directory / "metrics.csv").open(newline="") as stream:
        rows = [{k: v for k, v in row.items() if v and "second" not in k} for row in csv.DictReader(stream)]
    return [row for row in rows if row.keys() - {"step", "epoch"}]


def same(one, other, path="") -> None:
    """Assert that two checkpoints are equal, down to the last bit and counter."""
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
    """Strip a checkpoint of its path, measured times, and the counters that Lightning writes and never reads."""
    if isinstance(content, dict):
        kept = {k: value for k, value in content.items() if k != "current_score" and "second" not in str(k)}
        if "epoch_progress" in kept:  # resumed between two epochs, Lightning has started one less
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


def test_the_last_step_is_saved_where_a_validation_without_clips_is_due(clips, tmp_path):  # noqa: F811
    assert train(clips, tmp_path, "trainer.max_steps=3", "data.validate_clips=0")["global_step"] == 3


@pytest.mark.parametrize(("moment", "step"), MOMENTS)
def test_resuming_from_any_moment_is_exact(clips, whole, tmp_path, moment, step):  # noqa: F811
    uncut, directory = whole
    more = f"trainer.max_steps={STEPS}"
    with pytest.raises(InterruptedError):
        train(clips, tmp_path, more, watch=[Interrupt(moment, step)])
    resumed = train(clips, tmp_path, more, resume=True)
    same(elsewhere(resumed, tmp_path), elsewhere(uncut, directory))
    assert figures(tmp_path) == figures(directory)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_resuming_between_two_epochs_is_exact(clips, tmp_path, step):  # noqa: F811
    """An epoch has two steps."""
    more = ["trainer.max_steps=5", "data.samples=1", "data.patches_per_read=2", "callbacks.last.every_n_train_steps=1"]
    uncut = train(clips, tmp_path / "uncut", *more)
    with pytest.raises(InterruptedError):
        train(clips, tmp_path / "cut", *more, watch=[Interrupt("on_train_batch_start", step)])
    resumed = train(clips, tmp_path / "cut", *more, resume=True)
    assert uncut["epoch"] == 2
    same(elsewhere(resumed, tmp_path / "cut"), elsewhere(uncut, tmp_path / "uncut"))
    assert figures(tmp_path / "cut") == figures(tmp_path / "uncut")


def test_a_truncated_checkpoint_falls_back_to_the_previous_one(clips, whole, tmp_path):  # noqa: F811
    uncut, directory = whole
    more = f"trainer.max_steps={STEPS}"
    with pytest.raises(InterruptedError):
        train(clips, tmp_path, more, watch=[Interrupt("on_train_batch_start", 5)])
    last, previous = (tmp_path / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    assert [torch.load(file, weights_only=True)["global_step"] for file in (last, previous)] == [4, 3]
    with last.open("r+b") as stream:
        stream.truncate(last.stat().st_size // 2)
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged \(.+\) and was renamed.*previous checkpoint"):
        resumed = train(clips, tmp_path, more, resume=True)
    same(elsewhere(resumed, tmp_path), elsewhere(uncut, directory))
    assert figures(tmp_path) == figures(directory)


def test_a_flipped_bit_is_detected_and_two_damaged_files_are_an_error(whole, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    content = bytearray((whole[1] / "checkpoints" / "last.ckpt").read_bytes())
    (folder / "previous.ckpt").write_bytes(content)
    content[len(content) // 2] ^= 1
    (folder / "last.ckpt").write_bytes(content)
    with pytest.warns(UserWarning, match="wrong checksum"):
        assert find_last_checkpoint(tmp_path) == folder / "previous.ckpt"
    (folder / "previous.ckpt").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(CheckpointError, match=r"All checkpoints of this run are damaged.*previous\.ckpt"),
    ):
        find_last_checkpoint(tmp_path)
    assert find_last_checkpoint(tmp_path / "elsewhere") is None


LIMITED = """
import resource, signal, sys, warnings
import torch
from src.training.checkpointing import DurableIO
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
DurableIO().save_checkpoint({"weights": torch.zeros(100_000)}, sys.argv[1])
"""


def test_a_failed_write_keeps_the_previous_file(tmp_path):
    path = tmp_path / "best.ckpt"
    DurableIO().save_checkpoint({"weights": torch.ones(3)}, path)
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    assert "best.ckpt (File too large). Training continues, and earlier checkpoints are kept" in done.stderr
    assert torch.load(path, weights_only=True)["weights"].tolist() == [1, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_saves_the_step_and_stops(clips, whole, tmp_path, name):  # noqa: F811
    uncut, directory = whole
    number, more = getattr(signal, name), f"trainer.max_steps={STEPS}"

    class SendSignal(Callback):
        def on_before_optimizer_step(self, trainer, *rest):
            if trainer.global_step == 4:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left:
        train(clips, tmp_path, more, "callbacks.last.every_n_train_steps=100", watch=[SendSignal()])
    assert isinstance(left.value.__context__, TrainingStopped)
    assert left.value.__context__.number == number
    assert torch.load(find_last_checkpoint(tmp_path), weights_only=True)["global_step"] == 5
    assert signal.getsignal(number) == before
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning disables it
    resumed = train(clips, tmp_path, more, resume=True)
    same(elsewhere(resumed, tmp_path), elsewhere(uncut, directory))
    assert figures(tmp_path) == figures(directory)


def test_rows_of_a_killed_process_are_repaired(tmp_path):
    log = MetricsFile(tmp_path)
    for step in (1, 3, 5):
        log.log_metrics({"train/loss": step / 7}, step)
        log.save()
    log.log_metrics({"validate/psnr": 1.5}, 5)  # a new column
    log.save()
    file = tmp_path / "metrics.csv"
    file.write_text(file.read_text() + "7,0.1")  # incomplete
    again = MetricsFile(tmp_path)
    again.rewind({"global_step": 6, "callbacks": {"LastCheckpoint": {"row": {"step": 5, "train/loss": 5 / 7}}}})
    assert len(figures(tmp_path)) == 4
    again.rewind({"global_step": 4, "callbacks": {"LastCheckpoint": {"row": {"step": 3, "train/loss": 3 / 7}}}})
    again.log_metrics({"train/loss": 0.5, "test/psnr": 2.0}, 5)
    again.save()
    rows = [(row["step"], float(row["train/loss"])) for row in figures(tmp_path)]
    assert rows == [("1", 1 / 7), ("3", 3 / 7), ("5", 0.5)]
    MetricsFile(tmp_path).rewind({})
    assert not file.exists()
