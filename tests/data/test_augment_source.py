"""Augmentation of source frames: colours and noise before frames are averaged and reduced, as of DSFN (Section 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from src.config.composition import compose
from src.data.augment import Augmentation, Jitter
from src.data.corruptions import Bicubic, Noise, quantise
from src.data.degradation import Degradation, to_clip
from src.data.samples import ClipDataset
from src.data.splits import Clip
from src.geometry import Geometry, evenly

GEOMETRY = Geometry(4, 4, evenly("1/2", "1/2", 5))  # DSFN's in training
BLURRED = Degradation([Bicubic(4)], exposure=5, every=4)
STRONG = Jitter(0.3, 0.5, 0.5, 0.2)  # clamps many values
PLAIN = {"flip": False, "rotate": False}


def sample(
    root: Path, key: tuple[int, int, int] = (0, 0, 0), degradation: Degradation = BLURRED, **options: object
) -> dict:
    augmentation = Augmentation(**{**PLAIN, "jitter": STRONG, "source": True, **options})  # type: ignore[arg-type]
    clips = [Clip("clip", root / "clip")]
    more: dict = {"geometry": GEOMETRY, "crop": 16, "seed": 2, "reduced_targets": True, "augmentation": augmentation}
    return dict(ClipDataset(clips, degradation=degradation, **more)[key])


def place(
    root: Path, pixels: Tensor, key: tuple[int, int, int], change: Callable[[Tensor, np.random.Generator], Tensor]
) -> dict:
    """The sample by hand: change whole source frames, degrade the video, cut."""
    rng = np.random.default_rng([2, key[0], key[1], 1 + key[2]])
    top, left = int(rng.integers(0, 12 - 4 + 1)), int(rng.integers(0, 17 - 4 + 1))
    start = int(sample(root, key)["source"].split(":")[1])
    source = pixels[start : start + 17, :48, :68]
    clean, noisy = change(source, rng)
    frames = BLURRED.timeline(GEOMETRY).sample_frames(GEOMETRY)
    blurred = torch.stack([BLURRED.expose(noisy[[i - frames.first for i in exposure]]) for exposure in frames.inputs])
    small = Degradation([Bicubic(4)])(to_clip(blurred), rng)
    targets = to_clip(clean[[exposure[0] - frames.first for exposure in frames.targets]])
    reduced = Degradation([Bicubic(4)])(targets, rng)
    y, x = 4 * top, 4 * left
    return {
        "inputs": small[..., top : top + 4, left : left + 4],
        "targets": targets[..., y : y + 16, x : x + 16],
        "reduced": reduced[..., top : top + 4, left : left + 4],
    }


def to_levels(clip: Tensor) -> Tensor:
    return quantise(clip).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)


def test_colours_change_the_source_frames(root: Path, pixels: Tensor) -> None:
    """Equal to a video whose whole frames were changed before they were averaged, reduced and cut."""

    def jitter(frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        changed = to_levels(STRONG(to_clip(frames), Augmentation().draw(rng).colours))
        return changed, changed

    for key in [(0, 0, 0), (0, 0, 1), (3, 0, 0)]:
        made, expected = sample(root, key), place(root, pixels, key, jitter)
        for part in ("inputs", "targets", "reduced"):
            assert torch.equal(made[part], expected[part])
        late = sample(root, key, source=False)
        assert (late["inputs"] - made["inputs"]).abs().max() > 2 / 255  # clamped before the mean, not after it


def test_noise_averages_out_over_exposure_and_reduction(root: Path) -> None:
    noise = {"noise": 0.1, "jitter": None}
    clean = [sample(root, (epoch, 0, 0), jitter=None) for epoch in range(40)]
    noisy = [sample(root, (epoch, 0, 0), **noise) for epoch in range(40)]
    assert all(torch.equal(a["targets"], b["targets"]) for a, b in zip(clean, noisy, strict=True))
    assert all(torch.equal(a["reduced"], b["reduced"]) for a, b in zip(clean, noisy, strict=True))
    residual = torch.stack([b["inputs"] - a["inputs"] for a, b in zip(clean, noisy, strict=True)])
    weights = Degradation([Bicubic(4)])  # the share of white noise that the reduction keeps
    white = torch.from_numpy(np.random.default_rng(0).normal(0.5, 0.05, (1, 1, 400, 400)).astype(np.float32))
    kept = weights(white, np.random.default_rng()).std() / 0.05
    assert residual.std().item() == pytest.approx(0.1 / 5**0.5 * float(kept), rel=0.1)
    late = sample(root, source=False, **noise)["inputs"] - clean[0]["inputs"]
    assert late.std() > 5 * residual.std()


def test_inputs_that_share_source_frames_share_their_noise(root: Path) -> None:
    """Exposures of 5 every 4 frames share one frame, so that a fifth of the noise of two neighbours is the same."""
    noise = {"noise": 0.1, "jitter": None}
    pairs = []
    for epoch in range(60):
        residual = sample(root, (epoch, 0, 0), **noise)["inputs"] - sample(root, (epoch, 0, 0), jitter=None)["inputs"]
        pairs.append(torch.stack([residual[:-1].flatten(), residual[1:].flatten()]))
    assert float(torch.corrcoef(torch.cat(pairs, dim=1))[0, 1]) == pytest.approx(0.2, abs=0.06)


def test_orientation_and_place_are_those_without_noise(root: Path) -> None:
    turned: dict = {"jitter": None, "flip": True, "flip_vertical": True, "rotate": True, "reverse": True}
    moved = 0
    for epoch in range(6):
        before = sample(root, (epoch, 0, 0), **turned)["targets"]
        assert torch.equal(before, sample(root, (epoch, 0, 0), noise=0.1, **turned)["targets"])
        moved += not torch.equal(before, sample(root, (epoch, 0, 0), jitter=None)["targets"])
    assert moved


def test_samples_are_functions_of_their_key(root: Path) -> None:
    noisy = Degradation([Bicubic(4), Noise()], exposure=5, every=4)
    first = [sample(root, (0, 0, patch), noisy, noise=0.1) for patch in range(3)]
    again = [sample(root, (0, 0, patch), noisy, noise=0.1) for patch in reversed(range(3))][::-1]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["inputs"], b["inputs"])
        assert torch.equal(a["targets"], b["targets"])
    assert not torch.equal(first[0]["inputs"], first[1]["inputs"])


def test_dsfn_augments_source_frames() -> None:
    for experiment, source in (("dsfn_adobe240", True), ("zsm_vimeo", False)):
        config = compose(f"experiment={experiment}", "data.root=x")
        data = instantiate(config.data, _partial_=True)(geometry=GEOMETRY, degradation=BLURRED)
        assert data.augmentation.source is source
