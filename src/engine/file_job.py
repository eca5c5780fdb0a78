"""Restore a video file into another, in parts that survive an interruption."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from src.engine.cascade import apply_recursively
from src.engine.compare import to_picture
from src.engine.journal import Journal, group_ranges
from src.engine.losses import describe_losses
from src.engine.memory import fit_to_memory
from src.engine.options import RestoreOptions
from src.engine.prefetch import BackgroundWriter
from src.engine.restore_video import RecentFrames, RestoredFrame, Source, restore_scenes
from src.engine.scenes import AHEAD, mark_cuts
from src.engine.stream import resolve_passes
from src.engine.timing import FINE, OutputTiming, TimeMap
from src.errors import UserError, VideoError
from src.nn.video_network import as_video_network
from src.video.containers import make_write_error, replace_folder
from src.video.encoders import can_store_alpha, resolve_codec
from src.video.mux import join
from src.video.reader import open_video
from src.video.spatial import SpatialLayout
from src.video.writer import VideoWriter

RESOLVED = ("tile", "overlap", "clip_length", "context", "padding")  # options resolved by fit_to_memory


class FileRestoration:
    """The restoration of one video file or folder of frames, in parts that resume on their own.

    Call :meth:`run` for the missing parts, in any number of processes, then :meth:`finish` once to join them.

    Args:
        network: see :func:`src.engine.stream.stream`; on ``device``, in evaluation mode.
        source: a video file, a folder of frames, or a pattern of their names.
        output: a video file, or a folder (no suffix); an existing folder of frames alone is replaced.
        options: how to restore and to write.
        device: of the network.
        network_id: result of :func:`fingerprint`; an interrupted output does not resume with another network.
        anew: discard parts that other options made.

    Attributes:
        losses: sentences on what the output does not keep of the input.

    Raises:
        UserError: the input cannot be read, the output cannot be written, other options made its parts, or options and
            network do not go together.
    """

    def __init__(
        self,
        network: nn.Module,
        source: Path,
        output: Path,
        options: RestoreOptions,
        device: torch.device,
        *,
        network_id: str = "",
        anew: bool = False,
    ) -> None:
        self.plan = {"network": network_id, **options.plan()}
        self.network, self.options = prepare_network(network, options)
        self.source, self.output, self.device = source, output, device
        self.reader = open_video(
            source,
            fps=options.rate,
            deep=True,
            deinterlace=options.deinterlace,
            stream=options.stream,
            alpha=options.alpha and can_store_alpha(output, options.codec),
        )
        self.length = min(len(self.reader), options.max_frames or len(self.reader))
        self.geometry = as_video_network(self.network).geometry
        self.times = self.geometry.output_times(self.length)
        self.anew = anew
        scale, height, width = self.geometry.scale, *self.reader.size
        size = scale * height, scale * width * (2 if options.compare == "side" else 1)
        writer = self.open_writer(output)
        writer.check(size)
        self.losses = tuple(describe_losses(self.reader, str(source), str(output), writer, size))

    @cached_property
    def timing(self) -> OutputTiming:
        """Rate, stretch and lag of the output."""
        return OutputTiming.of(self.geometry, self.reader.fps, self.options.slow_motion)

    @cached_property
    def time_map(self) -> TimeMap:
        """Seconds of the input by its frames."""
        times = self.reader.times[: self.length]
        end = self.reader.times[self.length] if self.length < len(self.reader) else self.reader.end
        return TimeMap(times, end, self.reader.fps)

    @property
    def duration(self) -> Fraction:
        """Seconds of the output."""
        return self.time_map(Fraction(self.length)) * self.timing.stretch

    @property
    def layout(self) -> SpatialLayout | None:
        """Spatial layout of the output; a comparison is flat."""
        layout = None if self.options.compare else self.reader.layout
        return layout and layout.enlarge(self.geometry.scale)

    @cached_property
    def schedule(self) -> list[tuple[int, Fraction]]:
        """For each frame of the output file: number of the restored frame, and presentation time in seconds."""
        fps, stretch, lag = self.timing
        marks = [self.time_map(time - lag) * stretch for time in self.times]
        if self.time_map.steady or not self.options.constant_rate:
            return list(enumerate(marks))
        evenly = (Fraction(k) / fps for k in range(max(1, round(self.duration * fps))))
        return [(max(0, bisect_right(marks, time) - 1), time) for time in evenly]

    @cached_property
    def parts(self) -> int:
        """Number of parts of the output."""
        return -(-len(self.schedule) // self.options.segment)

    @cached_property
    def journal(self) -> Journal:
        """The finished parts; opening it makes their folder."""
        extent = self.source.stat().st_size if self.source.is_file() else len(self.reader)
        plan = {"input": [str(self.source.resolve()), extent], **self.plan}
        fitted = fit_to_memory(
            self.network,
            self.options,
            self.reader.size,
            self.device,
            memory=self.options.memory_bytes,
            length=self.length,
        )
        chosen = {name: value for name, value in asdict(fitted).items() if name in RESOLVED}
        try:
            return Journal(self.output, plan, chosen, suffix=".nut" if self.output.suffix else "", restart=self.anew)
        except OSError as error:
            raise make_write_error(self.output, error) from error

    @cached_property
    def fitted(self) -> RestoreOptions:
        """The options as fitted to memory when the restoration began."""
        return replace(self.options, **self.journal.machine_options)

    def output_indices(self, part: int) -> range:
        """Return the frames of the output file that a part holds."""
        return range(len(self.schedule))[part * self.options.segment : (part + 1) * self.options.segment]

    def run(
        self, parts: Sequence[int], advance: Callable[[], None] = lambda: None, log: Callable[[str], None] = print
    ) -> None:
        """Restore some parts; call ``advance`` for every frame, and ``log`` with news for the user.

        Raises:
            VideoError: the input breaks off, or the output cannot be written.
        """
        try:
            for stretch in group_ranges(parts):
                self._run(stretch, advance, log)
        except VideoError as error:
            if not error.readable:
                raise
            sentence = f"{error}; to restore the readable frames alone, add max_frames={error.readable} overwrite=true"
            raise VideoError(sentence) from error

    def _run(self, stretch: range, advance: Callable[[], None], log: Callable[[str], None]) -> None:
        place, end = self.output_indices(stretch[0]).start, self.output_indices(stretch[-1]).stop
        number = self.schedule[place][0]
        recent = RecentFrames(self._frames, self._lookback())
        outputs = self._restore(recent, number, self._scene(stretch[0], number), self.options.cuts, log)
        with _PartWriter(self) as writer, BackgroundWriter(writer.write) as background:
            for restored_number, item in zip(count(number), outputs):
                before = recent[int(item.time)]
                while place < end and self.schedule[place][0] == restored_number:
                    background.put((place, item.frame, before, item.scene))
                    place += 1
                    advance()
                if place == end:
                    break
            if place < end:
                raise VideoError(f"{self.source} ended early: only {place} of {end} output frames could be restored")

    def _lookback(self) -> int | None:
        """Return the number of recent input frames that ``compare`` needs; None: all."""
        if not self.options.compare:
            return 0
        return None if self.fitted.clip_length == "all" else resolve_passes(self.network, self.fitted).window

    def _restore(
        self, source: Source, number: int, scene: int, cuts: bool, log: Callable[[str], None]
    ) -> Iterator[RestoredFrame]:
        """Restore output frames from a number on; ``scene`` is the scene of the one before it."""
        after = self.times[number - 1] if number else None
        return restore_scenes(
            self.network, source, self.reader.size, self.fitted, after=after, scene=scene, cuts=cuts, log=log
        )

    def _frames(self, number: int) -> Iterator[Tensor]:
        """Yield input frames (3 or 4, H, W) from a number on, RGB or RGBA in [0, 1]."""
        return (frame.to(self.device) for frame in self.reader.tensors(number, self.length))

    def _scene(self, part: int, number: int) -> int:
        """The number of the first input frame of the scene that precedes a part."""
        if not (part and self.options.cuts):
            return 0
        if before := self.journal.list_finished().get(part - 1):
            return before[1]
        last = max(0, math.floor(self.times[number - 1]))
        marked = enumerate(mark_cuts(islice(self._frames(0), last + 1 + AHEAD)))
        return max((at for at, (_, cut) in marked if cut and at <= last), default=0)

    def open_writer(self, path: Path) -> VideoWriter:
        """Return a writer of this output's frames."""
        return VideoWriter(
            path,
            self.timing.fps,
            codec=resolve_codec(self.output, self.options.codec, self.reader.signal.depth),
            quality=self.options.quality,
            preset=self.options.preset,
            chroma=self.options.chroma,
            aspect=self.reader.aspect,
            tick=None if self.time_map.steady or self.options.constant_rate else FINE,
            signal=self.reader.signal,
            source_size=self.reader.size,
        )

    def finish(self) -> None:
        """Join the parts with everything else that the source holds beside its frames, and remove them."""
        if missing := self.journal.list_missing(self.parts):
            raise VideoError(
                f"{len(missing)} of {self.parts} parts of {self.output} are missing: run the same command again"
            )
        parts = [path for path, _ in self.journal.list_finished().values()]
        if self.output.suffix:
            cut_off = self.length < len(self.reader) and not self.options.slow_motion
            join(
                parts,
                self.output,
                source=None if self.reader.stream is None else self.source,
                stream=self.reader.stream,
                layout=self.layout,
                metadata_only=self.options.slow_motion,
                origin=self.reader.times[0],
                until=self.time_map(Fraction(self.length)) if cut_off else None,
            )
        else:
            _gather(parts, self.output)
        self.journal.clear()

    def preview(self, place: int) -> Path:
        """Restore one of the frames in ``schedule`` into a PNG in a folder beside the output, and return its path."""
        number, _ = self.schedule[place]
        recent = RecentFrames(self._frames, self._lookback())
        item = next(self._restore(recent, number, 0, False, print))
        path = self.output.with_name(f"{self.output.stem}.preview") / f"{place:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        before = recent[int(item.time)]
        Image.fromarray(to_picture(item.frame, before, Fraction(0), 8, self.options.compare).numpy()).save(path)
        return path


