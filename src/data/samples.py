"""What a sample is: patches of a stretch of video to train on, whole clips to evaluate on.

Everything random is a function of (seed, epoch, index), or of (seed, clip, frame) in evaluation: the number of workers,
of ranks and of interruptions changes nothing. That holds for what takes the place of a sample that cannot be read, too.
Clips to evaluate have no substitute, since a score over fewer clips is another score.

Shapes: T input frames, T' output frames, C channels, H and W target pixels, h and w input pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from src.data.augment import Augmentation
from src.data.degradation import Degradation, SampleFrames, as_clip, crop_to_multiple, resized
from src.data.readers import Readers, precomputed, without_precomputed
from src.data.splits import Clip, DamagedClips, abbreviate
from src.errors import UserError, VideoError
from src.geometry import Geometry

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
        damaged: DamagedClips | None = None,
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
        damaged = DamagedClips() if damaged is None else damaged
        self.skip = damaged.limit
        lengths = []
        for clip in clips:
            try:
                lengths.append((without_precomputed(clip, geometry), clip.length()))
            except VideoError as error:
                damaged.skip(clip.path, str(error))
        if clips and not lengths:
            raise VideoError(f"none of the {len(clips)} training clips can be opened: {abbreviate(damaged.values())}")
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
        met = DamagedClips(self.skip)  # on the way to this one; over all of them it is counted by who gets the batches
        place = self._locate(index % len(self), np.random.default_rng([self.seed, epoch, index]))
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._read(*place)._replace(damaged=dict(met))
            except VideoError as error:
                met.add(place[0].path, str(error))
            draws = np.random.default_rng([self.seed, epoch, index, 0, attempt])
            place = self._locate(int(draws.integers(len(self))), draws)
        raise VideoError(
            f"{ATTEMPTS} training samples in a row cannot be read: {abbreviate(met.values())}; replace these clips"
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
        frames = crop_to_multiple(self._readers.read(clip.path, needed), self.degradation.scale)

        def exposed(ranges: Sequence[range]) -> Tensor:
            return torch.stack([self.degradation.expose(frames[[needed.index(i) for i in places(r)]]) for r in ranges])

        targets = exposed(take.targets)
        if ready is None:
            inputs, rest = exposed(take.inputs), self.degradation
        else:
            path, rest = ready
            inputs = crop_to_multiple(self._readers.read(path, places(r[len(r) // 2] for r in take.inputs)), rest.scale)
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
