"""Source frames of a given size: reduced before anything else, in training and evaluation alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.config.composition import compose
from src.config.options import run_task
from src.data.augment import Augmentation
from src.data.corruptions import Bicubic
from src.data.degradation import Degradation, to_clip
from src.data.evaluation import EvaluationClip
from src.data.samples import ClipDataset
from src.data.source_size import SourceSize
from src.data.splits import Clip, Splits
from src.errors import UserError
from src.geometry import Geometry, evenly
from src.report.runs import Run

BLURRED = Degradation([Bicubic(4)], exposure=3, every=2)
SINGLE = Geometry(4, 3, evenly("1/2", "1/2", 3))  # DSFN's of one level
SMALL = SourceSize((24, 36))
FILE = Path("clip")


@pytest.fixture(scope="module")
def small(pixels: torch.Tensor) -> torch.Tensor:
    """The frames of ``clip``, reduced to 36x24."""
    return SMALL.reduce(pixels, FILE)


def test_reduction_is_antialiased_bicubic(pixels: torch.Tensor, small: torch.Tensor) -> None:
    for before, after in zip(pixels[:4], small, strict=False):
        expected = Image.fromarray(before.numpy()).resize((36, 24), Image.Resampling.BICUBIC)
        assert (torch.from_numpy(np.array(expected)).int() - after.int()).abs().max() <= 1


def test_training_patches_are_those_of_the_reduced_video(root: Path, small: torch.Tensor) -> None:
    for i, frame in enumerate(small):
        (root / "small").mkdir(exist_ok=True)
        Image.fromarray(frame.numpy()).save(root / "small" / f"{i:04d}.png")
    options: dict = {"geometry": SINGLE, "degradation": BLURRED, "crop": 16, "augmentation": Augmentation(), "seed": 3}
    reduced = ClipDataset([Clip("a", root / "clip", source_size=SMALL)], **options)
    made_small = ClipDataset([Clip("a", root / "small")], **options)
    untouched = ClipDataset([Clip("a", root / "small", source_size=SMALL)], **options)
    for index in range(5):
        for key in ("inputs", "targets"):
            assert torch.equal(reduced[0, index, 0][key], made_small[0, index, 0][key])  # type: ignore[literal-required]
            assert torch.equal(untouched[0, index, 0][key], made_small[0, index, 0][key])  # type: ignore[literal-required]


def test_evaluation_clips_are_those_of_the_reduced_video(root: Path, small: torch.Tensor) -> None:
    low = {("bicubic",): root / "low"}  # of the frames at full size: not used
    sharp = Degradation([Bicubic(4)], every=2)
    clip = EvaluationClip(
        Clip("a", root / "clip", precomputed=low, source_size=SMALL), geometry=SINGLE, degradation=sharp
    )
    assert clip.size == (24, 36)
    targets = dict(clip.targets())
    assert all(torch.equal(frame, to_clip(small[int(2 * time)][None])[0]) for time, frame in targets.items())
    expected = sharp(to_clip(small[::2]), np.random.default_rng())
    assert torch.equal(torch.stack([*clip.inputs()]), expected)


def test_frames_that_are_not_reduced(pixels: torch.Tensor) -> None:
    assert torch.equal(SourceSize((50, 71)).reduce(pixels, FILE), pixels)  # have the size
    for larger in ((51, 72), (51, 71), (50, 72)):
        assert torch.equal(SourceSize(larger).reduce(pixels, FILE), pixels)
        assert SourceSize(larger).reduced(50, 71, FILE) == (50, 71)
    assert not SourceSize()


def test_upright_frames_are_reduced_to_the_turned_size() -> None:
    paper = SourceSize((352, 640))
    assert paper.reduced(720, 1280, FILE) == (352, 640)
    assert paper.reduced(1280, 720, FILE) == (640, 352)
    assert paper.reduced(352, 640, FILE) == (352, 640)


def test_frames_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"clip has frames of 1440x1080, .*: set data.source_size=\[480,640\], or null"):
        SourceSize((352, 640)).reduced(1080, 1440, FILE)
    with pytest.raises(UserError, match=r"must be \[height, width\], got \[640\]"):
        SourceSize((640,))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="factor of 1 or more, got 0"):
        SourceSize(reduction=0)


def test_a_further_reduction_makes_frames_of_the_size_of_small_inputs() -> None:
    """As networks of scale 4 are given of sharp frames, to a grey level; with ``size``, of the reduced frames."""
    ramp = torch.linspace(0, 255, 70)[:, None] * torch.tensor([0.3, 0.6, 1.0])
    frames = ramp.expand(2, 50, 70, 3).to(torch.uint8).contiguous()
    reduced = SourceSize(reduction=4).reduce(frames, FILE)
    expected = Degradation([Bicubic(4)])(to_clip(frames[:, :48, :68]), np.random.default_rng())
    assert reduced.shape[1:3] == SourceSize(reduction=4).reduced(50, 70, FILE) == (12, 17)
    assert (to_clip(reduced) - expected).abs().max() < 1.01 / 255
    both = SourceSize((24, 36), 2)
    assert both.reduced(50, 70, FILE) == (12, 18)
    assert torch.equal(both.reduce(frames, FILE), SourceSize(reduction=2).reduce(SMALL.reduce(frames, FILE), FILE))


def test_clips_of_all_splits_are_reduced() -> None:
    splits = Splits([Clip("a", Path("a"))], [Clip("b", Path("b"))], [Clip("c", Path("c"))], {"d": "damaged"})
    reduced = splits.with_source_size(SMALL)
    assert [clip.source_size for part in (reduced.train, reduced.validate, reduced.test) for clip in part] == [
        SMALL
    ] * 3
    assert reduced.damaged == splits.damaged
    assert splits.with_source_size(SourceSize()) is splits


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (["experiment=dsfn_adobe240"], [352, 640]),
        (["experiment=dsfn_gopro"], [352, 640]),
        (["experiment=dsfn_adobe240", "test=gopro"], [352, 640]),
        (["experiment=dsfn_adobe240", "data=procedural"], None),
        (["experiment=dsfn_adobe240", "data=folder", "data.root=x"], None),
    ],
)
def test_size_of_the_papers_frames(overrides: list[str], size: list[int] | None) -> None:
    """DSFN, Section 4.1."""
    assert compose(*overrides).data.source_size == size


def test_results_state_the_size(pixels: torch.Tensor, tmp_path: Path) -> None:
    clip = tmp_path / "videos" / "test" / "clip"
    clip.mkdir(parents=True)
    for i in range(2):
        Image.fromarray(pixels[i].numpy()).save(clip / f"{i}.png")
    options = ("data=folder", f"data.root={tmp_path / 'videos'}", "data.source_size=[24,36]")
    results = run_task(compose("task=evaluate", "model=bicubic", *options), tmp_path / "run")
    assert results["protocol"]["source_size"] == "at most 36x24"
    assert "source frames of at most 36x24" in Run(tmp_path / "run").degradation
