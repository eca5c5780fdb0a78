"""A paper's table with our results in it, line by line, as the page and the Markdown show it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.report.runs import Run
from src.report.study_results import StudyResult
from src.sweeps.aggregate import DIFFERENCE, Row, describe_ranking, rank_correlation
from src.sweeps.published import Table

DECIMALS = {"psnr": 2, "ssim": 4}  # of scores in tables that no paper has printed
MINUS, MISSING = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class TableLine:
    """A line of a table.

    Args:
        kind: ``paper``, ``here`` or ``difference``.
        cells: texts of the value columns.
        label: text of the line's own column.
        exact: the values behind ``cells``, unrounded.
        protocol: size, data and protocol of our results.
    """

    kind: str
    cells: list[str]
    label: str
    exact: list[str]
    protocol: str = ""


@dataclass(frozen=True)
class TableGroup:
    """The lines of one method, under its name: a cell for each column of words."""

    names: list[str]
    lines: list[TableLine]


@dataclass(frozen=True)
class ComparisonTable:
    """A table for display.

    Args:
        words: headings of the columns of words.
        metrics: headings of the columns of values.
        groups: lines by method.
        agreement: agreement of our order with the paper's, for each column of values; empty if there is none.
        remark: both rankings in words, for the column that the study compares.
    """

    words: list[str]
    metrics: list[str]
    groups: list[TableGroup]
    agreement: list[str]
    remark: str = ""


def compare_table(table: Table, result: StudyResult | None = None) -> ComparisonTable:
    """Put the lines of ``result`` below the paper's rows, then the points that the paper does not have."""
    words = [name for number, name in enumerate(table.columns) if number == 0 or table.decimals(name) is None]
    printed = [name for name in table.columns if name not in words]
    extra = [title for title in result.study.columns if title not in table.columns] if result else []
    heading = result.study.options.get("heading") if result else None
    words = words or [heading or "point"]
    groups = [_group_row(table, result, index, words, printed, extra) for index in range(len(table.rows))]
    if result:
        for point in [name for name in result.rows if name not in result.point_by_row.values()]:
            names = [point, *[""] * (len(words) - 1)]
            groups.append(TableGroup(names, [_format_ours(result, point, [*printed, *extra], table)]))
    return ComparisonTable(
        words, [*printed, *extra], groups, _compare_orders(table, result, printed, extra), _remark(table, result)
    )


@dataclass(frozen=True)
class ClipTable:
    """Scores of single clips: a row for each clip, a column for each point."""

    points: list[str]
    rows: list[tuple[str, list[str]]]


def tabulate_clips(runs_by_point: Mapping[str, Sequence[Run]]) -> ClipTable:
    """Tabulate the PSNR of every clip, the mean over the seeds of a point, and SSIM behind it."""
    points = [point for point, seeds in runs_by_point.items() if any(run.results.get("clips") for run in seeds)]
    names = dict.fromkeys(clip for point in points for run in runs_by_point[point] for clip in run.results["clips"])
    rows = []
    for name in names:
        cells = []
        for point in points:
            scores = [run.results["clips"].get(name, {}) for run in runs_by_point[point]]
            values = [_average([score.get(metric) for score in scores]) for metric in DECIMALS]
            texts = [
                format_cell(value, places)
                for value, places in zip(values, DECIMALS.values(), strict=True)
                if value is not None
            ]
            cells.append("/".join(texts) or MISSING)
        rows.append((name, cells))
    return ClipTable(points, rows)


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _group_row(
    table: Table,
    result: StudyResult | None,
    index: int,
    words: Sequence[str],
    printed: Sequence[str],
    extra: Sequence[str],
) -> TableGroup:
    row = table.rows[index]
    theirs = [format_cell(row[name], table.decimals(name)) for name in printed] + [""] * len(extra)
    lines = [TableLine("paper", theirs, "paper", theirs)]
    if result and (point := result.point_by_row.get(index)) is not None:
        lines.append(_format_ours(result, point, [*printed, *extra], table))
        lines.append(_subtract_paper(table, row, {name: result.value(name, index)[0] for name in printed}, extra))
    elif result and result.difference and row[table.columns[0]] == DIFFERENCE:
        names = [*printed, *extra]
        cells = [format_cell(result.difference.get(name), _decimals(table, name)) for name in names]
        exact = [format_cell(result.difference.get(name), None) for name in names]
        rows = " - ".join(result.rows)
        lines.append(TableLine("here", cells, "here", exact, rows))
        lines.append(_subtract_paper(table, row, {name: result.difference.get(name) for name in printed}, extra))
    return TableGroup([format_cell(row.get(name), None) for name in words], lines)


