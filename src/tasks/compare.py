"""Compare runs on the same clips: differences with their intervals, a test, and the sentence that they allow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from src.atomic import atomic_write
from src.config.run_directory import claim_directory
from src.report.comparison import METRICS, compare, format_comparison, list_cells, load_methods

LISTED = 40  # clips in a table of the terminal; comparison.md has all


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of ``task=compare``; conf/task/compare.yaml explains them."""

    runs: str | list[str]
    resamples: Annotated[int, Ge(100)] = 10_000


def compare_runs(config: DictConfig, directory: Path, *, options: CompareOptions) -> list[dict[str, Any]]:
    """``task=compare``: compare the first of ``runs`` with each of the others, into ``comparison.json`` and ``.md``.

    Returns:
        The comparisons (see :func:`src.report.comparison.compare`).

    Raises:
        UserError: a run has no scores, they are not comparable, or the directory holds another comparison.
    """
    runs = [options.runs] if isinstance(options.runs, str) else list(options.runs)
    first, *others = load_methods(runs)
    compared = [compare(first, other, resamples=options.resamples, seed=config.seed) for other in others]
    with claim_directory(config, directory):
        with atomic_write(directory / "comparison.json") as stream:
            json.dump({"comparisons": compared}, stream, indent=1, ensure_ascii=False)
            stream.write("\n")
        with atomic_write(directory / "comparison.md") as stream:
            stream.write("\n".join(format_comparison(one) for one in compared))
    console = Console()
    console = console if console.is_terminal else Console(width=160)  # a log has room
    for one in compared:
        console.print(_tabulate(one))
        for line in (*(verdict["sentence"] for verdict in one["metrics"].values()), *one["remarks"]):
            console.print(escape(line), soft_wrap=True, highlight=False)
    print(f"Comparison: {directory / 'comparison.md'}")
    return compared


def _tabulate(compared: dict[str, Any]) -> Table:
    """Format a comparison for the terminal."""
    names = [escape(compared[side]["name"]) for side in ("first", "second")]
    shown = Table(title=" - ".join(names))
    shown.add_column("clip")
    for metric in METRICS:
        for heading in (*names, "difference"):
            shown.add_column(f"{metric.upper()}\n{heading}", justify="right")
    clips = list(compared["clips"].items())
    for name, clip in clips[:LISTED]:
        shown.add_row(escape(name), *list_cells(clip))
    if len(clips) > LISTED:
        shown.add_row(f"and {len(clips) - LISTED} more")
    shown.add_section()
    cells = []
    for metric, (_, decimals) in METRICS.items():
        difference = compared["metrics"][metric].get("difference")
        cells += ["", "", "-" if difference is None else f"{difference:+.{decimals}f}"]
    shown.add_row("mean", *cells, style="bold")
    return shown
