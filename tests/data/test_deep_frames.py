"""Frames of 16 bits keep them in training and in evaluation."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from src.data.augment import Augmentation
from src.data.degradation import Degradation, resize_frames
from src.data.evaluation import EvaluationClip
from src.data.samples import ClipDataset
from src.data.source_size import SourceSize
from src.data.splits import Clip
from src.geometry import Geometry

SAME = Geometry(1, 3, (Fraction(1),))
PLAIN = Augmentation(flip=False, rotate=False)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Nine frames of 16 bits as PNG files, between two levels of 8 bits."""
    folder = tmp_path_factory.mktemp("deep")
    frames = np.random.default_rng(0).integers(100 * 257, 101 * 257, (9, 16, 24, 3), dtype=np.uint16)
    for i, frame in enumerate(frames):
        encoder = av.CodecContext.create("png", "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 24, 16, "rgb48be", Fraction(1)
        packets = encoder.encode(av.VideoFrame.from_ndarray(frame, format="rgb48le").reformat(format="rgb48be"))
        (folder / f"{i}.png").write_bytes(b"".join(map(bytes, [*packets, *encoder.encode(None)])))
    return folder, frames


def to_floats(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames.astype(np.float32) / 65535).permute(0, 3, 1, 2)


def test_samples_have_16_bits(deep: tuple[Path, np.ndarray]) -> None:
    folder, frames = deep
    data = ClipDataset([Clip("a", folder)], geometry=SAME, degradation=Degradation(), crop=16, augmentation=PLAIN)
    sample = data[0, 0, 0]
    first = int(sample["source"].rpartition(":")[2])
    whole = to_floats(frames)
    places = [
        left for left in range(9) if torch.equal(sample["targets"], whole[first + 1 :][:1, :, :, left:][..., :16])
    ]
    assert len(places) == 1
    assert torch.equal(sample["inputs"], whole[first : first + 3, :, :, places[0] :][..., :16])


def test_scored_clips_have_16_bits(deep: tuple[Path, np.ndarray]) -> None:
    folder, frames = deep
    clip = EvaluationClip(Clip("a", folder), geometry=SAME, degradation=Degradation())
    assert torch.equal(torch.stack([*clip.inputs()]), to_floats(frames))
    assert torch.equal(torch.stack([frame for _, frame in clip.targets()]), to_floats(frames))


def test_means_and_sizes_have_16_bits(deep: tuple[Path, np.ndarray]) -> None:
    folder, frames = deep
    clip = EvaluationClip(Clip("a", folder), geometry=SAME, degradation=Degradation(exposure=3, every=3))
    mean = next(clip.inputs())
    assert (mean - to_floats(frames[:3]).mean(0)).abs().max() < 0.6 / 65535
    whole = torch.from_numpy(frames.astype(np.int32))
    for small in (resize_frames(whole, (8, 12)), SourceSize((8, 12)).reduce(whole, folder)):
        assert small.shape == (9, 8, 12, 3)
        levels = small.unique().numel()
        assert levels > 100
        assert 100 * 257 - 30 <= small.min() <= small.max() <= 101 * 257 + 30
