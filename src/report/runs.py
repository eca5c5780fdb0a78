"""Runs on disk, as the report reads them."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from src.checkpoints import build
from src.config.composition import CONF
from src.config.overrides import by_place
from src.config.run_directory import UNNAMED
from src.config.type_check import type_mismatch
from src.errors import CheckpointError
from src.nn.blocks import count_parameters
from src.nn.flops import count
from src.sweeps.aggregate import FLOPS_INPUT_SIZE, Point
from src.sweeps.run_files import Configuration, Results, is_external, read_configuration
from src.zoo import without_fetching

OF_NETWORK = {  # facts beside a protocol about the network and how it ran: they do not make scores incomparable
    *("window", "clip_length", "padding", "checkpoint", "commit", "frames_counted", "ensemble", "precision"),
}


class Run(Point):
    """A run's directory. Values that cannot be read are None, with a reason in ``notes``."""

    def __init__(self, directory: Path, overrides: Sequence[str] = (), seconds: float | None = None) -> None:
        super().__init__(directory, overrides, seconds)

    def value(self, source: str) -> Any:
        try:
            return super().value(source)
        except Exception as error:  # runs of an older version may not fit today's networks
            self.notes.append(f"{source}: {_summarise(error)}")
            return None

    @cached_property
    def readable(self) -> bool:
        """True if the configuration and the results can be read and have the right types."""
        try:
            fault = _check_config(self.config) or type_mismatch("results.json", self.results, Results)
        except Exception as error:  # half written, or another program's
            fault = _summarise(error)
        if fault:
            self.notes.append(fault)
        return not fault

    @cached_property
    def training_config(self) -> DictConfig:
        """The configuration of the training that produced the weights, if it is still there; else the run's own."""
        file = self.config.get("checkpoint")
        origin = Path(file).parents[1] / "config.yaml" if file and len(Path(file).parts) > 2 else None
        if origin is None or not origin.is_file():
            return self.config
        try:
            config = read_configuration(origin)
            fault = _check_config(config)
        except Exception as error:  # another program's
            fault = str(error)
        if fault:
            self.notes.append(f"{origin}: {fault}")
        return self.config if fault else config

    @cached_property
    def network_key(self) -> str:
        """JSON key of the network that produced the weights."""
        return network_key(self.training_config)

    @cached_property
    def parameters(self) -> int | None:
        """Number of parameters; None if the network cannot be built, or is unknown."""
        if is_external(self.results):
            return None
        try:
            return _count_parameters(self.network_key)
        except CheckpointError as error:  # from an older version, or its weights are gone
            self.notes.append(f"parameters: {error}")
            return None

    @cached_property
    def counted(self) -> dict[str, int]:
        return _count(network_key(self.config))

    @cached_property
    def size(self) -> str:
        """``full``, or ``mini`` with its factors; ``own`` for a network from outside the suite, which has neither."""
        full = _full_size()
        if not str(self.training_config.model.network.get("_target_", "src.")).startswith("src."):
            return "own"
        size = self.training_config.get("size") or full
        if (size.width, size.depth) == (full.width, full.depth):
            return "full"
        return f"mini (width x{size.width:g}, depth x{size.depth:g})"

    @cached_property
    def data(self) -> str:
        """The data set of its scores, and the part of it that was used."""
        root, layout = self.config.data.get("root"), self.config.data.layout.get("_target_", "")
        protocol = self.results.get("protocol", {})
        limit = protocol.get("input_frames_limit")
        clips = protocol.get("clips_counted")
        names = [str(layout).rpartition(".")[2], Path(root).name if root else ""]
        if is_external(self.results):
            names = [f"{self.results.get('name')} on {Path(str(protocol.get('data'))).name}"]
        text = " ".join(dict.fromkeys(name for name in names if name))
        text += f", {clips} clip{'s' if clips != 1 else ''}" if clips else ""
        return text + (f", {limit} input frame{'s' if limit != 1 else ''} of each" if limit else "")

    @cached_property
    def protocol(self) -> str:
        """The protocol of its scores in a line; empty without scores."""
        protocol = self.results.get("protocol")
        if not protocol:
            return ""
        skip, external = protocol["skip"], is_external(self.results)
        frames = protocol["frames"] + (f" but {skip[0]}+{skip[1]}" if any(skip) else "")
        matrix = protocol["colour_matrix"]
        parts = [
            f"{protocol['name']}: {str(protocol['channel']).upper()}" + (f" ({matrix})" if matrix else ""),
            f"crop {protocol['crop']}",
            f"frames: {frames}",
            "restored elsewhere" if external else f"{protocol.get('clip_length')} output frames per pass",
            f"edges {protocol['edges']}" if protocol.get("edges") else "",
            f"ensemble of {protocol['ensemble']}" if protocol["ensemble"] not in (1, None) else "",
            f"x{protocol['factor']} frame rate" if protocol.get("factor") else "",
            "" if external else self.degradation,
            f"{protocol.get('clips_counted')} clips, {protocol.get('frames_counted')} frames",
            f"data {protocol.get('data')}",
            f"mean {protocol['mean']}",
            f"commit {str(protocol.get('commit'))[:12]}",
        ]
        return "; ".join(part for part in parts if part)

    @property
    def short_protocol(self) -> str:
        """What of its protocol tells scores apart at a glance: name, channel and frames."""
        protocol = self.results.get("protocol")
        if not protocol:
            return ""
        frames = f", {protocol['frames']} frame only" if protocol["frames"] == "centre" else ""
        crop = f", crop {protocol['crop']}" if protocol["crop"] else ""
        return f"{protocol['name']}: {str(protocol['channel']).upper()}{crop}{frames}"

    @cached_property
    def options(self) -> list[str]:
        """The overrides of its command that describe it; of its folder's name if no command was recorded."""
        words: list[str] = []
        with suppress(ValueError):  # another program's
            words = shlex.split(self._read_line("command.txt"))[3:]
        if not words:
            return [part for part in self.directory.parent.name.split(",") if "=" in part]
        return [word for word in map(by_place, words) if "=" in word and not word.startswith((*UNNAMED, "--"))]

    @property
    def degradation(self) -> str:
        """The degradation of its input frames."""
        degradation = dict(self.results.get("protocol", {}).get("degradation") or {})
        steps = [str(step.get("_target_", "")).rpartition(".")[2] for step in degradation.pop("steps", None) or []]
        options = [f"{k} {value}" for k, value in degradation.items() if value is not None and not k.startswith("_")]
        return "degradation: " + (", ".join([*self._source_size, *options, *steps]) or "none")

    @property
    def _source_size(self) -> list[str]:
        protocol = self.results.get("protocol", {})
        size, reduction = (protocol.get(f"source_{option}") for option in ("size", "reduction"))
        size = [f"source frames of {size}"] if size else []
        return size + ([f"source frames reduced {reduction} times"] if reduction else [])

    @property
    def conditions(self) -> str:
        """Data, protocol and degradation as a key: scores of runs with equal keys are comparable."""
        protocol = dict(self.results.get("protocol", {}))
        of_network = OF_NETWORK | ({"edges"} if protocol.get("edges") != "none" else set())
        return json.dumps({key: value for key, value in protocol.items() if key not in of_network}, sort_keys=True)

    @property
    def commit(self) -> str:
        """The commit of the code that made it."""
        return self._read_line("commit.txt")

    @property
    def url(self) -> str:
        """The address of its W&B page; empty without one."""
        text = self._read_line("wandb_url.txt")
        return text if re.fullmatch(r"https?://[^\s\"'<>]+", text) else ""

    def _read_line(self, name: str) -> str:
        """Read the first line of a small file; empty without one."""
        file = self.directory / name
        if not file.is_file():
            return ""
        with file.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(10_000).strip()

    @cached_property
    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """Columns of ``metrics.csv`` as (step, value); empty without training."""
        columns: dict[str, list[tuple[int, float]]] = {}
        file = self.directory / "metrics.csv"
        if file.is_file():
            with file.open(newline="", encoding="utf-8", errors="replace") as stream:
                for row in csv.DictReader(stream):
                    for name, value in row.items():
                        with suppress(ValueError, TypeError):  # not a number, or an incomplete line
                            if name and value and name != "step":
                                columns.setdefault(name, []).append((int(row["step"]), float(value)))
        return columns

    @property
    def samples(self) -> dict[str, Path]:
        """The latest picture of each clip (see ``SampleFrames``); pictures of the test take precedence."""
        pictures: dict[str, Path] = {}
        for file in sorted((self.directory / "samples").glob("*.png")):
            match = re.fullmatch(r"(.+)_(?:step\d+|test)", file.stem)
            if match and not match[1].endswith("_offsets"):
                pictures[match[1]] = file  # sorted: later steps, then the test
        return pictures


def find_runs(folder: Path) -> Iterator[Run]:
    """Yield every run under ``folder`` that has results, sorted by path."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        if "config.yaml" in files and "results.json" in files:
            folders.clear()  # a run holds no other runs
            yield Run(Path(place))


def network_key(config: DictConfig) -> str:
    """Return a configuration's network as JSON, equal for equal networks."""
    return json.dumps(OmegaConf.to_container(config.model.network, resolve=True), sort_keys=True)


def _check_config(config: DictConfig) -> str:
    """Describe the first value of a run's configuration that the report needs and that is missing or mistyped."""
    return type_mismatch("config.yaml", OmegaConf.to_container(config), Configuration)


def _summarise(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


@cache
def _count_parameters(key: str) -> int:  # cached: seeds and evaluations share a network
    with torch.device("meta"):
        return count_parameters(_build(key))


@cache
def _count(key: str) -> dict[str, int]:
    return count(_build(key), *FLOPS_INPUT_SIZE)


def _build(key: str) -> Any:
    with without_fetching():
        return build(json.loads(key), "its config.yaml", allow_checkpoints=True)


@cache
def _full_size() -> Any:
    return OmegaConf.load(CONF / "size" / "full.yaml")
