"""What a sweep does around its points: writes them down, and makes a table of them whenever one ends."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from src.config.composition import UNSAID, finished
from src.errors import UserError
from src.sweeps import points
from src.sweeps.aggregate import Point, cell, draw, draw_frames, in_markdown, markdown, tabulate
from src.sweeps.published import rows_by_point


class Study(Callback):
    """Hydra's callback that writes down the points of a multirun, and makes ``table.md`` and ``plot.svg`` of them.

    What it knows of points is in their files (:mod:`src.sweeps.points`), so it does not matter which launcher runs
    them, in which process, and on which machine. The table is written again whenever a point ends. In a run by itself
    it does nothing.

    Args:
        name: of the study, and of its folder under ``ablations/`` in the runs.
        title: what the table shows.
        columns: what is read of each point, by title: ``results/...`` of its results.json, ``network/...`` an
            attribute of its network, ``count/parameters``, ``count/parameters_m`` (millions) or ``count/gflops`` at
            320x180, ``metrics/...`` the median of a column of metrics.csv. Before it may stand, apart by spaces,
            overrides of the point that it is read of (``test=vid4``, patterns with ``*``), and ``ratio``: to the first
            row. Without any there is no table.
        compare: the column that the plot and the order are about; the paper's has the same name.
        curves: a figure of single frames (``psnr``, ``ssim``) to be drawn over time, clip by clip, into ``curves.svg``.
        across: overrides that make columns instead of rows.
        hide: points that are there for others alone, by what they are called.
        published: where the paper's figures are, or none: ``file``, ``table``, the column ``key`` (or columns) that
            says which point a row is, and in ``rows`` the key of each point, where that is not what the point is
            called. Points of one row of the paper's are one row.
    """

    def __init__(
        self,
        name: str = "",
        title: str = "",
        columns: Mapping[str, str] | None = None,
        compare: str = "psnr",
        curves: str | None = None,
        across: Sequence[str] = (),
        hide: Sequence[str] = (),
        published: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.title, self.columns = name, title, dict(columns or {})
        self.compare, self.curves = compare, curves
        self.across, self.hide = tuple(across), tuple(hide)
        self.published, self.finding = rows_by_point(**published) if published else ({}, "")
        self.folder: Path | None = None  # of a multirun

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.folder, self.runs = points.folder_of(config), Path(config.paths.runs)
        self.asked = points.asked(config)
        self.count = math.prod(len(values) for values in self.asked.values())
        self.began: dict[int, float] = {}  # seconds since 1970
        self.failed: list[points.PointStatus] = []
        self.finished: dict[str, Point] = {}  # what has been read of them, by directory

    @rank_zero_only
    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not self.folder:
            return
        entry = points.begin(config)
        self.began[entry.number] = time.time()
        before = points.entry_of(self.folder, config)
        if finished(config, points.run_directory(config)):
            entry.status, entry.seconds = "finished", before.seconds if before else None
        else:
            print(f"Point {entry.number + 1} of {self.count}: {points.label(entry.overrides, self.asked)}", flush=True)
        entry.write(self.folder)

    @rank_zero_only
    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if not self.folder:
            return
        entry, was = points.begin(config), points.entry_of(self.folder, config)
        label = points.label(entry.overrides, self.asked)
        now = time.time()
        entry.seconds = round(now - self.began.get(entry.number, now), 1)
        if was and was.status == "finished":
            entry.status, entry.seconds = was.status, was.seconds
            print(f"Finished before: {label}{self._figure(entry)}", flush=True)
        elif job_return.status is JobStatus.COMPLETED:
            entry.status = "finished"
            print(f"Finished in {entry.seconds:.0f} s: {label}{self._figure(entry)}", flush=True)
        else:
            error = job_return._return_value
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            entry.status, entry.message = "failed", kind + " ".join(str(error).split())
            if was and was.status == "failed":  # and not tried again
                entry = was
            print(f"Failed{' before' * (entry is was)}: {label}: {entry.message}\n{self._again(entry)}", flush=True)
            self.failed.append(entry)
        entry.write(self.folder)
        self.finished.pop(entry.directory, None)
        self._write(points.read(self.folder))

    @rank_zero_only
    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        assert self.folder
        try:
            entries = points.read(self.folder)
            text = self._write(entries)
        except Exception as error:  # Hydra would go on with a warning
            traceback.print_exc()
            raise SystemExit(1) from error
        if text:
            print(f"\n{text}\nTable and plot: {self.folder}")
        if self.failed:
            print(f"\n{len(self.failed)} of {self.count} points failed; hydra.launcher.retry=true tries them again:")
            for entry in self.failed:
                print(f"\n{entry.message}\n{self._again(entry)}", flush=True)
            raise SystemExit(1)

    def _write(self, entries: Sequence[points.PointStatus]) -> str:
        """Writes the table of what is finished, and returns it; empty where there is none."""
        assert self.folder
        done = [entry for entry in entries if entry.status == "finished"]
        for entry in done:
            self.finished.setdefault(entry.directory, Point(self.runs / entry.directory, entry.overrides))
        members = [self.finished[entry.directory] for entry in done]
        members = [point for point in members if (point.directory / "results.json").exists()]
        if not (members and self.columns):
            return ""
        varied = [key for key, values in self.asked.items() if len(values) > 1]
        rows = tabulate(members, self.columns, self.published, varied, self.across, self.hide)
        if not rows:  # as long as only points are finished that are there for others
            return ""
        options: dict[str, list[str]] = {}
        for point in members:
            for key, value in point.overrides.items():
                if key not in UNSAID and value not in options.setdefault(key, []):
                    options[key].append(value)
        asked = [f"{key}={'+'.join(values)}" for key, values in sorted(options.items())]
        whole = len(done) == len(entries) and sum(map(self._is_asked, done)) == self.count
        text = markdown(rows, self.title, self.compare, asked, self.finding)
        if not whole:
            text = f"{self._missing(entries)}\n\n{text}"
        table = {"title": self.title, "overrides": asked, "complete": whole, "rows": rows}
        _replace(self.folder / "table.md", text)
        _replace(self.folder / "table.json", json.dumps(table, indent=2))
        draw(rows, self.title, self.compare, self.folder / "plot.svg", asked)
        if self.curves:
            draw_frames(members, self.curves, self.title, self.folder / "curves.svg", asked)
        return text

    def _is_asked(self, entry: points.PointStatus) -> bool:
        """Whether a point is one of this sweep, and not of another with other seeds, say, whose table is the same."""
        pairs = [override.partition("=")[::2] for override in entry.overrides]
        return all(value in self.asked.get(key, ()) for key, value in pairs if key not in UNSAID)

    def _missing(self, entries: Sequence[points.PointStatus]) -> str:
        """What a table lacks, as a sentence and, for each point that failed, a line."""
        done, failed = ([e for e in entries if e.status == status] for status in ("finished", "failed"))
        text = (
            f"**Incomplete**: {len(done)} of {max(self.count, len(entries))} points are finished, {len(failed)} failed."
        )
        for entry in failed:
            text += f"\n- {in_markdown(points.label(entry.overrides, self.asked))}: {in_markdown(entry.message)}"
        return text

    def _again(self, entry: points.PointStatus) -> str:
        """Where to look, and what to type, for a point that failed."""
        return (f"    its output: {self.runs / entry.log}\n" if entry.log else "") + f"    {entry.command}"

    def _figure(self, entry: points.PointStatus) -> str:
        """The figure that a finished point is about, for a line of a log."""
        point = Point(self.runs / entry.directory, entry.overrides)
        source = self.columns.get(self.compare, "results/summary/psnr").split()[-1]
        if not source.startswith("results/") or not (point.directory / "results.json").exists():
            return ""
        with suppress(KeyError):
            return f": {self.compare} {cell(point.value(source))}"
        return ""


def _replace(file: Path, text: str) -> None:
    """Writes a file that others may be reading or, on another machine, writing."""
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(text)
    partial.replace(file)
