"""Restore videos: files, folders of frames, many at once, or a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader

from src.checkpoints import FROZEN
from src.config.build import build_inference_network, build_trainer, list_weights
from src.config.composition import to_plain
from src.engine.file_job import FileRestoration, fingerprint
from src.engine.pipe_job import PIPE, restore_pipe
from src.errors import UserError
from src.interruption import limit_stopping
from src.nn.blocks import compile_parts, count_parameters
from src.nn.clips import weights_to_channels_last
from src.nn.video_network import as_video_network
from src.progress import Mode, ProgressLog, has_bar
from src.tasks.restore_files import CONSOLE, RestoreCommand, find_sources, is_finished, name_outputs, record_outputs
from src.video.stream_copy import find_audio_start
from src.wording import number_of


def restore(config: DictConfig, directory: Path, *, options: RestoreCommand) -> None:
    """``task=restore``: restore ``input`` with ``checkpoint`` (or a baseline) into ``output``.

    Raises:
        UserError: input, output, network and options do not go together. Of several videos all others are restored
            first.
    """
    piped = PIPE in (options.input, options.output)
    sources = [] if piped else find_sources(options)
    outputs = [] if piped else name_outputs(options, sources)
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
    record_outputs(options, sources, outputs)
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
            if len(self.videos) > 1 and is_finished(output):
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
