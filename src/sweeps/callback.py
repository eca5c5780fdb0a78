"""Hydra's callback of sweeps: record the points, and write the study's table whenever one ends."""

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
from omegaconf import DictConfig

from src.config.own_code import open_own_code
from src.config.run_directory import NO_EFFECT, is_finished
from src.errors import UserError
from src.sweeps import points
from src.sweeps.aggregate import (
    Point,
    escape_markdown,
    format_cell,
    format_markdown,
    resolve_columns,
    select_filled,
    subtract_rows,
    tabulate,
)
from src.sweeps.plots import draw, draw_frames
from src.sweeps.published import rows_by_point
from src.wording import number_of


class Study(Callback):
    """Record the points of a multirun, and write ``table.md``, ``table.json`` and ``plot.svg``; idle in a single run.

    The state of points is in their files alone (:mod:`src.sweeps.points`). So points may run under any launcher, in any
    process and on any machine.

    Args:
        name: name of the study and of its folder under ``<paths.runs>/ablations/``.
        title: title of the table.
        columns: sources by title: ``results/...`` of results.json (``*`` stands for the first name, ``*2`` for the
            second), ``network/...`` an attribute of the network, ``count/parameters``, ``count/parameters_m``
            (millions) or ``count/gflops`` at 320x180, ``metrics/...`` the median of a column of metrics.csv. Words
            before the source restrict it to points with these overrides (``test=vid4``, patterns with ``*``);
            ``ratio`` divides by the first row. Or a list of names (:data:`src.sweeps.aggregate.COLUMN_SOURCES`) and
            sources. None: PSNR, SSIM, parameters, seconds a step and of the whole run, as far as there are any.
        compare: the column of the plot and of the comparison of order; the paper's column has the same name.
        curves: a score of single frames (``psnr``, ``ssim``) that ``curves.svg`` shows over time, clip by clip.
        across: overrides that make columns instead of rows.
        hide: names of points without a row, which others depend on.
        differences: whether a study of two rows ends with a row of their differences.
        published: the paper's table, or None: ``file``, ``table``, the column or columns ``key`` that identify a row,
            and ``rows``, the key of each point if it is not the point's name. Points with the same key share a row.
    """

    def __init__(
        self,
        name: str = "",
        title: str = "",
        columns: Mapping[str, str] | Sequence[str] | None = None,
        compare: str = "psnr",
        curves: str | None = None,
        across: Sequence[str] = (),
        hide: Sequence[str] = (),
        differences: bool = False,
        published: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.title, self.columns = name, title, resolve_columns(columns)
        self.by_default = not columns
        self.compare, self.curves = compare, curves
        self.across, self.hide, self.differences = tuple(across), tuple(hide), differences
        self.published, self.finding = rows_by_point(**published) if published else ({}, "")
        self.folder: Path | None = None  # of a multirun
        self.command = ""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.folder, self.runs = points.locate_sweep(config), Path(config.paths.runs)
        self.options = points.list_options(config)
        self.count = math.prod(len(values) for values in self.options.values())
        self.start_times: dict[int, float] = {}  # seconds since 1970
        self.failed: list[points.PointStatus] = []
        self.finished: dict[str, Point] = {}  # with the values already read, by directory
        self.title = self.title or self.folder.parent.name
        self.command = points.format_sweep_command(config)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not self.folder or not _is_first_rank():
            return
        entry = points.new_status(config)
        before = points.read_status(self.folder, config)
        if not (points.locate_run(config) / "config.yaml").exists():  # a run that goes on had begun earlier
            self.start_times[entry.number] = time.time()
        if is_finished(config, points.locate_run(config)):
            entry.status, entry.seconds = "finished", before.seconds if before else None
        else:
            print(
                f"Point {entry.number + 1} of {self.count}: {points.format_label(entry.overrides, self.options)}",
                flush=True,
            )
        entry.write(self.folder)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if not self.folder or not _is_first_rank():
            return
        with suppress(UserError):  # which the point has reported
            open_own_code(config)  # columns may count its network
        entry, was = points.new_status(config), points.read_status(self.folder, config)
        label = points.format_label(entry.overrides, self.options)
        begun = self.start_times.get(entry.number)
        entry.seconds = round(time.time() - begun, 1) if begun else None
        if was and was.status == "finished":
            entry.status, entry.seconds = was.status, was.seconds
            print(f"Finished before: {label}{self._score(entry)}", flush=True)
        elif job_return.status is JobStatus.COMPLETED:
            entry.status = "finished"
            took = f" in {entry.seconds:.0f} s" if entry.seconds is not None else ""
            print(f"Finished{took}: {label}{self._score(entry)}", flush=True)
        else:
            error = job_return._return_value
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            entry.status, entry.message = "failed", kind + " ".join(str(error).split())
            if was and was.status == "failed":  # not retried
                entry = was
            print(f"Failed{' before' * (entry is was)}: {label}: {entry.message}", flush=True)
            self.failed.append(entry)
        entry.write(self.folder)
        self.finished.pop(entry.directory, None)
        self._write(points.read_statuses(self.folder))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if not self.folder or not _is_first_rank():
            return
        try:
            entries = points.read_statuses(self.folder)
            text = self._write(entries)
        except Exception as error:  # of a callback, Hydra only makes a warning
            traceback.print_exc()
            raise SystemExit(1) from error
        if text:
            print(f"\n{text}\nTable and plot: {self.folder}")
        if self.failed:
            failed = f"{len(self.failed)} of {number_of(self.count, 'point')} failed"
            print(f"\n{failed}; hydra.launcher.retry=true repeats them.")
            for message in dict.fromkeys(entry.message for entry in self.failed):  # once for all seeds, for example
                print(f"\n{message}")
                for entry in self.failed:
                    if entry.message == message:
                        print(self._hint(entry), flush=True)
            raise SystemExit(1)

    def _write(self, entries: Sequence[points.PointStatus]) -> str:
        """Write the table of the finished points and return it; empty if there is none."""
        assert self.folder
        done = [entry for entry in entries if entry.status == "finished"]
        for entry in done:
            point = Point(self.runs / entry.directory, entry.overrides, entry.seconds)
            self.finished.setdefault(entry.directory, point)
        members = [self.finished[entry.directory] for entry in done]
        members = [point for point in members if (point.directory / "results.json").exists()]
        columns = select_filled(self.columns, members) if self.by_default else self.columns
        if not (members and columns):
            return ""
        compare = self.compare if self.compare in columns else next(iter(columns))
        varied = [key for key, values in self.options.items() if len(values) > 1]
        heading = "point" if self.published else " ".join(sorted({*varied} - {"seed", *self.across})) or "point"
        rows = tabulate(members, columns, self.published, varied, self.across, self.hide)
        if not rows:  # only hidden points are finished
            return ""
        options: dict[str, list[str]] = {}
        for point in members:
            for key, value in point.overrides.items():
                if key not in NO_EFFECT and value not in options.setdefault(key, []):
                    options[key].append(value)
        overrides = [f"{key}={'+'.join(values)}" for key, values in sorted(options.items())]
        whole = len(done) == len(entries) and sum(map(self._is_of_this_sweep, done)) == self.count
        both = self.differences and len(rows) == 2
        text = format_markdown(
            [*rows, subtract_rows(rows)] if both else rows, self.title, compare, overrides, self.finding, heading
        )
        for label, note in _collect_notes(members, self.options):
            text += f"\n- {escape_markdown(label)}: {escape_markdown(note)}\n"
        if not whole:
            text = f"{self._describe_missing(entries)}\n\n{text}"
        table = {"title": self.title, "overrides": overrides, "complete": whole, "rows": rows}
        table |= {"columns": columns, "compare": compare, "heading": heading, "command": self.command}
        _replace(self.folder / "table.md", text)
        _replace(self.folder / "table.json", json.dumps(table, indent=2))
        draw(rows, self.title, compare, self.folder / "plot.svg", overrides)
        if self.curves:
            draw_frames(members, self.curves, self.title, self.folder / "curves.svg", overrides)
        return text

    def _is_of_this_sweep(self, entry: points.PointStatus) -> bool:
        """Return True for points of this sweep; a sweep with other seeds shares the folder and the table."""
        pairs = [override.partition("=")[::2] for override in entry.overrides]
        return all(value in self.options.get(key, ()) for key, value in pairs if key not in NO_EFFECT)

    def _describe_missing(self, entries: Sequence[points.PointStatus]) -> str:
        """Count the finished and failed points, with a line for each failure."""
        done, failed = ([e for e in entries if e.status == status] for status in ("finished", "failed"))
        text = (
            f"**Incomplete**: {len(done)} of {max(self.count, len(entries))} points are finished, {len(failed)} failed."
        )
        for entry in failed:
            label = points.format_label(entry.overrides, self.options)
            text += f"\n- {escape_markdown(label)}: {escape_markdown(entry.message)}"
        return text

    def _hint(self, entry: points.PointStatus) -> str:
        """Return the log file and the command of a failed point."""
        return (f"    its output: {self.runs / entry.log}\n" if entry.log else "") + f"    {entry.command}"

    def _score(self, entry: points.PointStatus) -> str:
        """Return the compared score of a finished point, for a line of a log."""
        point = Point(self.runs / entry.directory, entry.overrides)
        source = self.columns.get(self.compare, "results/summary/psnr").split()[-1]
        if not source.startswith("results/") or not (point.directory / "results.json").exists():
            return ""
        with suppress(KeyError):
            return f": {self.compare} {format_cell(point.value(source))}"
        return ""


def _collect_notes(members: Sequence[Point], options: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return why cells of a table are empty, once for each reason, with the first point that it concerns."""
    notes: dict[str, str] = {}
    for point in members:
        for note in point.notes:
            text = note.partition(": ")[2].replace(str(point.directory), "<run>")
            notes.setdefault(text, points.format_label(["=".join(pair) for pair in point.overrides.items()], options))
    return [(label, note) for note, label in notes.items()]


def _is_first_rank() -> bool:
    """Return True in the first of several ranks; Lightning, which has the same function, loads slowly."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def _replace(file: Path, text: str) -> None:
    """Write a file atomically; others may read it or, on another machine, write it."""
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(text)
    partial.replace(file)
