"""Aggregate the points of a sweep into the rows of a table, beside the paper's values; as Markdown."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from src.checkpoints import build
from src.config.overrides import PATH_OPTIONS
from src.config.run_directory import NO_EFFECT
from src.config.run_names import label_path
from src.config.suggestions import end_with_suggestion
from src.errors import UserError
from src.nn.flops import count
from src.protocols import COLUMNS
from src.sweeps.run_files import is_external, read_configuration
from src.zoo import without_fetching

Row = dict[str, Any]
METRICS = {name for names in COLUMNS.values() for name in names} | {"psnr_balanced", "ssim_balanced"}
DIFFERENCE = "Δ"  # name of the row of differences
SEEDS = "n"  # name of the column of counts
COLUMN_SOURCES = {  # of the columns that a name alone selects
    **{metric: f"results/summary/{metric}" for metric in sorted(METRICS)},
    "parameters": "count/parameters",
    "gflops": "count/gflops",
    "seconds a step": "metrics/train/seconds_per_step",
    "seconds": "point/seconds",
}
DEFAULT_COLUMNS = ("psnr", "ssim", "parameters", "seconds a step", "seconds")
NAMING = ("experiment", "model", "task")  # overrides that name the only row of a sweep over seeds
FLOPS_INPUT_SIZE = (180, 320)  # height and width of the input for which operations are counted


class Point:
    """A finished run of a sweep: its directory and overrides."""

    def __init__(self, directory: Path, overrides: Sequence[str], seconds: float | None = None) -> None:
        self.directory = directory
        self.seconds = seconds  # from its start to its end; None if it was continued
        self.overrides = dict(override.partition("=")[::2] for override in overrides)
        self.values: dict[str, Any] = {}  # cache by source
        self.notes: list[str] = []  # why values are missing

    @cached_property
    def config(self) -> DictConfig:
        """The run's configuration."""
        return read_configuration(self.directory / "config.yaml")

    @cached_property
    def results(self) -> dict[str, Any]:
        """The run's ``results.json``."""
        return json.loads((self.directory / "results.json").read_text())

    @cached_property
    def counted(self) -> dict[str, int]:
        """Parameters and operations of its network at 320x180."""
        return count(self._network(), *FLOPS_INPUT_SIZE)

    def _network(self) -> Any:
        description = OmegaConf.to_container(self.config.model.network)
        with without_fetching():
            return build(description, self.directory / "config.yaml", allow_checkpoints=True)

    def value(self, source: str) -> Any:
        """Return the value of a column's source (see :class:`src.sweeps.callback.Study`) for this run.

        None, with a reason in ``notes``, if it takes the network and that cannot be built or run.
        """
        if source not in self.values:
            try:
                self.values[source] = self._value(source)
            except Exception as error:  # of the user's own code, for example
                if not source.startswith(("count/", "network/")):
                    raise
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                self.notes.append(f"{source}: {kind}{' '.join(str(error).split())}")
                self.values[source] = None
        return self.values[source]

    def _value(self, source: str) -> Any:
        kind, _, rest = source.partition("/")
        if kind in ("count", "network") and is_external(self.results):
            return None
        if kind == "metrics":
            if not (self.directory / "metrics.csv").exists():  # a baseline, which is not trained
                return None
            with (self.directory / "metrics.csv").open(newline="") as stream:
                values = [float(row[rest]) for row in csv.DictReader(stream) if row.get(rest)]
            return statistics.median(values) if values else None
        if kind == "point":
            return getattr(self, rest)
        if kind == "count":
            counted = self.counted
            return {**counted, "gflops": counted["flops"] / 1e9, "parameters_m": counted["parameters"] / 1e6}[rest]
        if kind == "network":
            with torch.device("meta"):
                attribute: Any = self._network()
            for part in rest.split("/"):
                attribute = getattr(attribute, part)
            return attribute
        node = self.results
        for part in rest.split("/"):
            if part.startswith("*"):  # *2: the second
                number = int(part[1:] or 1)
                if number > len(node):
                    return None
                node = [*node.values()][number - 1]
                continue
            if part not in node and (
                part == "summary" or part in METRICS or rest.startswith(("levels/", "clips/", "subsets/", "models/"))
            ):
                return None  # not measured by this protocol or version, or a clip of another data set
            node = node[part]
        return node


Kind = TypeVar("Kind", bound=Point)


