"""The documentation's examples run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from shlex import split

import pytest
import torch

from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.command_line import ROOT, call

GUIDE = (ROOT / "docs" / "add-a-paper.md").read_text(encoding="utf-8")


def read_files() -> dict[str, str]:
    """Return the files of the guide, by path."""
    return dict(re.findall(r"^## \d\. [^`\n]*`([^`]+)`\n\n```\w+\n(.*?)```", GUIDE, flags=re.DOTALL | re.MULTILINE))


def test_the_guide_has_three_new_files() -> None:
    assert [*read_files()] == [
        "src/papers/recurrent.py",
        "conf/model/recurrent.yaml",
        "conf/experiment/recurrent_vimeo.yaml",
    ]
    assert not any((ROOT / path).exists() for path in read_files())


@pytest.mark.slow
def test_the_guide_trains_is_scored_and_restores(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for folder in ("src", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in read_files().items():
        (project / path).write_text(text, encoding="utf-8")

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "src.run", *arguments], cwd=project, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    clips = tmp_path / "clips"
    clips.mkdir()
    frames = torch.randint(0, 256, (40, 1, 1, 3), dtype=torch.uint8).expand(-1, 48, 64, -1).contiguous()
    for name in ("a", "b"):
        with VideoWriter(clips / f"{name}.mp4", Fraction(25), codec="lossless") as writer:
            for frame in frames:
                writer.write(frame)
    data = ["data=folder", f"data.root={clips}", "data.crop=32", "data.layout.hold_back=0.4", "logger=csv"]
    steps = ["size=mini", "trainer.max_steps=2", "trainer.val_check_interval=1", "callbacks.last.every_n_train_steps=1"]
    run("experiment=recurrent_vimeo", *data, *steps, f"paths.runs={tmp_path / 'runs'}")
    assert list((tmp_path / "runs").rglob("results.json"))
    (checkpoint,) = (tmp_path / "runs").rglob("last.ckpt")
    output = tmp_path / "better.mp4"
    run("task=restore", f"checkpoint={checkpoint}", f"input={clips / 'a.mp4'}", f"output={output}", "max_frames=7")
    with open_video(output) as reader:
        assert (len(reader), reader.size) == (7, (192, 256))


@pytest.mark.slow
def test_own_code_of_the_page_trains_is_scored_and_restores(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own_work.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(\"\"\"Fusion.*?)```", page, flags=re.DOTALL)
    (tmp_path / "mean_fusion.py").write_text(code, encoding="utf-8")
    train, evaluate, restore, exchange = (
        line for line in page.splitlines() if line.startswith("python") and "mean_fusion" in line
    )
    runs, output, clips = tmp_path / "runs", tmp_path / "better.mp4", tmp_path / "clips"
    clips.mkdir()
    frames = torch.randint(0, 256, (40, 1, 1, 3), dtype=torch.uint8).expand(-1, 48, 64, -1).contiguous()
    for name in ("a", "b"):
        with VideoWriter(clips / f"{name}.mp4", Fraction(25), codec="lossless") as writer:
            for frame in frames:
                writer.write(frame)
    small = [
        f"data.root={clips}",
        "data.layout.hold_back=0.4",
        f"paths.runs={runs}",
        "logger=csv",
        "data.test_frames=4",
    ]

    def run(line: str, *more: str) -> None:
        (_, _, _, *arguments), checkpoint = split(line), next(runs.rglob("last.ckpt"), "")
        names = {
            "mean_fusion.py": tmp_path / "mean_fusion.py",
            "<last.ckpt>": checkpoint,
            "holiday.mp4": clips / "a.mp4",
        }
        names |= {"better.mp4": output, "data=procedural": "data=folder"}  # which need not be rendered
        for name, path in names.items():
            arguments = [argument.replace(name, str(path)) for argument in arguments]
        done = call(*arguments, *more)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    steps = ["trainer.max_steps=2", "callbacks.last.every_n_train_steps=1", "data.crop=32"]
    run(train, *small, *steps)
    run(evaluate, *small)
    assert len(list(runs.rglob("results.json"))) == 2
    run(restore, "max_frames=2")
    assert output.is_file()
    run(exchange, *small, *steps)
    assert len(list(runs.rglob("last.ckpt"))) == 2
