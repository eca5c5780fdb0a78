"""Frames for several tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.corruptions import Bicubic
from src.data.degradation import Degradation, to_clip

BICUBIC = Degradation([Bicubic(4)])


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """34 different frames, uint8 (T, H, W, C), not a multiple of 4 in size."""
    rng = np.random.default_rng(3)
    return torch.from_numpy(rng.integers(0, 256, (34, 50, 71, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, pixels: torch.Tensor) -> Path:
    """The frames as PNG files, ``clip``, and downscaled, ``low``."""
    root = tmp_path_factory.mktemp("clips")
    small = BICUBIC(to_clip(pixels[:, :48, :68]), np.random.default_rng())
    for name, frames in (("clip", pixels), ("low", (small * 255).round().to(torch.uint8).permute(0, 2, 3, 1))):
        (root / name).mkdir()
        for i, frame in enumerate(frames):
            Image.fromarray(frame.numpy()).save(root / name / f"{i:04d}.png")
    return root


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """37 frames as PNG files, and (T, H, W, C): multiples of 8, so that means of 2, 4 and 8 are 8-bit values, too."""
    folder = tmp_path_factory.mktemp("fast")
    frames = np.random.default_rng(8).integers(0, 32, (37, 24, 24, 3)) * 8
    for i, frame in enumerate(frames):
        Image.fromarray(frame.astype(np.uint8)).save(folder / f"{i:04d}.png")
    return folder, frames
