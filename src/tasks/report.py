"""Sets everything published beside everything run: a page that needs no network, and Markdown tables."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import yaml
from annotated_types import Ge
from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from src.config.composition import CONF, commit, compose
from src.errors import UserError
from src.report.charts import Chart, Curve, Dot, curves, scatter
from src.report.runs import Block, Run, blocks, command, network, runs
from src.report.tables import Grid, grid
from src.sweeps.aggregate import in_markdown
from src.sweeps.published import Paper, Table, published, studies, swept
from src.tasks.bench import OWN
from src.training.wandb import sweep_config

SIDE = 560  # pixels that a frame on the page is wide at most
EACH = 3  # pairs of frames of a block at most
COLORS = 8  # of the page's style sheet
CHANGE = re.compile(r"(model|size)[\w./]*=[\w.+-]+")  # to a model, as task=bench has them in its entries


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of ``task=report``; conf/task/report.yaml explains them."""

    output: str = "runs/report"
    project: str = "zeitlupe"


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Options of ``report``, of the page; conf/task/report.yaml explains them."""

    pictures: Annotated[int, Ge(0)] = 16
    clips: Annotated[int, Ge(0)] = 3


def report(config: DictConfig, directory: Path, *, options: ReportOptions, report: PageOptions) -> dict[str, int]:
    """``task=report``: writes ``index.html`` and a Markdown file for each paper into ``output``.

    Each study is also written as a W&B sweep, ``sweeps/<study>.yaml``.

    Returns:
        How many tables are ``filled``, ``partly filled`` and ``not run``.

    Raises:
        UserError: ``output`` cannot be written.
    """
    folder, output = Path(config.paths.runs), Path(options.output)
    papers = published(CONF.parent / "experiments")
    content = Content(papers, folder, output, report)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "index.html").write_text(_render("page.html", content), encoding="utf-8")
        for paper in papers:
            (output / f"{paper.folder}.md").write_text(_render("tables.md", content, paper=paper), encoding="utf-8")
        for study in swept():
            (output / "sweeps").mkdir(exist_ok=True)
            text = yaml.safe_dump(sweep_config(study, options.project), sort_keys=False, width=120)
            (output / "sweeps" / f"{study.name}.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{output} cannot be written ({error.strerror}): choose another place, output=<folder>."
        ) from error
    if not content.runs:
        print(
            f"There are no runs with results in {folder}, so every table is 'not run': paths.runs=<folder> says where."
        )
    said = ", ".join(f"{number} {status}" for status, number in content.counts.items())
    print(f"{sum(content.counts.values())} tables: {said}.\nReport: {output / 'index.html'}")
    return content.counts


@dataclass(frozen=True)
class Pair:
    """Frames before and after, as ``data:`` addresses."""

    caption: str
    before: str
    after: str
    width: int
    height: int


@dataclass(frozen=True)
class Shown:
    """A block of a table: the grid, what its runs are, and pictures of them."""

    block: Block
    grid: Grid
    command: str
    charts: list[Chart]
    frames: list[Chart]
    pairs: list[Pair]


@dataclass(frozen=True)
class Entry:
    """A table of a paper: as printed, and every block that was run of it."""

    table: Table
    status: str
    grid: Grid
    shown: list[Shown]
    commands: list[str]
    missing: list[str]

    @property
    def anchor(self) -> str:
        """Where it is on the page."""
        return f"{self.table.folder}-{self.table.key}"

    @property
    def state(self) -> str:
        """Its status, and that it is mini where nothing in it is of the paper's size, or else not as published."""
        found = [shown.block.departures for shown in self.shown if shown.block.done]
        if not found or not all(found):
            return self.status
        mini = all(departures[0].startswith("mini") for departures in found)
        return f"{self.status}, {'mini' if mini else 'not as published'}"


