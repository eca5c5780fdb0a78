"""Whole clips to evaluate on, streamed frame by frame.

Noise is a function of (seed, clip, frame). A damaged clip has no substitute: a score over fewer clips is another score.

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

from src.data.degradation import Degradation, as_clip, crop_to_multiple
from src.data.readers import Readers, precomputed, without_precomputed
from src.data.splits import Clip, open_clip
from src.errors import UserError, VideoError
from src.geometry import Geometry


class EvaluationClip:
    """A whole clip, frame by frame in constant memory: what a network is given, and the truth about what it returns.

    Args:
        clip: where it is.
        geometry: of the network.
        degradation: of the inputs.
        seed: of noise, which is a function of (seed, clip name, frame).
        max_frames: at most so many input frames.
        index: its number in the data set, under which scores are kept.
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
    def _about(self) -> tuple[int, tuple[int, int], Fraction]:
        """Source frames, (height, width) and frame rate of the file."""
        with open_clip(self.clip.path) as reader:
            stop = len(reader) if self.clip.stop is None else min(self.clip.stop, len(reader))
            return len(range(self.clip.start, stop, self.clip.step)), reader.size, reader.fps

    @cached_property
    def frames(self) -> int:
        """Number of input frames."""
        frames = self.timeline.inputs(self._about[0])
        if frames < 1:
            raise UserError(
                f"clip {self.name} ({self.clip.path}) has {self._about[0]} frames from frame {self.clip.start} on, and "
                f"an input takes {self.timeline.exposure}: hold back more of it, or lower degradation.exposure"
            )
        return frames if self.max_frames is None else min(frames, self.max_frames)

    def _truth(self, geometry: Geometry | None) -> dict[Fraction, range]:
        """By time, the source frames whose mean is the target."""
        geometry = geometry or self.geometry
        timeline = replace(self.degradation, every=self.timeline.every).timeline(geometry)
        moments = (time % geometry.stride for time in geometry.times)
        exposures = dict(zip(moments, geometry.exposures or (), strict=False))
        truth = {
            time: timeline.target_frames(time, exposures[time % geometry.stride] if exposures else None)
            for time in geometry.output_times(self.frames)
        }
        return {time: frames for time, frames in truth.items() if frames[0] >= 0 and frames[-1] < self._about[0]}

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the targets: the file's, cut to a multiple of the scale."""
        scale = self.degradation.scale
        height, width = self._about[1]
        return height - height % scale, width - width % scale

    @property
    def fps(self) -> Fraction:
        """Frame rate of the inputs."""
        return self._about[2] / self.clip.step / self.timeline.every

    def inputs(self) -> Iterator[Tensor]:
        """Input frames in order: float32 (C, h, w) in [0, 1]."""
        readers = Readers()
        ready = precomputed(self.clip, self._about[1], self.degradation, readers)
        readers.close()
        path, degradation = ready or (self.clip.path, self.degradation)
        ranges = [self.timeline.frames(i) for i in range(self.frames)]
        if ready:
            ranges = [range(self.timeline.source(i), self.timeline.source(i) + 1) for i in range(self.frames)]
        name, count = zlib.crc32(self.name.encode()), degradation.together
        exposed = self._exposed(path, ranges, degradation)
        for first in range(0, self.frames, count):
            some = torch.stack(list(islice(exposed, count)))
            rng = np.random.default_rng([self.seed, name, first])
            yield from degradation(as_clip(crop_to_multiple(some, degradation.scale)), rng)

    def _exposed(self, path: Path, ranges: Sequence[range], degradation: Degradation) -> Iterator[Tensor]:
        """One uint8 (H, W, C) for each range of source frames, ascending; only frames of one range are kept."""
        needed = sorted(set(chain(*ranges)))
        frames = zip(needed, self._frames(path, needed), strict=True)
        held: dict[int, Tensor] = {}
        for wanted in ranges:
            held = {number: frame for number, frame in held.items() if number >= wanted[0]}
            while wanted[-1] not in held:
                number, frame = next(frames)
                held[number] = frame
            yield degradation.expose(torch.stack([held[number] for number in wanted]))

    def targets(self, geometry: Geometry | None = None) -> Iterator[tuple[Fraction, Tensor]]:
        """Time (in input frames, ascending) and target of each output frame: float32 (C, H, W) in [0, 1].

        Args:
            geometry: whose outputs, from the same inputs; by default the network's, and ``geometry.again(2)`` for what
                it makes of its own output.
        """
        scale, truth = self.degradation.scale, self._truth(geometry)
        frames = self._exposed(self.clip.path, [*truth.values()], self.degradation)
        for time, frame in zip(truth, frames, strict=True):
            yield time, as_clip(crop_to_multiple(frame[None], scale))[0]

    def _frames(self, path: Path, sources: Sequence[int]) -> Iterator[Tensor]:
        """The given source frames of a file, ascending: uint8 (H, W, C). Reads it once from front to back."""
        wanted = iter(self.clip.start + source * self.clip.step for source in sources)
        want = next(wanted, None)
        if want is None:
            return
        with open_clip(path) as reader:
            for i, frame in enumerate(reader.frames(self.clip.start), self.clip.start):
                if i == want:
                    yield frame
                    want = next(wanted, None)
                    if want is None:
                        return
        raise VideoError(f"{path} ends before frame {want}, which clip {self.name} needs: the file is damaged")


class EvaluationClips(Dataset[EvaluationClip]):
    """Whole clips; nothing is open_clip before a clip is asked for its frames."""

    def __init__(self, clips: Iterator[EvaluationClip] | Sequence[EvaluationClip]) -> None:
        self.clips = list(clips)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> EvaluationClip:
        return self.clips[index]


def share_of_rank(clips: int, rank: int, world: int) -> list[int]:
    """The clips that a rank evaluates: every one goes to exactly one rank, so that none counts twice.

    Only where there are more ranks than clips, those left over repeat one, since Lightning cannot validate on some
    ranks alone; scores are kept by clip, so that it counts once even then.
    """
    return list(range(rank, clips, world)) or [rank % clips]
