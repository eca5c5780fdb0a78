"""Batches are independent of the number of workers, ranks do not overlap, a resumed run continues in place."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from PIL import Image
from torch._utils import ExceptionWrapper

from src.config.composition import compose
from src.data.augment import Jitter
from src.data.corruptions import Bicubic, Noise
from src.data.datamodule import DataModule
from src.data.degradation import Degradation
from src.data.evaluation import EvaluationClip
from src.data.layouts.folder import folder
from src.data.loader import EpochSampler, Loader
from src.data.splits import Clip, Splits
from src.errors import UserError, VideoError
from src.geometry import Geometry, evenly
from src.video.writer import VideoWriter

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"
ZSM = Geometry(4, 4, tuple(evenly(0, "1/2", 7)), 3)
PAIR = Geometry(2, 2, (Fraction(0), Fraction(1)))
VTSR = Geometry(1, 2, (Fraction(3, 4), Fraction(5, 4)), exposures=(Fraction(1, 2),) * 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of frames and a video file, all of noise."""
    root = tmp_path_factory.mktemp("videos")
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 20, 24, 3), dtype=np.uint8)
    for name, pixels in zip("ab", frames, strict=False):
        (root / name).mkdir()
        for i, frame in enumerate(pixels):
            Image.fromarray(frame).save(root / name / f"{i}.png")
    with VideoWriter(root / "c.mp4", Fraction(25), codec="lossless") as video:
        for frame in frames[2]:
            video.write(frame)
    return root


def module(root: Path, **options: Any) -> DataModule:
    defaults: dict[str, Any] = {
        "layout": folder,
        "root": root,
        "geometry": PAIR,
        "degradation": Degradation([Bicubic(2), Noise()]),
        "crop": 16,
        "batch_size": 4,
        "patches_per_read": 2,
        "workers": 0,
        "seed": 3,
        "span": 6,
    }
    return DataModule(**{**defaults, **options})


def epoch_of(loader: Any, epoch: int) -> list[dict]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(a: list[dict], b: list[dict]) -> bool:
    return [x["source"] for x in a] == [x["source"] for x in b] and all(
        torch.equal(x[part], y[part]) for x, y in zip(a, b, strict=True) for part in ("inputs", "targets")
    )


@pytest.mark.parametrize(
    ("devices", "parts", "per_device", "batch", "step"),
    [(1, 1, False, 4, 4), (2, 1, False, 2, 4), (2, 2, False, 1, 4), (2, 1, True, 4, 8), (2, 3, True, 4, 24)],
)
def test_the_batch_is_the_total_unless_told_otherwise(
    root: Path, devices: int, parts: int, per_device: bool, batch: int, step: int
) -> None:
    data = module(root, batch_per_device=per_device)
    data.trainer = SimpleNamespace(accumulate_grad_batches=parts, world_size=devices)  # type: ignore[assignment]
    assert (data.patches_per_batch, data.patches_per_step) == (batch, step)
    assert data.describe_batch(devices * parts) == f"{step}, of which {batch} in each batch of a device"


def test_a_batch_that_cannot_be_shared_is_refused(root: Path) -> None:
    data = module(root)
    data.trainer = SimpleNamespace(accumulate_grad_batches=1, world_size=3)  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"data\.batch_size=4 cannot be shared equally by 3 .*batch_per_device=true"):
        _ = data.patches_per_batch


def test_batches(root: Path) -> None:
    data = module(root)
    batches = epoch_of(data.train_dataloader(), 0)
    assert data.training is not None
    assert len(data.training) == 9  # three clips of 22 frames, in segments of 6
    assert len(batches) == len(data.train_dataloader()) == 4  # of two samples; the ninth waits for another epoch
    assert batches[0]["inputs"].shape == (4, 2, 3, 8, 8)
    assert batches[0]["targets"].shape == (4, 2, 3, 16, 16)
    assert len(batches[0]["source"]) == 4
    assert batches[0]["source"][0] == batches[0]["source"][1]
    other = epoch_of(data.train_dataloader(), 1)
    assert not same(batches, other)


@pytest.mark.long
def test_samples_do_not_depend_on_the_number_of_workers(root: Path) -> None:
    expected = module(root).train_dataloader()
    epochs = [epoch_of(expected, epoch) for epoch in (0, 1, 2)]
    for workers in (1, 2):
        loader = module(root, workers=workers).train_dataloader()
        torch.manual_seed(workers)
        assert all(same(epoch_of(loader, epoch), epochs[epoch]) for epoch in (0, 1, 2))  # with persistent workers


