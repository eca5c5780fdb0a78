"""A paper's table with ours in it, line by line, as a page and Markdown show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from src.report.runs import Block
from src.sweeps.aggregate import order, rank_correlation
from src.sweeps.published import Table

MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class Line:
    """A line of a table: what it is (``paper``, ``here``, ``difference``), its cells, and where ours are from."""

    kind: str
    cells: list[str]
    label: str
    exact: list[str]
    protocol: str = ""


@dataclass(frozen=True)
class Group:
    """The lines of a method: what it is called, in as many cells as the table has columns of words."""

    names: list[str]
    lines: list[Line]


@dataclass(frozen=True)
class Grid:
    """A table as it is shown: headings of words, headings of figures, lines by method, and how the order agrees."""

    words: list[str]
    figures: list[str]
    groups: list[Group]
    agreement: list[str]
    remark: str = ""


def grid(table: Table, block: Block | None = None) -> Grid:
    """The paper's table, with ours below each of its rows where ``block`` has them, then ours that it has not."""
    words = [name for number, name in enumerate(table.columns) if number == 0 or table.decimals(name) is None]
    printed = [name for name in table.columns if name not in words]
    extra = [title for title in block.study.columns if title not in table.columns] if block else []
    words = words or ["point"]
    groups = [_group(table, block, index, words, printed, extra) for index in range(len(table.rows))]
    if block:
        for point in block.rows.keys() - set(block.by_index.values()):
            label = [point, *[""] * (len(words) - 1)]
            groups.append(Group(label, [_ours(block, point, [*printed, *extra], table)]))
    return Grid(words, [*printed, *extra], groups, _agreement(table, block, printed, extra), _remark(table, block))


def _group(
    table: Table, block: Block | None, index: int, words: Sequence[str], printed: Sequence[str], extra: Sequence[str]
) -> Group:
    row = table.rows[index]
    theirs = [shown(row[name], table.decimals(name)) for name in printed] + [""] * len(extra)
    lines = [Line("paper", theirs, "paper", theirs)]
    if block and (point := block.by_index.get(index)) is not None:
        lines.append(_ours(block, point, [*printed, *extra], table))
        differences = []
        for name in printed:
            ours, _ = block.figure(name, index)
            comparable = isinstance(ours, int | float) and isinstance(row[name], int | float)
            differences.append(shown(ours - row[name], table.decimals(name), sign=True) if comparable else "")
        lines.append(Line("difference", differences + [""] * len(extra), "difference", differences + [""] * len(extra)))
    return Group([shown(row.get(name), None) for name in words], lines)


def _ours(block: Block, point: str, columns: Sequence[str], table: Table) -> Line:
    index = next((i for i, p in block.by_index.items() if p == point), None)
    row, runs, cells, exact = block.rows[point], block.members[point], [], []
    for name in columns:
        if index is not None and name in table.columns:
            value, spread = block.figure(name, index)
        else:
            value, spread = row.get(name), row.get(f"{name} deviation")
        places = table.decimals(name) if name in table.columns else None
        text = shown(value, places)
        cells.append(text + (f" ± {shown(spread, places)}" if spread is not None else ""))
        exact.append("" if value is None else f"{value}" + (f" ± {spread}" if spread is not None else ""))
    first, seeds = runs[0], {run.directory.name for run in runs}  # one of which may be tested several times
    label = f"here{', mini' if first.size != 'full' else ''}{f', {len(seeds)} seeds' if len(seeds) > 1 else ''}"
    about = f"{first.size}; {first.data}; {first.protocol or first.results.get('device', '')}"
    return Line("here", cells, label, exact, f"{point}: {about}" if point else about)


def _agreement(table: Table, block: Block | None, printed: Sequence[str], extra: Sequence[str]) -> list[str]:
    """Of each column, how the order of ours agrees with the paper's; empty where nothing says so."""
    found = []
    for name in printed if block else ():
        both = [  # what is printed alike is alike
            (row[name], round(ours, table.decimals(name) or 0))
            for index, row in enumerate(table.rows)
            if block and isinstance(ours := block.figure(name, index)[0], int | float) and row[name] is not None
        ]
        value = rank_correlation(*zip(*both, strict=True)) if len(both) > 1 else None
        word = "" if len(both) < 2 else "level" if value is None else "same order" if value > 0 else "reversed"
        found.append(f"{value:.2f}".replace("-", MINUS) if len(both) > 2 and value is not None else word)
    return [*found, *("" for _ in extra)] if any(found) else []


def _remark(table: Table, block: Block | None) -> str:
    """How the order of what the study is about agrees with the paper's, in a sentence."""
    if not block or block.study.compare not in block.study.columns:
        return ""
    theirs = block.study.compare if block.study.compare in table.columns else None
    rows = [
        {
            "point": point,
            block.study.compare: block.rows[point].get(block.study.compare),
            f"paper: {block.study.compare}": value,
        }
        for index, point in block.by_index.items()
        if theirs and isinstance(value := table.rows[index][theirs], int | float)
    ]
    return order(rows, block.study.compare) if rows else ""


def shown(value: Any, decimals: int | None, *, sign: bool = False) -> str:
    """A cell: the paper's decimals, where it has any, else four digits; a true minus."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if decimals is None:
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    else:
        text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", MINUS)
