"""Comparison of methods that were scored on the same frames: differences with their intervals, and a verdict."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from src.config.type_check import type_mismatch
from src.errors import UserError
from src.metrics.paired import bootstrap_interval, wilcoxon
from src.report.runs import OF_NETWORK
from src.sweeps.aggregate import escape_markdown
from src.sweeps.run_files import Results, is_external

# What neither changes the score of a frame nor tells how it was degraded. Frames and clips are compared by name.
BOOKKEEPING = {
    *("name", "data", "clips_counted", "clips_missing", "input_frames_limit", "to_the_end", "skip", "frames", "edges"),
    *("tile", "overlap", "context", "factor"),
}
METRICS = {"psnr": (" dB", 2), "ssim": (" SSIM", 4)}  # unit and decimals
FEWEST = 6  # clips; of fewer, no rank test can reach 5 %
LEVEL = 0.95


@dataclass(frozen=True)
class Method:
    """A method with its results.

    Args:
        name: for tables.
        sources: files, a seed each.
        results: their contents.
    """

    name: str
    sources: list[Path]
    results: list[dict[str, Any]]


def load_methods(runs: Sequence[str]) -> list[Method]:
    """Load the methods that ``runs`` name: runs, files, folders of seeds, or patterns that match several of these.

    Seeds of a run, and all that one pattern matches, are one method.

    Raises:
        UserError: a run has no scores, or there are fewer than two methods.
    """
    groups: dict[str, list[Path]] = {}
    for entry in runs:
        path = Path(os.path.expanduser(entry))
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path)))]
        if not matches:
            raise UserError(f"runs={entry} does not exist, and nothing matches it as a pattern.")
        files = [file for match in matches for file in _find_results(match)]
        if not files:
            raise UserError(f"{entry} has no results.json: evaluate it, or name a run, its folder or a results.json.")
        for file in files:
            run = file.parent
            key = run.parent if run.name.startswith("seed=") else run
            held = groups.setdefault(entry if len(matches) > 1 else str(key.resolve()), [])
            held += [file] if file.resolve() not in [other.resolve() for other in held] else []
    if len(groups) < 2:
        (only, held), *_ = groups.items()
        raise UserError(
            f"There is one method to compare, {only} (seeds: {len(held)}): name another, runs=[<run>,<other run>]."
        )
    loaded = {key: [_read_results(file) for file in files] for key, files in groups.items()}
    names = _name_methods(groups, loaded)
    methods = [Method(name, groups[key], loaded[key]) for name, key in zip(names, groups, strict=True)]
    for method in methods:
        for results in method.results[1:]:
            _check_protocols(method.name, method.results[0], method.name, results)
    return methods


def _find_results(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    own = path / "results.json"
    return [own] if own.is_file() else sorted(path.glob("seed=*/results.json"))


def _read_results(file: Path) -> dict[str, Any]:
    try:
        results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        fault = type_mismatch(file.name, results, Results)
    except (OSError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
    if fault or not results.get("clips"):
        raise UserError(f"{file} has no scores of clips to compare{f' ({fault})' if fault else ''}: evaluate the run.")
    return results


def _name_methods(groups: dict[str, list[Path]], loaded: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Name methods: those from elsewhere as they are called, others by the parts of their paths that not all have."""
    paths = [os.path.abspath(path) for path in groups]
    paths = [os.path.relpath(path, os.path.commonpath(paths)) for path in paths]
    parts = [path.replace("/", ",").split(",") for path in paths]
    shared = set.intersection(*map(set, parts))
    labels = [" ".join(part for part in own if part not in shared) or own[0] for own in parts]
    names = [str(loaded[key][0].get("name") or label) for key, label in zip(groups, labels, strict=True)]
    return names if len(set(names)) == len(names) else paths