class Content:
    """What the page shows, put together from the papers and the runs."""

    def __init__(self, papers: Sequence[Paper], folder: Path, output: Path, options: PageOptions) -> None:
        self.papers, self.folder, self.output, self.options = papers, folder, output, options
        self.commit, self.pictures = commit(), options.pictures
        self.runs = {run.directory.resolve(): run for run in runs(folder) if run.readable}
        self.entries = {paper.folder: [self._entry(table) for table in paper.tables] for paper in papers}

    @property
    def counts(self) -> dict[str, int]:
        """Tables by status."""
        found = [entry.status for entries in self.entries.values() for entry in entries]
        return {status: found.count(status) for status in ("filled", "partly filled", "not run")}

    def link(self, file: Path) -> str:
        """A file's address from the page."""
        return quote(os.path.relpath(file, self.output).replace(os.sep, "/"))

    def where(self, run: Run) -> str:
        """A run's path as far as it tells it from others."""
        return os.path.relpath(run.directory, self.folder)

    def _entry(self, table: Table) -> Entry:
        named = studies(table)
        found = {study.name: [b for b in blocks(study, self.folder) if b.points or b.open] for study in named}
        shown = [self._shown(table, block) for study in named for block in found[study.name]]
        done = [max((block.done for block in found[study.name]), default=0) for study in named]
        whole = bool(named) and all(d >= study.expected for d, study in zip(done, named, strict=True))
        status = "filled" if whole else "partly filled" if any(done) else "not run"
        missing = [study for study, d in zip(named, done, strict=True) if d == 0]
        return Entry(
            table,
            status,
            grid(table),
            shown,
            [command(study, (), self.folder) for study in missing],
            [] if named else ["no study of conf/ablation repeats it"],
        )

    def _shown(self, table: Table, block: Block) -> Shown:
        for run in block.points:
            self.runs.setdefault(run.directory.resolve(), run)
        return Shown(
            block,
            grid(table, block),
            command(block.study, block.options, self.folder),
            learning(block.members),
            over_time(block.members, self.options.clips),
            list(self._pairs(block)),
        )

    def _pairs(self, block: Block) -> Iterator[Pair]:
        """Of each point a pair of frames, of the clip that most of them have."""
        samples = {point: seeds[0].samples for point, seeds in block.members.items()}
        clips = [clip for found in samples.values() for clip in found]
        pictured = [(point, found) for point, found in samples.items() if found]
        for point, found in pictured[: min(EACH, self.pictures)]:
            clip = max(found, key=clips.count)
            self.pictures -= 1
            yield from pair(found[clip], f"{clip}, {point}", block.members[point][0])

    @cached_property
    def others(self) -> dict[str, list[Run]]:
        """Runs that belong to no study, by experiment or task."""
        studied = {
            run.directory.resolve()
            for entries in self.entries.values()
            for entry in entries
            for shown in entry.shown
            for run in shown.block.points
        }
        found: dict[str, list[Run]] = {}
        for place, run in self.runs.items():
            if place not in studied:
                found.setdefault((*Path(self.where(run)).parts, self.folder.name)[0], []).append(run)
        return found

    @cached_property
    def other_charts(self) -> list[Chart]:
        """Learning curves of the runs that belong to no study."""
        found = []
        for experiment, members in self.others.items():
            seeds: dict[str, list[Run]] = {}
            for run, name in zip(members, told_apart([Path(self.where(r)).parent.name for r in members]), strict=True):
                seeds.setdefault(name or experiment, []).append(run)
            found += learning(seeds, experiment)
        return found

    @cached_property
    def other_pairs(self) -> list[Pair]:
        """Frames of the runs that belong to no study, as many as there is still room for."""
        pictured = [(name, run) for name, members in self.others.items() for run in members if run.samples]
        return [
            one
            for experiment, run in pictured[: max(0, self.pictures)]
            for clip, file in list(run.samples.items())[-1:]
            for one in pair(file, f"{clip}, {experiment}", run)
        ]

    @cached_property
    def balance(self) -> list[Chart]:
        """PSNR against seconds and against parameters, for each set of runs whose scores can be compared."""
        seconds = self._seconds()
        alike: dict[str, dict[str, list[Run]]] = {}
        for run in self.runs.values():
            if run.results.get("summary", {}).get("psnr") is not None:
                alike.setdefault(run.conditions, {}).setdefault(run.network, []).append(run)
        charts: list[Chart | None] = []
        for networks in alike.values():
            first = next(iter(networks.values()))[0]
            sizes = sorted({seeds[0].size.partition(":")[0] for seeds in networks.values()})
            about = f"{' and '.join(sizes)}: {first.data}; {first.degradation}"
            labels = called(list(networks))
            scores = {
                name: statistics.mean(r.results["summary"]["psnr"] for r in seeds) for name, seeds in networks.items()
            }
            named = list(zip(networks, labels, strict=True))
            dots = [
                Dot(label, count, scores[name], number % COLORS)
                for number, (name, label) in enumerate(named)
                if (count := networks[name][0].parameters) is not None
            ]
            charts.append(scatter(dots, about, "parameters", "PSNR, dB"))
            for condition in dict.fromkeys(c for name in networks for c in seconds.get(name, {})):
                timed = [
                    Dot(label, seconds[name][condition], scores[name], number % COLORS)
                    for number, (name, label) in enumerate(named)
                    if condition in seconds.get(name, {})
                ]
                charts.append(scatter(timed, about, f"seconds a frame, {condition}", "PSNR, dB"))
        return [chart for chart in charts if chart]

    def _seconds(self) -> dict[str, dict[str, float]]:
        """Seconds a frame by network and by what they were measured on, from the runs of ``task=bench``."""
        found: dict[str, dict[str, float]] = {}
        for run in self.runs.values():
            for name, figures in run.results.get("models", {}).items():
                if "seconds_per_frame" not in figures or not {"input", "device"} <= run.results.keys():
                    continue
                model, *changes = name.split() or [""]
                if not all(CHANGE.fullmatch(change) for change in (f"model={model}", *changes)):
                    continue
                try:
                    size = f"size={run.config.bench.size}"
                    measured = network(run.config if name == OWN else compose(f"model={model}", size, *changes))
                except (UserError, OmegaConfBaseException):  # a model that there is no more
                    continue
                height, width = run.results["input"]
                condition = f"{width}x{height} input on {run.results['device']}"
                found.setdefault(measured, {})[condition] = figures["seconds_per_frame"]
        return found


