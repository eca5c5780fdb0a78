"""Example runs and their report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.examples import UNSAFE_NAME, make_report, write_point, write_run


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """Three of four designs, one of them with two seeds; the fourth failed."""
    runs = tmp_path_factory.mktemp("runs")
    for design, seed, psnr in [("tsas", 0, 27.0), ("tsas", 1, 27.2), ("ias", 0, 26.0)]:
        write_run(runs, design, seed, psnr)
    odd = write_run(runs, "iai", 0, 25.0, clip=UNSAFE_NAME)
    (odd / "wandb_url.txt").write_text("https://wandb.ai/someone/zeitlupe/runs/1\n")
    place = runs / "ablations" / "wdvr_block_design" / "data=procedural,size=mini" / "points" / "stas-0.json"
    given = ["experiment=wdvr3d_reds", "model/network/trunk=stas", "size=mini", "data=procedural", "seed=0"]
    write_point(place, given, runs / "nowhere", "failed", f"out of memory {UNSAFE_NAME}")
    return runs


@pytest.fixture(scope="session")
def page(runs) -> str:
    return make_report(runs)[0]