def resolve_columns(columns: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    """Return the sources of columns by title, from such a mapping, from a list of names or sources, or by default.

    Raises:
        UserError: a name is unknown.
    """
    if isinstance(columns, Mapping) and columns:
        return {str(title): str(source) for title, source in columns.items()}
    names = [str(name) for name in columns or DEFAULT_COLUMNS]
    if unknown := [name for name in names if name not in COLUMN_SOURCES and "/" not in name]:
        raise UserError(f"A table has no column {unknown[0]!r}{end_with_suggestion(unknown[0], COLUMN_SOURCES)}")
    return {name.rpartition("/")[2]: COLUMN_SOURCES.get(name, name) for name in names}


def select_filled(columns: Mapping[str, str], members: Sequence[Point]) -> dict[str, str]:
    """Return the columns for which any of the runs has a value."""
    return {
        title: source for title, source in columns.items() if any(point.value(source) is not None for point in members)
    }


def tabulate(
    members: Sequence[Point],
    columns: Mapping[str, str],
    published: Mapping[Any, Row] | None = None,
    varied: Collection[str] = (),
    across: Sequence[str] = (),
    hide: Sequence[str] = (),
) -> list[Row]:
    """Build one row for all seeds of a point: its name (``point``), the paper's values (``paper: ...``), and ours.

    Values are averaged over seeds. Column ``<title> deviation`` holds the sample standard deviation of a score, and
    column ``n`` the number of seeds if any row has several. A point is named by its values of ``varied`` and of other
    options that differ between points.

    Args:
        members: finished runs of the sweep.
        columns: source of each column (see :class:`src.sweeps.callback.Study`), by title.
        published: the paper's row of each point, by name; None: no columns of the paper.
        varied: options that belong to a point's name even if they are equal for all points.
        across: options that make columns instead of rows, and do not belong to the name.
        hide: names of points without a row.
    """
    rows: list[Row] = []
    seeds: list[int] = []
    for name, seeds_of_row in group_by_row(members, published, varied, across).items():
        if name in hide:
            continue
        row: Row = {"point": name}
        if published:
            paper = published.get(row["point"]) or dict.fromkeys(next(iter(published.values())))
            row |= {f"paper: {name}": value for name, value in paper.items()}
        for title, source in columns.items():
            *conditions, path = source.split()
            values = [member.value(path) for member in _select(seeds_of_row, conditions)]
            several = len(values) > 1 and all(isinstance(value, int | float) for value in values)
            row[title] = statistics.mean(values) if several else next(iter(values), None)
            if several and path.startswith("results/"):
                row[f"{title} deviation"] = statistics.stdev(values)
        rows.append(row)
        seeds.append(len({member.overrides.get("seed") for member in seeds_of_row}))
    if max(seeds, default=0) > 1:
        for row, number in zip(rows, seeds, strict=True):
            row[SEEDS] = number
    for title, source in columns.items():
        if "ratio" in source.split():
            first = rows[0][title] if rows else None
            for row in rows:
                row[title] = row[title] / first if first and row[title] is not None else None
    return rows


def subtract_rows(rows: Sequence[Row]) -> Row:
    """Subtract the second of two rows from the first, the paper's values and ours; None where one is missing."""
    first, second = rows
    pairs = {title: (value, second.get(title)) for title, value in first.items() if not title.endswith(" deviation")}
    numeric = {title: all(isinstance(value, int | float) for value in pair) for title, pair in pairs.items()}
    difference = {title: a - b if numeric[title] else None for title, (a, b) in pairs.items()}
    return difference | {"point": DIFFERENCE} | ({SEEDS: None} if SEEDS in first else {})


def group_by_row(
    members: Sequence[Kind],
    published: Mapping[Any, Any] | None = None,
    varied: Collection[str] = (),
    across: Sequence[str] = (),
) -> dict[Any, list[Kind]]:
    """Group points by name (see :func:`tabulate`); points of one row of the paper are named after the first of them."""
    keys = {key for point in members for key in point.overrides} - {"seed", *across, *NO_EFFECT}
    named = sorted(k for k in keys if k in varied or len({point.overrides.get(k) for point in members}) > 1)
    groups: dict[Any, list[Kind]] = {}
    names: dict[Any, Any] = {}
    for point in members:
        values = point.overrides.get("name") or " ".join(_name_value(key, point.overrides.get(key)) for key in named)
        name = parse_number(values or next(filter(None, map(members[0].overrides.get, NAMING)), ""))
        paper = (published or {}).get(name)
        groups.setdefault(names.setdefault(name if paper is None else id(paper), name), []).append(point)
    return groups


def _name_value(key: str, value: str | None) -> str:
    """Return the value of an option for a row's name, a checkpoint by its run."""
    return label_path(value.strip("'"), with_step=False) if value and key in PATH_OPTIONS else str(value)


def _select(members: Sequence[Point], conditions: Sequence[str]) -> list[Point]:
    """Select all seeds of the first point with the overrides ``conditions``."""
    wanted = [condition.partition("=")[::2] for condition in conditions if "=" in condition]
    fitting = [m for m in members if all(fnmatch(str(m.overrides.get(key)), value) for key, value in wanted)]
    return [m for m in fitting if m.overrides | {"seed": ""} == fitting[0].overrides | {"seed": ""}]


def describe_ranking(rows: Sequence[Row], compare: str) -> str:
    """Describe our ranking by ``compare`` beside the paper's in one line; empty if the paper has no such column."""
    rows = [row for row in rows if None not in (row.get(f"paper: {compare}"), row[compare])]
    rows = [row for row in rows if row["point"] != DIFFERENCE]
    if len(rows) < 2:
        return ""
    paper, ours = ([float(row[name]) for row in rows] for name in (f"paper: {compare}", compare))

    def ranked(values: list[float]) -> str:
        first, *others = np.argsort(values, kind="stable")
        text = str(rows[first]["point"])
        for before, number in zip([first, *others], others, strict=False):
            sign = "=" if math.isclose(values[before], values[number], abs_tol=1e-4) else "<"
            text += f" {sign} {rows[number]['point']}"
        return text

    agreement = rank_correlation(paper, ours)
    correlation = (
        f"; rank correlation {agreement:.2f}" if len(rows) > 2 and agreement is not None else ""
    )  # of two: 1, -1
    return f"{compare}, paper: {ranked(paper)}; here: {ranked(ours)}{correlation}."


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, with mean ranks for ties; None if all values of one side are equal.

    Values are rounded to four decimals, the most that papers print.
    """
    ranks = []
    for values in (np.round(one, 4), np.round(other, 4)):
        below, equal = values[:, None] > values, values[:, None] == values
        ranks.append(below.sum(1) + (equal.sum(1) - 1) / 2)
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks)[0, 1])


def format_markdown(
    rows: Sequence[Row], title: str, compare: str, overrides: Sequence[str], finding: str = "", heading: str = "point"
) -> str:
    """Format the table as Markdown, with the overrides, the comparison of order and the paper's finding."""
    deviations = {name for row in rows for name in row if name.endswith(" deviation")}
    names = [name for name in rows[0] if name not in deviations]
    heads = [escape_markdown(heading if name == "point" else name) for name in names]
    options = escape_markdown(" ".join(overrides))
    lines = [f"**{escape_markdown(title)}** ({options})", "", f"| {' | '.join(heads)} |", "|---" * len(names) + "|"]
    lines += [f"| {' | '.join(escape_markdown(_format_mean(row, name)) for name in names)} |" for row in rows]
    spread = f"Mean ± sample standard deviation over {SEEDS} seeds." if deviations else ""
    for remark in (spread, describe_ranking(rows, compare), f"Paper: {finding}." if finding else ""):
        lines += ["", escape_markdown(remark)] if remark else []
    return "\n".join(lines) + "\n"


def escape_markdown(text: Any) -> str:
    """Escape text for Markdown, including cells of a table."""
    escaped = " ".join(str(text).split()).replace("&", "&amp;")
    escaped = re.sub(r"(?<! )>", "&gt;", re.sub(r"<(?! )", "&lt;", escaped))  # < and > between spaces compare
    return re.sub(r"[\\`*|\[\]]|(?<!\w)_|_(?!\w)", r"\\\g<0>", escaped)  # underscores inside a word need no escape


def parse_number(text: str) -> Any:
    """Parse a value as a number if it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _format_mean(row: Row, name: str) -> str:
    """Format a value of a row with its deviation over seeds, if it has one."""
    value, deviation = row.get(name), row.get(f"{name} deviation")
    if value is None or deviation is None:
        return format_cell(value)
    return f"{format_cell(value)} ± {deviation:.{'2g' if abs(value) < 10 else '3f'}}"


def format_cell(value: Any) -> str:
    """Format a value for a cell of a table."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
