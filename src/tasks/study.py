"""Sets what a sweep found beside what its paper prints: one table and one plot for each study of ``conf/ablation``."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import statistics
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from src.config import CONF, finished
from src.errors import Problem
from src.protocols import COLUMNS
from src.tasks import points
from src.tasks.bench import count

Row = dict[str, Any]
FIGURES = {name for names in COLUMNS.values() for name in names}  # of scores
PAIR = re.compile(r"\d+(\.\d+)?/[01]\.\d+")  # PSNR and SSIM, as papers print them
COUNTED = (180, 320)  # input pixels, height and width, for which operations are counted


class Study(Callback):
    """Hydra's callback that writes down the points of a multirun, and makes ``table.md`` and ``plot.svg`` of them.

    What it knows of points is in their files (:mod:`src.tasks.points`), so it does not matter which launcher runs them,
    in which process, and on which machine. The table is written again whenever a point ends. In a run by itself it
    does nothing.

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
        self.published, self.finding = _published(**published) if published else ({}, "")
        self.folder: Path | None = None  # of a multirun

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.folder, self.runs = points.folder_of(config), Path(config.paths.runs)
        self.asked = points.asked(config)
        self.count = math.prod(len(values) for values in self.asked.values())
        self.began: dict[int, float] = {}  # seconds since 1970
        self.failed: list[points.Entry] = []
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
            kind = "" if isinstance(error, Problem) else f"{type(error).__name__}: "
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

    def _write(self, entries: Sequence[points.Entry]) -> str:
        """Writes the table of what is finished, and returns it; empty where there is none."""
        assert self.folder
        done = [entry for entry in entries if entry.status == "finished"]
        for entry in done:
            self.finished.setdefault(entry.directory, Point(self.runs / entry.directory, entry.overrides))
        members = [self.finished[entry.directory] for entry in done]
        members = [point for point in members if (point.directory / "results.json").exists()]
        rows = (
            tabulate(members, self.columns, self.published, self.asked, self.across, self.hide) if self.columns else []
        )
        if not rows:
            return ""
        options: dict[str, list[str]] = {}
        for point in members:
            for key, value in point.overrides.items():
                if key not in points.UNSAID and value not in options.setdefault(key, []):
                    options[key].append(value)
        asked = [f"{key}={'+'.join(values)}" for key, values in sorted(options.items())]
        whole = len(done) == len(entries) and sum(map(self._is_asked, done)) == self.count
        text = markdown(rows, self.title, self.compare, asked, self.finding)
        if not whole:
            text = f"{self._missing(entries)}\n\n{text}"
        table = {"title": self.title, "overrides": asked, "complete": whole, "rows": rows}
        _replace(self.folder / "table.md", text)
        _replace(self.folder / "table.json", json.dumps(table, indent=2))
        draw(rows, self.title, self.compare, self.folder / "plot.svg")
        if self.curves:
            draw_frames(members, self.curves, self.title, self.folder / "curves.svg")
        return text

    def _is_asked(self, entry: points.Entry) -> bool:
        """Whether a point is one of this sweep, and not of another with other seeds, say, whose table is the same."""
        pairs = [override.partition("=")[::2] for override in entry.overrides]
        return all(value in self.asked.get(key, ()) for key, value in pairs if key not in points.UNSAID)

    def _missing(self, entries: Sequence[points.Entry]) -> str:
        """What a table lacks, as a sentence and, for each point that failed, a line."""
        done, failed = ([e for e in entries if e.status == status] for status in ("finished", "failed"))
        text = (
            f"**Incomplete**: {len(done)} of {max(self.count, len(entries))} points are finished, {len(failed)} failed."
        )
        for entry in failed:
            text += f"\n- {points.label(entry.overrides, self.asked)}: {entry.message}"
        return text

    def _again(self, entry: points.Entry) -> str:
        """Where to look, and what to type, for a point that failed."""
        return (f"    its output: {self.runs / entry.log}\n" if entry.log else "") + f"    {entry.command}"

    def _figure(self, entry: points.Entry) -> str:
        """The figure that a finished point is about, for a line of a log."""
        point = Point(self.runs / entry.directory, entry.overrides)
        source = self.columns.get(self.compare, "results/summary/psnr").split()[-1]
        if not source.startswith("results/") or not (point.directory / "results.json").exists():
            return ""
        with suppress(KeyError):
            return f": {self.compare} {_cell(point.value(source))}"
        return ""


