"""Makes a data set ready."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.errors import Problem


def prepare(config: DictConfig, directory: Path) -> None:
    """``task=prepare``: renders the built-in data set; checks any other, and says what it holds."""
    layout = instantiate(config.data.layout)
    splits = layout(Path(config.data.root))
    parts = {"train": splits.train, "validate": splits.validate, "test": splits.test}
    if not any(parts.values()):
        raise Problem(f"{config.data.root} holds no clips.")
    print(f"{config.data.root}: " + ", ".join(f"{len(clips)} clips to {name}" for name, clips in parts.items()))
