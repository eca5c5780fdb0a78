"""Damaged clips: training skips the permitted number, stops with a clear error beyond it, and never hangs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from src.config.composition import compose
from src.data import samples as clips
from src.data.corruptions import Bicubic, Noise
from src.data.datamodule import DataModule
from src.data.degradation import Degradation
from src.data.layouts.folder import folder
from src.data.splits import Clip, DamagedClips, Splits
from src.errors import UserError, VideoError
from src.geometry import Geometry
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.data.test_datamodule import epoch_of, same

PAIR = Geometry(2, 2, (Fraction(0), Fraction(1)))
NAMES = "abcde"


def write_frames(path: Path, pixels: np.ndarray) -> None:
    path.mkdir(parents=True)
    for i, frame in enumerate(pixels):
        Image.fromarray(frame).save(path / f"{i:02}.png")


def write_video(path: Path, pixels: np.ndarray) -> None:
    with VideoWriter(path, Fraction(25), codec="lossless", gop=4) as video:
        for frame in pixels:
            video.write(frame)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training clips of 16 frames of noise: five folders and a video."""
    root = tmp_path_factory.mktemp("whole")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 20, 24, 3), dtype=np.uint8)
    for name, frames in zip(NAMES, pixels, strict=False):
        write_frames(root / "train" / name, frames)
    write_video(root / "train" / "v.mp4", pixels[5])
    write_frames(root / "val" / "x", pixels[0])
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """The same clips; ``b`` and the video are damaged from the middle on."""
    for file in whole.rglob("*.*"):
        place = tmp_path / file.relative_to(whole)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    image, video = tmp_path / "train" / "b" / "09.png", tmp_path / "train" / "v.mp4"
    image.write_bytes(image.read_bytes()[:400])
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    video.write_bytes(content)
    with open_video(video) as reader, pytest.raises(VideoError, match="breaks at frame"):
        list(reader.frames())
    return tmp_path


def module(root: Path, **options: Any) -> DataModule:
    defaults: dict[str, Any] = {
        "layout": folder,
        "root": root,
        "geometry": PAIR,
        "degradation": Degradation([Bicubic(2), Noise()]),
        "crop": 16,
        "batch_size": 2,
        "workers": 0,
        "seed": 3,
        "span": 2,
    }
    return DataModule(**{**defaults, **options})


# --- Training without damaged clips ---


@pytest.mark.long
def test_training_stops_at_the_first_damaged_clip(root: Path) -> None:
    for workers in (0, 1):
        with pytest.raises(VideoError) as caught:
            epoch_of(module(root, workers=workers).train_dataloader(), 0)
        message = str(caught.value)
        assert str(root / "train" / "b" / "09.png") in message or str(root / "train" / "v.mp4") in message
        assert "data.skip_damaged=1" in message
        assert "\n" not in message


@pytest.mark.long
def test_substitutes_depend_on_seed_and_key_only(root: Path, whole: Path) -> None:
    loader = module(root, skip_damaged=2).train_dataloader()
    epochs = [epoch_of(loader, epoch) for epoch in (0, 1)]
    assert all("damaged" not in batch for batch in epochs[0])
    for workers in (1, 2):
        others = module(root, skip_damaged=2, workers=workers).train_dataloader()
        assert all(same(epoch_of(others, epoch), epochs[epoch]) for epoch in (0, 1))
    rest = module(root, skip_damaged=2).train_dataloader()
    rest.load_state_dict({"epoch": 1, "batches": 7})
    assert same(list(rest), epochs[1][7:])
    complete = epoch_of(module(whole).train_dataloader(), 0)
    assert len(complete) == len(epochs[0])  # damaged clips cost no step
    keys, before = ([key for batch in batches for key in batch["source"]] for batches in (epochs[0], complete))
    changed = [(was, now) for was, now in zip(before, keys, strict=True) if was != now]
    assert 4 < len(changed) < len(keys) / 2
    assert {was.split(":")[0] for was, _ in changed} == {"b", "v"}  # all others are unchanged


def test_each_damaged_clip_is_logged_and_counted_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(root, skip_damaged=5, patches_per_read=2)
    for epoch in (0, 1, 2):
        epoch_of(data.train_dataloader(), epoch)
    assert set(data.damaged) == {str(root / "train" / "b"), str(root / "train" / "v.mp4")}
    warnings = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(warnings) == 2
    assert sum("09.png cannot be read" in line for line in warnings) == 1
    assert sum("v.mp4 breaks at frame" in line for line in warnings) == 1


@pytest.mark.long
def test_one_clip_over_the_limit_stops_training_and_lists_all(root: Path) -> None:
    loader = module(root, skip_damaged=1, workers=1).train_dataloader()
    with pytest.raises(VideoError) as caught:
        for epoch in range(3):
            epoch_of(loader, epoch)
    message = str(caught.value)
    assert "2 clips are damaged" in message
    assert str(root / "train" / "b" / "09.png") in message
    assert str(root / "train" / "v.mp4") in message
    with pytest.raises(UserError, match="must be 0 or more damaged clips"):
        module(root, skip_damaged=-1)