# --- names -----------------------------------------------------------------------------------------------------


def told_apart(paths: Sequence[str], most: int = 48) -> list[str]:
    """Names without the options that all of them have, and of what is long the beginning and the end."""
    parts = [path.replace("/", ",").split(",") for path in paths]
    common = set.intersection(*map(set, parts)) if len(parts) > 1 else set(parts[0][1:])
    found = [" ".join(part for part in name if part not in common) or name[0] for name in parts]
    return [name if len(name) <= most else f"{name[: most - 13]}\N{HORIZONTAL ELLIPSIS}{name[-12:]}" for name in found]


def called(networks: Sequence[str]) -> list[str]:
    """Short names of networks as :func:`src.report.runs.network` gives them: the class, and what tells it apart."""
    leaves = [dict(_leaves(json.loads(text))) for text in networks]
    found: list[str] = []
    for own in leaves:
        alike = [other for other in leaves if other.get("_target_") == own.get("_target_")]
        apart = [key for key in own if any(other.get(key) != own[key] for other in alike)]
        parts = [_leaf(key, own[key]) for key in ["_target_", *apart] if key.endswith("_target_") and key in own]
        found.append(" ".join(dict.fromkeys(parts)) or "network")
    for name in {name for name in found if found.count(name) > 1}:  # then their numbers say it
        same = [number for number, other in enumerate(found) if other == name]
        for number in same:
            own = leaves[number]
            apart = [key for key in own if any(leaves[other].get(key) != own[key] for other in same)]
            found[number] = " ".join([name, *dict.fromkeys(_leaf(key, own[key]) for key in apart[:2])])
    return found


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, json.dumps(node) if isinstance(node, list) else node


def _leaf(key: str, value: Any) -> str:
    if key.endswith("_target_"):
        return str(value).rpartition(".")[2]
    return f"{key.rpartition('.')[2]} {Path(value).name if isinstance(value, str) else value}"


# --- pictures --------------------------------------------------------------------------------------------------


def learning(members: dict[str, list[Run]], experiment: str = "") -> list[Chart]:
    """Validation PSNR and the loss over steps, a colour a point, a line a seed."""
    lead = f"{experiment}: " if experiment else ""
    asked = (("validate/psnr", "PSNR in validation, dB", False), ("train/loss", "training loss", True))
    found = [
        curves(
            [
                Curve(point, seed.metrics.get(column, ()), number % COLORS, len(seeds) > 1)
                for number, (point, seeds) in enumerate(members.items())
                for seed in seeds
            ],
            lead + title,
            "step",
            title,
            log=log,
        )
        for column, title, log in asked
    ]
    return [chart for chart in found if chart]


def over_time(members: dict[str, list[Run]], clips: int) -> list[Chart]:
    """PSNR of every frame of the first ``clips`` clips, a line a run."""
    first = next(iter(members.values()), None)
    found = []
    for clip in list(first[0].results.get("clips", {}) if first else ())[:clips]:
        lines = [
            Curve(
                point,
                [(f["time"], f["psnr"]) for f in frames if f["psnr"] is not None],
                number % COLORS,
                len(seeds) > 1,
            )
            for number, (point, seeds) in enumerate(members.items())
            for seed in seeds
            if (frames := seed.results.get("clips", {}).get(clip, {}).get("frames"))
        ]
        found.append(curves(lines, clip, "time in input frames", "PSNR, dB"))
    return [chart for chart in found if chart]


def pair(file: Path, caption: str, run: Run) -> Iterator[Pair]:
    """Bicubic and restored of a picture that ``SampleFrames`` made; of another none, with a note."""
    try:
        with Image.open(file, formats=["PNG"]) as picture:  # other formats call other programs
            whole = picture.convert("RGB")
        width, height = whole.width // 3, whole.height
        if not width:
            raise ValueError("it has no three columns")
        frames = [whole.crop((column * width, 0, (column + 1) * width, height)) for column in range(2)]
        if width > SIDE:
            width, height = SIDE, max(1, round(height * SIDE / width))
            frames = [frame.resize((width, height), Image.Resampling.LANCZOS) for frame in frames]
        before, after = map(_address, frames)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's, of damaged files
        run.notes.append(f"{file.name} is no picture of frames: {error}")
        return
    yield Pair(caption, before, after, width, height)


def _address(frame: Image.Image) -> str:
    stream = io.BytesIO()
    frame.save(stream, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


# --- page ------------------------------------------------------------------------------------------------------


def _render(name: str, content: Content, **more: Any) -> str:
    loader = PackageLoader("src.report", "page")
    environment = Environment(
        loader=loader,
        autoescape=lambda template: not (template or "").endswith((".md", ".css", ".js")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = in_markdown
    return environment.get_template(name).render(content=content, **more)
