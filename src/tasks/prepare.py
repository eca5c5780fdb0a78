"""Prepare a data set: find its clips, pack folders of frames, check every frame, measure the throughput."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from src.bench.throughput import describe_machine, measure_throughput
from src.config.build import build_data, build_inference_network, build_restorer
from src.config.run_directory import read_commit
from src.data.datamodule import DataModule
from src.data.packing import find_damaged, pack
from src.data.source_size import SourceSize
from src.data.splits import Clip, Splits
from src.errors import UserError
from src.progress import Mode, ProgressLog, has_bar
from src.video.reader import open_video
from src.wording import number_of

BLURRED = 8  # frames of an input of VTSR


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Options of ``task=prepare``; conf/task/prepare.yaml explains them."""

    pack: str | None = None
    gop: Annotated[int, Ge(1)] = 2
    interpolated: Annotated[int, Ge(0)] = 0
    processes: Annotated[int, Ge(1)] | None = None
    check: bool = False
    measure: Sequence[Annotated[int, Ge(0)]] | None = None
    batches: Annotated[int, Ge(1)] = 8
    repeats: Annotated[int, Ge(1)] = 3
    output: str = "runs/throughput.json"


def prepare(config: DictConfig, directory: Path, *, options: PrepareOptions) -> None:
    """``task=prepare``: render the built-in data set, or find the clips of another one.

    ``pack=<folder>`` packs folders of frames into lossless videos, and all clips if ``data.source_size`` or
    ``data.source_reduction`` reduce their frames, or ``interpolated`` averages them with interpolated ones.
    Then ``blur.png`` beside ``output`` shows the mean of eight frames without and with these (VTSR, Figure 4.1).
    ``check=true`` reads every frame. ``measure=[0,2]`` measures the training samples per second for these numbers of
    workers, of the data set and of its packed copy.

    Raises:
        UserError: there are no clips, some cannot be packed or read, or the packed data set has other clips.
    """
    layout, root = instantiate(config.data.layout), Path(os.path.expanduser(config.data.root))
    splits = layout(root)
    _print_counts(root, splits)
    processes = options.processes or os.cpu_count() or 1
    roots = {"as it is": root}
    if options.pack:
        roots["packed"] = target = Path(os.path.expanduser(options.pack))
        size = SourceSize.of(config.data.get("source_size"), config.data.get("source_reduction", 1))
        how = {"gop": options.gop, "processes": processes, "interpolated": options.interpolated}
        packed = pack(root, target, size=size, track=_follow("Packing", config.progress), **how)
        print(
            f"{target}: {number_of(packed.clips, 'clip')} packed, {packed.new} of them now, "
            f"{packed.bytes / 2**20:,.0f} MiB"
        )
        packed_splits = layout(target)
        _compare_splits(root, splits, target, packed_splits)
        if options.interpolated:
            picture = Path(options.output).with_name("blur.png")
            _picture_blur(
                (splits.test or splits.train)[0], (packed_splits.test or packed_splits.train)[0], size, picture
            )
    if options.check:
        for folder in roots.values():
            if faults := find_damaged(folder, processes=processes, track=_follow("Reading", config.progress)):
                raise UserError(f"{len(faults)} clips of {folder} are damaged: " + "; ".join(faults))
            print(f"{folder}: every frame of every clip can be read")
    if options.measure is not None:
        _measure(config, options, options.measure, roots)


def _print_counts(root: Path, splits: Splits) -> None:
    parts = {"train": splits.train, "validate": splits.validate, "test": splits.test}
    if not any(parts.values()):
        raise UserError(f"{root} holds no clips.")
    print(f"{root}: " + ", ".join(f"{len(clips)} clips to {name}" for name, clips in parts.items()))


def _compare_splits(root: Path, original: Splits, target: Path, packed: Splits) -> None:
    """Compare the splits of a data set and of its packed copy.

    Raises:
        UserError: they differ.
    """
    for split in ("train", "validate", "test"):
        before, after = ({(c.name, c.start, c.stop) for c in getattr(s, split)} for s in (original, packed))
        if different := sorted(name for name, *_ in before ^ after):
            raise UserError(
                f"The {split} splits of {root} and {target} differ in {len(different)} clips, {different[0]} the "
                "first. If clips were added or removed meanwhile, pack again into a new folder."
            )
    clips = (*original.train, *original.validate, *original.test)
    if any(root.resolve() not in path.resolve().parents for clip in clips[:1] for path in clip.precomputed.values()):
        print(
            f"Degraded frames outside of {root} were not packed and will be computed on the fly. To pack them, too, "
            "set data.root to the folder that holds both."
        )


def _picture_blur(before: Clip, after: Clip, size: SourceSize, file: Path) -> None:
    """Write the mean of the first eight frames of a clip, as it is and as packed, side by side (VTSR, Figure 4.1)."""
    means = []
    for clip, reduce in ((before, size), (after, SourceSize())):
        with open_video(clip.path) as video:
            frames = islice(video.frames(), clip.start, clip.start + BLURRED)
            total = torch.stack([reduce.reduce(frame[None], clip.path)[0] for frame in frames])
        means.append(total.float().mean(0).round().byte())
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(torch.cat(means, dim=1).numpy()).save(file)
    print(f"Blur of {before.name} without and with interpolated frames, left and right: {file}")


def _follow(title: str, mode: Mode) -> Callable[[Iterable[str], int], Iterable[str]]:
    """Return a function that passes outcomes on and shows their progress, as a bar or as lines in a log."""

    def passed_on(outcomes: Iterable[str], total: int) -> Iterable[str]:
        if has_bar(mode):
            yield from track(outcomes, title, total)
            return
        log = ProgressLog(title, total, "clips", mode=mode)
        for done, outcome in enumerate(outcomes, start=1):
            log.update(done)
            yield outcome

    return passed_on


def _measure(config: DictConfig, options: PrepareOptions, workers: Sequence[int], roots: dict[str, Path]) -> None:
    restorer = build_restorer(config, build_inference_network(config))

    def build(root: Path, workers: int) -> DataModule:
        data = build_data(config, restorer)
        assert isinstance(data, DataModule), "task=prepare measures the suite's own DataModule"
        data.root, data.workers = root, workers
        return data

    counts: dict[str, Any] = {"workers": list(workers), "batches": options.batches, "repeats": options.repeats}
    rows = measure_throughput(build, roots, **counts, log=lambda line: print(line, flush=True))
    data = {key: config.data[key] for key in ("crop", "batch_size", "patches_per_read")}
    outcome = {"rows": rows, "roots": {k: str(v) for k, v in roots.items()}, "data": data} | describe_machine()
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(outcome | counts | {"commit": read_commit()}, indent=2) + "\n")
    console = Console()
    (console if console.is_terminal else Console(width=100)).print(_build_table(rows, outcome["cores"]))
    print(f"Results: {output}")


def _build_table(rows: Sequence[dict[str, Any]], cores: int | None) -> Table:
    table = Table(title=f"Training samples per second, {cores} cores")
    for title in ("data", "cache", "workers", "samples/s", "ratio", "CPU s/sample"):
        table.add_column(title, justify="left" if title in ("data", "cache") else "right")
    for row in sorted(rows, key=lambda row: (row["workers"], row["cache"])):
        cpu = f"{row['cpu_seconds_per_sample']:.3f}" if "cpu_seconds_per_sample" in row else ""
        values = (f"{row['samples_per_second']:.2f}", f"{row['ratio']:.2f}", cpu)
        table.add_row(row["data"], row["cache"], str(row["workers"]), *values)
    return table
