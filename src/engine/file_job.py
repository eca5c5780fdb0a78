"""A video file through a network into another: what to show when, in parts that survive being cut off."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from src.engine.compare import to_picture
from src.engine.journal import Journal, stretches
from src.engine.options import RestoreOptions, fit_to_memory
from src.engine.prefetch import BackgroundWriter
from src.engine.restore_video import Recent, RestoredFrame, Source, restore_scenes
from src.engine.scenes import AHEAD, mark_cuts
from src.engine.stream import even, passes
from src.engine.timing import FINE, OutputTiming, TimeMap
from src.errors import VideoError
from src.video.containers import make_write_error, replace_folder
from src.video.mux import join
from src.video.reader import open_video
from src.video.writer import VideoWriter, resolve_codec


class FileRestoration:
    """One video on its way from a file or folder to another.

    Args:
        network: see :func:`src.engine.stream`; on ``device``, in evaluation mode.
        source: a video file, a folder of frames, or a pattern of their names.
        output: a video file, or a folder (no suffix); one that is there is replaced, if it is a folder only of frames.
        way: how.
        device: of the network.
        weights: what tells one network from another, so that no output is made by two.
        anew: throws away parts that were made in another way.

    Raises:
        UserError: the input cannot be read, the output not be written, or parts of it were made in another way.
    """

    def __init__(
        self,
        network: nn.Module,
        source: Path,
        output: Path,
        way: RestoreOptions,
        device: torch.device,
        *,
        weights: str = "",
        anew: bool = False,
    ) -> None:
        self.network, self.source, self.output, self.way, self.device = network, source, output, way, device
        self.reader = open_video(source, fps=way.rate, deep=True, deinterlace=way.deinterlace)
        self.length = min(len(self.reader), way.max_frames or len(self.reader))
        self.geometry = passes(network, padding=self._padding)
        self.times = self.geometry.output_times(self.length)
        self.weights, self.anew = weights, anew
        scale, height, width = self.geometry.scale, *self.reader.size
        self.write_to(output).check((scale * height, scale * width * (2 if way.compare == "side" else 1)))

    @property
    def _padding(self) -> int | None:
        return self.way.padding if hasattr(self.network, "padding") else None

    @cached_property
    def pace(self) -> OutputTiming:
        """How fast the output runs."""
        return OutputTiming.of(self.geometry, self.reader.fps, self.way.slow_motion)

    @cached_property
    def clock(self) -> TimeMap:
        times = self.reader.times[: self.length]
        end = self.reader.times[self.length] if self.length < len(self.reader) else self.reader.end
        return TimeMap(times, end, self.reader.fps)

    @property
    def lasts(self) -> Fraction:
        """How long the output is, in seconds."""
        return self.clock(Fraction(self.length)) * self.pace.stretch

    @cached_property
    def shown(self) -> list[tuple[int, Fraction]]:
        """What the output shows: numbers of restored frames, and from when on, in seconds since the first."""
        fps, stretch, lag = self.pace
        marks = [self.clock(time - lag) * stretch for time in self.times]
        if self.clock.steady or not self.way.constant_rate:
            return list(enumerate(marks))
        last = self.clock(Fraction(self.length)) * stretch
        evenly = (Fraction(k) / fps for k in range(max(1, round(last * fps))))
        return [(max(0, bisect_right(marks, time) - 1), time) for time in evenly]

    @cached_property
    def parts(self) -> int:
        """How many parts the output is made of."""
        return -(-len(self.shown) // self.way.segment)

    @cached_property
    def journal(self) -> Journal:
        """The parts that there are; opening it makes their folder."""
        extent = self.source.stat().st_size if self.source.is_file() else len(self.reader)
        plan = {
            "input": [str(self.source.resolve()), extent],
            "network": self.weights,
            **self.way.plan(),
        }
        chosen = fit_to_memory(self.network, self.reader.size, self.way, self.device)
        if hasattr(self.network, "padding"):
            chosen["clip_length"] = even(self.network, self.length, chosen["clip_length"])
        try:
            return Journal(self.output, plan, chosen, suffix=".nut" if self.output.suffix else "", anew=self.anew)
        except OSError as error:
            raise make_write_error(self.output, error) from error

    def frames_of(self, part: int) -> range:
        """The places in ``shown`` that a part holds."""
        return range(len(self.shown))[part * self.way.segment : (part + 1) * self.way.segment]

    def run(self, parts: Sequence[int], advance: Callable[[], None] = lambda: None, told: Any = print) -> None:
        """Restores some parts; ``advance`` is called for every frame, ``told`` with what a person should know.

        Raises:
            VideoError: the input breaks off, or the output cannot be written.
        """
        try:
            for stretch in stretches(parts):
                self._run(stretch, advance, told)
        except VideoError as error:
            if not error.readable:
                raise
            sentence = f"{error}; max_frames={error.readable} overwrite=true restores what precedes it"
            raise VideoError(sentence) from error

    def _run(self, stretch: range, advance: Callable[[], None], told: Any) -> None:
        place, end = self.frames_of(stretch[0]).start, self.frames_of(stretch[-1]).stop
        number = self.shown[place][0]
        recent = Recent(self._frames, self.geometry.window if self.way.compare else 0)
        outputs = self._restored(recent, number, self._shot(stretch[0], number), self.way.cuts, told)
        with _Parts(self) as written, BackgroundWriter(written.write) as behind:
            for restored_number, item in zip(count(number), outputs):
                before = recent[int(item.time)]
                while place < end and self.shown[place][0] == restored_number:
                    behind.put((place, item.frame, before, item.shot))
                    place += 1
                    advance()
                if place == end:
                    break
            if place < end:
                raise VideoError(f"{self.source} gave frames for {place} of {end} to be shown, and then ended")

    def _restored(self, source: Source, number: int, shot: int, cuts: bool, told: Any) -> Iterator[RestoredFrame]:
        """Output frames from a number on, the one before which lies in a shot."""
        return restore_scenes(
            self.network,
            source,
            self.reader.size,
            after=self.times[number - 1] if number else None,
            shot=shot,
            cuts=cuts,
            told=told,
            **self.journal.chosen,
            padding=self._padding,
            edges=self.way.edges,
            precision=self.way.precision,
        )

    def _frames(self, number: int) -> Iterator[Tensor]:
        """Input frames (3, H, W) from a number on, RGB in [0, 1]."""
        return (frame.to(self.device) for frame in self.reader.tensors(number, self.length))

    def _shot(self, part: int, number: int) -> int:
        """The number of the input frame that the shot begins with in which what precedes a part lies."""
        if not (part and self.way.cuts):
            return 0
        if before := self.journal.finished().get(part - 1):
            return before[1]
        last = max(0, math.floor(self.times[number - 1]))
        marked = enumerate(mark_cuts(islice(self._frames(0), last + 1 + AHEAD)))
        return max((at for at, (_, cut) in marked if cut and at <= last), default=0)

    def write_to(self, path: Path) -> VideoWriter:
        """A writer of this output's frames."""
        return VideoWriter(
            path,
            self.pace.fps,
            codec=resolve_codec(self.output, self.way.codec, self.reader.signal.depth),
            quality=self.way.quality,
            preset=self.way.preset,
            aspect=self.reader.aspect,
            tick=None if self.clock.steady or self.way.constant_rate else FINE,
            signal=self.reader.signal,
            source_size=self.reader.size,
        )

    def finish(self) -> None:
        """Makes the output of its parts, with all else that the source holds beside its frames, and removes them."""
        if missing := self.journal.missing(self.parts):
            raise VideoError(
                f"{self.output} lacks {len(missing)} of {self.parts} parts: the same command restores them"
            )
        parts = [path for path, _ in self.journal.finished().values()]
        if self.output.suffix:
            cut_off = self.length < len(self.reader) and not self.way.slow_motion
            join(
                parts,
                self.output,
                source=self.source if self.source.is_file() else None,
                metadata_only=self.way.slow_motion,
                origin=self.reader.times[0],
                until=self.clock(Fraction(self.length)) if cut_off else None,
            )
        else:
            _gather(parts, self.output)
        self.journal.clear()

    def preview(self, place: int) -> Path:
        """Restores one of the frames that are shown, writes it as a PNG into a folder beside the output, says where."""
        number, _ = self.shown[place]
        recent = Recent(self._frames, self.geometry.window if self.way.compare else 0)
        item = next(self._restored(recent, number, 0, False, print))
        path = self.output.with_name(f"{self.output.stem}.preview") / f"{place:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_picture(item.frame, recent[int(item.time)], Fraction(0), 8, self.way).numpy()).save(path)
        return path