class _PartWriter:
    """Writes frames into the parts that they belong to."""

    def __init__(self, restoration: FileRestoration) -> None:
        self._whole = restoration
        self._writer: VideoWriter | None = None

    def __enter__(self) -> _PartWriter:
        return self

    def write(self, item: tuple[int, Tensor, Tensor, int]) -> None:
        place, frame, before, scene = item
        whole = self._whole
        part, within = divmod(place, whole.options.segment)
        if within == 0:
            self._writer = whole.open_writer(whole.journal.draft_path(part)).__enter__()
        assert self._writer is not None
        time, depth = whole.schedule[place][1], whole.reader.signal.depth
        self._writer.write(to_picture(frame, before, time, depth, whole.options.compare), time)
        if place == whole.output_indices(part)[-1]:
            self._writer.__exit__(None, None, None)
            self._writer = None
            whole.journal.finish(part, scene)

    def __exit__(self, *exception: Any) -> None:
        if self._writer is not None:  # half a part, after an error
            self._writer.__exit__(*exception)


def prepare_network(network: nn.Module, options: RestoreOptions) -> tuple[nn.Module, RestoreOptions]:
    """Apply the network recursively as ``factor`` says, and check that the remaining options suit it.

    Raises:
        UserError: they do not.
    """
    network, options = apply_recursively(network, options.factor), replace(options, factor=None)
    contract = as_video_network(network)
    padding = options.padding if contract.temporal_padding is not None else None
    context = options.context if contract.geometry.elastic and contract.geometry.window > 1 else 0
    try:
        resolve_passes(network, replace(options, padding=padding, context=context))
    except ValueError as error:
        raise UserError(f"clip_length={options.clip_length} does not suit this network: {error}.") from error
    return network, options


def _gather(parts: Sequence[Path], folder: Path) -> None:
    """Gather the frames of parts in one folder, numbered from 0; links make this safe to interrupt."""
    draft = folder.absolute().with_name(f".{folder.name}.whole")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    frames = (frame for part in parts for frame in sorted(part.iterdir()))
    for number, frame in enumerate(frames):
        target = draft / f"{number:08d}{frame.suffix}"
        try:
            os.link(frame, target)
        except OSError:  # not every file system has links
            shutil.copyfile(frame, target)
    replace_folder(draft, folder)


def fingerprint(files: Iterable[Path], description: Mapping[str, Any]) -> str:
    """Identify a network by the content of its checkpoints and its description."""
    digest = hashlib.sha256(repr(description).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
