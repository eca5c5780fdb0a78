"""A short make torture: each kind of fault once, SIGKILL three times."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.tasks.test_tasks import ROOT


@pytest.mark.slow
def test_runs_survive_every_fault():
    command = [sys.executable, "-m", "tests.torture", "--kills", "3", "--others", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.count("\n| ") == 15  # two header lines and thirteen faults