def _subtract_paper(table: Table, row: Row, ours: Row, extra: Sequence[str]) -> TableLine:
    """Return the line of differences between our values of a row and the paper's."""
    cells = []
    for name, value in ours.items():
        comparable = isinstance(value, int | float) and isinstance(row[name], int | float)
        cells.append(format_cell(value - row[name], table.decimals(name), sign=True) if comparable else "")
    cells += [""] * len(extra)
    return TableLine("difference", cells, "difference", cells)


def _decimals(table: Table, name: str) -> int | None:
    return table.decimals(name) if name in table.columns else None


def _format_ours(result: StudyResult, point: str, columns: Sequence[str], table: Table) -> TableLine:
    index = next((i for i, p in result.point_by_row.items() if p == point), None)
    row, runs, cells, exact = result.rows[point], result.runs_by_point[point], [], []
    for name in columns:
        if index is not None and name in table.columns:
            value, spread = result.value(name, index)
        else:
            value, spread = row.get(name), row.get(f"{name} deviation")
        places = _decimals(table, name)
        if not table.rows:  # of the reader's own
            places = DECIMALS.get(result.study.columns[name].rpartition("/")[2])
        cells.append(format_cell(value, places) + (f" ± {format_cell(spread, places)}" if spread is not None else ""))
        exact.append("" if value is None else f"{value}" + (f" ± {spread}" if spread is not None else ""))
    first, seeds = runs[0], {run.directory.name for run in runs}  # a seed may be tested several times
    mini = ", mini" if first.size.startswith("mini") else ""
    label = f"{'here' if table.rows else ''}{mini}{f', {len(seeds)} seeds' if len(seeds) > 1 else ''}".lstrip(", ")
    label = label or "1 seed"
    conditions = f"{first.size}; {first.data}; {first.protocol or first.results.get('device', '')}"
    return TableLine("here", cells, label, exact, f"{point}: {conditions}" if point else conditions)


def _compare_orders(
    table: Table, result: StudyResult | None, printed: Sequence[str], extra: Sequence[str]
) -> list[str]:
    """Describe for each column the agreement of our order with the paper's; empty without any comparable column."""
    cells = []
    for name in printed if result else ():
        pairs = [
            (row[name], round(ours, table.decimals(name) or 0))  # equal in print counts as equal
            for index, row in enumerate(table.rows)
            if result and isinstance(ours := result.value(name, index)[0], int | float) and row[name] is not None
        ]
        correlation = rank_correlation(*zip(*pairs, strict=True)) if len(pairs) > 1 else None
        if len(pairs) > 2 and correlation is not None:
            cells.append(f"{correlation:.2f}".replace("-", MINUS))
        elif len(pairs) > 1:
            cells.append("level" if correlation is None else "same order" if correlation > 0 else "reversed")
        else:
            cells.append("")
    return [*cells, *("" for _ in extra)] if any(cells) else []


def _remark(table: Table, result: StudyResult | None) -> str:
    """Describe our ranking beside the paper's, for the column that the study compares; equal in print is equal."""
    if not result or result.study.compare not in result.study.columns or result.study.compare not in table.columns:
        return ""
    compare = result.study.compare
    rows = [
        {
            "point": point,
            compare: round(ours, table.decimals(compare) or 0) if isinstance(ours, int | float) else None,
            f"paper: {compare}": value,
        }
        for index, point in result.point_by_row.items()
        if isinstance(value := table.rows[index][compare], int | float)
        for ours in [result.rows[point].get(compare)]
    ]
    return describe_ranking(rows, compare) if rows else ""


def format_cell(value: Any, decimals: int | None, *, sign: bool = False) -> str:
    """Format a value with the paper's decimals, or four digits without any, and a true minus."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if decimals is None:
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    else:
        text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", MINUS)
