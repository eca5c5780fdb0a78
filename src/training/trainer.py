"""Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.connector import _PRECISION_INPUT
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from src.annotations import Provided


def build_trainer(
    *,
    default_root_dir: Provided[Path],
    logger: Provided[bool] = False,
    callbacks: Provided[Sequence[Callback]] = (),
    plugins: Provided[Sequence[CheckpointIO]] = (),
    precision: Literal["auto"] | _PRECISION_INPUT = "auto",
    **options: Any,
) -> Trainer:
    """Return a Trainer that writes no file by itself.

    Args:
        default_root_dir: the directory of the run.
        logger: False; loggers are added once the directory is claimed.
        callbacks: of training; none for evaluation.
        plugins: checkpoint input and output.
        precision: Lightning's, or ``auto``, which :func:`src.config.build.build_trainer` resolves.
        options: Lightning's other options.
    """
    return Trainer(
        default_root_dir=default_root_dir,
        logger=logger,
        callbacks=list(callbacks),
        plugins=list(plugins) or None,
        precision=precision,  # type: ignore[arg-type]
        **options,
    )
