"""What was run: the runs on disk, and those that are points of a study."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from src.checkpoints import build
from src.config.composition import CONF, PATHS, UNSAID, compose, described
from src.config.type_check import type_mismatch
from src.errors import CheckpointError
from src.nn.blocks import count_parameters
from src.nn.flops import count
from src.sweeps.aggregate import COUNTED, Point, Row, grouped, tabulate
from src.sweeps.published import Sweepable
from src.sweeps.run_files import Configuration, Results, configuration


class Run(Point):
    """A run's directory; what cannot be read in it is None, and said in ``notes``."""

    def __init__(self, directory: Path, overrides: Sequence[str] = ()) -> None:
        super().__init__(directory, overrides)
        self.notes: list[str] = []

    def value(self, source: str) -> Any:
        try:
            return super().value(source)
        except Exception as error:  # a run of an older version may not fit today's networks
            self.notes.append(f"{source}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            return None

    @cached_property
    def readable(self) -> bool:
        """Whether there are a configuration and results that can be read, and are such as a run writes."""
        try:
            fault = _fault(self.config) or type_mismatch("results.json", self.results, Results)
        except Exception as error:  # half written, or not ours
            fault = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if fault:
            self.notes.append(fault)
        return not fault

    @cached_property
    def trained(self) -> DictConfig:
        """The configuration of the training that its weights come from; its own, unless that still lies there."""
        file = self.config.get("checkpoint")
        origin = Path(file).parents[1] / "config.yaml" if file and len(Path(file).parts) > 2 else None
        if origin is None or not origin.is_file():
            return self.config
        try:
            config = configuration(origin)
            fault = _fault(config)
        except Exception as error:  # not ours
            fault = str(error)
        if fault:
            self.notes.append(f"{origin}: {fault}")
        return self.config if fault else config

    @cached_property
    def network(self) -> str:
        """What tells its network from others."""
        return network(self.trained)

    @cached_property
    def parameters(self) -> int | None:
        """Of its network; None where it cannot be built."""
        try:
            return _parameters(self.network)
        except CheckpointError as error:  # an older version's, its weights are gone, or it is none
            self.notes.append(f"parameters: {error}")
            return None

    @cached_property
    def counted(self) -> dict[str, int]:
        return _counted(network(self.config))

    @cached_property
    def size(self) -> str:
        """``full``, or ``mini`` and by how much."""
        full = _full_size()
        size = self.trained.get("size") or full
        if (size.width, size.depth) == (full.width, full.depth):
            return "full"
        return f"mini: {size.width:g} of the width, {size.depth:g} of the depth"

    @cached_property
    def data(self) -> str:
        """The data set that it was scored on, and how much of it."""
        place, layout = self.config.data.get("root"), self.config.data.layout.get("_target_", "")
        protocol = self.results.get("protocol", {})
        limit = protocol.get("input_frames_limit")
        counted = protocol.get("clips_counted")
        parts = [str(layout).rpartition(".")[2], Path(place).name if place else ""]
        text = " ".join(dict.fromkeys(part for part in parts if part))
        text += f", {counted} clip{'s' if counted != 1 else ''}" if counted else ""
        return text + (f", {limit} input frame{'s' if limit != 1 else ''} of each" if limit else "")

    @cached_property
    def protocol(self) -> str:
        """By which rules its scores were made, in a sentence; empty for a run without scores."""
        about = self.results.get("protocol")
        if not about:
            return ""
        counted = about["frames"] + (f" but {about['skip'][0]}+{about['skip'][1]}" if any(about["skip"]) else "")
        parts = [
            f"{about['name']}: {str(about['channel']).upper()}" + (f" ({m})" if (m := about["colour_matrix"]) else ""),
            f"crop {about['crop']}",
            f"frames: {counted}",
            f"{about.get('clip_length')} output frames a pass",
            f"edges {about['edges']}" if about.get("edges") else "",
            f"ensemble of {about['ensemble']}" if about["ensemble"] != 1 else "",
            f"{about['factor']} frames of one" if about.get("factor") else "",
            self.degradation,
            f"{about.get('clips_counted')} clips, {about.get('frames_counted')} frames",
            f"data {about.get('data')}",
            f"mean {about['mean']}",
            f"commit {str(about.get('commit'))[:12]}",
        ]
        return "; ".join(part for part in parts if part)

    @property
    def degradation(self) -> str:
        """What was done to the frames before the network saw them."""
        about = dict(self.results.get("protocol", {}).get("degradation") or {})
        steps = [str(step.get("_target_", "")).rpartition(".")[2] for step in about.pop("steps", None) or []]
        said = [f"{key} {value}" for key, value in about.items() if value is not None and not key.startswith("_")]
        return "degradation: " + (", ".join([*said, *steps]) or "none")

    @property
    def conditions(self) -> str:
        """Scores of runs with equal ones can be compared: data, protocol, degradation."""
        about = dict(self.results.get("protocol", {}))
        own = {"window", "clip_length", "padding", "checkpoint", "commit", "frames_counted"}
        own |= {"ensemble", "edges", "precision"}
        return json.dumps({key: value for key, value in about.items() if key not in own}, sort_keys=True)

    @property
    def commit(self) -> str:
        """Of the code that made it."""
        return self._said("commit.txt")

    @property
    def address(self) -> str:
        """Of its page at Weights & Biases, where it has one; only of the web."""
        text = self._said("wandb_url.txt")
        return text if re.fullmatch(r"https?://[^\s\"'<>]+", text) else ""

    def _own(self, file: Path) -> bool:
        """Whether it is a file of this run, and no link that leads out of its directory."""
        return file.is_file() and file.resolve().is_relative_to(self.directory.resolve())

    def _said(self, name: str) -> str:
        """The first line of a small file."""
        file = self.directory / name
        if not self._own(file):
            return ""
        with file.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(1000).strip()

    @cached_property
    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """Columns of ``metrics.csv`` over steps; empty for a run without training."""
        columns: dict[str, list[tuple[int, float]]] = {}
        file = self.directory / "metrics.csv"
        if self._own(file):
            with file.open(newline="", encoding="utf-8", errors="replace") as stream:
                for row in csv.DictReader(stream):
                    for name, value in row.items():
                        with suppress(ValueError, TypeError):  # no number, or a part of a line
                            if name and value and name != "step":
                                columns.setdefault(name, []).append((int(row["step"]), float(value)))
        return columns

    @property
    def samples(self) -> dict[str, Path]:
        """By clip its newest picture of frames, bicubic, restored and target side by side; those of the test first."""
        found: dict[str, Path] = {}
        for file in sorted((self.directory / "samples").glob("*.png")):
            match = re.fullmatch(r"(.+)_(?:step\d+|test)", file.stem)
            if match and not match[1].endswith("_offsets") and self._own(file):
                found[match[1]] = file  # in order: later steps, then the test
        return found


def network(config: DictConfig) -> str:
    """A configuration's network as text, equal for equal networks."""
    return json.dumps(OmegaConf.to_container(config.model.network, resolve=True), sort_keys=True)


def _fault(config: DictConfig) -> str:
    """What a run's configuration lacks of what the report reads of it; empty where it is whole."""
    return type_mismatch("config.yaml", OmegaConf.to_container(config), Configuration)


@cache
def _parameters(text: str) -> int:  # seeds and evaluations have the same network
    with torch.device("meta"):
        return count_parameters(_built(text))


@cache
def _counted(text: str) -> dict[str, int]:
    return count(_built(text), *COUNTED)


def _built(text: str) -> Any:
    return build(json.loads(text), "its config.yaml", of_files=True)


@cache
def _full_size() -> Any:
    return OmegaConf.load(CONF / "size" / "full.yaml")


def runs(folder: Path) -> Iterator[Run]:
    """Every run under ``folder`` that has results, in the order of their paths."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        if "config.yaml" in files and "results.json" in files:
            folders.clear()  # what lies in a run is its own
            yield Run(Path(place))


@dataclass
class Block:
    """What one study found with one set of options.

    Args:
        study: which.
        options: what was asked for beside the study.
        points: finished runs.
        open: points that are not finished: overrides, status, message.
    """

    study: Sweepable
    options: list[str]
    points: list[Run] = field(default_factory=list)
    open: list[tuple[str, str, str]] = field(default_factory=list)

    @cached_property
    def members(self) -> dict[str, list[Run]]:
        """Its runs by what the row is called that they make."""
        found = grouped(self.points, self.study.published, self.study.varied, self.study.across)
        return {str(name): alike for name, alike in found.items() if name not in self.study.hide}

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Means and deviations over seeds, by what a row is called."""
        study = self.study
        found = tabulate(self.points, study.columns, study.published, study.varied, study.across, study.hide)
        return {str(row["point"]): row for row in found}

    @cached_property
    def by_index(self) -> dict[int, str]:
        """Points by the index of the row that they are in the paper's table."""
        return {self.study.rows[point]: point for point in self.rows if point in self.study.rows}

    @property
    def done(self) -> int:
        """Rows that have what the study is about."""
        points = self.by_index.values() if self.study.rows else self.rows
        return sum(self.rows[point].get(self.study.compare) is not None for point in points)

    @cached_property
    def departures(self) -> list[str]:
        """In what its runs differ from the published experiment; empty where in nothing that is known of."""
        sizes = {point.size for point in self.points} - {"full"}
        found = sorted(sizes)
        first = next((point for point in self.points if point.metrics), self.points[0])
        try:
            given = {key: first.overrides[key] for key in self.study.params if key in first.overrides}
            recipe = compose(f"ablation={self.study.name}", *(f"{key}={value}" for key, value in given.items()))
            other = recipe.data.layout != first.config.data.layout
        except Exception:  # the study has changed since
            return [*found, "made by an older version of this study"]
        if first.results.get("protocol") and other:
            found.append(f"not the paper's data: {first.data}")
        elif first.results.get("protocol", {}).get("input_frames_limit") and not recipe.data.test_frames:
            found.append(f"only part of the data: {first.data}")
        steps, whole = first.config.trainer.max_steps, recipe.trainer.max_steps
        if first.metrics and steps < whole:
            found.append(f"{steps:,} of {whole:,} steps")
        return found

    def figure(self, column: str, index: int) -> tuple[Any, float | None]:
        """Ours for a cell of the paper's table, and its deviation over seeds; None where there is none."""
        row = self.rows.get(self.by_index.get(index, ""), {})
        return row.get(column), row.get(f"{column} deviation")


def command(study: Sweepable, options: Sequence[str], folder: Path) -> str:
    """The command line of a study whose runs lie, or are to lie, in ``folder``."""
    place = [] if folder == Path("runs") else [f"paths.runs={folder}"]
    words = [f"ablation={study.name}", *options, *place, *(["resume=true"] if options else [])]
    return "python -m src.run " + shlex.join(" ".join(word.split()) for word in words)  # one line, whatever they hold


def blocks(study: Sweepable, folder: Path) -> list[Block]:
    """What was recorded of ``study`` under ``folder``, the runs' own: a block for each set of options."""
    found: dict[str, Block] = {}
    recorded: list[tuple[int, list[str], str, str, Path]] = []
    for file in sorted((folder / "ablations" / study.name).glob("*/points/*.json")):
        try:
            record = json.loads(file.read_text())
            overrides = [str(override) for override in record["overrides"]]
            status, message = str(record["status"]), str(record.get("message") or "")
            place = _lies(Path(str(record["directory"])), folder)
            recorded.append((int(record.get("number", 0)), overrides, status, message, place))
        except Exception:  # being written, or not ours
            continue
    for _, overrides, status, message, place in sorted(recorded, key=lambda point: point[0]):  # as they were asked for
        given = dict(override.partition("=")[::2] for override in overrides)
        given = {key: value.strip("'") if key in PATHS else value for key, value in given.items()}  # Hydra's quotes
        options = [f"{k}={v}" for k, v in sorted(given.items()) if k not in (*study.params, *UNSAID, "seed")]
        block = found.setdefault("\n".join(options), Block(study, options))
        run = Run(place, overrides)
        if status == "finished" and run.readable:
            block.points.append(run)
        else:
            about = " ".join(f"{key}={given[key]}" for key in (*study.varied, "seed") if key in given)
            missing = "its results are gone" if status == "finished" else message
            block.open.append((about or described(overrides), status, missing))
    return sorted(found.values(), key=lambda block: -block.done)


def _lies(directory: Path, folder: Path) -> Path:
    """Where a run is, also when all runs were moved together; ``folder`` itself, which is none, where it is outside."""
    last = Path(*directory.parts[-3:])  # <experiment>/<options>/seed=<n>
    inside = [place for place in (folder / directory, folder / last) if _within(place, folder)]
    return next((place for place in inside if place.is_dir()), inside[-1] if inside else folder)


def _within(place: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, by its name; links in it are its owner's."""
    return Path(os.path.abspath(place)).is_relative_to(os.path.abspath(folder))
