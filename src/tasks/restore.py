"""Restore videos: files, folders of frames, many at once, or a pipe."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning.pytorch as pl
import torch
from annotated_types import Ge
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader

from src.checkpoints import FROZEN
from src.config.build import build_inference_network, build_trainer, list_weights
from src.config.composition import to_plain
from src.data.splits import abbreviate
from src.engine.file_job import FileRestoration, fingerprint
from src.engine.journal import Journal
from src.engine.options import RestoreOptions
from src.engine.output_record import OutputRecord
from src.engine.pipe_job import PIPE, restore_pipe
from src.errors import UserError
from src.interruption import limit_stopping
from src.nn.blocks import compile_parts, count_parameters
from src.nn.clips import weights_to_channels_last
from src.nn.video_network import as_video_network
from src.progress import Mode, ProgressLog, has_bar
from src.video.discovery import find_videos, is_image_pattern, is_video, list_images
from src.video.stream_copy import find_audio_start
from src.wording import number_of

CONSOLE = Console(stderr=True, markup=False, highlight=False)  # standard output may be the video


@dataclass(frozen=True, kw_only=True)
class RestoreCommand(RestoreOptions):
    """Options of ``task=restore``.

    Args:
        input: a video, a folder of frames or of videos, a pattern, a list of these, or ``-`` for standard input.
        output: a video, a folder, or ``-`` for standard output.
        container: suffix of the files in an output folder.
        overwrite: replace an existing output, and discard parts that other options made.
        preview: frames, spread over the video, to restore first as PNGs beside the output.
        compile: compile the network (torch.compile): minutes at first, then faster.
        show: ``motion`` (or ``offsets``): write the motion that the network estimates instead of the restored video;
            ``attention``: its temporal attention.
    """

    input: str | list[str]
    output: str
    container: str = ".mp4"
    overwrite: bool = False
    preview: Annotated[int, Ge(0)] = 0
    compile: bool = False
    show: Literal["motion", "offsets", "attention"] | None = None


def restore(config: DictConfig, directory: Path, *, options: RestoreCommand) -> None:
    """``task=restore``: restore ``input`` with ``checkpoint`` (or a baseline) into ``output``.

    Raises:
        UserError: input, output, network and options do not go together. Of several videos all others are restored
            first.
    """
    piped = PIPE in (options.input, options.output)
    sources = [] if piped else _find_sources(options)
    outputs = [] if piped else _name_outputs(options, sources)
    network = _build_network(config, options)
    if options.show:
        options = replace(options, alpha=False)  # maps are opaque
    if piped:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with _stop_in_time():
            restore_pipe(network.to(device), str(options.input), options.output, options, device, CONSOLE.print)
        return
    description = {"network": to_plain(config.model.network), "show": options.show}
    network_id = fingerprint(list_weights(config), description)
    trainer = build_trainer(config, directory, training=False, enable_progress_bar=False)
    work = _Work(network, list(zip(sources, outputs, strict=True)), options, network_id, config.progress)
    _record_outputs(options, sources, outputs)
    with _stop_in_time(lambda: getattr(trainer.strategy.launcher, "procs", ())):
        try:
            trainer.predict(work, datamodule=_Shares(len(sources)), return_predictions=False)
        except SystemExit as leaving:  # Lightning exits after Ctrl-C
            raise KeyboardInterrupt from leaving
        work.conclude(trainer)


def _stop_in_time(*children: Any) -> AbstractContextManager[None]:
    """Limit the time that a command takes to stop; a program that calls this task decides for itself."""
    return limit_stopping(*children) if HydraConfig.initialized() else nullcontext()


def _build_network(config: DictConfig, options: RestoreCommand) -> nn.Module:
    network = build_inference_network(config)
    if not config.checkpoint and config.model.network._target_ == FROZEN:
        rank_zero_only(CONSOLE.print)(
            f"Restoring with {config.model.network.path}; checkpoint=<name or file> chooses other weights, and "
            "task=weights lists the names.",
            soft_wrap=True,
        )
    if not config.checkpoint and count_parameters(network, trainable=True):
        raise UserError(
            "There are no trained weights to restore with: give checkpoint=<name or file>, or leave model= out."
        )
    if options.show:
        shown = as_video_network(network)
        pictures = shown.attention() if options.show == "attention" else shown.motion()
        if pictures is None:
            able = (
                "EDVR with temporal attention can" if options.show == "attention" else "DSFN, EDVR and model=flow can"
            )
            raise UserError(f"This network cannot show={options.show}, but {able}: leave it out to restore the video.")
        network = pictures
    network.float().eval().requires_grad_(False)
    if torch.cuda.is_available():
        weights_to_channels_last(network)
    if options.compile:
        compile_parts(network)
    return network


# --- inputs and outputs -------------------------------------------------------------------------------


def _find_sources(options: RestoreCommand) -> list[Path]:
    """Find the videos that ``input`` names: a file, a folder of frames or of videos, a pattern, or a list of these.

    What folders and patterns hold is no input if an earlier command has made it.
    """
    found: list[Path] = []
    searched: dict[Path, Path] = {}  # the folder in which a video was found
    for name in [options.input] if isinstance(options.input, str) else options.input:
        path = Path(os.path.expanduser(name))
        if (path.exists() and not path.is_dir()) or is_image_pattern(path):
            found.append(path)
            continue
        root, matches = (path, find_videos(path)) if path.is_dir() else (_fixed_folder(path), _match(path))
        found += matches or [path]
        searched |= {match: root for match in matches if match != path}
    if missing := [path for path in found if not (path.exists() or is_image_pattern(path))]:
        several = [part.strip() for part in str(missing[0]).split(",")]
        is_list = len(several) > 1 and all(Path(os.path.expanduser(part)).exists() for part in several)
        hint = f"; write several videos as 'input=[{','.join(several)}]'" if is_list else ""
        if (wildcard := re.sub(r"%0?\d*d", "*", str(missing[0]))) != str(missing[0]):
            hint = f"; write numbered images as 'input={wildcard}'"
        raise UserError(f"input={missing[0]} does not exist, and no file matches it as a pattern{hint}.")
    sources = _without_outputs(list(dict.fromkeys(found)), searched, options)
    if not sources:  # a restored video in a folder of frames
        sources = [folder for folder in dict.fromkeys(searched.values()) if list_images(folder)]
    if not sources:
        raise UserError(f"input={options.input} holds no videos but those in output={options.output}.")
    return sources


def _fixed_folder(pattern: Path) -> Path:
    """Return the folder of a pattern up to its first wildcard."""
    if pattern.parent.is_dir():
        return pattern.parent
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _match(pattern: Path) -> list[Path]:
    """Return the videos that a pattern matches, or all of its matches if none looks like a video."""
    if pattern.parent.is_dir():  # brackets in its own name are no pattern
        inside = list(pattern.parent.glob(pattern.name))
    else:
        inside = [Path(match) for match in glob.iglob(str(pattern), recursive=True)]
    shown = sorted(path for path in inside if path.name[0] != ".")
    return [path for path in shown if is_video(path)] or shown


def _without_outputs(found: Sequence[Path], searched: Mapping[Path, Path], options: RestoreCommand) -> list[Path]:
    """Leave out the outputs and previews among the videos that a search has found.

    In a folder below the searched one, these are all videos; in the searched folder itself, those that an earlier
    command has made there.
    """
    output = Path(os.path.expanduser(options.output)).resolve()
    places = {path: path.resolve() for path in found}
    if output.suffix and not output.is_dir():
        made = {output, output.with_name(f"{output.stem}.preview")}
        return [path for path in found if path not in searched or places[path] not in made]
    names = OutputRecord(output).list_made()
    kept: list[Path] = []
    left: list[Path] = []
    for path in found:
        inside = path in searched and output in places[path].parents
        below = inside and searched[path].resolve() in output.parents
        restored = inside and places[path].parent == output and path.name in names
        (left if below or restored else kept).append(path)
    if left:
        message = (
            f"{len(left)} of {len(found)} videos found are no input, as they lie in {options.output} and were restored "
            f"before: {abbreviate(map(str, left))}. Another output= takes them, too."
        )
        rank_zero_only(CONSOLE.print)(message, soft_wrap=True)
    return kept


def _candidate_names(source: Path) -> list[str]:
    """List the names for the output of a video, without suffix: the first that no other video has is taken."""
    name = source.stem if source.is_file() else (source if source.is_dir() else source.parent).name
    longer = f"{source.parent.name}_{name}"  # as in a/clip.mp4 and b/clip.mp4
    return [name, longer, f"{longer}_{source.suffix[1:]}"]  # the last as in clip.mp4 and clip.mov


def _name_outputs(options: RestoreCommand, sources: Sequence[Path]) -> list[Path]:
    """Name the output of each video: ``output`` itself, or files in that folder if there may be several."""
    output = Path(os.path.expanduser(options.output))
    plain = isinstance(options.input, str) and sources == [Path(os.path.expanduser(options.input))]
    several = len(sources) > 1 or not (plain or output.suffix)
    if several and output.suffix:
        raise UserError(f"There are {len(sources)} videos to restore: output={output} must be a folder (no suffix).")
    outputs = _name_in_folder(output, sources, options.container) if several else [output]
    for source, target in zip(sources, outputs, strict=True):
        if target.resolve() == source.resolve():
            raise UserError(f"{target} is the input itself; choose another output.")
        taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
        if taken and not (several or options.overwrite or Journal.locate(target).exists()):
            raise UserError(f"{target} exists already; choose another output, or add overwrite=true.")
    return outputs


def _name_in_folder(folder: Path, sources: Sequence[Path], container: str) -> list[Path]:
    """Name the outputs of several videos, and record them; those of earlier commands keep their names.

    Raises:
        UserError: two would have the same name.
    """
    record = OutputRecord(folder)
    candidates = {source: [f"{name}{container}" for name in _candidate_names(source)] for source in sources}
    named = {source: name for source in sources if (name := record.find_name(source, candidates[source]))}
    added = [source for source in sources if source not in named]
    for names in zip(*(candidates[source] for source in added), strict=True):
        if len(set(names)) == len(names) and record.sources.keys().isdisjoint(names):
            named |= zip(added, names, strict=True)
            break
    else:
        if added:
            twice = next(name for name in names if names.count(name) > 1 or name in record.sources)
            raise UserError(f"Several videos would be called {twice}: restore them one by one, or rename some.")
    return [folder / named[source] for source in sources]


@rank_zero_only
def _record_outputs(options: RestoreCommand, sources: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Record the outputs to be made in a folder; not those of other origin, which are left as they are."""
    folder = Path(os.path.expanduser(options.output))
    made = [(s, o) for s, o in zip(sources, outputs, strict=True) if not _is_finished(o) and o.parent == folder]
    if made:
        OutputRecord(folder).add(made)


