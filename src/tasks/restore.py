"""Restores videos: files, folders of frames, many at once, or what comes through a pipe."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader

from src.config.build import build_network, build_trainer
from src.config.composition import plain
from src.engine.cascade import apply_recursively
from src.engine.file_job import FileRestoration, fingerprint
from src.engine.journal import Journal
from src.engine.options import RestoreOptions
from src.engine.pipe_job import PIPE, restore_pipe
from src.errors import UserError
from src.nn.blocks import compile_parts, count_parameters
from src.nn.clips import weights_to_channels_last
from src.video.discovery import find_videos, is_image_pattern, is_video
from src.video.stream_copy import find_audio_start

PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
CHOICES = {"precision": list(PRECISIONS), "edges": ["replicate", "reflect"], "compare": ["null", "side", "divider"]}
LEAST = {
    "segment": 1,
    "overlap": 0,
    "preview": 0,
    "max_frames": 1,
    "memory": 0,
    "tile": 0,
    "padding": 0,
    "context": 0,
    "fps": 0.01,
}
SAYS = Console(stderr=True, markup=False, highlight=False)  # for standard output may be the video


def restore(config: DictConfig, directory: Path) -> None:
    """``task=restore``: ``input`` through ``checkpoint`` (or a baseline) to ``output``.

    ``factor=8`` applies the network to its own output until there are so many frames of one; ``show=offsets`` writes
    what the network takes for motion instead of what it restores.

    Raises:
        UserError: something about the input, the output or the network is not as it must be. Of several videos all
            others are restored before that is said.
    """
    piped = PIPE in (config.input, config.output)
    sources = [] if piped else _sources(config.input)
    outputs = [] if piped else _outputs(config, sources)
    way, network = _way(config), _network(config)
    if piped:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        restore_pipe(network.to(device), str(config.input), str(config.output), way, device, SAYS.print)
        return
    weights = fingerprint(config.checkpoint, {"network": plain(config.model.network), "factor": config.factor})
    open_one = partial(FileRestoration, network, way=way, weights=weights, anew=config.overwrite)
    trainer = build_trainer(config, directory, training=False, enable_progress_bar=False)
    work = _Work(network, open_one, list(zip(sources, outputs, strict=True)), config.preview)
    try:
        trainer.predict(work, datamodule=_Shares(len(sources)), return_predictions=False)
    except SystemExit as leaving:  # Lightning's way to leave after Ctrl-C
        raise KeyboardInterrupt from leaving
    work.conclude(trainer)


def _network(config: DictConfig) -> nn.Module:
    network = build_network(config)
    if config.show:
        network = _shown(network, config.show)
    network = apply_recursively(network, config.factor)
    if not config.checkpoint and count_parameters(network, trainable=True):
        raise UserError("There are no trained weights to restore with: give checkpoint=<file>, or model=blend.")
    network.float().eval().requires_grad_(False)
    if torch.cuda.is_available():
        weights_to_channels_last(network)
    if config.compile:
        compile_parts(network)
    return network


def _shown(network: nn.Module, what: Any) -> nn.Module:
    """A network whose frames show something of how ``network`` works."""
    if what != "offsets":
        raise UserError(f"There is nothing to show={what}: give show=offsets, or leave it out to restore the video.")
    if not hasattr(network, "offset_pictures"):
        raise UserError("This network cannot show=offsets, which DSFN can; leave it out to restore the video.")
    return network.offset_pictures()  # type: ignore[operator]


def _way(config: DictConfig) -> RestoreOptions:
    for name, allowed in CHOICES.items():
        if str("null" if config[name] is None else config[name]) not in allowed:
            raise UserError(f"{name}={config[name]} is not known: give one of {', '.join(allowed)}.")
    for name, least in LEAST.items():
        if config[name] is not None and config[name] < least:
            raise UserError(f"{name}={config[name]} is too small: it is at least {least}.")
    given = {name: config[name] for name in RestoreOptions.__dataclass_fields__}
    given["memory"] = int(config.memory * 2**30) if config.memory else None
    given["precision"] = PRECISIONS[str(config.precision)]
    return RestoreOptions(**given)


# --- what to restore, and to where -------------------------------------------------------------------------------


def _sources(given: Any) -> list[Path]:
    """The videos that ``input`` names: a file, a folder of frames or of videos, a pattern, or a list of these."""
    found: list[Path] = []
    for name in given if isinstance(given, ListConfig) else [given]:
        path = Path(str(name)).expanduser()
        if path.is_dir():
            found += find_videos(path) or [path]
        elif path.exists() or is_image_pattern(path):
            found.append(path)
        else:
            found += _matches(path) or [path]
    if missing := [path for path in found if not (path.exists() or is_image_pattern(path))]:
        several = [part.strip() for part in str(missing[0]).split(",")]
        meant = len(several) > 1 and all(Path(part).expanduser().exists() for part in several)
        hint = f"; several are given as 'input=[{','.join(several)}]'" if meant else ""
        raise UserError(f"input={missing[0]} does not exist, and is no pattern that anything matches{hint}.")
    return list(dict.fromkeys(found))


def _matches(pattern: Path) -> list[Path]:
    """The videos that a pattern matches, or what it matches where none of that looks like one."""
    if pattern.parent.is_dir():  # whose name may hold brackets, which are no pattern
        inside = list(pattern.parent.glob(pattern.name))
    else:
        inside = [Path(match) for match in glob.iglob(str(pattern), recursive=True)]
    shown = sorted(path for path in inside if path.name[0] != ".")
    return [path for path in shown if is_video(path)] or shown


def _outputs(config: DictConfig, sources: Sequence[Path]) -> list[Path]:
    """Where each video goes: to ``output``, or, where several may be meant, into that folder under its own name."""
    output = Path(str(config.output)).expanduser()
    plain = not isinstance(config.input, ListConfig) and sources == [Path(str(config.input)).expanduser()]
    several = len(sources) > 1 or not (plain or output.suffix)
    if several and output.suffix:
        raise UserError(f"There are {len(sources)} videos to restore, so output={output} must be a folder (no suffix).")
    names = [
        source.stem if source.is_file() else (source if source.is_dir() else source.parent).name for source in sources
    ]
    if len(set(names)) < len(names):  # as in a/clip.mp4 and b/clip.mp4
        names = [f"{source.parent.name}_{name}" for source, name in zip(sources, names, strict=True)]
    if len(set(names)) < len(names):  # as clip.mp4 and clip.mov
        names = [f"{name}_{source.suffix[1:]}" for source, name in zip(sources, names, strict=True)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"Several of the videos would be called {twice[0]}: restore them one by one, or rename some.")
    outputs = [output / f"{name}{config.container}" for name in names] if several else [output]
    for source, target in zip(sources, outputs, strict=True):
        if target.resolve() == source.resolve():
            raise UserError(f"{target} is the input itself; choose another output.")
        taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
        if taken and not (several or config.overwrite or Journal.place(target).exists()):
            raise UserError(f"{target} exists already; choose another output, or add overwrite=true.")
    return outputs


# --- the work, spread over the ranks -------------------------------------------------------------------------------


class _Shares(pl.LightningDataModule):
    """Each rank's share ``(video, k, of)``: whole videos where there are enough of them, else some parts of each."""

    def __init__(self, videos: int) -> None:
        super().__init__()
        self.videos = videos

    def predict_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        if self.videos >= world:
            mine = [(video, 0, 1) for video in range(rank, self.videos, world)]
        else:
            mine = [(video, rank, world) for video in range(self.videos)]
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]


