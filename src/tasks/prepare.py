"""Makes a data set ready: finds its clips, packs folders of frames, checks, and measures how fast it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from annotated_types import Ge
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table

from src.config.build import build_data, build_network, build_restorer
from src.config.run_directory import read_commit
from src.data.datamodule import DataModule
from src.data.packing import find_damaged, pack
from src.data.splits import Splits
from src.errors import UserError
from src.tasks.throughput import machine, throughput


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Options of ``task=prepare``; conf/task/prepare.yaml explains them."""

    pack: str | None = None
    gop: Annotated[int, Ge(1)] = 2
    processes: Annotated[int, Ge(1)] | None = None
    check: bool = False
    measure: Sequence[Annotated[int, Ge(0)]] | None = None
    batches: Annotated[int, Ge(1)] = 8
    repeats: Annotated[int, Ge(1)] = 3
    output: str = "runs/throughput.json"


def prepare(config: DictConfig, directory: Path, *, options: PrepareOptions) -> None:
    """``task=prepare``: renders the built-in data set; finds the clips of any other, and says what it holds.

    ``pack=<folder>`` packs folders of frames into lossless videos, ``check=true`` reads every frame of the data set,
    and ``measure=[0,2]`` measures how fast training samples come with so many workers, from the data set and, beside
    it, from what it was packed into.

    Raises:
        UserError: there are no clips, some could not be packed or read, or the packed data set has others.
    """
    layout, root = instantiate(config.data.layout), Path(config.data.root).expanduser()
    splits = layout(root)
    _say(root, splits)
    processes = options.processes or os.cpu_count() or 1
    roots = {"as it is": root}
    if options.pack:
        roots["packed"] = target = Path(options.pack).expanduser()
        done = pack(root, target, gop=options.gop, processes=processes, track=_bar("Packing"))
        print(f"{target}: {done.clips} clips are packed, {done.new} of them now, {done.bytes / 2**20:,.0f} MiB")
        _compare(root, splits, target, layout(target))
    if options.check:
        for place in roots.values():
            if bad := find_damaged(place, processes=processes, track=_bar("Reading")):
                raise UserError(f"{len(bad)} clips of {place} cannot be read whole: " + "; ".join(bad))
            print(f"{place}: every frame of every clip can be read")
    if options.measure is not None:
        _measure(config, options, roots)


def _say(root: Path, splits: Splits) -> None:
    parts = {"train": splits.train, "validate": splits.validate, "test": splits.test}
    if not any(parts.values()):
        raise UserError(f"{root} holds no clips.")
    print(f"{root}: " + ", ".join(f"{len(clips)} clips to {name}" for name, clips in parts.items()))


def _compare(root: Path, before: Splits, target: Path, after: Splits) -> None:
    """Raises a UserError where the packed data set is not split as the one that it was made of."""
    for split in ("train", "validate", "test"):
        names = [{(clip.name, clip.start, clip.stop) for clip in getattr(s, split)} for s in (before, after)]
        if apart := sorted(name for name, *_ in names[0] ^ names[1]):
            raise UserError(
                f"{root} and {target} are not split alike, {len(apart)} clips of {split} differ, {apart[0]} the first: "
                "were clips added or taken away meanwhile? Pack again into a new folder"
            )
    clips = (*before.train, *before.validate, *before.test)
    if any(root.resolve() not in path.resolve().parents for clip in clips[:1] for path in clip.precomputed.values()):
        print(
            f"Degraded frames beside {root} were not packed, and will be made on the fly; to pack them, too, give the "
            "folder that holds both as data.root."
        )


def _bar(what: str) -> Any:
    def watch(done: Iterable[str], total: int) -> Iterable[str]:
        return track(done, what, total)

    return watch


def _measure(config: DictConfig, options: PrepareOptions, roots: dict[str, Path]) -> None:
    restorer = build_restorer(config, build_network(config))

    def make(root: Path, workers: int) -> DataModule:
        data = cast(DataModule, build_data(config, restorer))
        data.root, data.workers = root, workers
        return data

    counts: dict[str, Any] = {
        "workers": list(options.measure or ()),
        "batches": options.batches,
        "repeats": options.repeats,
    }
    rows = throughput(make, roots, **counts, tell=lambda line: print(line, flush=True))
    data = {key: config.data[key] for key in ("crop", "batch_size", "patches_per_read")}
    outcome = {"rows": rows, "roots": {k: str(v) for k, v in roots.items()}, "data": data} | machine()
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(outcome | counts | {"commit": read_commit()}, indent=2) + "\n")
    table = Table(title=f"Training samples a second, {outcome['cores']} cores")
    for title in ("data", "cache", "workers", "samples/s", "ratio", "CPU s/sample"):
        table.add_column(title, justify="left" if title in ("data", "cache") else "right")
    for row in sorted(rows, key=lambda row: (row["workers"], row["cache"])):
        cpu = f"{row['cpu_seconds_per_sample']:.3f}" if "cpu_seconds_per_sample" in row else ""
        figures = (f"{row['samples_per_second']:.2f}", f"{row['ratio']:.2f}", cpu)
        table.add_row(row["data"], row["cache"], str(row["workers"]), *figures)
    console = Console()
    (console if console.is_terminal else Console(width=100)).print(table)
    print(f"Figures: {output}")
