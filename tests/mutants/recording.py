"""A pytest plugin that records the duration of each test: ``-p tests.mutants.recording``."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

FILE = "MUTANTS_DURATIONS"  # the variable of the environment that names the file
_seconds: Counter[str] = Counter()


def pytest_runtest_logreport(report: Any) -> None:
    _seconds[report.nodeid] += report.duration


def pytest_sessionfinish(session: Any) -> None:
    if not hasattr(session.config, "workerinput"):  # the process that collects the reports of all
        Path(os.environ[FILE]).write_text(json.dumps(_seconds), encoding="utf-8")
