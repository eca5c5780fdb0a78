"""The data module of given inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from src.annotations import Provided
from src.data.datamodule import DataModule
from src.data.degradation import Degradation
from src.data.splits import Splits
from src.errors import UserError
from src.geometry import Geometry


class PairedData(DataModule):
    """A data set whose network inputs are given, in a folder of their own.

    Args:
        low: folder of the inputs.
        high: folder of the targets, the ``root`` of ``layout``.
        layout: :func:`src.data.layouts.paired.paired`.
        degradation: that of given inputs, with the scale and the frame rate of the pairs.
        geometry: geometry of the network.
        options: those of :class:`~src.data.datamodule.DataModule`.

    Raises:
        UserError: an option contradicts given inputs, or the network outputs frames of another size or rate.
    """

    def __init__(
        self,
        *,
        low: str | Path,
        high: str | Path,
        layout: Callable[[Path], Splits],
        degradation: Provided[Degradation],
        geometry: Provided[Geometry],
        source_size: Sequence[int] | None = None,
        source_reduction: int = 1,
        augment_source: bool = False,
        **options: Any,
    ) -> None:
        changed = {"source_size": source_size is not None, "source_reduction": source_reduction > 1}
        for name, needless in {**changed, "augment_source": augment_source}.items():
            if needless:
                reset = {"source_size": "null", "source_reduction": "1", "augment_source": "false"}[name]
                raise UserError(f"Given inputs are not made from source frames: set data.{name}={reset}")
        if [step.kind for step in degradation.steps] != ["given"] or degradation.exposure > 1 or not degradation.every:
            raise UserError(
                f"The inputs of data=paired are given, but degradation would make others ({degradation}): leave out "
                "degradation=, or set degradation.exposure=1"
            )
        every = degradation.every
        if degradation.scale != geometry.scale:
            raise UserError(
                f"The frames of data.high are {degradation.scale} times as large as those of data.low, but the network "
                f"enlarges {geometry.scale} times: choose a model of scale {degradation.scale}"
            )
        if every % geometry.subdivision:
            raise UserError(
                f"data.high has {every} frame{'s' if every > 1 else ''} for each of data.low, but the network needs "
                f"targets at every 1/{geometry.subdivision} input frame: choose another model, or targets of "
                f"{geometry.subdivision} times the frame rate"
            )
        if geometry.exposures:
            degradation = replace(degradation, exposure=every, every=None)
        self.low, self.every = Path(os.path.expanduser(low)), every
        super().__init__(layout=layout, degradation=degradation, geometry=geometry, **{**options, "root": high})

    @cached_property
    def splits(self) -> Splits:
        """The clips of the data set."""
        splits = super().splits
        for clip in (*splits.train, *splits.validate, *splits.test):
            if clip.precomputed_every != self.every:
                raise UserError(
                    f"degradation.every={self.every}, but data.high has {clip.precomputed_every} frames for each of "
                    f"data.low: set degradation.every={clip.precomputed_every}"
                )
        return splits