@pytest.mark.long
def test_augmented_samples_do_not_depend_on_the_number_of_workers(root: Path) -> None:
    options = {"flip_vertical": True, "jitter": Jitter(0.1, 0.2, 0.2, 0.05), "noise": 0.01}
    expected = epoch_of(module(root, **options).train_dataloader(), 1)
    assert same(epoch_of(module(root, workers=2, **options).train_dataloader(), 1), expected)
    assert not same(epoch_of(module(root).train_dataloader(), 1), expected)


@pytest.mark.long
def test_mixed_exposures_do_not_depend_on_the_number_of_workers(root: Path) -> None:
    mixed = Degradation(exposure=8, mixed=[8, 4, 2])
    options = {"geometry": VTSR, "degradation": mixed, "span": None, "samples": 4, "resize": [18, 21]}
    data = module(root, **options)
    expected = epoch_of(data.train_dataloader(), 1)
    assert len(data.training) == 12
    assert expected[0]["targets"].shape == (4, 2, 3, 16, 16)
    assert same(epoch_of(module(root, workers=2, **options).train_dataloader(), 1), expected)
    assert not same(epoch_of(data.train_dataloader(), 2), expected)
    (clip, *_) = data.test_dataloader()
    assert clip.size == (20, 24)  # test frames keep their size
    assert next(clip.inputs()).shape == (3, 20, 24)


def test_size_and_number_of_samples_can_be_configured(root: Path) -> None:
    config = compose("data=folder", f"data.root={root}", "data.resize=[18,21]", "data.samples=4", "data.crop=16")
    make = instantiate(config.data, _partial_=True)
    data = make(geometry=VTSR, degradation=instantiate(compose("degradation=exposure").degradation))
    data.setup("fit")
    assert len(data.training) == 12
    assert data.training[0, 0, 0]["inputs"].shape == (2, 3, 16, 16)
    enlarging = module(root, resize=[18, 21])  # resizing concerns training only
    assert next(iter(enlarging.test_dataloader())).size == (20, 24)
    with pytest.raises(UserError, match=r"set data\.resize=null"):
        enlarging.setup("fit")


