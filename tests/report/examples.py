"""Example runs of WDVR's Table 2, and readers of the page."""

from __future__ import annotations

import json
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from src.config.composition import CONF, compose
from src.config.options import run_task
from src.metrics import FrameScore
from src.protocols import Protocol, results, write_results
from src.report.study_results import load_results
from src.sweeps.published import published, studies

EXPERIMENTS = CONF.parent / "experiments"
TABLES = [table for paper in published(EXPERIMENTS) for table in paper.tables]
UNSAFE_NAME = "<script>alert(1)</script>|`x`"


def write_run(runs: Path, design: str, seed: int, psnr: float, clip: str = "street") -> Path:
    """Write a run of WDVR's Table 2 as training does, with pictures, and its point of the sweep."""
    given = ["experiment=wdvr3d_reds", f"model/network/trunk={design}", "size=mini", "data=procedural", f"seed={seed}"]
    directory = runs / "wdvr3d_reds" / f"data=procedural,model_network_trunk={design},size=mini" / f"seed={seed}"
    (directory / "samples").mkdir(parents=True)
    OmegaConf.save(compose(*given, f"paths.runs={runs}"), directory / "config.yaml", resolve=True)
    frames = [
        FrameScore(clip=0, time=Fraction(t), psnr=psnr + t, ssim=0.9, temporal_difference_error=None) for t in (0, 1)
    ]
    about = {"degradation": {"steps": []}, "data": "datasets/procedural", "commit": "abc", "input_frames_limit": 2}
    write_results(directory / "results.json", results({0: frames}, protocol=Protocol("rgb"), names=[clip], **about))
    rows = [f"{step},{1 / (step + 1)},{psnr + step / 100}" for step in (0, 50, 100)]
    (directory / "metrics.csv").write_text("\n".join(["step,train/loss,validate/psnr", *rows]) + "\n")
    (directory / "commit.txt").write_text("abcdef0123456789\n")
    picture = np.zeros((16, 72, 3), np.uint8)
    picture[:, 24:48] = 255
    Image.fromarray(picture).save(directory / "samples" / f"{clip.replace('/', '_')}_step0000100.png")
    points = runs / "ablations" / "wdvr_block_design" / "data=procedural,size=mini" / "points"
    write_point(points / f"{design}-{seed}.json", ["ablation=wdvr_block_design", *given], directory, "finished")
    return directory


def write_point(file: Path, overrides: list[str], directory: Path, status: str, message: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "overrides": overrides,
        "directory": str(directory),
        "status": status,
        "seconds": 1.0,
        "message": message,
    }
    file.write_text(json.dumps(content))


def make_report(runs: Path, *more: str) -> tuple[str, dict[str, int], Path]:
    config = compose("task=report", f"paths.runs={runs}", *more)
    counts = run_task(config, Path("."))
    return (Path(config.output) / "index.html").read_text(), counts, Path(config.output)


def load_block_design(runs: Path) -> tuple:
    table = next(table for table in TABLES if table.key == "table2_block_design")
    (study,) = studies(table)
    (result,) = load_results(study, runs)
    return table, result


class Elements(HTMLParser):
    """All elements of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    handle_startendtag = handle_starttag

    def of(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag == name]


class Texts(HTMLParser):
    """The text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(page)

    def handle_data(self, data):
        self.text += data
