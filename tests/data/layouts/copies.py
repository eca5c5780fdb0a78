"""Small copies of data sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from src.data.splits import Clip, Splits


def write_frames(path: Path, count: int = 2, size: tuple[int, int] = (24, 32), black: tuple[int, ...] = ()) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    for i in range(1, count + 1):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8) * (i not in black)
        Image.fromarray(pixels.astype(np.uint8)).save(path / f"im{i}.png")
    return path


def names_of(clips: Iterable[Clip]) -> list[str]:
    return [clip.name for clip in clips]


def all_clips(splits: Splits) -> list[Clip]:
    """Return all clips; no two share a file or a name."""
    clips = [*splits.train, *splits.validate, *splits.test]
    assert len({clip.path for clip in clips}) == len(clips)
    assert len(set(names_of(clips))) == len(clips)
    return clips