def test_the_global_generator_is_untouched(root: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    epoch_of(module(root).train_dataloader(), 0)
    assert torch.equal(torch.rand(1), expected)


class Failing(torch.utils.data.Dataset):
    """Raises an error as torch does for one in a worker: the same type, its message within a traceback."""

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        try:
            raise VideoError("clip.mp4 ends before frame 5: copy it again")
        except VideoError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()


def test_an_error_in_a_worker_stays_one_sentence(root: Path) -> None:
    with pytest.raises(VideoError) as caught:
        Failing()[0, 0, 0]
    assert "Traceback" in str(caught.value)
    with pytest.raises(VideoError) as caught:
        list(Loader(Failing(), sampler=EpochSampler(1, seed=0), batch_size=1))
    assert str(caught.value) == "clip.mp4 ends before frame 5: copy it again"
    with pytest.raises(UserError, match=r"^3 of 3 training clips have frames smaller than data.crop=64: "):
        list(module(root, crop=64).train_dataloader())


@pytest.mark.long
def test_more_patches_per_read_than_per_batch(root: Path) -> None:
    data = module(root, patches_per_read=12)
    loader = data.train_dataloader()
    batches = epoch_of(loader, 0)
    assert len(batches) == len(loader) == 27  # 9 decoded samples, 12 patches each, 4 per batch
    keys = [key for batch in batches for key in batch["source"]]
    assert {keys.count(key) for key in keys} == {12}
    assert len({target.sum().item() for batch in batches for target in batch["targets"]}) > 80  # some coincide
    assert sum(len(set(batch["source"])) > 1 for batch in batches[:24]) > 20  # batches mix decoded samples
    assert len(data.training._cache) <= 8
    assert same(batches, epoch_of(module(root, patches_per_read=12, workers=2).train_dataloader(), 0))


def test_a_data_set_smaller_than_a_batch_wraps_around(root: Path) -> None:
    sampler = EpochSampler(3, seed=0, world=2, batch=4)
    assert len(sampler) == len(list(sampler)) == 4
    assert {index % 3 for _, index, _ in sampler} <= {0, 1, 2}
    (batch,) = list(module(root, batch_size=16, patches_per_read=1).train_dataloader())
    assert len(batch["source"]) == 16
    assert len({target.sum().item() for target in batch["targets"]}) == 16  # the same frames twice, but no patch twice


def test_evaluation_loaders(root: Path) -> None:
    data = module(root, validate_clips=2, validate_frames=3)
    clips = list(data.val_dataloader())
    assert all(isinstance(clip, EvaluationClip) for clip in clips)
    assert [clip.name for clip in clips] == ["a", "b"]
    assert [sum(1 for _ in clip.inputs()) for clip in clips] == [3, 3]
    tests = list(data.test_dataloader())
    assert [clip.name for clip in tests] == ["a", "b", "c"]
    assert [clip.frames for clip in tests] == [9, 9, 9]
    assert tests[0].clip.start > clips[0].clip.start
    assert data.training is None  # evaluation does not set up training


def test_contradictory_options_are_refused_before_data_is_read(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(UserError, match=r"batch_size=5 .* data.patches_per_read=2"):
        module(nowhere, batch_size=5)
    with pytest.raises(UserError, match="upscales by 2"):
        module(nowhere, degradation=Degradation([Bicubic(4)]))
    with pytest.raises(UserError, match=r"data\.crop=15"):
        module(nowhere, crop=15)
    with pytest.raises(UserError, match=f"No videos in {nowhere}"):
        module(nowhere).prepare_data()


def test_missing_splits_are_reported(root: Path) -> None:
    only = Splits(test=[Clip("a", root / "a")])
    with pytest.raises(UserError, match="has no training clips"):
        module(root, layout=lambda root: only).setup("fit")
    assert module(root, layout=lambda root: only).val_dataloader() == []
    with pytest.raises(UserError, match="no test clips"):
        module(root, layout=lambda root: Splits(train=only.test)).test_dataloader()


class Recorder(LightningModule):
    """Records the patches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[str, ...]] = []

    def training_step(self, batch: dict, index: int) -> torch.Tensor:
        self.seen.append((*batch["source"], f"{batch['inputs'].sum().item():.4f}"))
        return self.weight * batch["inputs"].mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(root: Path, folder: Path, workers: int = 0, checkpoint: Path | None = None) -> list[tuple[str, ...]]:
    """Train for ten steps, two and a half epochs. Return the batches."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=10,
        logger=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=module(root, workers=workers), ckpt_path=checkpoint, weights_only=True)
    return recorder.seen


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_gets_the_batches_of_an_uninterrupted_one(root: Path, tmp_path: Path) -> None:
    whole = fit(root, tmp_path / "whole")
    assert len(whole) == len(set(whole)) == 10
    for step, workers in ((2, 0), (4, 0), (6, 1), (8, 0)):  # within an epoch, at its end, within the next, ...
        rest = fit(root, tmp_path / f"from {step}", workers, tmp_path / "whole" / f"step={step}.ckpt")
        assert rest == whole[step:], step


@pytest.mark.parametrize(
    "file",
    sorted(file for file in CONF.glob("[!_]*.yaml") if file.stem != "paired"),  # which measures its files
    ids=lambda file: file.stem,
)
def test_configuration_builds(file: Path, tmp_path: Path) -> None:
    assert file.read_text().startswith("# ")
    config = compose(f"data={file.stem}", f"paths.data={tmp_path}")
    if OmegaConf.is_missing(config.data, "root"):
        config.data.root = str(tmp_path / file.stem)
    make = instantiate(config.data, _partial_=True)  # Hydra would convert dataclasses among its arguments
    data = make(geometry=ZSM, degradation=Degradation([Bicubic(4)]), seed=1)
    # A variant has the folder of its data set, unless its frames are others.
    assert data.root in (tmp_path / file.stem, tmp_path / file.stem.partition("_")[0])
    if file.stem != "procedural":  # rendered if it is missing
        with pytest.raises(UserError, match="data=procedural"):
            data.prepare_data()


def test_clips_shorter_than_a_window_are_refused_before_training(root: Path) -> None:
    data = module(root, validate_frames=5)
    data.check_evaluation(filled=False)
    with pytest.raises(UserError, match=r"has 1 input frame, fewer than the \d of a window .*raise data\.test_frames"):
        module(root, validate_frames=1).check_evaluation(filled=False)


@pytest.mark.parametrize("short", ["a", "c.mp4"])
@pytest.mark.parametrize("split", ["validate", "test"])
def test_clips_that_leave_nothing_to_score_are_refused_before_training(root: Path, short: str, split: str) -> None:
    def layout(root: Path, start: int) -> Splits:
        return Splits(train=[Clip("b", root / "b")], **{split: [Clip("short", root / short, start=start)]})

    options = {"geometry": VTSR, "degradation": Degradation(exposure=8), "span": None}
    module(root, layout=partial(layout, start=20), **options).check_evaluation(filled=True)
    with pytest.raises(UserError, match=r"Clip short \(.*\) has only 5 usable frames from frame 43 on"):
        module(root, layout=partial(layout, start=43), **options).check_evaluation(filled=True)


def test_short_clips_are_counted_and_named(root: Path) -> None:
    splits = Splits(train=[Clip("b", root / "b")], test=[Clip(name, root / "a", start=43) for name in ("x", "y")])
    data = module(root, layout=lambda root: splits, geometry=VTSR, degradation=Degradation(exposure=8), span=None)
    with pytest.raises(UserError, match=r"^2 of 2 clips of validation and test are too short\. Clip x .*; Clip y "):
        data.check_evaluation(filled=True)
