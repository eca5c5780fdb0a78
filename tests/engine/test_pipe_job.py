"""Restoring through pipes: times of variable rates."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from src.engine.options import RestoreOptions
from src.engine.pipe_job import restore_pipe
from src.papers.baselines import Blend
from src.video.reader import open_video
from src.video.writer import VideoWriter


def test_times_of_a_variable_rate_come_through_a_pipe(tmp_path, monkeypatch):
    """Frames in between lie half-way between those before and after them, wherever these are."""
    moments = [Fraction(n, 100) for n in (0, 4, 8, 20, 24, 50, 54, 58)]
    with VideoWriter(tmp_path / "in.mkv", 25, "ffv1", tick=Fraction(1, 1000)) as writer:
        for number, moment in enumerate(moments):
            writer.write(torch.full((16, 24, 3), 10 * number, dtype=torch.uint8), moment)
    with (tmp_path / "in.mkv").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        options = RestoreOptions(codec="ffv1", cuts=False)
        restore_pipe(Blend(scale=1), "-", str(tmp_path / "out.mkv"), options, torch.device("cpu"), lambda _: None)
    halves = [time for pair in pairwise(moments) for time in (pair[0], sum(pair) / 2)]
    with open_video(tmp_path / "out.mkv") as reader:
        written = [float(time) for time in reader.times]
    assert written == pytest.approx([float(time) for time in [*halves, moments[-1]]], abs=0.002)