def compare(first: Method, second: Method, *, resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Compare two methods on the frames that both have.

    Returns:
        ``metrics.<metric>``: ``difference`` (first minus second: the mean over clips, each the mean over its frames and
        over seeds), ``interval``, ``p``, ``clips`` and ``sentence``; ``clips.<name>``: both scores, the difference, and
        ``frames`` with the difference of each; ``remarks``, sentences about what was left out or differs.

    Raises:
        UserError: the protocols differ, or no clip is common.
    """
    _check_protocols(first.name, first.results[0], second.name, second.results[0])
    every = [[set(results["clips"]) for results in method.results] for method in (first, second)]
    common = set.intersection(*every[0], *every[1])
    names = [name for name in first.results[0]["clips"] if name in common]
    if not names:
        examples = (next(iter(method.results[0]["clips"])) for method in (first, second))
        raise UserError(
            f"{first.name} and {second.name} have no clip in common, for example {' and '.join(examples)}: evaluate "
            "both on the same data."
        )
    remarks = [
        f"Only {method.name} has {', '.join(sorted(alone))}: left out."
        for method, sets in zip((first, second), every, strict=True)
        if (alone := set.union(*sets) - common)
    ]
    clips: dict[str, Any] = {}
    means: dict[str, list[list[list[float]]]] = {metric: [] for metric in METRICS}  # by clip, side and seed
    left_out = 0
    for name in names:
        sides = [[results["clips"][name] for results in method.results] for method in (first, second)]
        clips[name], of_clip, lacking = _compare_clip(sides)
        left_out += lacking
        for metric, values in of_clip.items():
            means[metric].append(values)
    if left_out:
        remarks.append(f"Frames that not all have were left out: {left_out}.")
    remarks += _describe_differences(first, second)
    metrics = {}
    for metric, by_clip in means.items():
        ours, theirs = (np.array([sides[side] for sides in by_clip], dtype=float).T for side in (0, 1))  # (S, N)
        metrics[metric] = _judge(metric, first, second, ours, theirs, resamples, seed)
    return {
        "first": _describe(first),
        "second": _describe(second),
        "metrics": metrics,
        "clips": clips,
        "remarks": remarks,
        "bootstrap": {"resamples": resamples, "seed": seed, "level": LEVEL, "interval": "percentile"},
    }


def _describe(method: Method) -> dict[str, Any]:
    return {"name": method.name, "results": [str(file) for file in method.sources], "seeds": len(method.sources)}


def _compare_clip(
    sides: Sequence[Sequence[dict[str, Any]]],
) -> tuple[dict[str, Any], dict[str, list[list[float]]], int]:
    """Compare a clip; return its differences, the means by side and seed, and how many frames some lack."""
    tables = [[{_time(frame): frame for frame in clip["frames"]} for clip in side] for side in sides]
    every = [table for side in tables for table in side]
    times = sorted(set.intersection(*map(set, every)))
    compared: dict[str, Any] = {"frames": [{"time": float(time)} for time in times]}
    means_of: dict[str, list[list[float]]] = {}
    for metric in METRICS:
        values = [
            np.array([[_number(table[time].get(metric)) for time in times] for table in side]).reshape(len(side), -1)
            for side in tables
        ]
        finite = np.isfinite(np.concatenate(values)).all(axis=0)  # an exact frame has no PSNR
        means = [[float(row[finite].mean()) if finite.any() else np.nan for row in side] for side in values]
        pooled = [float(np.mean(side)) for side in means]
        differences = values[0].mean(axis=0) - values[1].mean(axis=0)
        for entry, difference, is_finite in zip(compared["frames"], differences, finite, strict=True):
            entry[metric] = float(difference) if is_finite else None
        means_of[metric] = means
        compared[metric] = (
            None
            if np.isnan(pooled).any()
            else {
                "first": pooled[0],
                "second": pooled[1],
                "difference": pooled[0] - pooled[1],
            }
        )
    return compared, means_of, len(set.union(*map(set, every))) - len(times)


def _time(frame: dict[str, Any]) -> Fraction:
    return Fraction(frame["time"]).limit_denominator(1000)


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _judge(
    metric: str, first: Method, second: Method, a: np.ndarray, b: np.ndarray, resamples: int, seed: int
) -> dict[str, Any]:
    """Compute the mean difference of a metric, its interval and the test; and say what they allow to say."""
    known = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    a, b = a[:, known], b[:, known]
    count = int(known.sum())
    if not count:
        return {"clips": 0, "sentence": f"Nothing can be said: no clip has a {metric.upper()} of both."}
    differences = a.mean(axis=0) - b.mean(axis=0)
    difference = float(differences.mean())
    verdict: dict[str, Any] = {"difference": difference, "clips": count, "interval": None, "p": None}
    unit, decimals = METRICS[metric]
    better, worse = (first.name, second.name) if difference >= 0 else (second.name, first.name)
    amount = f"{abs(difference):.{decimals}f}{unit}"
    if not differences.any():
        sentence = f"Nothing can be said: {better} and {worse} have the same {metric.upper()} on every clip."
        return verdict | {"interval": [0.0, 0.0], "p": 1.0, "sentence": sentence}
    if count < FEWEST:
        clips = "a single clip" if count == 1 else f"{count} clips"
        sentence = (
            f"Nothing can be said from {clips}, on which {better} is {amount} above {worse}; {FEWEST} are the least."
        )
        return verdict | {"sentence": sentence}
    low, high = bootstrap_interval(a, b, resamples=resamples, seed=seed, level=LEVEL)
    verdict |= {"interval": [low, high], "p": (p := wilcoxon(differences))}
    shown = (low, high) if difference >= 0 else (-high, -low)
    seeds = f", {len(a)} and {len(b)} seeds" if max(len(a), len(b)) > 1 else ""
    within = f"95 %: {shown[0]:.{decimals}f} to {shown[1]:.{decimals}f}, {count} clips{seeds}"
    decided = low * high > 0 and (p < 1 - LEVEL)
    if not decided:
        return verdict | {
            "sentence": f"Nothing can be said: {better} is {amount} above {worse} ({within}; Wilcoxon p = {p:.2g})."
        }
    sentence = f"{better} is better than {worse} by {amount} ({within}; Wilcoxon p = {p:.2g})."
    return verdict | {"sentence": sentence}


def _check_protocols(name: str, results: dict[str, Any], other_name: str, other: dict[str, Any]) -> None:
    """Refuse scores that different rules made.

    Raises:
        UserError: the protocols differ in what changes scores; the message names the keys.
    """
    differing = _find_differing(results, other, ignored=OF_NETWORK | BOOKKEEPING)
    if not differing:
        return
    what = "; ".join(f"{key}: {_short(one)} / {_short(two)}" for key, (one, two) in differing.items())
    raise UserError(
        f"{name} and {other_name} were scored under different protocols ({what}): score both by the same protocol= and "
        "degradation=."
    )


def _find_differing(results: dict[str, Any], other: dict[str, Any], ignored: set[str]) -> dict[str, tuple[Any, Any]]:
    """Find the keys of two protocols that differ; of frames restored elsewhere, only those that are known."""
    one, two = results["protocol"], other["protocol"]
    keys = [key for key in dict.fromkeys([*one, *two]) if key not in ignored]
    pairs = {key: (one.get(key), two.get(key)) for key in keys}
    if is_external(results) or is_external(other):
        pairs = {key: pair for key, pair in pairs.items() if None not in pair or key == "colour_matrix"}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _describe_differences(first: Method, second: Method) -> list[str]:
    """Describe how the networks ran, where that differs, and what is not known."""
    one, two = first.results[0], second.results[0]
    unnamed = {"checkpoint", "commit", "frames_counted", "clips_counted", "clips_missing", "name", "window"}
    differing = _find_differing(one, two, ignored=unnamed)
    remarks = [
        "They differ in "
        + "; ".join(f"{key}: {_short(pair[0])} / {_short(pair[1])}" for key, pair in differing.items())
        + "."
    ]
    remarks = remarks if differing else []
    outside = [method.name for method in (first, second) if is_external(method.results[0])]
    return remarks + [f"{name} was restored elsewhere: from which input is not known." for name in outside]


def format_comparison(compared: dict[str, Any]) -> str:
    """Format a comparison as Markdown: the sentences, the clips, and the remarks."""
    names = [compared[side]["name"] for side in ("first", "second")]
    lines = [f"## {escape_markdown(' - '.join(names))}", ""]
    lines += [f"- {escape_markdown(verdict['sentence'])}" for verdict in compared["metrics"].values()]
    heads = ["clip", *(f"{m.upper()}, {name}" for m in METRICS for name in (*names, "difference"))]
    lines += ["", f"| {' | '.join(map(escape_markdown, heads))} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    rows = [(name, list_cells(clip)) for name, clip in compared["clips"].items()]
    lines += [f"| {' | '.join([escape_markdown(name), *cells])} |" for name, cells in rows]
    lines += ["", *(f"- {escape_markdown(remark)}" for remark in compared["remarks"])]
    sources = [
        f"- {escape_markdown(name)}: {escape_markdown(', '.join(compared[side]['results']))}"
        for name, side in zip(names, ("first", "second"), strict=True)
    ]
    return "\n".join([*lines, *sources]) + "\n"


def list_cells(clip: dict[str, Any]) -> list[str]:
    """List the scores of a clip and their differences as text."""
    cells = []
    for metric, (_, decimals) in METRICS.items():
        figures = clip[metric]
        cells += [f"{figures[key]:.{decimals}f}" for key in ("first", "second")] if figures else ["-", "-"]
        cells.append(f"{figures['difference']:+.{decimals}f}" if figures else "-")
    return cells
