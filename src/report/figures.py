"""Charts and pictures of runs: learning curves, scores over time, quality against cost, frames before and after."""

from __future__ import annotations

import base64
import io
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from src.bench.models import OWN_MODEL
from src.config.composition import compose
from src.errors import UserError
from src.report.charts import COLORS, Chart, Curve, Dot, plot_curves, plot_scatter
from src.report.labels import label_networks
from src.report.runs import Run, network_key
from src.sweeps.run_files import is_external

MAX_WIDTH = 560  # of a frame on the page, in pixels
MODEL_CHANGE = re.compile(r"(model|size)[\w./]*=[\w.+-]+")  # in an entry of task=bench


def plot_learning(runs_by_point: Mapping[str, Sequence[Run]], title: str = "") -> list[Chart]:
    """Plot validation PSNR and training loss over steps: a colour for each point, a line for each seed."""
    prefix = f"{title}: " if title else ""
    panels = (("validate/psnr", "PSNR in validation, dB", False), ("train/loss", "training loss", True))
    charts = [
        plot_curves(
            [
                Curve(point, run.metrics.get(column, ()), number % COLORS, len(seeds) > 1)
                for number, (point, seeds) in enumerate(runs_by_point.items())
                for run in seeds
            ],
            prefix + label,
            "step",
            label,
            log=log,
        )
        for column, label, log in panels
    ]
    return [chart for chart in charts if chart]


def plot_frame_scores(runs_by_point: Mapping[str, Sequence[Run]], clips: int) -> list[Chart]:
    """Plot the PSNR of every frame of the first ``clips`` clips, a line for each run."""
    first = next(iter(runs_by_point.values()), None)
    charts = []
    for clip in list(first[0].results.get("clips", {}) if first else ())[:clips]:
        curves = [
            Curve(
                point,
                [(frame["time"], frame["psnr"]) for frame in frames if frame["psnr"] is not None],
                number % COLORS,
                len(seeds) > 1,
            )
            for number, (point, seeds) in enumerate(runs_by_point.items())
            for run in seeds
            if (frames := run.results.get("clips", {}).get(clip, {}).get("frames"))
        ]
        charts.append(plot_curves(curves, clip, "time in input frames", "PSNR, dB"))
    return [chart for chart in charts if chart]


def plot_costs(runs: Sequence[Run]) -> list[Chart]:
    """Plot PSNR against parameters and against seconds per frame, for each set of runs with comparable scores."""
    seconds = _collect_seconds(runs)
    comparable: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        if run.results.get("summary", {}).get("psnr") is not None and not is_external(run.results):
            comparable.setdefault(run.conditions, {}).setdefault(run.network_key, []).append(run)
    charts: list[Chart | None] = []
    for networks in comparable.values():
        first = next(iter(networks.values()))[0]
        sizes = sorted({seeds[0].size.partition(" ")[0] for seeds in networks.values()})
        title = f"{' and '.join(sizes)}: {first.data}; {first.degradation}"
        labels = dict(zip(networks, label_networks(list(networks)), strict=True))
        scores = {
            key: statistics.mean(run.results["summary"]["psnr"] for run in seeds) for key, seeds in networks.items()
        }
        colors = {key: number % COLORS for number, key in enumerate(networks)}
        sizes_by_key = {key: count for key, seeds in networks.items() if (count := seeds[0].parameters) is not None}
        conditions = dict.fromkeys(condition for key in networks for condition in seconds.get(key, {}))
        costs = [("parameters", sizes_by_key)] + [
            (
                f"seconds per frame, {condition}",
                {key: seconds[key][condition] for key in networks if condition in seconds.get(key, {})},
            )
            for condition in conditions
        ]
        for x_label, cost in costs:
            dots = [Dot(labels[key], x, scores[key], colors[key]) for key, x in cost.items()]
            charts.append(plot_scatter(dots, title, x_label, "PSNR, dB"))
    return [chart for chart in charts if chart]


def _collect_seconds(runs: Iterable[Run]) -> dict[str, dict[str, float]]:
    """Collect seconds per frame from the runs of ``task=bench``, by network and by input size and device."""
    seconds: dict[str, dict[str, float]] = {}
    for run in runs:
        for entry, values in run.results.get("models", {}).items():
            if "seconds_per_frame" not in values or not {"input", "device"} <= run.results.keys():
                continue
            model, *changes = entry.split() or [""]
            if not all(MODEL_CHANGE.fullmatch(change) for change in (f"model={model}", *changes)):
                continue
            try:
                size = f"size={run.config.bench.size}"
                key = network_key(run.config if entry == OWN_MODEL else compose(f"model={model}", size, *changes))
            except (UserError, OmegaConfBaseException):  # the model no longer exists
                continue
            height, width = run.results["input"]
            condition = f"{width}x{height} input on {run.results['device']}"
            seconds.setdefault(key, {})[condition] = values["seconds_per_frame"]
    return seconds


@dataclass(frozen=True)
class FramePair:
    """Frames before and after restoration, as ``data:`` URLs."""

    caption: str
    before: str
    after: str
    width: int
    height: int


def read_pair(file: Path, caption: str, run: Run) -> FramePair | None:
    """Cut bicubic and restored out of a picture of ``SampleFrames``; return None, with a note, for other files."""
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            columns = picture.convert("RGB")
        width, height = columns.width // 3, columns.height
        caption = f"{caption} ({width}x{height})"
        if not width:
            raise ValueError("narrower than three columns")
        frames = [columns.crop((column * width, 0, (column + 1) * width, height)) for column in range(2)]
        if width > MAX_WIDTH:
            width, height = MAX_WIDTH, max(1, round(height * MAX_WIDTH / width))
            frames = [frame.resize((width, height), Image.Resampling.LANCZOS) for frame in frames]
        before, after = map(_encode, frames)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's, for damaged files
        run.notes.append(f"{file.name} is not a picture of sample frames: {error}")
        return None
    return FramePair(caption, before, after, width, height)


def _encode(frame: Image.Image) -> str:
    stream = io.BytesIO()
    frame.save(stream, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