class Point:
    """A finished run of a sweep: where it lies, and the overrides that made it."""

    def __init__(self, directory: Path, overrides: Sequence[str]) -> None:
        self.directory = directory
        self.overrides = dict(override.partition("=")[::2] for override in overrides)
        self.values: dict[str, Any] = {}  # what has been read, by source

    @cached_property
    def config(self) -> DictConfig:
        """The run's configuration."""
        return OmegaConf.load(self.directory / "config.yaml")  # type: ignore[return-value]

    @cached_property
    def results(self) -> dict[str, Any]:
        """The run's ``results.json``."""
        return json.loads((self.directory / "results.json").read_text())

    @cached_property
    def counted(self) -> dict[str, int]:
        """Parameters and operations of its network at 320x180."""
        return count(self.config, *COUNTED)

    def value(self, source: str) -> Any:
        """What a column's source (see :class:`Study`) says of this run."""
        if source not in self.values:
            self.values[source] = self._value(source)
        return self.values[source]

    def _value(self, source: str) -> Any:
        kind, _, rest = source.partition("/")
        if kind == "metrics":
            with (self.directory / "metrics.csv").open(newline="") as stream:
                figures = [float(row[rest]) for row in csv.DictReader(stream) if row.get(rest)]
            return statistics.median(figures) if figures else None
        if kind == "count":
            counted = self.counted
            return {**counted, "gflops": counted["flops"] / 1e9, "parameters_m": counted["parameters"] / 1e6}[rest]
        if kind == "network":
            with torch.device("meta"):
                found: Any = instantiate(self.config.model.network)
            for part in rest.split("/"):
                found = getattr(found, part)
            return found
        found = self.results
        for part in rest.split("/"):
            if part not in found and (part in FIGURES or rest.startswith(("levels/", "clips/", "subsets/"))):
                return None  # a protocol does not measure everything, and another data set has other clips
            found = next(iter(found.values())) if part == "*" else found[part]
        return found


def tabulate(
    members: Sequence[Point],
    columns: Mapping[str, str],
    published: Mapping[Any, Row] | None = None,
    varied: Collection[str] = (),
    across: Sequence[str] = (),
    hide: Sequence[str] = (),
) -> list[Row]:
    """One row for all seeds of a point: what it is (``point``), the paper's figures (``paper: ...``), and ours.

    A figure of several seeds is their mean, beside it ``<title> deviation``, their standard deviation. What a point is
    are its values of ``varied``, and of other options that differ between points.
    """
    keys = {key for point in members for key in point.overrides} - {"seed", *across, *points.UNSAID}
    named = sorted(k for k in keys if k in varied or len({point.overrides.get(k) for point in members}) > 1)
    groups: dict[Any, list[Point]] = {}  # by row of the paper's, where it has one
    names: dict[Any, Any] = {}
    for point in members:
        own = " ".join(str(point.overrides.get(key)) for key in named)
        name = _number(own or members[0].overrides.get("experiment", ""))
        theirs = (published or {}).get(name)
        group = id(theirs) if theirs else name
        names.setdefault(group, name)
        groups.setdefault(group, []).append(point)
    rows: list[Row] = []
    for group, alike in groups.items():
        if names[group] in hide:
            continue
        row: Row = {"point": names[group]}
        if published:
            theirs = published.get(row["point"]) or dict.fromkeys(next(iter(published.values())))
            row |= {f"paper: {name}": value for name, value in theirs.items()}
        for title, source in columns.items():
            *conditions, path = source.split()
            found = [member.value(path) for member in _meant(alike, conditions)]
            seeds = len(found) > 1 and None not in found
            row[title] = statistics.mean(found) if seeds else next(iter(found), None)
            if seeds and path.startswith("results/"):
                row[f"{title} deviation"] = statistics.stdev(found)
        rows.append(row)
    for title, source in columns.items():
        if "ratio" in source.split():
            first = rows[0][title] if rows else None
            for row in rows:
                row[title] = row[title] / first if first and row[title] is not None else None
    return rows


def _meant(members: Sequence[Point], conditions: Sequence[str]) -> list[Point]:
    """All seeds of the first point that has the overrides ``conditions``."""
    wanted = [condition.partition("=")[::2] for condition in conditions if "=" in condition]
    fitting = [m for m in members if all(fnmatch(str(m.overrides.get(key)), value) for key, value in wanted)]
    return [m for m in fitting if m.overrides | {"seed": ""} == fitting[0].overrides | {"seed": ""}]