class _Work(pl.LightningModule):
    """Restores what its rank is given; a video that fails does not keep it from the others."""

    def __init__(
        self,
        network: nn.Module,
        open_one: Callable[..., FileRestoration],
        videos: list[tuple[Path, Path]],
        preview: int,
    ) -> None:
        super().__init__()
        self.network, self.videos, self.preview = network, videos, preview
        self._open_one = open_one
        self.failures: dict[int, str] = {}
        self.shared: dict[int, tuple[list[int], float]] = {}  # whose parts are spread over the ranks: which, since when

    def predict_step(self, share: Sequence[int]) -> int:
        video, rank, world = (int(number) for number in share)
        output = self.videos[video][1]
        try:
            if len(self.videos) > 1 and output.exists() and not Journal.place(output).exists():
                SAYS.print(f"{output} is there already.", soft_wrap=True)
                return video
            whole = self._open(video)
            missing = whole.journal.missing(whole.parts)
            mine = missing[rank * len(missing) // world : (rank + 1) * len(missing) // world]
            begun = time.monotonic()
            if world > 1:
                self.shared[video] = missing, begun
            with whole.journal.held() if rank == 0 else nullcontext():
                if rank == 0:
                    self._begin(whole, len(missing))
                with _progress(whole, mine, of=world, shown=self.global_rank == 0) as advance:
                    whole.run(mine, advance, SAYS.print)
                if world == 1:
                    whole.finish()
                    SAYS.print(_summary(whole, mine, time.monotonic() - begun), soft_wrap=True)
        except UserError as problem:
            self.failures[video] = str(problem)
            if len(self.videos) > 1:
                SAYS.print(str(problem), soft_wrap=True)
        return video

    def _open(self, video: int) -> FileRestoration:
        source, output = self.videos[video]
        return self._open_one(source, output, device=self.device)

    def _begin(self, whole: FileRestoration, missing: int) -> None:
        SAYS.print(_change(whole), soft_wrap=True)
        if whole.reader.interlaced:
            does = (
                "its fields become frames" if whole.way.deinterlace else "deinterlace=true makes frames of its fields"
            )
            SAYS.print(f"{whole.source} is interlaced: {does}.", soft_wrap=True)
        if not whole.output.suffix and whole.source.is_file() and find_audio_start(whole.source) is not None:
            SAYS.print(f"{whole.output} is a folder of images, which holds no sound.", soft_wrap=True)
        if whole.reader.signal.dropped:
            SAYS.print(f"{whole.source} has {' and '.join(whole.reader.signal.dropped)}: left out.", soft_wrap=True)
        if 0 < missing < whole.parts:
            there = whole.parts - missing
            SAYS.print(f"Going on with {whole.output}: {there} of {whole.parts} parts are there.", soft_wrap=True)
        for k in range(min(self.preview, len(whole.shown))):
            path = whole.preview((2 * k + 1) * len(whole.shown) // (2 * self.preview))
            SAYS.print(f"Preview: {path}", soft_wrap=True)

    def conclude(self, trainer: pl.Trainer) -> None:
        """Puts together what several ranks restored, and says what failed.

        Raises:
            UserError: something did.
        """
        failures = dict(self.failures)
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.failures)
            failures = {video: said for rank in gathered for video, said in rank.items()}
        if trainer.is_global_zero:
            for video in sorted(self.shared.keys() - failures.keys()):
                whole, (parts, begun) = self._open(video), self.shared[video]
                whole.finish()
                SAYS.print(_summary(whole, parts, time.monotonic() - begun), soft_wrap=True)
        if failures and len(self.videos) == 1:
            raise UserError(failures[0])
        if failures:
            names = ", ".join(str(self.videos[video][0]) for video in sorted(failures))
            raise UserError(f"{len(failures)} of {len(self.videos)} videos were not restored (see above): {names}.")


@contextmanager
def _progress(whole: FileRestoration, parts: Sequence[int], *, of: int, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar with frames a second and the time left, of one process of ``of``; what it yields counts a frame."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns, TextColumn("{task.fields[pace]}"), TimeRemainingColumn(), console=SAYS, disable=not shown
    ) as bar:
        count = sum(len(whole.frames_of(part)) for part in parts)
        share = f" (the first process's share of {of})" if of > 1 else ""
        task = bar.add_task(f"{whole.source.name}{share}", total=count, pace="")

        begun = time.monotonic()

        def advance() -> None:
            speed = (bar.tasks[0].completed + 1) / (time.monotonic() - begun)
            bar.update(task, advance=1, pace=f"{speed:.2f} frames/s")

        yield advance


def _change(whole: FileRestoration) -> str:
    """What goes in and what comes out."""
    (height, width), scale = whole.reader.size, whole.geometry.scale
    before = f"{whole.length} frames of {width}x{height}, {float(whole.reader.fps):.3f} a second"
    after = f"{len(whole.shown)} of {scale * width}x{scale * height}, {float(whole.pace.fps):.3f} a second"
    return f"{whole.source}: {before}, to {after}"


def _summary(whole: FileRestoration, parts: Sequence[int], seconds: float) -> str:
    frames, lasts = len(whole.shown), float(whole.lasts)
    restored = sum(len(whole.frames_of(part)) for part in parts)
    pace = f", restored at {restored / seconds:.2f} a second" if restored else ""
    return f"{whole.output}: {frames} frames, {lasts:.2f} s{pace}"
