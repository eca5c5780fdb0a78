"""Tables, warnings and plot of the results of ``task=bench``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from src.bench.deformable import GROUPS


def label_entries(entries: Iterable[str]) -> dict[str, str]:
    """Label each entry: without the changes that all entries of its model share."""
    words = {entry: entry.split() for entry in entries}
    shared = {
        model: set.intersection(*(set(changes) for other, *changes in words.values() if other == model))
        for model, *_ in words.values()
    }
    return {
        entry: " ".join([model, *(change for change in changes if change not in shared[model])])
        for entry, (model, *changes) in words.items()
    }


def warn_slow_loading(models: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a warning for each model with less than twice as many samples read as its steps consume."""
    for entry, label in label_entries(models).items():
        read, consumed = (models[entry].get(key, 0) for key in ("loader_samples_per_second", "samples_per_second"))
        if 0 < read < 2 * consumed:
            verdict = "limits training" if read < consumed else "leaves little margin"
            yield f"{label}: reading {verdict}: {read:.3g} samples per second are read, {consumed:.3g} could be used."


def build_tables(outcome: dict[str, Any]) -> Iterator[Table]:
    """Yield a table of the models, and one of the operators if they were compared."""
    height, width = outcome["input"]
    table = Table(title=f"One window of {width}x{height} input frames, {outcome['device']}; floor: convolutions alone")
    table.add_column("model")
    timings = (title for unit in ("s/frame", "s/step") for title in (unit, "floor", "ratio"))
    clips = any("seconds_all_clips" in row for row in outcome["models"].values())
    for title in ("parameters", "GFLOPs", *timings, "samples/s", "read", "peak MiB", *["s, all clips"] * clips):
        table.add_column(title, justify="right")
    first: dict[str, Any] = next(iter(outcome["models"].values()), {})
    labels = label_entries(outcome["models"])
    for entry, row in outcome["models"].items():
        cells = []
        for unit in ("frame", "step"):
            seconds, floor = row.get(f"seconds_per_{unit}"), row.get(f"floor_per_{unit}")
            measured = [f"{seconds:.3g}", f"{floor:.3g}", f"{seconds / floor:.2f}" if floor else ""] if seconds else []
            cells += measured or [""] * 3
        if "seconds_per_step" in row and "seconds_per_step" in first and row is not first:
            cells[3] += f" ({row['seconds_per_step'] / first['seconds_per_step']:.2f} x)"
        rates = [f"{row[key]:.3g}" if key in row else "" for key in ("samples_per_second", "loader_samples_per_second")]
        copies = row.get("ensemble", 1)
        label = labels[entry] + (f", mean of {copies} copies" if copies > 1 else "")
        memory = f"{row['peak_memory'] / 2**20:,.0f}" if "peak_memory" in row else ""
        total = [f"{row['seconds_all_clips']:.4g}" if "seconds_all_clips" in row else ""] * clips
        table.add_row(label, f"{row['parameters']:,}", f"{row['flops'] / 1e9:,.1f}", *cells, *rates, memory, *total)
    yield table
    if rows := outcome["deformable"]:
        yield _build_operator_table(rows, height, width)


def _build_operator_table(rows: list[dict[str, Any]], height: int, width: int) -> Table:
    table = Table(title=f"Convolutions of {width}x{height} pixels, {GROUPS} deformable groups; x: of a plain one")
    for title in ("operator", "channels", "type", "forward, ms", "x", "and backward, ms", "x"):
        table.add_column(title, justify="right" if title not in ("operator", "type") else "left")
    plain = {(row["channels"], row["type"]): row for row in rows if row["operator"] == "convolution"}
    for row in rows:
        reference = plain[row["channels"], row["type"]]
        cells = [
            text
            for key in ("forward", "both")
            for text in (f"{row[key] * 1e3:.3g}", f"{row[key] / reference[key]:.2f}")
        ]
        table.add_row(row["operator"], str(row["channels"]), row["type"], *cells)
    return table


def plot(outcome: dict[str, Any], file: Path) -> None:
    """Plot the seconds of each model as bars with a mark at the floor; FLOPs if no time was measured."""
    from matplotlib import rc_context  # slow to import
    from matplotlib.figure import Figure

    units = [unit for unit in ("frame", "step") if any(f"seconds_per_{unit}" in r for r in outcome["models"].values())]
    units = units or ["flops"]
    labels = label_entries(outcome["models"])
    figure = Figure(figsize=(5 * len(units), 1 + 0.4 * len(outcome["models"])), layout="constrained")
    for axes, unit in zip(figure.subplots(1, len(units), squeeze=False)[0], units, strict=True):
        key = unit if unit == "flops" else f"seconds_per_{unit}"
        rows = {labels[entry]: row for entry, row in outcome["models"].items() if key in row}
        axes.barh(list(rows), [row[key] for row in rows.values()], height=0.6)
        floors = {label: row[f"floor_per_{unit}"] for label, row in rows.items() if row.get(f"floor_per_{unit}")}
        if floors:  # an empty list is no category for matplotlib
            axes.scatter(list(floors.values()), list(floors), marker="|", s=200, color="black", zorder=3)
        axes.invert_yaxis()
        axes.set_title(
            "operations per window" if unit == "flops" else f"seconds per {unit}; bar: its floor", fontsize=10
        )
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{outcome['input'][1]}x{outcome['input'][0]} input pixels, {outcome['device']}", fontsize=11)
    with rc_context({"svg.fonttype": "none"}):  # text stays text
        figure.savefig(file)
