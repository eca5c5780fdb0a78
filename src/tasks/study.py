"""Sets what a sweep found beside what its paper prints: one table and one plot for each study of ``conf/ablation``."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
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

from src.config import CONF, described
from src.protocols import COLUMNS
from src.tasks.bench import count

Row = dict[str, Any]
FIGURES = {name for names in COLUMNS.values() for name in names}  # of scores
COUNTED = (180, 320)  # input pixels, height and width, for which operations are counted
UNSAID = ("ablation", "logger", "paths.runs", "resume")  # options that change no figure


class Study(Callback):
    """Hydra's callback that keeps the points of a multirun and, at its end, writes ``table.md`` and ``plot.svg``.

    Args:
        name: of the study, and of its folder under ``ablations/`` in the runs.
        title: what the table shows.
        columns: what is read of each point, by title: ``results/...`` of its results.json, ``network/...`` an
            attribute of its network, ``count/parameters`` or ``count/gflops`` at 320x180, ``metrics/...`` the median
            of a column of metrics.csv.
        compare: the column that the plot and the order are about; the paper's has the same name.
        curves: a figure of single frames (``psnr``, ``ssim``) to be drawn over time, clip by clip, into ``curves.svg``.
        published: where the paper's figures are, or none: ``file``, ``table``, the column ``key`` that says which point
            a row is, and in ``rows`` the key of each point, where that is not what the point is called.
    """

    def __init__(
        self,
        name: str,
        title: str,
        columns: Mapping[str, str],
        compare: str = "psnr",
        curves: str | None = None,
        published: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.title, self.columns, self.compare, self.curves = name, title, dict(columns), compare, curves
        self.published, self.finding = _published(**published) if published else ({}, "")
        self.points: list[Point] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        point = Point(Path(config.hydra.runtime.output_dir), list(config.hydra.overrides.task))
        if job_return.status is JobStatus.COMPLETED and (point.directory / "results.json").exists():
            self.points.append(point)

    @rank_zero_only
    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        rows = tabulate(self.points, self.columns, self.published)
        if not rows:
            return
        options: dict[str, list[str]] = {}
        for point in self.points:
            for key, value in point.overrides.items():
                if key not in UNSAID and value not in options.setdefault(key, []):
                    options[key].append(value)
        asked = [f"{key}={'+'.join(values)}" for key, values in sorted(options.items())]
        folder = Path(config.paths.runs) / "ablations" / self.name / (described(asked) or "as_published")
        folder.mkdir(parents=True, exist_ok=True)
        text = markdown(rows, self.title, self.compare, asked, self.finding)
        (folder / "table.md").write_text(text)
        (folder / "table.json").write_text(
            json.dumps({"title": self.title, "overrides": asked, "rows": rows}, indent=2)
        )
        draw(rows, self.title, self.compare, folder / "plot.svg")
        if self.curves:
            draw_frames(self.points, self.curves, self.title, folder / "curves.svg")
        print(f"\n{text}\nTable and plot: {folder}")


class Point:
    """A finished run of a sweep: where it lies, and the overrides that made it."""

    def __init__(self, directory: Path, overrides: Sequence[str]) -> None:
        self.directory = directory
        self.overrides = dict(override.partition("=")[::2] for override in overrides)

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
        kind, _, rest = source.partition("/")
        if kind == "metrics":
            with (self.directory / "metrics.csv").open(newline="") as stream:
                figures = [float(row[rest]) for row in csv.DictReader(stream) if row.get(rest)]
            return statistics.median(figures) if figures else None
        if kind == "count":
            return self.counted["flops"] / 1e9 if rest == "gflops" else self.counted[rest]
        if kind == "network":
            with torch.device("meta"):
                found: Any = instantiate(self.config.model.network)
            for part in rest.split("/"):
                found = getattr(found, part)
            return found
        found = self.results
        for part in rest.split("/"):
            if part not in found and (part in FIGURES or rest.startswith("levels/")):
                return None  # a protocol does not measure everything
            found = next(iter(found.values())) if part == "*" else found[part]
        return found


def tabulate(
    points: Sequence[Point],
    columns: Mapping[str, str],
    published: Mapping[Any, Row] | None = None,
    varied: Sequence[str] | None = None,
) -> list[Row]:
    """One row for all seeds of a point: what it is (``point``), the paper's figures (``paper: ...``), and ours.

    A figure of several seeds is their mean, beside it ``<title> deviation``, their standard deviation. A point is
    called by its values of ``varied``, or of the options that differ among ``points``.
    """
    if varied is None:
        keys = {key for point in points for key in point.overrides} - {"seed"}
        varied = sorted(k for k in keys if len({point.overrides.get(k) for point in points}) > 1)
    groups: dict[tuple[str | None, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(point.overrides.get(key) for key in varied), []).append(point)
    rows = []
    for values, members in groups.items():
        row: Row = {"point": _number(" ".join(str(value) for value in values))}
        if published:
            theirs = published.get(row["point"]) or dict.fromkeys(next(iter(published.values())))
            row |= {f"paper: {name}": value for name, value in theirs.items()}
        for title, source in columns.items():
            found = [member.value(source) for member in members]
            row[title] = statistics.mean(found) if len(found) > 1 and None not in found else found[0]
            if len(found) > 1 and None not in found and source.startswith("results/"):
                row[f"{title} deviation"] = statistics.stdev(found)
        rows.append(row)
    return rows


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
    lines += [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows]
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


def draw_frames(points: Sequence[Point], figure: str, title: str, file: Path, most: int = 8) -> None:
    """``figure`` of every frame over time, of the first ``most`` clips, a line a point (VTSR's thesis, Figure 4.4)."""
    from matplotlib import rc_context  # only here: training does without
    from matplotlib.figure import Figure

    clips = list(points[0].results["clips"])[:most]
    drawn = Figure(figsize=(8, 2 * len(clips)), layout="constrained")
    grid = drawn.subplots(len(clips), 1, squeeze=False)
    for axes, clip in zip(grid[:, 0], clips, strict=True):
        for point in points:
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
    file: str, table: str, key: str = "", rows: Mapping[Any, Any] | None = None
) -> tuple[dict[Any, Row], str]:
    """The rows of a table of a paper's ``published.yaml`` by point, and what it says in words."""
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF.parent / file))
    node = content["tables"][table]
    found = [dict(zip(node["columns"], row, strict=True)) for row in node.get("rows", ())]
    by_key = {row[key]: row for row in found}
    return {point: by_key[name] for point, name in (rows or {k: k for k in by_key}).items()}, node.get("finding", "")


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
