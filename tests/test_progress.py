"""Progress in logs."""

from __future__ import annotations

import io
import json

import pytest

from src.progress import ProgressLog, format_duration, has_bar
from src.video.writer import VideoWriter
from tests.command_line import call


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def follow(total: int, seconds_each: float, **options: object) -> list[str]:
    """Do all units, one after the other; return the lines."""
    stream, clock = io.StringIO(), Clock()
    log = ProgressLog("a.mp4", total, "frames", stream=stream, clock=clock, **options)
    for done in range(log._first + 1, total + 1):
        clock.now += seconds_each
        log.update(done)
    return stream.getvalue().splitlines()


def test_lines_come_at_1_2_5_10_and_every_10_percent():
    lines = follow(1000, 0.1)
    assert [line.split("(")[1].split(")")[0] for line in lines] == [
        *("1%", "2%", "5%", "10%", "20%", "30%", "40%", "50%", "60%", "70%", "80%", "90%", "100%")
    ]
    assert lines[3] == "a.mp4: 100 of 1,000 frames (10%), 10.00 a second, 1:30 min left"
    assert lines[-1] == "a.mp4: 1,000 of 1,000 frames (100%), 10.00 a second"


def test_lines_are_five_minutes_apart_at_most():
    lines = follow(1000, 60)
    assert [int(line.split(":")[1].split()[0].replace(",", "")) for line in lines[:5]] == [5, 10, 15, 20, 25]
    assert lines[0] == "a.mp4: 5 of 1,000 frames (0%), 0.02 a second, 16:35 h left"
    assert follow(10, 600)[0] == "a.mp4: 1 of 10 frames (10%), 600 s each, 1:30 h left"


def test_the_rate_is_that_of_this_run():
    lines = follow(100, 0.5, done=50)
    assert lines[0] == "a.mp4: 60 of 100 frames (60%), 2.00 a second, 20 s left"
    assert len(lines) == 5


def test_json_is_an_object_a_second_and_the_last():
    objects = [json.loads(line) for line in follow(10, 0.4, mode="json")]
    assert [entry["done"] for entry in objects] == [3, 6, 9, 10]
    assert objects[0] == {
        "task": "a.mp4", "done": 3, "total": 10, "unit": "frames", "per_second": 2.5, "seconds_left": 2.8
    }  # fmt: skip


def test_a_terminal_has_a_bar_instead():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    ProgressLog("a.mp4", 1, "frames", stream=terminal).update(1)
    assert terminal.getvalue() == ""
    ProgressLog("a.mp4", 1, "frames", mode="json", stream=terminal).update(1)
    assert json.loads(terminal.getvalue())["done"] == 1
    assert (has_bar(None, terminal), has_bar("json", terminal), has_bar(None, io.StringIO())) == (True, False, False)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (3599, "59:59 min"), (7380, "2:03 h")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.long
def test_a_restoration_and_a_training_tell_a_log_how_far_they_are(tmp_path):
    import torch

    frames = torch.randint(0, 255, (40, 48, 64, 3), dtype=torch.uint8)
    (tmp_path / "clips").mkdir()
    for name in ("a", "b"):
        with VideoWriter(tmp_path / "clips" / f"{name}.mp4", 25, "lossless") as writer:
            for frame in frames:
                writer.write(frame)
    restore = ["task=restore", "model=bicubic", "model.network.scale=1", f"input={tmp_path / 'clips' / 'a.mp4'}"]
    done = call(*restore, f"output={tmp_path / 'out.mp4'}")
    assert done.returncode == 0, done.stderr
    assert "a.mp4: 20 of 40 frames (50%), " in done.stderr
    done = call(*restore, f"output={tmp_path / 'two.mp4'}", "progress=json")
    objects = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert (objects[-1]["done"], objects[-1]["total"], objects[-1]["unit"]) == (40, 40, "frames")
    train = [
        "experiment=wdvr2d_reds", "size=mini", "size.width=0.125", "data=folder", f"data.root={tmp_path / 'clips'}",
        "data.crop=16", "data.batch_size=1", "logger=csv", "trainer.max_steps=4", "trainer.accelerator=cpu",
        f"paths.runs={tmp_path / 'runs'}", "data.test_frames=3",
    ]  # fmt: skip
    done = call(*train)
    assert done.returncode == 0, done.stderr
    assert "Training: 1 of 4 steps (25%)" in done.stderr
    assert "Training: 4 of 4 steps (100%)" in done.stderr
    assert "Evaluation: 2 of 2 clips (100%)" in done.stderr