def _is_finished(output: Path) -> bool:
    return output.exists() and not Journal.locate(output).exists()


# --- the work, spread over the ranks -------------------------------------------------------------------------------


class _Shares(pl.LightningDataModule):
    """Each rank's share ``(video, k, of)``: whole videos if there are enough of them, else some parts of each."""

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
    """Restores its rank's share; a video that fails does not keep it from the others."""

    def __init__(
        self, network: nn.Module, videos: list[tuple[Path, Path]], options: RestoreCommand, network_id: str, mode: Mode
    ) -> None:
        super().__init__()
        self.network, self.videos, self.options, self.network_id = network, videos, options, network_id
        self.mode = mode  # of progress
        self.failures: dict[int, str] = {}
        self.shared: dict[int, tuple[list[int], float]] = {}  # parts spread over the ranks, and the time of their start

    def predict_step(self, share: Sequence[int]) -> int:
        video, rank, world = (int(number) for number in share)
        output = self.videos[video][1]
        try:
            if len(self.videos) > 1 and _is_finished(output):
                CONSOLE.print(f"{output} exists already: {self.videos[video][0]} is left out.", soft_wrap=True)
                return video
            whole = self._open(video)
            missing = whole.journal.list_missing(whole.parts)
            mine = missing[rank * len(missing) // world : (rank + 1) * len(missing) // world]
            start = time.monotonic()
            if world > 1:
                self.shared[video] = missing, start
            with whole.journal.lock() if rank == 0 else nullcontext():
                if rank == 0:
                    self._announce(whole, len(missing))
                with _progress(whole, mine, of=world, shown=self.global_rank == 0, mode=self.mode) as advance:
                    whole.run(mine, advance, CONSOLE.print)
                for sentence in as_video_network(whole.network).remarks():
                    CONSOLE.print(f"{whole.source}: {sentence}", soft_wrap=True)
                if world == 1:
                    whole.finish()
                    CONSOLE.print(_summary(whole, mine, time.monotonic() - start), soft_wrap=True)
        except UserError as error:
            self.failures[video] = str(error)
            if len(self.videos) > 1:
                CONSOLE.print(str(error), soft_wrap=True)
        return video

    def _open(self, video: int) -> FileRestoration:
        source, output = self.videos[video]
        anew = self.options.overwrite
        return FileRestoration(
            self.network, source, output, self.options, self.device, network_id=self.network_id, anew=anew
        )

    def _announce(self, whole: FileRestoration, missing: int) -> None:
        CONSOLE.print(_describe(whole), soft_wrap=True)
        if whole.reader.interlaced:
            effect = "deinterlaced, each pair of fields becomes a frame"
            if not whole.options.deinterlace:
                effect = "restored as it is; deinterlace=true makes a frame of each pair of fields"
            CONSOLE.print(f"{whole.source} is interlaced: {effect}.", soft_wrap=True)
        if not whole.output.suffix and whole.reader.stream is not None and find_audio_start(whole.source) is not None:
            CONSOLE.print(f"{whole.output} is a folder of images, without sound.", soft_wrap=True)
        for sentence in whole.losses:
            CONSOLE.print(sentence, soft_wrap=True)
        if 0 < missing < whole.parts:
            done = whole.parts - missing
            CONSOLE.print(f"Resuming {whole.output}: {done} of {whole.parts} parts are finished.", soft_wrap=True)
        count = min(self.options.preview, len(whole.schedule))
        for k in range(count):
            path = whole.preview((2 * k + 1) * len(whole.schedule) // (2 * self.options.preview))
            CONSOLE.print(f"Preview: {path}", soft_wrap=True)

    def conclude(self, trainer: pl.Trainer) -> None:
        """Join the parts of several ranks, and report failures.

        Raises:
            UserError: a video failed.
        """
        failures = dict(self.failures)
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.failures)
            failures = {video: sentence for rank in gathered for video, sentence in rank.items()}
        if trainer.is_global_zero:
            for video in sorted(self.shared.keys() - failures.keys()):
                whole, (parts, start) = self._open(video), self.shared[video]
                whole.finish()
                CONSOLE.print(_summary(whole, parts, time.monotonic() - start), soft_wrap=True)
        if failures and len(self.videos) == 1:
            raise UserError(failures[0])
        if failures:
            names = ", ".join(str(self.videos[video][0]) for video in sorted(failures))
            raise UserError(f"{len(failures)} of {len(self.videos)} videos were not restored (see above): {names}.")


@contextmanager
def _progress(
    whole: FileRestoration, parts: Sequence[int], *, of: int, shown: bool, mode: Mode
) -> Iterator[Callable[[], None]]:
    """Show a bar, or lines in a log, of one process of ``of``; yield a function that counts an output frame."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    is_bar = shown and has_bar(mode)
    with Progress(
        *columns, TextColumn("{task.fields[pace]}"), TimeRemainingColumn(), console=CONSOLE, disable=not is_bar
    ) as bar:
        count = sum(len(whole.output_indices(part)) for part in parts)
        name = whole.source.name + (f" (share of the first of {of} processes)" if of > 1 else "")
        task = bar.add_task(name, total=count, pace="")
        log, start = ProgressLog(name, count, "frames", mode=mode), time.monotonic()

        def advance() -> None:
            done = int(bar.tasks[0].completed) + 1
            bar.update(task, advance=1, pace=f"{done / (time.monotonic() - start):.2f} frames/s")
            if shown:
                log.update(done)

        yield advance


def _describe(whole: FileRestoration) -> str:
    """Describe input and output in a line."""
    (height, width), scale = whole.reader.size, whole.geometry.scale
    before = f"{number_of(whole.length, 'frame')} of {width}x{height}, {float(whole.reader.fps):.3f} a second"
    after = f"{len(whole.schedule)} of {scale * width}x{scale * height}, {float(whole.timing.fps):.3f} a second"
    return f"{whole.source}: {before}, to {after}"


def _summary(whole: FileRestoration, parts: Sequence[int], seconds: float) -> str:
    restored = sum(len(whole.output_indices(part)) for part in parts)
    pace = f", restored at {restored / seconds:.2f} a second" if restored else ""
    return f"{whole.output}: {number_of(len(whole.schedule), 'frame')}, {float(whole.duration):.2f} s{pace}"
