"""Progress in logs: lines where there is no terminal for a bar, and JSON for programs that drive the suite."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Literal, TextIO

Mode = Literal["json"] | None
MARKS = (0.01, 0.02, 0.05, *(part / 10 for part in range(1, 11)))
LONGEST = 300.0  # seconds between two lines
SHORTEST = 1.0  # seconds between two objects of JSON


def has_bar(mode: Mode, stream: TextIO | None = None) -> bool:
    """Return whether progress is a bar: in a terminal, unless a program reads it."""
    return mode is None and (stream or sys.stderr).isatty()


class ProgressLog:
    """Write how far a task is: at 1, 2, 5 and 10 %, then every 10 %, and at least every five minutes.

    Args:
        name: of the task, or of the file that it works on.
        total: units in all.
        unit: their name in the plural, such as ``frames``.
        mode: ``json``: one object a line, at most one each second, instead of a sentence; None: sentences, and nothing
            where there is a bar.
        done: units that were done before; the rate is that of the others.
        stream: where to write; None: standard error.
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        *,
        mode: Mode = None,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.total, self.unit, self.mode = name, total, unit, mode
        self._first, self._stream, self._clock = done, stream or sys.stderr, clock
        self._start = self._last = clock()
        self._share = done / total if total else 1.0
        self._is_silent = has_bar(mode, self._stream)

    def update(self, done: int) -> None:
        """Write a line if one is due at this number of units."""
        if self._is_silent or not self.total:
            return
        share, now = done / self.total, self._clock()
        marked = any(self._share < mark <= share for mark in MARKS)
        due = now - self._last >= (SHORTEST if self.mode == "json" else LONGEST)
        if not (due or (marked and (self.mode is None or done >= self.total))):
            return
        self._share, self._last = share, now
        rate = (done - self._first) / (now - self._start) if now > self._start else 0.0
        left = (self.total - done) / rate if rate else None
        print(self._format(done, rate, left), file=self._stream, flush=True)

    def _format(self, done: int, rate: float, left: float | None) -> str:
        if self.mode == "json":
            fields = {"task": self.name, "done": done, "total": self.total, "unit": self.unit}
            rounded = None if left is None else round(left, 1)
            return json.dumps(fields | {"per_second": round(rate, 4), "seconds_left": rounded}, ensure_ascii=False)
        head = f"{self.name}: {done:,} of {self.total:,} {self.unit} ({done / self.total:.0%})"
        pace = f", {rate:.2f} a second" if rate >= 0.01 else f", {1 / rate:,.0f} s each" if rate else ""
        return head + pace + (f", {format_duration(left)} left" if left else "")


def format_duration(seconds: float) -> str:
    """Return ``3 s``, ``4:05 min`` or ``2:03 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02} h"
