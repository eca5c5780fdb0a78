"""Curves and points as the places of lines on a page: scales, ticks and labels, which a template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 420, 262
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 22, 42
MOST = 240  # points of a line; the page shows no more


@dataclass(frozen=True)
class Curve:
    """A line of a chart: ``color`` is an index, equal for what belongs together (seeds of a point)."""

    label: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    thin: bool = False


@dataclass(frozen=True)
class Dot:
    """A point of a scatter with its name."""

    label: str
    x: float
    y: float
    color: int = 0


@dataclass(frozen=True)
class Chart:
    """What a template needs to draw: all places in pixels of a picture of ``WIDTH`` x ``HEIGHT``."""

    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[tuple[str, int, bool, str]] = field(default_factory=list)  # label, colour, thin, path
    dots: list[tuple[float, float, str, int, float, str]] = field(
        default_factory=list
    )  # x, y, label, colour, y of it, side
    front: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    box: tuple[int, int, int, int] = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)

    @property
    def legend(self) -> list[tuple[str, int]]:
        """Each label once, with its colour."""
        return list(dict.fromkeys((label, color) for label, color, _, _ in self.lines))


def curves(given: Sequence[Curve], title: str, x_label: str, y_label: str, *, log: bool = False) -> Chart | None:
    """Lines over common axes, the y axis logarithmic with ``log`` where all is positive; None without any."""
    kept = [(curve, thinned([p for p in curve.points if all(map(math.isfinite, p))])) for curve in given]
    kept = [(curve, points) for curve, points in kept if points]
    xs = [x for _, points in kept for x, _ in points]
    ys = [y for _, points in kept for _, y in points]
    if len(set(xs)) < 2:
        return None  # figures of one moment are no curve; tables have them
    log = log and min(ys) > 0
    across, up = _Axis(xs, LEFT, WIDTH - RIGHT), _Axis(ys, HEIGHT - BOTTOM, TOP, log=log)
    ends = [f"{curve.label}: {points[0][1]:.4g} to {points[-1][1]:.4g}" for curve, points in kept]
    return Chart(
        title,
        f"{y_label} over {x_label}. " + "; ".join(ends),
        x_label,
        y_label,
        across.ticks,
        up.ticks,
        lines=[
            (curve.label, curve.color, curve.thin, _path([(across(x), up(y)) for x, y in points]))
            for curve, points in kept
        ],
        dots=[
            (across(points[0][0]), up(points[0][1]), "", curve.color, 0.0, "")
            for curve, points in kept
            if len(points) == 1  # a line of one point is none
        ],
    )


def scatter(dots: Sequence[Dot], title: str, x_label: str, y_label: str) -> Chart | None:
    """Points that cost ``x``, on a logarithmic axis, and reach ``y``, and the front that nothing cheaper reaches."""
    dots = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    if len(dots) < 2:
        return None
    across = _Axis([dot.x for dot in dots], LEFT + 10, WIDTH - RIGHT - 10, log=True)
    up = _Axis([dot.y for dot in dots], HEIGHT - BOTTOM - 6, TOP + 6)
    best = front([(dot.x, dot.y) for dot in dots])
    corners: list[tuple[float, float]] = []
    for place, number in enumerate(best):
        if place:
            corners.append((across(dots[number].x), up(dots[best[place - 1]].y)))
        corners.append((across(dots[number].x), up(dots[number].y)))
    placed: list[tuple[float, float, str, int, float, str]] = []
    taken: list[tuple[float, float, float]] = []  # left, right and base line of labels
    for dot in sorted(dots, key=lambda dot: -dot.y):
        x, y = across(dot.x), up(dot.y)
        length = 6.6 * len(dot.label)  # in pixels, about
        side = "start" if x + 9 + length < WIDTH or x < WIDTH / 3 else "end"
        left = x - 9 - length if side == "end" else x + 9
        base = y + 4
        while any(left < r and left + length > b and abs(base - at) < 12 for b, r, at in taken):
            base += 12
        taken.append((left, left + length, base))
        placed.append((x, y, dot.label, dot.color, base, side))
    names = "; ".join(f"{dot.label}: {dot.y:.2f} at {dot.x:.4g}" for dot in dots)
    ahead = ", ".join(dots[number].label for number in best)
    return Chart(
        title,
        f"{y_label} against {x_label}. {names}. On the front: {ahead}.",
        x_label,
        y_label,
        across.ticks,
        up.ticks,
        dots=placed,
        front=_path(corners),
    )


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto front, from the cheapest on: no other point costs no more and reaches as much."""
    found: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not found or points[index][1] > points[found[-1]][1]:
            found.append(index)
    return found


def thinned(points: Sequence[tuple[float, float]], most: int = MOST) -> list[tuple[float, float]]:
    """At most ``most`` points: of more, means of neighbours."""
    each = math.ceil(len(points) / most)
    parts = [points[start : start + each] for start in range(0, len(points), each or 1)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


class _Axis:
    """From values to pixels, linear or logarithmic; nothing has a logarithm of zero, so zeros lie at its start."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool = False) -> None:
        from matplotlib.ticker import LogLocator, MaxNLocator  # only here: training does without

        self.log, self.start, self.end = log, start, end
        positive = [value for value in values if value > 0] if log else list(values)
        low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
        self.zero = low / 4 if log and len(positive) < len(values) else None
        if log:
            low, high = (self.zero or low / 1.4), high * 1.4
            marks = LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)).tick_values(low, high)
            inside = [mark for mark in marks if (low if self.zero is None else low * 2) <= mark <= high]
            if len(inside) < 2:
                inside = [mark for mark in MaxNLocator(3).tick_values(low, high) if low <= mark <= high]
        else:
            least = abs(high) / 1000 or 1.0  # what differs by less is level
            room = max((high - low) * 0.04, (least - (high - low)) / 2)
            low, high = low - room, high + room
            inside = [mark for mark in MaxNLocator(5).tick_values(low, high) if low <= mark <= high]
        self.low, self.high = low, high
        self.ticks = [(self(mark), short(mark)) for mark in inside]
        if self.zero is not None:
            self.ticks.insert(0, (self(0), "0"))

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log(v) for v in (value if value > 0 else low, low, high))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def short(value: float) -> str:
    """A number for an axis: 500, 20k, 1.5M, 0.02."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.4g}{letter}"
    return f"{value:.6g}"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if points else ""
