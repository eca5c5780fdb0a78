"""TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from src.annotations import Provided


def build_logger(*, save_dir: Provided[str | Path], **options: Any) -> TensorBoardLogger:
    """Return Lightning's logger; ``options`` are its own."""
    return TensorBoardLogger(save_dir, **options)