def test_clips_that_cannot_be_opened_count_as_damaged(root: Path) -> None:
    (root / "train" / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"text.mp4 cannot be read as video.*data.skip_damaged=1"):
        module(root).setup("fit")
    data = module(root, skip_damaged=3)
    loader = data.train_dataloader()
    assert [Path(path).name for path in data.damaged] == ["text.mp4"]
    for epoch in range(3):
        epoch_of(loader, epoch)
    assert {Path(path).name for path in data.damaged} == {"text.mp4", "b", "v.mp4"}
    limited = module(root, skip_damaged=2).train_dataloader()
    with pytest.raises(VideoError, match=r"3 clips are damaged.*text.mp4"):
        for epoch in range(3):
            epoch_of(limited, epoch)


def test_training_stops_if_no_clip_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"None of the 1 training clips can be opened: .*text.mp4"):
        module(tmp_path, skip_damaged=9).setup("fit")
    (tmp_path / "train" / "text.mp4").unlink()
    write_frames(tmp_path / "train" / "a", np.zeros((8, 20, 24, 3), np.uint8))
    for file in sorted((tmp_path / "train" / "a").iterdir())[1:]:
        file.write_bytes(b"")
    monkeypatch.setattr(clips, "ATTEMPTS", 5)
    with pytest.raises(VideoError, match=r"5 training samples in a row cannot be read: .*png"):
        epoch_of(module(tmp_path, skip_damaged=9).train_dataloader(), 0)


def test_a_clip_shorter_than_its_layout_says_is_damaged(root: Path) -> None:
    """Like a partly unpacked septuplet: the layout defines the length of a clip."""
    short = Splits(train=[Clip("a", root / "train" / "a", stop=20)])
    with pytest.raises(VideoError, match=r"a is incomplete: it has 16 frames, and frame 1\d is needed"):
        for epoch in range(5):
            epoch_of(module(root, layout=lambda root: short).train_dataloader(), epoch)


def test_a_folder_is_split_without_unreadable_videos(root: Path) -> None:
    for name in (*NAMES, "v.mp4"):
        (root / "train" / name).rename(root / name)
    (root / "train").rmdir()
    (root / "val" / "x").rename(root / "x")
    (root / "val").rmdir()
    (root / "cut.mp4").write_bytes((root / "v.mp4").read_bytes()[:300])
    write_frames(root / "long", np.zeros((40, 20, 24, 3), np.uint8))
    with pytest.raises(VideoError, match=r"cut.mp4 cannot be read as video.*data.skip_damaged=1"):
        folder(root)
    splits = folder(root, skip=1)
    assert [Path(path).name for path in splits.damaged] == ["cut.mp4"]
    assert {clip.name for clip in splits.train} == {*NAMES, "x", "v", "long"}
    data = module(root, layout=lambda root: splits, skip_damaged=1)
    data.setup("fit")
    assert [Path(path).name for path in data.damaged] == ["cut.mp4"]
    with pytest.raises(VideoError, match="2 clips are damaged"):
        epoch_of(data.train_dataloader(), 0)
    with pytest.raises(VideoError, match=r"cut.mp4 cannot be read as video"):
        module(root, layout=lambda root: splits, skip_damaged=0).setup("fit")
    assert compose("data=folder", f"data.root={root}", "data.skip_damaged=4").data.layout.skip == 4


class Probe(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: dict, index: int) -> torch.Tensor:
        assert set(batch) == {"inputs", "targets", "source", "dataset_key"}
        return self.weight * batch["inputs"].mean()

    def validation_step(self, clip: Any, index: int) -> None:
        for _frame in clip.inputs():
            pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data: DataModule, directory: Path, **options: Any) -> CSVLogger:
    logger = CSVLogger(directory, name="", version="")
    Trainer(
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **options,
    ).fit(Probe(), datamodule=data)
    return logger


@pytest.mark.filterwarnings("ignore")
def test_training_logs_the_number_of_skipped_clips(root: Path, tmp_path: Path) -> None:
    (root / "train" / "text.mp4").write_text("no video")  # detected before the first step
    logger = fit(module(root, skip_damaged=3), tmp_path / "run", max_epochs=2, limit_val_batches=0)
    logger.save()
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/damaged")
    assert [row.split(",")[column] for row in rows[1:] if row.split(",")[column]] == ["1", "2", "3"]


@pytest.mark.filterwarnings("ignore")
def test_evaluation_never_skips_a_clip(root: Path, tmp_path: Path) -> None:
    image = root / "val" / "x" / "05.png"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(VideoError, match=r"05.png cannot be read"):
        fit(module(root, skip_damaged=99), tmp_path / "run", max_epochs=1, limit_train_batches=1)


# --- Options and messages ---


def test_invalid_time_limits_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"data.timeout must be more than 0 seconds, got 0"):
        module(root, timeout=0)
    assert module(root, timeout=2.5, workers=1).train_dataloader().time_limit == 2.5


def test_a_disk_error_is_a_video_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Iterator[Path]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("src.video.reader.list_images", refuse)
    with pytest.raises(VideoError, match=r"cannot be opened: Input/output error"):
        Clip("a", tmp_path).length()


def test_long_lists_are_abbreviated() -> None:
    found = DamagedClips(11)
    for k in range(11):
        assert found.add(f"{k}.mp4", f"{k}.mp4 is cut off")
        assert not found.add(f"{k}.mp4", "another sentence")
    with pytest.raises(VideoError, match=r"12 clips are damaged.*0.mp4 is cut off; .*9.mp4 is cut off; and 2 more"):
        found.add("11.mp4", "11.mp4 is cut off")
    assert logging.getLogger("src.data.splits").isEnabledFor(logging.WARNING)
