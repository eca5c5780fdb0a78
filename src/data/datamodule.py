"""The Lightning data module: training batches and whole clips to evaluate on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from src.annotations import Provided
from src.data.augment import Augmentation, Jitter
from src.data.degradation import Degradation
from src.data.evaluation import EvaluationClip, EvaluationClips, share_of_rank
from src.data.loader import EpochSampler, Loader
from src.data.readers import locate_inputs
from src.data.samples import MEASURED, ClipDataset, check_sampling_options, collate
from src.data.source_size import SourceSize
from src.data.splits import Clip, DamagedClips, Splits, abbreviate, spread_evenly
from src.data.worker_pool import exit_with_parent, worker_context
from src.errors import UserError, VideoError
from src.geometry import Geometry

MIX = 8  # decoded samples in memory, so that batches mix them; applies if one fills more than a step


class DataModule(LightningDataModule):
    """A data set, degraded and sampled for a network with a given geometry.

    Training batches are dictionaries: ``inputs`` float32 (B, T, C, h, w) and ``targets`` float32 (B, T', C, H, W), both
    in [0, 1], and ``source``, a list of the origins of the patches (clip and frame); with ``reduced_targets`` also
    ``reduced``, float32 (B, T', C, h, w): the targets at the size of the inputs, from whole frames reduced like the
    inputs and rounded to 8 bits, without any other corruption. Evaluation loaders yield
    :class:`~src.data.evaluation.EvaluationClip` objects, one by one and without a batch axis.

    Each rank reads its own share; the Trainer needs ``use_distributed_sampler=False``.

    Args:
        layout: finds the clips under ``root``, one of :mod:`src.data.layouts`.
        root: folder of the data set.
        geometry: geometry of the network.
        training_geometry: geometry of its training, if that has more targets than the network has outputs.
        reduced_targets: whether training batches carry ``reduced``.
        degradation: turns source frames into network inputs.
        crop: side of a training patch, in target pixels before ``source_reduction``.
        batch_size: patches per step, of all devices and accumulated batches together, as papers count them.
        batch_per_device: whether ``batch_size`` counts the patches of each device and accumulated batch instead.
        workers: processes that decode; 0 decodes in the training process; ``None``: one per core not used by the
            training processes of this machine, at least 1 and at most 8.
        patches_per_read: patches cut from each decoded sample: a divisor of ``batch_size`` or a multiple. With a
            multiple, several decoded samples stay in memory, and every batch mixes their patches. Batches with
            accumulated gradients count as one.
        candidates: places drawn for each patch, of which the one with the most detail is cut.
        flip, flip_vertical, rotate, reverse, jitter, noise: see :class:`~src.data.augment.Augmentation`.
        augment_source: jitter and noise act on the source frames, before these are averaged and reduced.
        seed: seeds crops, augmentation, noise and order.
        span: source frames per training segment; see :class:`~src.data.samples.ClipDataset`.
        samples: segments per clip and epoch; overrides ``span``.
        resize: (height, width) of training frames before patches are cut, for networks of scale 1.
        source_size, source_reduction: size of the source frames in training and evaluation; see
            :class:`~src.data.source_size.SourceSize`.
        validate_clips: number of clips, evenly spread, in validation during training.
        validate_frames: number of input frames of each.
        test_frames: number of input frames per clip in the test.
        skip_damaged: number of damaged clips to train without. Each is logged once, and their number as
            ``train/damaged``; one more ends training with an error that lists them. Each rank counts its own, from zero
            when training is resumed. A layout that opens files has its own option. Evaluation never skips a clip.
        timeout: seconds without a batch from the workers after which training ends with an error. A decoder that hangs
            is abandoned earlier (see :func:`src.video.reader.open_video`), unless it holds the interpreter's lock.
            Without workers, such a decoder hangs the training.

    Raises:
        UserError: degradation and network contradict each other, or sizes do not match. No data is read.
    """

    def __init__(
        self,
        *,
        layout: Callable[[Path], Splits],
        root: str | Path,
        geometry: Provided[Geometry],
        degradation: Provided[Degradation],
        crop: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)],
        batch_per_device: bool = False,
        workers: Annotated[int, Ge(0)] | None = None,
        patches_per_read: Annotated[int, Ge(1)] = 1,
        candidates: Annotated[int, Ge(1)] = 1,
        flip: bool = True,
        flip_vertical: bool = False,
        rotate: bool = True,
        reverse: bool = False,
        jitter: Jitter | None = None,
        noise: float = 0.0,
        augment_source: bool = False,
        training_geometry: Provided[Geometry | None] = None,
        reduced_targets: Provided[bool] = False,
        seed: Provided[int] = 0,
        span: int | None = None,
        samples: Annotated[int, Ge(1)] | None = None,
        resize: Sequence[int] | None = None,
        source_size: Sequence[int] | None = None,
        source_reduction: Annotated[int, Ge(1)] = 1,
        validate_clips: Annotated[int, Ge(0)] | None = None,
        validate_frames: Annotated[int, Ge(1)] | None = None,
        test_frames: Annotated[int, Ge(1)] | None = None,
        skip_damaged: Annotated[int, Ge(0)] = 0,
        timeout: float = 600,
    ) -> None:
        super().__init__()
        if crop % source_reduction:
            raise UserError(f"data.crop={crop} must be a multiple of data.source_reduction={source_reduction}")
        crop //= source_reduction
        check_sampling_options(crop, geometry, degradation, reverse)
        small, large = sorted((patches_per_read, batch_size))
        if small < 1 or large % small:
            raise UserError(
                f"data.batch_size={batch_size} and data.patches_per_read={patches_per_read} do not match: one must be "
                "a multiple of the other"
            )
        if timeout <= 0:
            raise UserError(f"data.timeout must be more than 0 seconds, got {timeout}")
        self.damaged, self.timeout = DamagedClips(skip_damaged), float(timeout)
        self.layout = layout
        self.root = Path(os.path.expanduser(root))
        self.geometry, self.degradation = geometry, degradation
        self.training_geometry = training_geometry or geometry
        self.reduced_targets = reduced_targets
        self.crop, self.batch_size, self.workers = crop, batch_size, workers
        self.batch_per_device = batch_per_device
        self.patches_per_read, self.candidates = patches_per_read, candidates
        self.augmentation = Augmentation(
            flip=flip,
            flip_vertical=flip_vertical,
            rotate=rotate,
            reverse=reverse,
            jitter=jitter,
            noise=noise,
            source=augment_source,
        )
        self.seed, self.span, self.samples = seed, span, samples
        self.resize = resize
        self.source_size = SourceSize.of(source_size, source_reduction)
        self.validate_clips, self.validate_frames, self.test_frames = validate_clips, validate_frames, test_frames
        self.training: ClipDataset | None = None

    @cached_property
    def splits(self) -> Splits:
        """The clips of the data set. The first access may render the built-in scenes."""
        return self.layout(self.root).with_source_size(self.source_size)

    def prepare_data(self) -> None:
        """Find or render the data set. Lightning calls this in one process per machine.

        Raises:
            UserError: some test clips lack the degraded frames that others have.
        """
        locate_inputs(self.splits.test, self.geometry, self.degradation)

    @property
    def input_source(self) -> str:
        """Origin of the inputs of the test."""
        folder = locate_inputs(self.splits.test, self.geometry, self.degradation)
        return f"frames of {folder}" if folder else "made from the source frames"

    @property
    def batches_per_step(self) -> int:
        """Batches of all ranks and all accumulated ones in a step."""
        return self.trainer.accumulate_grad_batches * self.trainer.world_size if self.trainer is not None else 1

    @property
    def patches_per_step(self) -> int:
        """Patches of all ranks and all batches with accumulated gradients."""
        return self.batch_size * (self.batches_per_step if self.batch_per_device else 1)

    def describe_batch(self, batches: int) -> str:
        """Tell the patches of a step of ``batches`` batches, and of each of these."""
        total = self.batch_size * (batches if self.batch_per_device else 1)
        return f"{total}, of which {total // batches} in each batch of a device"

    @property
    def patches_per_batch(self) -> int:
        """Patches of one batch of one rank.

        Raises:
            UserError: the batch cannot be shared equally.
        """
        share, rest = divmod(self.patches_per_step, self.batches_per_step)
        if rest:
            raise UserError(
                f"data.batch_size={self.batch_size} cannot be shared equally by {self.batches_per_step} batches "
                "(devices times trainer.accumulate_grad_batches): choose a multiple, or count it for each device with "
                "data.batch_per_device=true"
            )
        return share

    @property
    def mix(self) -> int:
        """Decoded samples in memory."""
        return 1 if self.patches_per_read <= self.patches_per_step else MIX

    def setup(self, stage: str | None = None) -> None:
        if stage == "fit":
            self.damaged = DamagedClips(self.damaged.limit, self.splits.damaged)
            locate_inputs(self.splits.train, self.training_geometry, self.degradation)
            locate_inputs(self._validation_clips, self.geometry, self.degradation)
            self.training = ClipDataset(
                self.splits.train,
                geometry=self.training_geometry,
                reduced_targets=self.reduced_targets,
                degradation=self.degradation,
                crop=self.crop,
                candidates=self.candidates,
                cache_size=self.mix,
                augmentation=self.augmentation,
                seed=self.seed,
                span=self.span,
                samples=self.samples,
                resize=self.resize,
                damaged=self.damaged,
            )

    def train_dataloader(self) -> Loader:
        if self.training is None:
            self.setup("fit")
        assert self.training is not None
        rank, world = self._rank_and_world
        sampler = EpochSampler(
            len(self.training),
            seed=self.seed,
            rank=rank,
            world=world,
            batch=self.patches_per_batch,
            step=self.patches_per_step,
            patches=self.patches_per_read,
            mix=self.mix,
        )
        if self.trainer is not None:  # workers start on the first epoch before Lightning sets its number
            progress: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)
        if self.damaged:  # clips that could not be opened
            self._log_damaged()
        workers = self._free_cores if self.workers is None else self.workers
        return Loader(
            self.training,
            sampler=sampler,
            batch_size=self.patches_per_batch,
            num_workers=workers,
            multiprocessing_context=worker_context("src.data.samples") if workers else None,
            worker_init_fn=exit_with_parent,
            persistent_workers=workers > 0,
            time_limit=self.timeout,
            collate_fn=collate,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            generator=torch.Generator().manual_seed(self.seed),  # keeps the global generator untouched
            damaged=self.damaged,
            on_damage=self._log_damaged,
        )

    def _log_damaged(self) -> None:
        if self.trainer is not None:
            for logger in self.trainer.loggers:
                logger.log_metrics({"train/damaged": len(self.damaged)}, self.trainer.global_step)

    def check_evaluation(self, *, filled: bool) -> None:
        """Refuse clips of validation and test that leave nothing to score.

        Of very many clips, only some are opened, evenly spread.

        Args:
            filled: whether windows that reach beyond the ends of a clip are filled up.

        Raises:
            UserError: clips have too few frames.
        """
        validation = self.evaluation_clips(self._validation_clips, self.validate_frames)
        clips = [*validation, *self.evaluation_clips(self.splits.test, self.test_frames)]
        chosen = spread_evenly(min(len(clips), MEASURED), len(clips)) if filled else range(len(clips))
        short = []
        for clip in (clips[number] for number in chosen):
            try:
                clip.check_length(filled)
            except VideoError:  # scoring reports it
                continue
            except UserError as error:
                short.append(str(error))
        if short:
            counted = f"{len(short)} of {len(chosen)} clips of validation and test are too short. " * (len(short) > 1)
            raise UserError(counted + abbreviate(short))

    @property
    def _validation_clips(self) -> Sequence[Clip]:
        clips = self.splits.validate
        if self.validate_clips is None or self.validate_clips >= len(clips):
            return clips
        return [clips[k * len(clips) // self.validate_clips] for k in range(self.validate_clips)]

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        clips = self._validation_clips
        return self._evaluation_loader(clips, self.validate_frames) if clips else []

    def test_dataloader(self) -> DataLoader:
        if not self.splits.test:
            raise UserError(f"The data set in {self.root} has no test clips: choose another, e.g. data=vid4")
        return self._evaluation_loader(self.splits.test, self.test_frames)

    def evaluation_clips(self, clips: Sequence[Clip], frames: int | None) -> list[EvaluationClip]:
        """Return clips to evaluate on, with at most ``frames`` input frames each."""
        return [
            EvaluationClip(
                clip,
                geometry=self.geometry,
                degradation=self.degradation,
                seed=self.seed,
                max_frames=frames,
                index=index,
            )
            for index, clip in enumerate(clips)
        ]

    def _evaluation_loader(self, clips: Sequence[Clip], frames: int | None) -> DataLoader:
        rank, world = self._rank_and_world
        dataset = EvaluationClips(self.evaluation_clips(clips, frames))
        sampler = share_of_rank(len(dataset), rank, world)
        return DataLoader(dataset, sampler=sampler, batch_size=None, generator=torch.Generator())

    @property
    def _free_cores(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = self.trainer.num_devices if self.trainer is not None else 1
        return min(8, max(1, cores // processes - 1))

    @property
    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
