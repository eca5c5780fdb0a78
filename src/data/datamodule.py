"""Clips into batches: what the Trainer, and whoever evaluates, is given."""

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
from src.data.samples import ClipDataset, check_crop, collate
from src.data.splits import Clip, DamagedClips, Splits
from src.data.worker_pool import context, follow
from src.errors import UserError
from src.geometry import Geometry

MIXED = 8  # decoded stretches that batches are mixed from, where each gives patches to several; all stay in memory


class DataModule(LightningDataModule):
    """A data set as a network with a given geometry sees it through a degradation.

    Training batches are dictionaries: ``inputs`` float32 (B, T, C, h, w), ``targets`` float32 (B, T', C, H, W), both in
    [0, 1], and ``key``, a list that tells where each patch comes from. Evaluation loaders give
    :class:`~src.data.evaluation.EvaluationClip` objects, whole clips one by one, without a batch axis.

    Each rank takes its own share; the Trainer must be told ``use_distributed_sampler=False``.

    Args:
        layout: finds the clips under ``root``, one of :mod:`src.data.layouts`.
        root: where the data set is.
        geometry: of the network.
        training_geometry: of what its training is given, where that has more targets than the network has outputs.
        degradation: what the inputs have suffered.
        crop: side of a training patch, in target pixels.
        batch_size: patches a step and a rank.
        workers: processes that decode; 0 decodes in the training process; None: one for each core that the training
            processes of this machine leave free, at least 1 and at most 8.
        patches_per_read: patches cut from each stretch that is decoded. It divides ``batch_size``, or ``batch_size``
            divides it: then some stretches are kept at a time, and every batch mixes patches of them.
            Batches whose gradients are accumulated count as one.
        flip, flip_vertical, rotate, reverse, jitter, noise: see :class:`~src.data.augment.Augmentation`.
        seed: of crops, augmentation, noise and order.
        span: source frames that a training segment has; see :class:`~src.data.samples.ClipDataset`.
        samples: stretches of each clip that an epoch trains on, whatever ``span`` says.
        resize: (height, width) that training frames are made before patches are cut, for networks that do not enlarge.
        validate_clips, validate_frames: limits of early validation: so many clips, evenly chosen, and so many
            input frames of each.
        test_frames: limit of input frames a clip in the test.
        skip_damaged: so many different clips that turn out to be damaged are trained without. Each is told once, and
            their number logged as ``train/damaged``; one more, and training ends with a sentence that names them. Each
            rank counts those that it meets, anew when training goes on. A layout that opens files has an option of its
            own for it. Clips to evaluate are never left out.
        timeout: seconds after which training ends with a sentence where the processes that decode give no batch. A
            decoder that gives nothing is given up before (see :func:`src.video.reader.open_video`), unless it keeps
            the interpreter's lock. Without workers there is nobody to end one that does.

    Raises:
        UserError: the degradation contradicts the network, or sizes do not go together. No data is read for it.
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
        workers: Annotated[int, Ge(0)] | None = None,
        patches_per_read: Annotated[int, Ge(1)] = 1,
        flip: bool = True,
        flip_vertical: bool = False,
        rotate: bool = True,
        reverse: bool = False,
        jitter: Jitter | None = None,
        noise: float = 0.0,
        training_geometry: Provided[Geometry | None] = None,
        seed: Provided[int] = 0,
        span: int | None = None,
        samples: Annotated[int, Ge(1)] | None = None,
        resize: Sequence[int] | None = None,
        validate_clips: Annotated[int, Ge(0)] | None = None,
        validate_frames: Annotated[int, Ge(1)] | None = None,
        test_frames: Annotated[int, Ge(1)] | None = None,
        skip_damaged: Annotated[int, Ge(0)] = 0,
        timeout: float = 600,
    ) -> None:
        super().__init__()
        check_crop(crop, geometry, degradation, reverse)
        if min(patches_per_read, batch_size) < 1 or max(patches_per_read, batch_size) % min(
            patches_per_read, batch_size
        ):
            raise UserError(
                f"data.batch_size={batch_size} counts patches, and one of it and data.patches_per_read="
                f"{patches_per_read} must be a multiple of the other: change one of them"
            )
        if timeout <= 0:
            raise UserError(f"data.timeout counts seconds that a batch may take to be read, got {timeout}")
        self.damaged, self.timeout = DamagedClips(skip_damaged), float(timeout)
        self.layout = layout
        self.root = Path(root).expanduser()
        self.geometry, self.degradation = geometry, degradation
        self.training_geometry = training_geometry or geometry
        self.crop, self.batch_size, self.workers = crop, batch_size, workers
        self.patches_per_read = patches_per_read
        self.augmentation = Augmentation(
            flip=flip, flip_vertical=flip_vertical, rotate=rotate, reverse=reverse, jitter=jitter, noise=noise
        )
        self.seed, self.span, self.samples = seed, span, samples
        self.resize = resize
        self.validate_clips, self.validate_frames, self.test_frames = validate_clips, validate_frames, test_frames
        self.training: ClipDataset | None = None

    @cached_property
    def splits(self) -> Splits:
        """The clips of the data set. Finding them may render the built-in scenes."""
        return self.layout(self.root)

    def prepare_data(self) -> None:
        """Finds the data set, or makes it; Lightning calls this in one process a machine."""
        _ = self.splits

    @property
    def step(self) -> int:
        """Patches a step, of all ranks and all batches whose gradients are accumulated."""
        batches = self.trainer.accumulate_grad_batches if self.trainer is not None else 1
        return self.batch_size * batches * self._place[1]

    @property
    def mixed(self) -> int:
        """Stretches that are kept at a time."""
        return 1 if self.patches_per_read <= self.step else MIXED

    def setup(self, stage: str | None = None) -> None:
        if stage == "fit":
            self.damaged = DamagedClips(self.damaged.limit, self.splits.damaged)
            self.training = ClipDataset(
                self.splits.train,
                geometry=self.training_geometry,
                degradation=self.degradation,
                crop=self.crop,
                stretches=self.mixed,
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
        rank, world = self._place
        sampler = EpochSampler(
            len(self.training),
            seed=self.seed,
            rank=rank,
            world=world,
            batch=self.batch_size,
            step=self.step,
            patches=self.patches_per_read,
            mixed=self.mixed,
        )
        if self.trainer is not None:  # workers start on the first epoch before Lightning says which one it is
            progress: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)
        if self.damaged:  # already, since some could not be opened
            self._log_damaged()
        workers = self._spare_cores if self.workers is None else self.workers
        return Loader(
            self.training,
            sampler=sampler,
            batch_size=self.batch_size,
            num_workers=workers,
            multiprocessing_context=context("src.data.samples") if workers else None,
            worker_init_fn=follow,
            persistent_workers=workers > 0,
            patience=self.timeout,
            collate_fn=collate,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            generator=torch.Generator().manual_seed(self.seed),  # leaves the global generator alone
            damaged=self.damaged,
            tell=self._log_damaged,
        )

    def _log_damaged(self) -> None:
        if self.trainer is not None:
            for logger in self.trainer.loggers:
                logger.log_metrics({"train/damaged": len(self.damaged)}, self.trainer.global_step)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        clips = self.splits.validate
        if self.validate_clips is not None and self.validate_clips < len(clips):
            clips = [clips[k * len(clips) // self.validate_clips] for k in range(self.validate_clips)]
        return self._evaluation(clips, self.validate_frames) if clips else []

    def test_dataloader(self) -> DataLoader:
        if not self.splits.test:
            raise UserError(f"the data set at {self.root} has no test clips: choose another, e.g. data=vid4")
        return self._evaluation(self.splits.test, self.test_frames)

    def _evaluation(self, clips: Sequence[Clip], frames: int | None) -> DataLoader:
        rank, world = self._place
        whole = EvaluationClips(
            EvaluationClip(
                clip,
                geometry=self.geometry,
                degradation=self.degradation,
                seed=self.seed,
                max_frames=frames,
                index=index,
            )
            for index, clip in enumerate(clips)
        )
        return DataLoader(
            whole, sampler=share_of_rank(len(whole), rank, world), batch_size=None, generator=torch.Generator()
        )

    @property
    def _spare_cores(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = self.trainer.num_devices if self.trainer is not None else 1
        return min(8, max(1, cores // processes - 1))

    @property
    def _place(self) -> tuple[int, int]:
        """Rank and number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
