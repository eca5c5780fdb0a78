"""Training samples: patches of short sequences of video frames.

All randomness is a function of (seed, epoch, index), independent of the number of workers and ranks and of
interruptions. That includes the substitute for a sample that cannot be read.

Shapes: T input frames, T' output frames, C channels, H and W target pixels, h and w input pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate, chain
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from src.data.augment import Augmentation, Draws
from src.data.degradation import Degradation, SampleFrames, crop_to_multiple, resize_frames, to_clip
from src.data.readers import Readers, find_precomputed, without_precomputed
from src.data.splits import Clip, DamagedClips, abbreviate, measure_clip, spread_evenly
from src.errors import UserError, VideoError
from src.geometry import Geometry

log = logging.getLogger(__name__)

Exposures = list[list[int]]  # the indices of the source frames to average for each frame
CONTEXT = 3  # inputs on either side of a sample that a video codec codes together with it
MEASURED = 2000  # clips whose size is read before training, since data sets may have very many
ATTEMPTS = 100  # reads of a sample and of its substitutes before training fails


class Sample(TypedDict):
    """``inputs`` (T, C, h, w) and ``targets`` (T', C, H, W), float32 in [0, 1].

    ``reduced`` (T', C, h, w): the targets reduced to the size of the inputs, if the dataset has them.
    ``source``: clip name and first source frame, ``name:frame``.
    ``dataset_key``: the key that the dataset returns this sample for, ``epoch,index,patch``.
    ``damaged``: in a substitute sample, the error message per damaged clip, keyed by path.
    """

    inputs: Tensor
    targets: Tensor
    reduced: NotRequired[Tensor]
    source: str
    dataset_key: NotRequired[str]
    damaged: NotRequired[dict[str, str]]


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Batch samples. Merge their ``damaged`` entries into one dictionary; omit it if there are none."""
    damaged = {path: message for sample in samples for path, message in sample.pop("damaged", {}).items()}
    batch: dict[str, Any] = default_collate(list(samples))
    return {**batch, "damaged": damaged} if damaged else batch


class DecodedSample(NamedTuple):
    """The decoded frames of a sample, to cut patches from."""

    clip: Clip
    frame: int  # first source frame
    inputs: Tensor  # (T, h, w, C); the source frames that they are means of if there are exposures
    targets: Tensor  # (T', H, W, C); likewise
    degradation: Degradation  # not yet applied to the inputs
    damaged: dict[str, str]  # error message per unreadable clip that this sample replaces, keyed by path
    exposures: tuple[Exposures, Exposures] | None = None  # of inputs and targets, not yet averaged


class ClipDataset(Dataset[Sample]):
    """Random patches of random frames of clips: network inputs and targets.

    A clip longer than ``span`` source frames is split into segments, each with its own dataset index. A sample starts
    at a random frame of its segment; every possible start belongs to exactly one segment. If ``degradation.mixed`` is
    set, the exposure is drawn first, then the start frame. Indices beyond ``len(self)`` refer to the same segments with
    fresh random draws.

    Keys are ``(epoch, index, patch)``: patch number ``patch`` of the frames drawn for (epoch, index). If these frames
    cannot be read, a substitute is drawn from the same numbers and the number of failed attempts; samples report the
    damaged clips.

    Args:
        clips: clips to draw from. Clips shorter than a sample are excluded.
        geometry: geometry of the network.
        degradation: turns source frames into network inputs. One with a video codec is drawn for each read, not each
            patch, and degrades whole frames, :data:`CONTEXT` inputs on either side of the sample among them.
        crop: side of a target patch, a multiple of the scale.
        candidates: places drawn for each patch; the one with the most detail, the largest mean difference of
            neighbours in a row, is cut.
        cache_size: number of decoded samples in memory; further patches of these need no decoding.
        augmentation: random changes of the patches.
        seed: seeds every random draw.
        span: source frames per segment; by default the frames of a sample.
        samples: segments per clip; overrides ``span``.
        resize: (height, width) of whole frames, inputs and targets, before patches are cut; only for degradations of
            scale 1.
        reduced_targets: whether samples have ``reduced``: whole target frames, reduced as the degradation reduces
            inputs, but not corrupted otherwise, cut at the patch.
        damaged: collects unopenable clips and raises beyond its limit; the same limit applies to the substitutes drawn
            for a single sample. ``None`` allows none.

    Raises:
        UserError: there is nothing to train on, the crop does not fit, or the degradation contradicts the network.
        VideoError: too many clips are damaged; also raised when a sample is read.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        geometry: Geometry,
        degradation: Degradation,
        crop: int,
        candidates: int = 1,
        cache_size: int = 1,
        augmentation: Augmentation,
        seed: int = 0,
        span: int | None = None,
        samples: int | None = None,
        resize: Sequence[int] | None = None,
        reduced_targets: bool = False,
        damaged: DamagedClips | None = None,
    ) -> None:
        variants = degradation.variants(geometry)
        check_sampling_options(crop, geometry, variants[0], augmentation.reverse)
        self.sample_frames = [variant.timeline(geometry).sample_frames(geometry) for variant in variants]
        self.extent = max(frames.extent for frames in self.sample_frames)  # a clip has room for the longest
        span = self.extent if span is None else span
        if span < self.extent:
            raise UserError(f"data.span is {span} source frames, but a sample of this network needs {self.extent}")
        if samples is not None and samples < 1:
            raise UserError(f"data.samples must be 1 or more samples per clip, got {samples}")
        self.resize = None if resize is None else tuple(resize)
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise UserError(f"data.resize must be [height, width], got {[*self.resize]}")
        if self.resize and degradation.scale > 1:
            raise UserError(f"data.resize works only at scale 1 (here {degradation.scale}): set data.resize=null")
        damaged = DamagedClips() if damaged is None else damaged
        self.skip_damaged = damaged.limit
        lengths = []
        for clip in clips:
            try:
                lengths.append((without_precomputed(clip, geometry), clip.length()))
            except VideoError as error:
                damaged.skip(clip.path, str(error))
        if clips and not lengths:
            raise VideoError(f"None of the {len(clips)} training clips can be opened: {abbreviate(damaged.values())}")
        self.clips = [(clip, length) for clip, length in lengths if length >= self.extent]
        if self.clips and (short := [f"{clip.name} ({length})" for clip, length in lengths if length < self.extent]):
            log.warning(
                "%d of %d training clips are left out, shorter than the %d frames of a sample: %s",
                len(short), len(lengths), self.extent, abbreviate(short),
            )  # fmt: skip
        if not self.clips:
            longest = max((length for _, length in lengths), default=0)
            raise UserError(
                f"None of the {len(lengths)} training clips has the {self.extent} frames of a training sample of this "
                f"network (the longest has {longest}): set data.root to longer videos"
                if lengths
                else "This data set has no training clips: choose another, e.g. data=procedural"
            )
        self.segments = [samples or max(1, length // span) for _, length in self.clips]
        self.ends = np.array(list(accumulate(self.segments)))
        self.degradation = degradation
        _check_frame_sizes([clip for clip, _ in self.clips], crop, degradation.scale, self.resize)
        self.reduction = degradation.scaling if reduced_targets else None
        self.crop, self.candidates = crop, candidates
        self.augmentation = augmentation
        self.seed = seed
        self._readers = Readers()
        self.cache_size = cache_size
        self._cache: dict[tuple[int, int], DecodedSample] = {}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        epoch, index, patch = key
        # 1 + patch: SeedSequence ignores trailing zeros, so patch 0 would reuse the random stream of the frames.
        rng = np.random.default_rng([self.seed, epoch, index, 1 + patch])
        sample = self._cut_patch(self._get_decoded(epoch, index), rng)
        return {**sample, "dataset_key": f"{epoch},{index},{patch}"}

    def _get_decoded(self, epoch: int, index: int) -> DecodedSample:
        """Return the decoded sample of an index, from the cache or the file."""
        if (epoch, index) not in self._cache:
            while len(self._cache) >= self.cache_size:
                del self._cache[next(iter(self._cache))]  # the oldest
            self._cache[epoch, index] = self._read_or_substitute(epoch, index)
        return self._cache[epoch, index]

    def _read_or_substitute(self, epoch: int, index: int) -> DecodedSample:
        """Read the sample of an index, or the first readable substitute."""
        damaged = DamagedClips(self.skip_damaged)  # of this sample; the loader counts over all samples
        rng = np.random.default_rng([self.seed, epoch, index])
        location = self._locate(index % len(self), rng)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._read(*location, rng)._replace(damaged=dict(damaged))
            except VideoError as error:
                damaged.add(location[0].path, str(error))
            rng = np.random.default_rng([self.seed, epoch, index, 0, attempt])
            location = self._locate(int(rng.integers(len(self))), rng)
        raise VideoError(
            f"{ATTEMPTS} training samples in a row cannot be read: {abbreviate(damaged.values())}; replace these clips"
        )

    def _locate(self, index: int, rng: np.random.Generator) -> tuple[Clip, int, int, SampleFrames]:
        """Return the clip of an index, its length, and the first source frame and the frames of a random sample."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        clip, length = self.clips[number]
        segments = self.segments[number]
        segment = index - (int(self.ends[number]) - segments)
        sample_frames = self.sample_frames[rng.integers(len(self.sample_frames))]  # a range of 1 draws nothing
        starts = length - sample_frames.extent + 1
        low, high = (k * starts // segments for k in (segment, segment + 1))
        start = int(rng.integers(low, max(low + 1, high)))
        return clip, length, start - start % clip.precomputed_every, sample_frames

    def _read(
        self, clip: Clip, length: int, start: int, sample_frames: SampleFrames, rng: np.random.Generator
    ) -> DecodedSample:
        origin = start - sample_frames.first

        def to_file(frames: Iterable[int]) -> list[int]:
            return [clip.start + (origin + frame) * clip.step for frame in frames]

        reader = self._readers(clip.path)
        late = self.augmentation.source  # frames are averaged after their augmentation
        precomputed = None if late else find_precomputed(clip, reader.size, self.degradation, self._readers)
        rest = precomputed[1] if precomputed else self.degradation
        coded = rest.group_size > 1 and not late
        before, after = sample_frames.neighbours(-origin, length - origin, CONTEXT) if coded else ([], [])
        input_ranges = [*before, *sample_frames.inputs, *after]
        ranges = [*sample_frames.targets, *([] if precomputed else input_ranges)]
        numbers = sorted({*to_file(chain(*ranges))})
        frames = clip.source_size.reduce(self._readers.read(clip.path, numbers), clip.path)
        frames = crop_to_multiple(frames, self.degradation.scale)

        def select(ranges: Sequence[range]) -> tuple[Tensor, Exposures]:
            needed = sorted({*to_file(chain(*ranges))})
            exposures = [[needed.index(i) for i in to_file(exposure)] for exposure in ranges]
            return frames[[numbers.index(i) for i in needed]], exposures

        targets, target_exposures = select(sample_frames.targets)
        exposures = None
        if precomputed is None:
            inputs, input_exposures = select(input_ranges)
            if late:
                exposures = input_exposures, target_exposures
            else:
                inputs = self._expose(inputs, input_exposures)
        else:
            centres = to_file(exposure[len(exposure) // 2] for exposure in input_ranges)
            ready = [number // clip.precomputed_every for number in centres]
            inputs = crop_to_multiple(self._readers.read(precomputed[0], ready), rest.scale)
        if not late:
            targets = self._expose(targets, target_exposures)
        if self.resize:
            inputs, targets = resize_frames(inputs, self.resize), resize_frames(targets, self.resize)
        if coded:
            whole = rest.degrade_frames(inputs, rng)
            inputs = whole[len(before) : len(before) + len(sample_frames.inputs)].clone()  # the cache holds no more
            rest = Degradation()
        return DecodedSample(clip, clip.start + start * clip.step, inputs, targets, rest, {}, exposures)

    def _expose(self, frames: Tensor, exposures: Exposures) -> Tensor:
        """Average frames (N, H, W, C) over each exposure."""
        return torch.stack([self.degradation.expose(frames[exposure]) for exposure in exposures])

    def _cut_patch(self, decoded: DecodedSample, rng: np.random.Generator) -> Sample:
        scale = self.degradation.scale
        height, width = decoded.targets.shape[1:3]
        if min(height, width) < self.crop:
            raise UserError(
                f"{decoded.clip.path} has frames of {width}x{height}, smaller than data.crop={self.crop}: "
                "lower data.crop"
            )
        side = self.crop // scale
        top, left = self._choose_place(decoded.targets, side, rng)
        y, x = top * scale, left * scale
        cut = decoded.targets[:, y : y + self.crop, x : x + self.crop]
        draws, prepare_inputs, prepare_targets = None, None, None
        if decoded.exposures is not None:
            draws = self.augmentation.draw(rng)
            prepare_inputs, prepare_targets = (
                partial(self._augment_source, exposures=exposures, draws=draws, rng=noise)
                for exposures, noise in zip(decoded.exposures, (rng, None), strict=True)
            )
            cut = prepare_targets(cut)
        inputs = decoded.degradation.degrade_patch(decoded.inputs, top, left, side, rng, prepare_inputs)
        targets, reduced = to_clip(cut), []
        if self.reduction:
            reduced = [self.reduction.degrade_patch(decoded.targets, top, left, side, rng, prepare_targets)]
        inputs, targets, *reduced = self.augmentation(inputs, targets, rng, *reduced, draws=draws)
        sample = Sample(inputs=inputs, targets=targets, source=f"{decoded.clip.name}:{decoded.frame}")
        if reduced:
            sample["reduced"] = reduced[0]
        return {**sample, "damaged": decoded.damaged} if decoded.damaged else sample

    def _choose_place(self, targets: Tensor, side: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draw places; return top and left of the one with the most detail, in input pixels."""
        middle = targets[len(targets) // 2]  # (H, W, C)
        scale = self.degradation.scale
        ends = [length // scale - side + 1 for length in middle.shape[:2]]
        places = [(int(rng.integers(0, ends[0])), int(rng.integers(0, ends[1]))) for _ in range(self.candidates)]

        def measure_detail(place: tuple[int, int]) -> float:
            y, x = place[0] * scale, place[1] * scale
            return float(middle[y : y + self.crop, x : x + self.crop].float().diff(dim=1).abs().mean())

        return places[0] if len(places) == 1 else max(places, key=measure_detail)

    def _augment_source(
        self, frames: Tensor, *, exposures: Exposures, draws: Draws, rng: np.random.Generator | None
    ) -> Tensor:
        """Augment source frames (N, H, W, C), then average them: uint8 (T, H, W, C)."""
        return self._expose(self.augmentation.change_source(frames, draws, rng), exposures)


def _check_frame_sizes(clips: Sequence[Clip], crop: int, scale: int, resize: Sequence[int] | None) -> None:
    """Check that frames are large enough for the crop: those of all clips, or of many of them, evenly spread.

    Raises:
        UserError: frames of some clips are smaller.
    """
    distinct = list({clip.path: clip for clip in clips if clip.path.exists()}.values())
    chosen = [distinct[k] for k in spread_evenly(min(len(distinct), MEASURED), len(distinct))]
    small = []
    for clip in chosen:
        try:
            _, size = measure_clip(clip.path)
        except (VideoError, OSError):  # reading reports it, or skips it
            continue
        height, width = resize or clip.source_size.reduced(*size, clip.path)
        if 0 < min(height, width) // scale * scale < crop:
            small.append(f"{clip.path} ({width}x{height})")
    if small:
        raise UserError(
            f"{len(small)} of {len(chosen)} training clips have frames smaller than data.crop={crop}: "
            f"{abbreviate(small)}; lower data.crop, or remove these clips"
        )


def check_sampling_options(crop: int, geometry: Geometry, degradation: Degradation, reverse: bool) -> None:
    """Validate the sampling options before any data is read.

    Raises:
        UserError: degradation and network contradict each other, the crop is not a multiple of the scale, or the
            targets of reversed clips would not lie at the times of the network's outputs.
    """
    degradation.check(geometry)
    if crop < 1 or crop % geometry.scale:
        raise UserError(f"data.crop={crop} must be a multiple of the network's scale, {geometry.scale}")
    edges = [geometry.interval(k) for k in range(len(geometry.times))]
    end = geometry.window - (0 if geometry.exposures else 1)
    if reverse and [(end - b, end - a) for a, b in reversed(edges)] != edges:
        raise UserError(
            f"data.reverse=true needs output times symmetric about the middle of the window; this network's are "
            f"{', '.join(map(str, geometry.times))} in a window of {geometry.window}. Set data.reverse=false"
        )
