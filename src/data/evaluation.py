"""Whole clips to evaluate on, streamed frame by frame.

A degradation is drawn once per clip, a function of (seed, clip); noise is one of (seed, clip, frame). A damaged clip
raises an error instead of being skipped, since a mean over fewer clips would not be comparable.

Shapes: C channels, H and W target pixels, h and w input pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.data.degradation import Degradation, crop_to_multiple, to_clip, unify_depth
from src.data.readers import Readers, find_precomputed, without_precomputed
from src.data.splits import Clip, open_clip
from src.errors import UserError, VideoError
from src.geometry import Geometry


class EvaluationClip:
    """Inputs and targets of a whole clip, streamed in constant memory.

    Args:
        clip: source clip.
        geometry: geometry of the network.
        degradation: degradation that produces the inputs.
        seed: random seed of the draws and the noise, functions of (seed, clip name) and (seed, clip name, frame).
        max_frames: maximum number of input frames; None: all.
        index: number of the clip in the data set, the key of its scores.
    """

    def __init__(
        self,
        clip: Clip,
        *,
        geometry: Geometry,
        degradation: Degradation,
        seed: int = 0,
        max_frames: int | None = None,
        index: int = 0,
    ) -> None:
        self.clip, self.index = without_precomputed(clip, geometry), index
        self.name, self.subset = clip.name, clip.subset
        self.geometry, self.degradation = geometry, degradation
        self.timeline = degradation.timeline(geometry)
        self.seed, self.max_frames = seed, max_frames

    def __repr__(self) -> str:
        return f"EvaluationClip({self.name!r}, {self.clip.path})"

    @cached_property
    def _source(self) -> tuple[int, tuple[int, int], Fraction]:
        """Number of source frames, (height, width) and frame rate of the file."""
        with open_clip(self.clip.path) as reader:
            stop = len(reader) if self.clip.stop is None else min(self.clip.stop, len(reader))
            return len(range(self.clip.start, stop, self.clip.step)), reader.size, reader.fps

    @cached_property
    def frames(self) -> int:
        """Number of input frames."""
        count = self.timeline.count_inputs(self._source[0])
        if count < 1:
            raise UserError(
                f"Clip {self.name} ({self.clip.path}) has only {self._source[0]} usable frames from frame "
                f"{self.clip.start} on, but one input frame averages {self.timeline.exposure}: assign more frames of "
                "this clip to evaluation (options of data.layout), or lower degradation.exposure."
            )
        return count if self.max_frames is None else min(count, self.max_frames)

    def _target_source_ranges(self, geometry: Geometry | None, filled: bool) -> dict[Fraction, range]:
        """Return the source frames averaged for each target, by its time."""
        geometry = geometry or self.geometry
        timeline = replace(self.degradation, every=self.timeline.every).timeline(geometry)
        moments = (time % geometry.stride for time in geometry.times)
        exposures = dict(zip(moments, geometry.exposures or (), strict=False))
        range_at = {
            time: timeline.target_frames(time, exposures[time % geometry.stride] if exposures else None)
            for time in geometry.output_times(self.frames, filled=filled)
        }
        if not range_at:
            self.check_window()
        count = self._source[0]
        return {time: numbers for time, numbers in range_at.items() if numbers[0] >= 0 and numbers[-1] < count}

    def check_length(self, filled: bool) -> None:
        """Refuse a clip without a target, before any frame is read.

        Raises:
            UserError: the clip has too few frames.
        """
        if not self._target_source_ranges(None, filled):
            raise UserError(
                f"Clip {self.name} ({self.clip.path}) has {self._source[0]} frames, too few to score one of them: "
                "assign more of it to evaluation (options of data.layout), or leave it out."
            )

    def check_window(self) -> None:
        """Refuse a clip that is shorter than a window, for protocols that fill none up.

        Raises:
            UserError: the clip has too few frames.
        """
        least, count = self.geometry.inner_outputs[2], self.frames
        if count >= least:
            return
        if count == self.max_frames:
            advice = "raise data.test_frames and data.validate_frames"
        else:
            advice = "assign more of it to evaluation (e.g. data.layout.hold_back=0.4), or lower degradation.exposure"
        raise UserError(
            f"Clip {self.name} has {count} input frame{'s' if count != 1 else ''}, fewer than the {least} of a window "
            f"of this network, and protocol.edges=none fills none up: {advice}."
        )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the targets: those of the source frames, cropped to a multiple of the scale."""
        scale = self.degradation.scale
        height, width = self.clip.source_size.reduced(*self._source[1], self.clip.path)
        return height - height % scale, width - width % scale

    @property
    def fps(self) -> Fraction:
        """Frame rate of the inputs."""
        return self._source[2] / self.clip.step / self.timeline.every

    def inputs(self, start: int = 0) -> Iterator[Tensor]:
        """Yield the input frames from number ``start`` on, in order: float32 (C, h, w) in [0, 1]."""
        readers = Readers()
        precomputed = find_precomputed(self.clip, self._source[1], self.degradation, readers)
        readers.close()
        path, degradation = precomputed or (self.clip.path, self.degradation)
        ranges = [self.timeline.input_frames(i) for i in range(self.frames)]
        if precomputed:
            ranges = [range(self.timeline.centre(i), self.timeline.centre(i) + 1) for i in range(self.frames)]
        name = zlib.crc32(self.name.encode())
        # Four numbers: SeedSequence ignores trailing zeros, so [seed, name] would be the noise of the first frame.
        degradation = degradation.draw(np.random.default_rng([self.seed, name, 0, 1]))
        count = degradation.group_size
        begin = start - start % count  # frames of a group are degraded together
        exposed = self._expose(path, ranges[begin:], degradation)
        for first in range(begin, self.frames, count):
            frames = torch.stack(list(islice(exposed, count)))
            rng = np.random.default_rng([self.seed, name, first])
            degraded = degradation(to_clip(crop_to_multiple(frames, degradation.scale)), rng)
            yield from degraded[max(0, start - first) :]

    def tail(self, count: int) -> tuple[EvaluationClip, Fraction] | None:
        """Return the last ``count`` input frames that end with the clip, at the distances of the others.

        With them comes the time of the first of these, in input frames of this clip. None if this clip's own input
        frames end with it, are limited in number, or are given.
        """
        frames, every = self.frames, self.timeline.every
        behind = self._source[0] - self.timeline.input_frames(frames - 1)[-1] - 1
        shift = behind + (frames - min(count, frames)) * every
        if not 0 < behind < every or self.clip.is_paired:
            return None
        part = EvaluationClip(
            replace(self.clip, start=self.clip.start + shift * self.clip.step),
            geometry=self.geometry,
            degradation=self.degradation,
            seed=self.seed,
            index=self.index,
        )
        return part, Fraction(shift, every)

    def _expose(self, path: Path, ranges: Sequence[range], degradation: Degradation) -> Iterator[Tensor]:
        """Yield one (H, W, C) per range of source frames, ascending. Keeps the frames of one range in memory."""
        numbers = sorted(set(chain(*ranges)))
        frames = zip(numbers, self._read_source_frames(path, numbers), strict=True)
        held: dict[int, Tensor] = {}
        for exposure in ranges:
            held = {number: frame for number, frame in held.items() if number >= exposure[0]}
            while exposure[-1] not in held:
                number, frame = next(frames)
                held[number] = frame
            yield degradation.expose(torch.stack([held[number] for number in exposure]))

    def target_times(self, *, filled: bool = True) -> list[Fraction]:
        """List the times of :meth:`targets`."""
        return [*self._target_source_ranges(self.geometry, filled)]

    def targets(
        self, geometry: Geometry | None = None, *, filled: bool = True, only: Fraction | None = None
    ) -> Iterator[tuple[Fraction, Tensor]]:
        """Yield time (in input frames, ascending) and target of each output frame: float32 (C, H, W) in [0, 1].

        Args:
            geometry: geometry of other outputs from the same inputs, e.g. ``geometry.again(2)`` for a network applied
                to its own output; by default the network's.
            filled: whether windows that reach beyond the ends of the clip are filled up; otherwise only the outputs of
                windows within it have targets.
            only: the one time to read; by default all.
        """
        scale, range_at = self.degradation.scale, self._target_source_ranges(geometry, filled)
        range_at = range_at if only is None else {only: range_at[only]}
        frames = self._expose(self.clip.path, [*range_at.values()], self.degradation)
        for time, frame in zip(range_at, frames, strict=True):
            yield time, to_clip(crop_to_multiple(frame[None], scale))[0]

    def _read_source_frames(self, path: Path, numbers: Sequence[int]) -> Iterator[Tensor]:
        """Yield source frames by ascending numbers: (H, W, C). Reads the file once, from front to back."""
        every = 1 if path == self.clip.path else self.clip.precomputed_every
        remaining = iter((self.clip.start + number * self.clip.step) // every for number in numbers)
        wanted = next(remaining, None)
        if wanted is None:
            return
        start = self.clip.start // every
        with open_clip(path) as reader:
            for i, frame in enumerate(reader.frames(start), start):
                if i == wanted:
                    frame = unify_depth(frame, reader.signal.depth)
                    yield self.clip.source_size.reduce(frame[None], path)[0] if path == self.clip.path else frame
                    wanted = next(remaining, None)
                    if wanted is None:
                        return
        raise VideoError(f"{path} is damaged: it ends before frame {wanted} of clip {self.name}")


class EvaluationClips(Dataset[EvaluationClip]):
    """Whole clips. A file is opened only when its frames are read."""

    def __init__(self, clips: Iterator[EvaluationClip] | Sequence[EvaluationClip]) -> None:
        self.clips = list(clips)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> EvaluationClip:
        return self.clips[index]


def share_of_rank(clips: int, rank: int, world: int) -> list[int]:
    """Return the clips that a rank evaluates. Every clip belongs to exactly one rank, so that none counts twice.

    With more ranks than clips, the surplus ranks repeat one, since Lightning cannot validate on a part of the ranks.
    Scores are kept by clip, so it counts once even then.
    """
    return list(range(rank, clips, world)) or [rank % clips]