class _Parts:
    """Writes frames into the parts that they belong to."""

    def __init__(self, restoration: FileRestoration) -> None:
        self._whole = restoration
        self._writer: VideoWriter | None = None

    def __enter__(self) -> _Parts:
        return self

    def write(self, item: tuple[int, Tensor, Tensor, int]) -> None:
        place, frame, before, shot = item
        part, within = divmod(place, self._whole.way.segment)
        if within == 0:
            self._writer = self._whole.write_to(self._whole.journal.part(part)).__enter__()
        assert self._writer is not None
        time, depth = self._whole.shown[place][1], self._whole.reader.signal.depth
        self._writer.write(to_picture(frame, before, time, depth, self._whole.way), time)
        if place == self._whole.frames_of(part)[-1]:
            self._writer.__exit__(None, None, None)
            self._writer = None
            self._whole.journal.finish(part, shot)

    def __exit__(self, *exception: Any) -> None:
        if self._writer is not None:  # half a part, since something went wrong
            self._writer.__exit__(*exception)


def _gather(parts: Sequence[Path], folder: Path) -> None:
    """The frames of parts as one folder, numbered from 0; they are linked, so that this can be cut off, too."""
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


def fingerprint(file: str | Path | None, description: Mapping[str, Any]) -> str:
    """What tells one network from another: the content of its checkpoint, and how it was built."""
    digest = hashlib.sha256(repr(description).encode())
    if file:
        digest.update(Path(file).expanduser().read_bytes())
    return digest.hexdigest()[:16]
