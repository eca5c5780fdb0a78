"""What a sample is: patches of a stretch of video to train on, whole clips to evaluate on.

Everything random is a function of (seed, epoch, index), or of (seed, clip, frame) in evaluation: the number of workers,
of ranks and of interruptions changes nothing. That holds for what takes the place of a sample that cannot be read, too.
Clips to evaluate have no substitute, since a score over fewer clips is another score.

Shapes: T input frames, T' output frames, C channels, H and W target pixels, h and w input pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from src.data.augment import Augmentation
from src.data.degradation import Degradation, SampleFrames, as_clip, resized
from src.data.splits import Clip, Damaged, few, opened
from src.errors import UserError, VideoError
from src.geometry import Geometry
from src.video.decode_timeout import Stuck
from src.video.reader import FrameReader

ATTEMPTS = 100  # stretches drawn in place of one that cannot be read


class Sample(TypedDict):
    """``inputs`` (T, C, h, w) and ``targets`` (T', C, H, W), float32 in [0, 1]; ``key``: clip and first frame.

    ``draw``: with which numbers the dataset gives it again, ``epoch,index,patch``.
    ``damaged`` is there where the sample takes the place of others: by path of their clips, what is wrong with them.
    """

    inputs: Tensor
    targets: Tensor
    key: str
    draw: NotRequired[str]
    damaged: NotRequired[dict[str, str]]


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """A batch of samples; what they say is damaged comes as one dictionary, or not at all."""
    damaged = {path: sentence for sample in samples for path, sentence in sample.pop("damaged", {}).items()}
    batch: dict[str, Any] = default_collate(list(samples))
    return {**batch, "damaged": damaged} if damaged else batch


class DecodedSpan(NamedTuple):
    """Decoded frames to cut patches from."""

    clip: Clip
    frame: int  # of the source, where it begins
    inputs: Tensor  # uint8 (T, h, w, C)
    targets: Tensor  # uint8 (T', H, W, C)
    degradation: Degradation  # what is to be done yet to the inputs
    damaged: dict[str, str]  # by clip, what was to be read in its place and cannot be


class Readers:
    """Readers of videos, each probed once; only the last few keep their decoder, which may hold hundreds of frames.

    What is open stays in its process: a copy sent to a worker starts empty.
    """

    def __init__(self, limit: int = 3) -> None:
        self.limit = limit
        self._known: dict[Path, FrameReader] = {}
        self._stuck: dict[Path, str] = {}  # what has cost the time limit once is not tried again by this process
        self._recent: list[Path] = []  # whose decoders may be open, the last used last

    def __call__(self, path: Path) -> FrameReader:
        if path in self._stuck:
            raise VideoError(self._stuck[path])
        if path not in self._known:
            with self._limited(path):
                self._known[path] = opened(path)
        if path in self._recent:
            self._recent.remove(path)
        self._recent.append(path)
        while len(self._recent) > self.limit:
            self._known[self._recent.pop(0)].close()
        return self._known[path]

    def read(self, path: Path, frames: Sequence[int]) -> Tensor:
        """The given frames, uint8 (T, H, W, C).

        Raises:
            VideoError: one of them cannot be decoded, or the clip has fewer.
        """
        reader = self(path)
        if max(frames) >= len(reader):
            raise VideoError(f"{path} has {len(reader)} frames, and frame {max(frames)} is needed: it is not whole")
        with self._limited(path):
            return reader.read(frames)

    @contextmanager
    def _limited(self, path: Path) -> Iterator[None]:
        try:
            yield
        except Stuck as error:
            self._stuck[path] = str(error)
            raise

    def close(self) -> None:
        for path in self._recent:
            self._known[path].close()
        self._recent.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "_known": {}, "_stuck": {}, "_recent": []}


class ClipDataset(Dataset[Sample]):
    """Random patches of stretches of clips, with what a network is given and what it shall return.

    A clip that is longer than ``span`` source frames is several segments, each an index of its own; where in its
    segment a stretch begins is drawn (after its exposure, where the degradation mixes several), and every place where
    one can begin belongs to one segment. Keys are ``(epoch, index, patch)``: the patch of that number of the stretch
    that was drawn for (epoch, index). An index beyond the length goes round, with draws of its own. Where a stretch
    cannot be read, another is drawn, from these numbers and how often that was so; samples say what was damaged.

    Args:
        clips: where the frames are. Clips shorter than a sample are left out.
        geometry: of the network.
        degradation: of the inputs.
        crop: side of a target patch, a multiple of the scale.
        stretches: how many decoded stretches to remember, whose next patches then cost no decoding.
        augmentation: of the patches.
        seed: of all draws.
        span: source frames of a segment; by default those of a sample.
        samples: so many segments of each clip, whatever ``span`` says.
        resize: (height, width) that whole frames, inputs and targets, are made before patches are cut; only for
            degradations of scale 1.
        damaged: counts the clips that cannot be opened; so many may be, and so many met for one sample. None: none may.

    Raises:
        UserError: nothing to train on, a crop that does not fit, a degradation that contradicts the network.
        VideoError: more is damaged; from reading a sample, too.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        geometry: Geometry,
        degradation: Degradation,
        crop: int,
        stretches: int = 1,
        augmentation: Augmentation,
        seed: int = 0,
        span: int | None = None,
        samples: int | None = None,
        resize: Sequence[int] | None = None,
        damaged: Damaged | None = None,
    ) -> None:
        variants = degradation.variants(geometry)
        check_crop(crop, geometry, variants[0], augmentation.reverse)
        self.takes = [variant.timeline(geometry).take(geometry) for variant in variants]
        self.extent = max(take.extent for take in self.takes)  # a clip has room for the longest
        span = self.extent if span is None else span
        if span < self.extent:
            raise UserError(f"data.span is {span} source frames, but a sample of this network takes {self.extent}")
        if samples is not None and samples < 1:
            raise UserError(f"data.samples counts samples of a clip, got {samples}")
        self.resize = None if resize is None else tuple(resize)
        if self.resize and (len(self.resize) != 2 or min(self.resize) < 1 or degradation.scale > 1):
            raise UserError(
                f"data.resize is {[*self.resize]}, but must be a height and a width where the network does not "
                f"enlarge, and null where it does (here {degradation.scale} times)"
            )
        damaged = Damaged() if damaged is None else damaged
        self.skip = damaged.limit
        lengths = []
        for clip in clips:
            try:
                lengths.append((without_precomputed(clip, geometry), clip.length()))
            except VideoError as error:
                damaged.leave_out(clip.path, str(error))
        if clips and not lengths:
            raise VideoError(f"none of the {len(clips)} training clips can be opened: {few(damaged.values())}")
        self.clips = [(clip, length) for clip, length in lengths if length >= self.extent]
        if not self.clips:
            longest = max((length for _, length in lengths), default=0)
            raise UserError(
                f"none of the {len(lengths)} training clips has the {self.extent} frames that a sample of this network "
                f"takes (the longest has {longest}): point data.root at longer videos"
                if lengths
                else "this data set has nothing to train on: choose another, e.g. data=procedural"
            )
        self.segments = [samples or max(1, length // span) for _, length in self.clips]
        self.ends = np.array(list(accumulate(self.segments)))
        self.degradation = degradation
        self.crop = crop
        self.augmentation = augmentation
        self.seed = seed
        self._readers = Readers()
        self.stretches = stretches
        self._recent: dict[tuple[int, int], DecodedSpan] = {}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        epoch, index, number = key
        draws = np.random.default_rng(
            [self.seed, epoch, index, 1 + number]
        )  # a last 0 would repeat the stretch's draws
        return {**self._patch(self._stretch(epoch, index), draws), "draw": f"{epoch},{index},{number}"}

    def _stretch(self, epoch: int, index: int) -> DecodedSpan:
        """The decoded frames of an index, read or remembered."""
        if (epoch, index) not in self._recent:
            while len(self._recent) >= self.stretches:
                del self._recent[next(iter(self._recent))]  # the oldest
            self._recent[epoch, index] = self._drawn(epoch, index)
        return self._recent[epoch, index]

    def _drawn(self, epoch: int, index: int) -> DecodedSpan:
        """The stretch of an index, or the first that can be read of those that are drawn in its place."""
        met = Damaged(self.skip)  # on the way to this one; over all of them it is counted by who gets the batches
        place = self._locate(index % len(self), np.random.default_rng([self.seed, epoch, index]))
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._read(*place)._replace(damaged=dict(met))
            except VideoError as error:
                met.meet(place[0].path, str(error))
            draws = np.random.default_rng([self.seed, epoch, index, 0, attempt])
            place = self._locate(int(draws.integers(len(self))), draws)
        raise VideoError(
            f"{ATTEMPTS} training samples in a row cannot be read: {few(met.values())}; replace these clips"
        )

    def _locate(self, index: int, rng: np.random.Generator) -> tuple[Clip, int, SampleFrames]:
        """The clip of an index, the source frame where the sample begins, and what is taken from there on."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        clip, length = self.clips[number]
        segments = self.segments[number]
        segment = index - (int(self.ends[number]) - segments)
        take = self.takes[rng.integers(len(self.takes))]  # of one nothing is drawn
        starts = length - take.extent + 1
        low, high = (k * starts // segments for k in (segment, segment + 1))
        return clip, int(rng.integers(low, max(low + 1, high))), take

    def _read(self, clip: Clip, start: int, take: SampleFrames) -> DecodedSpan:
        def places(frames: Iterable[int]) -> list[int]:
            return [clip.start + (start - take.first + frame) * clip.step for frame in frames]

        reader = self._readers(clip.path)
        ready = precomputed(clip, reader.size, self.degradation, self._readers)
        needed = sorted({*places(chain(*take.targets, *([] if ready else take.inputs)))})
        frames = _trimmed(self._readers.read(clip.path, needed), self.degradation.scale)

        def exposed(ranges: Sequence[range]) -> Tensor:
            return torch.stack([self.degradation.expose(frames[[needed.index(i) for i in places(r)]]) for r in ranges])

        targets = exposed(take.targets)
        if ready is None:
            inputs, rest = exposed(take.inputs), self.degradation
        else:
            path, rest = ready
            inputs = _trimmed(self._readers.read(path, places(r[len(r) // 2] for r in take.inputs)), rest.scale)
        if self.resize:
            inputs, targets = resized(inputs, self.resize), resized(targets, self.resize)
        return DecodedSpan(clip, clip.start + start * clip.step, inputs, targets, rest, {})

    def _patch(self, stretch: DecodedSpan, rng: np.random.Generator) -> Sample:
        scale, targets = self.degradation.scale, stretch.targets
        height, width = targets.shape[1:3]
        if min(height, width) < self.crop:
            raise UserError(
                f"{stretch.clip.path} has frames of {width}x{height}, smaller than data.crop={self.crop}: lower it"
            )
        side = self.crop // scale
        top = int(rng.integers(0, height // scale - side + 1))
        left = int(rng.integers(0, width // scale - side + 1))
        given = stretch.degradation.patch(stretch.inputs, top, left, side, rng)
        y, x = top * scale, left * scale
        wanted = as_clip(targets[:, y : y + self.crop, x : x + self.crop])
        given, wanted = self.augmentation(given, wanted, rng)
        sample = Sample(inputs=given, targets=wanted, key=f"{stretch.clip.name}:{stretch.frame}")
        return {**sample, "damaged": stretch.damaged} if stretch.damaged else sample


def check_crop(crop: int, geometry: Geometry, degradation: Degradation, reverse: bool) -> None:
    """What can be refused before any data is read.

    Raises:
        UserError: degradation and network contradict each other, the crop is not on the grid of input pixels, or
            reversed clips would not have their frames where the network puts its own.
    """
    degradation.check(geometry)
    if crop < 1 or crop % geometry.scale:
        raise UserError(f"data.crop is {crop}, which is no multiple of the network's scale of {geometry.scale}")
    edges = [geometry.interval(k) for k in range(len(geometry.times))]
    end = geometry.window - (0 if geometry.exposures else 1)
    if reverse and [(end - b, end - a) for a, b in reversed(edges)] != edges:
        raise UserError(
            f"data.reverse=true needs output times that are their own mirror image, and this network's are "
            f"{', '.join(map(str, geometry.times))} in a window of {geometry.window}: set data.reverse=false"
        )


def without_precomputed(clip: Clip, geometry: Geometry) -> Clip:
    """The clip without degraded frames that it brings, where they would have to be exposed until the next begins."""
    return replace(clip, ready={}) if geometry.exposures else clip


def precomputed(
    clip: Clip, size: tuple[int, int], degradation: Degradation, readers: Readers
) -> tuple[Path, Degradation] | None:
    """A folder of frames of a clip that are degraded already, and what is to be done yet to them.

    Of those that the data set brings the one with which least is left to do; ``None`` where none fits.
    """
    found = []
    for done, path in clip.ready.items():
        if path.exists():
            height, width = readers(path).size
            factor = max(1, size[0] // height)
            rest = degradation.after(done, factor)
            if rest is not None and (height, width) == (size[0] // factor, size[1] // factor):
                found.append((len(rest.steps), path, rest))
    return min(found, key=lambda entry: entry[0])[1:] if found else None


def _trimmed(frames: Tensor, scale: int) -> Tensor:
    """(T, H, W, C) without the rows and columns that a reduction would have to share out."""
    height, width = frames.shape[1:3]
    return frames[:, : height - height % scale, : width - width % scale]


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
        with opened(self.clip.path) as reader:
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
            yield from degradation(as_clip(_trimmed(some, degradation.scale)), rng)

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
            yield time, as_clip(_trimmed(frame[None], scale))[0]

    def _frames(self, path: Path, sources: Sequence[int]) -> Iterator[Tensor]:
        """The given source frames of a file, ascending: uint8 (H, W, C). Reads it once from front to back."""
        wanted = iter(self.clip.start + source * self.clip.step for source in sources)
        want = next(wanted, None)
        if want is None:
            return
        with opened(path) as reader:
            for i, frame in enumerate(reader.frames(self.clip.start), self.clip.start):
                if i == want:
                    yield frame
                    want = next(wanted, None)
                    if want is None:
                        return
        raise VideoError(f"{path} ends before frame {want}, which clip {self.name} needs: the file is damaged")
