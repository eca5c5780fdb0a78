"""Plots of a sweep: a score over its points, and scores of frames over time."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from src.sweeps.aggregate import Point, Row


def _in_plain_text(drawing: Callable[..., None]) -> Callable[..., None]:
    """Decorate a drawing function: keep text as text in the SVG, and do not typeset ``$...$`` as formulas."""

    @wraps(drawing)
    def draw_in_context(*arguments: Any, **options: Any) -> None:
        from matplotlib import rc_context  # only here: training does not need it

        with rc_context({"svg.fonttype": "none", "text.parse_math": False}):
            drawing(*arguments, **options)

    return draw_in_context


@_in_plain_text
def draw(rows: Sequence[Row], title: str, compare: str, file: Path, overrides: Sequence[str] = ()) -> None:
    """Plot ``compare`` over the points, the paper's and ours side by side on separate scales.

    The ``overrides`` stand below the title: size and data above all.
    """
    from matplotlib.figure import Figure  # only here: training does not need it

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
    figure.suptitle(_format_heading(title, overrides), fontsize=9)
    figure.savefig(file)


@_in_plain_text
def draw_frames(
    members: Sequence[Point], metric: str, title: str, file: Path, overrides: Sequence[str] = (), most: int = 8
) -> None:
    """Plot a score of every frame over time, a line for each point, for the first ``most`` clips (VTSR, Figure 4.4)."""
    from matplotlib.figure import Figure  # only here: training does not need it

    clips = list(members[0].results["clips"])[:most]
    drawn = Figure(figsize=(8, 2 * len(clips)), layout="constrained")
    grid = drawn.subplots(len(clips), 1, squeeze=False)
    for axes, clip in zip(grid[:, 0], clips, strict=True):
        for point in members:
            frames = point.results["clips"][clip]["frames"]
            values = [math.nan if frame[metric] is None else frame[metric] for frame in frames]
            label = point.overrides.get("experiment", point.directory.name)
            axes.plot([frame["time"] for frame in frames], values, label=label, linewidth=1)
        axes.set_title(clip, fontsize=9)
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
    grid[0, 0].legend(fontsize=8)
    grid[-1, 0].set_xlabel("time in input frames")
    drawn.suptitle(_format_heading(title, overrides), fontsize=9)
    drawn.savefig(file)


def _format_heading(title: str, overrides: Sequence[str]) -> str:
    """Return a plot's title, with the overrides wrapped below it."""
    return "\n".join([title, *textwrap.wrap(" ".join(overrides), 90)])
