"""Results of the studies of ``conf/ablation``: the runs of their points, aggregated over seeds."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from src.config.composition import compose
from src.config.overrides import PATH_OPTIONS
from src.config.run_directory import NO_EFFECT
from src.config.run_names import name_overrides
from src.report.runs import Run
from src.sweeps.aggregate import Row, group_by_row, resolve_columns, subtract_rows, tabulate
from src.sweeps.published import Sweepable
from src.sweeps.run_files import is_external


@dataclass
class StudyResult:
    """Runs of one study with one set of options.

    Args:
        study: the study.
        options: overrides beside the study's own.
        runs: finished runs.
        unfinished: other points: overrides, status, message.
    """

    study: Sweepable
    options: list[str]
    runs: list[Run] = field(default_factory=list)
    unfinished: list[tuple[str, str, str]] = field(default_factory=list)

    @cached_property
    def runs_by_point(self) -> dict[str, list[Run]]:
        """Runs by the name of their row."""
        study = self.study
        groups = group_by_row(self.runs, study.published, study.varied, study.across)
        return {str(point): runs for point, runs in groups.items() if point not in study.hide}

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Means and deviations over seeds, by the name of the row."""
        study = self.study
        rows = tabulate(self.runs, study.columns, study.published, study.varied, study.across, study.hide)
        return {str(row["point"]): row for row in rows}

    @cached_property
    def difference(self) -> Row:
        """The first of two rows minus the second, in studies with ``differences``; empty in others."""
        rows = list(self.rows.values())
        return subtract_rows(rows) if self.study.options.get("differences") and len(rows) == 2 else {}

    @cached_property
    def point_by_row(self) -> dict[int, str]:
        """Points by the index of their row in the paper's table."""
        return {self.study.rows[point]: point for point in self.rows if point in self.study.rows}

    @property
    def rows_done(self) -> int:
        """Number of rows with a value in the column that the study compares."""
        points = self.point_by_row.values() if self.study.rows else self.rows
        return sum(self.rows[point].get(self.study.compare) is not None for point in points)

    @cached_property
    def departures(self) -> list[str]:
        """Known differences of its runs from the published experiment."""
        departures = sorted({run.size for run in self.runs} - {"full"})
        ours = [run for run in self.runs if not is_external(run.results)]
        if not ours:
            return ["restored elsewhere"]
        first = next((run for run in ours if run.metrics), ours[0])
        try:
            overrides = {key: first.overrides[key] for key in self.study.params if key in first.overrides}
            recipe = compose(f"ablation={self.study.name}", *(f"{key}={value}" for key, value in overrides.items()))
            other_data = recipe.data.layout != first.config.data.layout
        except Exception:  # the study has changed since
            return [*departures, "made by an older version of this study"]
        if first.results.get("protocol") and other_data:
            departures.append(f"not the paper's data: {first.data}")
        elif first.results.get("protocol", {}).get("input_frames_limit") and not recipe.data.test_frames:
            departures.append(f"only part of the data: {first.data}")
        steps, full_steps = first.config.trainer.max_steps, recipe.trainer.max_steps
        if first.metrics and steps < full_steps:
            departures.append(f"{steps:,} of {full_steps:,} steps")
        return departures

    def value(self, column: str, index: int) -> tuple[Any, float | None]:
        """Return our value for a cell of the paper's table and its deviation over seeds; None for missing ones."""
        row = self.rows.get(self.point_by_row.get(index, ""), {})
        return row.get(column), row.get(f"{column} deviation")


def format_command(study: Sweepable, options: Sequence[str], folder: Path) -> str:
    """Return the command line that runs or resumes a study with its runs in ``folder``."""
    place = [] if folder == Path("runs") else [f"paths.runs={folder}"]
    words = [f"ablation={study.name}", *options, *place, *(["resume=true"] if options else [])]
    return "python -m src.run " + shlex.join(" ".join(word.split()) for word in words)  # a single line


def load_own_results(folder: Path, published: Collection[str]) -> list[StudyResult]:
    """Load the sweeps under ``folder`` that repeat no published table, the latest first.

    Args:
        folder: the runs.
        published: names of the studies that repeat one.
    """
    files = [file for file in (folder / "ablations").glob("*/*/table.json") if file.parts[-3] not in published]
    results = []
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            table = json.loads(file.read_text())
            options = {name: table.get(name) for name in ("title", "columns", "compare", "heading", "command")}
            resolve_columns(options["columns"])
            records = [json.loads(point.read_text())["overrides"] for point in file.parent.glob("points/*.json")]
            values = [dict(str(override).partition("=")[::2] for override in record) for record in records]
        except Exception:  # half written, or another program's
            continue
        keys = {key for point in values for key in point}
        varied = {key: [str(point.get(key)) for point in values] for key in keys}
        params = {key: ",".join(sorted(set(held))) for key, held in varied.items() if len(set(held)) > 1}
        study = Sweepable(file.parts[-3], params, options | {"compare": options["compare"] or "psnr"}, {})
        results += [result for result in load_results(study, folder, file.parts[-2]) if result.runs]
    return results


def load_results(study: Sweepable, folder: Path, place: str = "*") -> list[StudyResult]:
    """Load the recorded points of ``study`` under ``folder``: one result for each set of options, fullest first.

    Args:
        study: the study.
        folder: the runs.
        place: the folder of one set of options; by default of all.
    """
    results: dict[str, StudyResult] = {}
    records: dict[tuple[str, ...], tuple[tuple[int, str], list[str], str, str, Path, Any]] = {}
    root = folder / "ablations" / study.name
    places = root.glob("*/points/*.json") if place == "*" else (root / place / "points").glob("*.json")
    for file in sorted(places, key=lambda file: (file.stat().st_mtime_ns, file.name)):
        try:
            record = json.loads(file.read_text())
            overrides = [str(override) for override in record["overrides"]]
            status, message = str(record["status"]), str(record.get("message") or "")
            directory = _locate(Path(str(record["directory"])), folder)
            number, seconds = (int(record.get("number", 0)), str(file)), record.get("seconds")
            records[str(file.parents[1]), *overrides] = (number, overrides, status, message, directory, seconds)
        except Exception:  # half written, or another program's
            continue
    for _, overrides, status, message, directory, seconds in sorted(records.values(), key=lambda record: record[0]):
        values = dict(override.partition("=")[::2] for override in overrides)
        values = {
            key: value.strip("'") if key in PATH_OPTIONS else value for key, value in values.items()
        }  # Hydra's quotes
        options = [f"{k}={v}" for k, v in sorted(values.items()) if k not in (*study.params, *NO_EFFECT, "seed")]
        result = results.setdefault("\n".join(options), StudyResult(study, options))
        run = Run(directory, overrides, seconds)
        if status == "finished" and run.readable:
            result.runs.append(run)
        else:
            point = " ".join(f"{key}={values[key]}" for key in (*study.varied, "seed") if key in values)
            message = "its results are gone" if status == "finished" else message
            result.unfinished.append((point or name_overrides(overrides), status, message))
    return sorted(results.values(), key=lambda result: -result.rows_done)


def _locate(directory: Path, folder: Path) -> Path:
    """Find a recorded run's directory below ``folder``, even if runs were moved; return ``folder`` for one outside."""
    tail = Path(*directory.parts[-3:])  # <experiment>/<options>/seed=<n>
    inside = [path for path in (folder / directory, folder / tail) if _is_inside(path, folder)]
    return next((path for path in inside if path.is_dir()), inside[-1] if inside else folder)


def _is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path leads into a folder, judged by its name: ``..`` counts, links do not."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
