"""Layout of line charts and scatter plots, in pixels; ``page/chart.html`` draws it as SVG.

matplotlib places the ticks only. Its own SVG does not suit a page of many charts: it repeats ids from chart to chart,
styles the whole page, fixes the colours of one theme, and is three times as large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

WIDTH, HEIGHT = 420, 262
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 22, 42  # margins
MAX_POINTS = 240  # per line
COLORS = 8  # in page.css


@dataclass(frozen=True)
class Curve:
    """Data of a line. ``color`` is an index into the page's colours, shared by the seeds of a point."""

    label: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    thin: bool = False


@dataclass(frozen=True)
class Dot:
    """Data of a labelled point in a scatter plot."""

    label: str
    x: float
    y: float
    color: int = 0


@dataclass(frozen=True)
class Line:
    """A line on the page: ``path`` in SVG's syntax."""

    label: str
    color: int
    thin: bool
    path: str


@dataclass(frozen=True)
class Marker:
    """A point on the page; its label starts or ends (``anchor``) beside it, with its base line at ``label_y``."""

    x: float
    y: float
    color: int
    label: str = ""
    label_y: float = 0.0
    anchor: str = "start"


@dataclass(frozen=True)
class Chart:
    """A chart on the page: positions in pixels of a picture of ``WIDTH`` x ``HEIGHT``."""

    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line] = field(default_factory=list)
    markers: list[Marker] = field(default_factory=list)
    front: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    box: tuple[int, int, int, int] = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)

    @property
    def legend(self) -> list[tuple[str, int]]:
        """Each label once, with its colour."""
        return list(dict.fromkeys((line.label, line.color) for line in self.lines))


def plot_curves(curves: Sequence[Curve], title: str, x_label: str, y_label: str, *, log: bool = False) -> Chart | None:
    """Plot curves over common axes. Return None if they cover a single x, where a table says as much.

    Args:
        curves: data; points that are not finite are dropped.
        title, x_label, y_label: texts.
        log: logarithmic y axis, if all values are positive.
    """
    downsampled = [(curve, downsample([p for p in curve.points if all(map(math.isfinite, p))])) for curve in curves]
    downsampled = [(curve, points) for curve, points in downsampled if points]
    xs = [x for _, points in downsampled for x, _ in points]
    ys = [y for _, points in downsampled for _, y in points]
    if len(set(xs)) < 2:
        return None
    x_axis, y_axis = _Axis(xs, LEFT, WIDTH - RIGHT), _Axis(ys, HEIGHT - BOTTOM, TOP, log=log and min(ys) > 0)
    ends = [f"{curve.label}: {points[0][1]:.4g} to {points[-1][1]:.4g}" for curve, points in downsampled]
    return Chart(
        title,
        f"{y_label} over {x_label}. " + "; ".join(ends),
        x_label,
        y_label,
        x_axis.ticks,
        y_axis.ticks,
        lines=[
            Line(curve.label, curve.color, curve.thin, _path([(x_axis(x), y_axis(y)) for x, y in points]))
            for curve, points in downsampled
        ],
        markers=[
            Marker(x_axis(points[0][0]), y_axis(points[0][1]), curve.color)
            for curve, points in downsampled
            if len(points) == 1  # invisible as a line
        ],
    )


def plot_scatter(dots: Sequence[Dot], title: str, x_label: str, y_label: str) -> Chart | None:
    """Plot quality ``y`` over cost ``x`` (logarithmic) with the Pareto front. Return None for fewer than two points."""
    dots = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    if len(dots) < 2:
        return None
    x_axis = _Axis([dot.x for dot in dots], LEFT + 10, WIDTH - RIGHT - 10, log=True)
    y_axis = _Axis([dot.y for dot in dots], HEIGHT - BOTTOM - 6, TOP + 6)
    front = [dots[index] for index in pareto_front([(dot.x, dot.y) for dot in dots])]
    steps = [(x_axis(front[0].x), y_axis(front[0].y))]
    for previous, dot in pairwise(front):
        steps += [(x_axis(dot.x), y_axis(previous.y)), (x_axis(dot.x), y_axis(dot.y))]
    values = "; ".join(f"{dot.label}: {dot.y:.2f} at {dot.x:.4g}" for dot in dots)
    return Chart(
        title,
        f"{y_label} against {x_label}. {values}. On the front: {', '.join(dot.label for dot in front)}.",
        x_label,
        y_label,
        x_axis.ticks,
        y_axis.ticks,
        markers=_place_labels([(dot, x_axis(dot.x), y_axis(dot.y)) for dot in dots]),
        front=_path(steps),
    )


def _place_labels(dots: Sequence[tuple[Dot, float, float]]) -> list[Marker]:
    """Place labels beside their points at (x, y), from top to bottom, moved down where they would overlap."""
    markers = []
    placed: list[tuple[float, float, float]] = []  # left, right, base line
    for dot, x, y in sorted(dots, key=lambda placed_dot: -placed_dot[0].y):
        length = 6.6 * len(dot.label)  # estimated
        anchor = "start" if x + 9 + length < WIDTH or x < WIDTH / 3 else "end"
        left = x - 9 - length if anchor == "end" else x + 9
        label_y = y + 4
        while any(left < r and left + length > l and abs(label_y - base) < 12 for l, r, base in placed):  # noqa: E741
            label_y += 12
        placed.append((left, left + length, label_y))
        markers.append(Marker(x, y, dot.color, dot.label, label_y, anchor))
    return markers


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of (cost, quality) points that no cheaper or equally cheap point reaches, cheapest first."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def downsample(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """Average neighbouring points so that at most ``limit`` remain."""
    size = math.ceil(len(points) / limit)
    parts = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


class _Axis:
    """Map values to pixels, linearly or logarithmically; a logarithmic axis has zeros at its start."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool = False) -> None:
        from matplotlib.ticker import LogLocator, MaxNLocator  # slow to import

        self.log, self.start, self.end = log, start, end
        positive = [value for value in values if value > 0] if log else list(values)
        low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
        self.zero = low / 4 if log and len(positive) < len(values) else None
        if log:
            low, high = (self.zero or low / 1.4), high * 1.4
            candidates = LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)).tick_values(low, high)
            ticks = [tick for tick in candidates if (low if self.zero is None else low * 2) <= tick <= high]
            if len(ticks) < 2:
                ticks = [tick for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]
        else:
            smallest_range = abs(high) / 1000 or 1.0  # smaller differences look level
            margin = max((high - low) * 0.04, (smallest_range - (high - low)) / 2)
            low, high = low - margin, high + margin
            ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
        self.low, self.high = low, high
        self.ticks = [(self(tick), format_tick(tick)) for tick in ticks]
        if self.zero is not None:
            self.ticks.insert(0, (self(0), "0"))

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log(v) for v in (value if value > 0 else low, low, high))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def format_tick(value: float) -> str:
    """Format a number for an axis: 500, 20k, 1.5M, 0.02."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.4g}{letter}"
    return f"{value:.6g}"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
