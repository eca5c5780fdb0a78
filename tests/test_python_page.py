"""The page on Python runs as it stands, from another folder, and its checkpoint is taken by the tasks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from src.checkpoints import load, save
from src.config.composition import compose
from src.errors import CheckpointError
from src.papers.baselines import Bicubic
from tests.command_line import ROOT, call
from tests.data.layouts.copies import write_frames

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.mark.long
def test_the_blocks_of_the_page_run_in_another_folder(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 5
    checks = (
        "assert middle.shape == (1, 1, 3, 192, 256) and frames.shape == (5, 3, 192, 256)\n"
        "assert torch.equal(again(clip), network.eval()(clip)) and not again.training\n"
        "assert psnr(estimate, target).shape == ssim(estimate, target).shape == (1, 1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "\n".join([*blocks, checks])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "5 4"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.ckpt"]
    write_frames(tmp_path / "clips" / "a", 6, (64, 64))
    scores = ["data=folder", f"data.root={tmp_path / 'clips'}", "callbacks.samples=null", f"paths.runs={tmp_path}/runs"]
    done = call("task=evaluate", f"checkpoint={tmp_path / 'mine.ckpt'}", *scores)
    assert done.returncode == 0, done.stderr
    assert "Scored: 6 frames of 1 clip of" in done.stdout


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_a_saved_network_is_loaded(tmp_path: Path, name: str) -> None:
    description = compose("model=wdvr2d", "size=mini").model.network
    network = instantiate(description)
    save(network, tmp_path / name, description=description)
    loaded = load(tmp_path / name)
    assert loaded.geometry == network.geometry
    clip = torch.rand(1, network.geometry.window, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(clip), network.eval()(clip))


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    description = compose("model=wdvr2d", "size=mini").model.network
    with pytest.raises(CheckpointError, match="The description builds another network than this one: "):
        save(Bicubic(scale=2), tmp_path / "a.ckpt", description=description)
    network = instantiate(description)
    next(network.parameters()).data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="The weights have diverged"):
        save(network, tmp_path / "a.ckpt", description=description)
    assert not list(tmp_path.iterdir())