def order(rows: Sequence[Row], compare: str) -> str:
    """How the order of ``compare`` agrees with the paper's, in a sentence; empty where the paper has no such figure."""
    rows = [row for row in rows if None not in (row.get(f"paper: {compare}"), row[compare])]
    if len(rows) < 2:
        return ""
    theirs, ours = ([float(row[name]) for row in rows] for name in (f"paper: {compare}", compare))

    def ranked(values: list[float]) -> str:
        first, *others = np.argsort(values, kind="stable")
        text = str(rows[first]["point"])
        for before, number in zip([first, *others], others, strict=False):
            sign = "=" if math.isclose(values[before], values[number], abs_tol=1e-4) else "<"
            text += f" {sign} {rows[number]['point']}"
        return text

    agreement = rank_correlation(theirs, ours)
    correlation = (
        f"; rank correlation {agreement:.2f}" if len(rows) > 2 and agreement is not None else ""
    )  # of two: 1, -1
    return f"{compare}, paper: {ranked(theirs)}; here: {ranked(ours)}{correlation}."


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's: the correlation of ranks, equal values sharing their mean rank; None where all of one are equal.

    Values count to the fourth decimal, as papers print them at most.
    """
    ranks = []
    for values in (np.round(one, 4), np.round(other, 4)):
        below, equal = values[:, None] > values, values[:, None] == values
        ranks.append(below.sum(1) + (equal.sum(1) - 1) / 2)
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks)[0, 1])


def markdown(rows: Sequence[Row], title: str, compare: str, overrides: Sequence[str], finding: str = "") -> str:
    """The table as Markdown, with what was asked for, how the order agrees, and what the paper found."""
    names = list(rows[0])
    lines = [f"**{title}** ({' '.join(overrides)})", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    lines += [f"| {' | '.join(_cell(row.get(name)) for name in names)} |" for row in rows]
    for remark in (order(rows, compare), f"Paper: {finding}." if finding else ""):
        lines += ["", remark] if remark else []
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], title: str, compare: str, file: Path) -> None:
    """``compare`` over the points, the paper's and ours side by side, each with a scale of its own."""
    from matplotlib import rc_context  # only here: training does without
    from matplotlib.figure import Figure

    rows = [row for row in rows if row[compare] is not None]
    shown = [name for name in (f"paper: {compare}", compare) if rows and all(row.get(name) is not None for row in rows)]
    if not shown:
        return
    places = [row["point"] for row in rows]
    numeric = not any(isinstance(place, str) for place in places)
    figure = Figure(figsize=(4 * len(shown), 3.2), layout="constrained")
    for number, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), number + 1)
        spread = [row.get(f"{name} deviation", 0.0) for row in rows]
        axes.errorbar(
            places, [row[name] for row in rows], yerr=spread, marker="o", linestyle="-" if numeric else "none"
        )
        axes.set_title(name, fontsize=10)
        axes.tick_params(axis="x", labelrotation=0 if numeric else 20)
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    with rc_context({"svg.fonttype": "none"}):  # text stays text
        figure.savefig(file)


def draw_frames(members: Sequence[Point], figure: str, title: str, file: Path, most: int = 8) -> None:
    """``figure`` of every frame over time, of the first ``most`` clips, a line a point (VTSR's thesis, Figure 4.4)."""
    from matplotlib import rc_context  # only here: training does without
    from matplotlib.figure import Figure

    clips = list(members[0].results["clips"])[:most]
    drawn = Figure(figsize=(8, 2 * len(clips)), layout="constrained")
    grid = drawn.subplots(len(clips), 1, squeeze=False)
    for axes, clip in zip(grid[:, 0], clips, strict=True):
        for point in members:
            frames = point.results["clips"][clip]["frames"]
            values = [math.nan if frame[figure] is None else frame[figure] for frame in frames]
            label = point.overrides.get("experiment", point.directory.name)
            axes.plot([frame["time"] for frame in frames], values, label=label, linewidth=1)
        axes.set_title(clip, fontsize=9)
        axes.set_ylabel(figure)
        axes.grid(alpha=0.3)
    grid[0, 0].legend(fontsize=8)
    grid[-1, 0].set_xlabel("time in input frames")
    drawn.suptitle(title, fontsize=11)
    with rc_context({"svg.fonttype": "none"}):  # text stays text
        drawn.savefig(file)


def _published(
    file: str, table: str, key: str | Sequence[str] = "", rows: Mapping[Any, Any] | None = None
) -> tuple[dict[Any, Row], str]:
    """The rows of a table of a paper's ``published.yaml`` by point, and what it says in words.

    A cell ``PSNR/SSIM`` is two: ``<column>`` and ``<column> SSIM``.
    """
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF.parent / file))
    node = content["tables"][table]
    found = [dict(zip(node["columns"], row, strict=True)) for row in node.get("rows", ())]
    pairs = {name for row in found for name, value in row.items() if isinstance(value, str) and PAIR.fullmatch(value)}
    found = [_apart(row, pairs) for row in found]
    keys = [key] if isinstance(key, str) else list(key)
    by_key = {row[keys[0]] if len(keys) == 1 else " ".join(str(row[k]) for k in keys): row for row in found}
    return {point: by_key[name] for point, name in (rows or {k: k for k in by_key}).items()}, node.get("finding", "")


def _apart(row: Row, pairs: Collection[str]) -> Row:
    """A row whose columns ``pairs`` hold "PSNR/SSIM", each as two columns of numbers."""
    apart: Row = {}
    for name, value in row.items():
        if name in pairs:
            psnr, _, ssim = (value or "").partition("/")
            apart |= {name: float(psnr) if psnr else None, f"{name} SSIM": float(ssim) if ssim else None}
        else:
            apart[name] = value
    return apart


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _replace(file: Path, text: str) -> None:
    """Writes a file that others may be reading or, on another machine, writing."""
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(text)
    partial.replace(file)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
