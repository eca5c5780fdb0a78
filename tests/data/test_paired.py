"""Given inputs: paired by name, with the scale and frame rate of the files, and never replaced by others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf.errors import InterpolationResolutionError
from PIL import Image

from src.config.build import build_data, build_inference_network, build_restorer
from src.config.composition import compose
from src.config.run_names import name_overrides
from src.data.corruptions import Bicubic, Given
from src.data.degradation import Degradation
from src.data.evaluation import EvaluationClip
from src.data.layouts.paired import measure_ratio, paired
from src.data.layouts.reds import reds
from src.data.paired import PairedData
from src.data.readers import locate_inputs
from src.data.splits import Clip
from src.errors import UserError
from src.geometry import Geometry, evenly
from src.video.writer import VideoWriter

ZSM = Geometry(2, 4, evenly(0, "1/2", 7), 3)
EDVR = Geometry(1, 3, (Fraction(1),))
VTSR = Geometry(1, 2, (Fraction(3, 4), Fraction(5, 4)), exposures=(Fraction(1, 2), Fraction(1, 2)))


def write(folder: Path, count: int, size: tuple[int, int], value: Callable[[int], int]) -> None:
    """Write frames of one grey value each."""
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((*size, 3), value(i), np.uint8)).save(folder / f"{i:03d}.png")


def low_value(i: int) -> int:
    return 2 * i + 1


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two clips, 70 inputs and 139 targets of twice the size; the value of a target is its number."""
    for name in ("a", "deep/b"):
        write(tmp_path / "low" / name, 70, (12, 17), low_value)
        write(tmp_path / "high" / name, 139, (24, 35), int)
    return tmp_path


def build(root: Path, geometry: Geometry, ratio: tuple[int, int], **options: Any) -> PairedData:
    scale, every = ratio
    return PairedData(
        low=root / "low",
        high=root / "high",
        layout=partial(paired, low=root / "low"),
        degradation=options.pop("degradation", Degradation([Given(scale)], every=every)),
        geometry=geometry,
        **{"crop": 8, "batch_size": 1, "workers": 0, "rotate": False, **options},
    )


def values(clip: Any) -> list[int]:
    """Return the grey value of each frame of a clip (T, C, H, W), uniform within the frame."""
    assert all((frame == frame.flatten()[0]).all() for frame in clip)
    return [round(float(frame.flatten()[0]) * 255) for frame in clip]


def test_samples_take_given_inputs_at_the_times_of_their_targets(pairs: Path) -> None:
    assert measure_ratio(pairs / "high", pairs / "low") == (2, 2)
    data = build(pairs, ZSM, (2, 2), samples=20)
    data.setup("fit")
    assert data.training is not None
    firsts = set()
    for index in range(40):
        sample = data.training[0, index, 0]
        inputs, targets = values(sample["inputs"]), values(sample["targets"])
        numbers = [(value - 1) // 2 for value in inputs]
        assert inputs == [low_value(numbers[0] + i) for i in range(4)]
        assert targets == [2 * numbers[0] + i for i in range(7)]
        firsts.add(numbers[0])
    assert len(firsts) > 10


def test_scores_take_given_inputs_at_the_times_of_their_targets(pairs: Path) -> None:
    data = build(pairs, ZSM, (2, 2))
    assert [clip.name for clip in data.splits.test] == ["a", "deep/b"]
    assert not data.splits.test[0].start % 2
    clip = next(iter(data.test_dataloader()))
    inputs = values([*clip.inputs()])
    targets = {time: values([target])[0] for time, target in clip.targets()}
    first = data.splits.test[0].start // 2
    assert inputs == [low_value(first + i) for i in range(len(inputs))]
    assert targets == {Fraction(k, 2): 2 * first + k for k in range(2 * len(inputs) - 1)}
    assert data.input_source == f"frames of {(pairs / 'low').resolve()}"


def test_pairs_of_one_size(tmp_path: Path) -> None:
    for name, value in (("low", low_value), ("high", int)):
        write(tmp_path / name, 60, (12, 16), value)  # a single clip each
    assert measure_ratio(tmp_path / "high", tmp_path / "low") == (1, 1)
    data = build(tmp_path, EDVR, (1, 1))
    data.setup("fit")
    assert data.training is not None
    sample = data.training[0, 0, 0]
    (target,) = values(sample["targets"])
    assert values(sample["inputs"]) == [low_value(target + i) for i in (-1, 0, 1)]


def test_pairs_of_exposures(tmp_path: Path) -> None:
    for name, count in (("low", 40), ("high", 80)):
        write(tmp_path / name / "a", count, (12, 16), low_value if name == "low" else int)
    data = build(tmp_path, VTSR, (1, 2))
    data.setup("fit")
    assert data.training is not None
    sample = data.training[0, 3, 0]
    first = (values(sample["inputs"])[0] - 1) // 2
    assert values(sample["inputs"]) == [low_value(first), low_value(first + 1)]
    assert values(sample["targets"]) == [2 * first + 1, 2 * first + 2]  # second half of one, first half of the next


def test_videos_and_frames_are_paired_by_name(tmp_path: Path) -> None:
    for folder, size in (("low", 16), ("high", 32)):
        (tmp_path / folder).mkdir()
        with VideoWriter(tmp_path / folder / f"a.{'mkv' if folder == 'low' else 'mp4'}", Fraction(25)) as writer:
            for i in range(10):
                writer.write(np.full((size, size, 3), 20 * i, np.uint8))
        for split in ("train", "test"):
            write(tmp_path / f"split_{folder}" / split / "b", 5, (size, size), int)
    assert measure_ratio(tmp_path / "high", tmp_path / "low") == (2, 1)
    splits = paired(tmp_path / "split_high", tmp_path / "split_low")
    (train,), (test,) = splits.train, splits.test
    assert (train.name, test.name) == ("b", "b")
    assert test.precomputed["given",] == (tmp_path / "split_low" / "test" / "b").resolve()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("absent", r"no folder .*low: set data\.low="),
        ("lacking", r"1 clips have no partner of the same name: .*low has no deep/b"),
        ("surplus", r"high has no deep/b"),
        ("shorter", r"1 of 2 pairs .*low/deep/b has 65 frames, and .*high/deep/b has 139"),
        ("larger", r"low/deep/b has frames of 18x12, and .*high/deep/b of 35x24"),
        ("other rate", r"high/deep/b is 2 times as large, 1 frames .*, but .*high/a is 2 times as large, 2 frames"),
    ],
)
def test_partners_that_do_not_match_are_named(pairs: Path, fault: str, message: str) -> None:
    low, high = pairs / "low", pairs / "high"
    if fault == "absent":
        shutil.rmtree(low)
    elif fault in ("lacking", "surplus"):
        shutil.rmtree((low if fault == "lacking" else high) / "deep")
    elif fault == "shorter":
        for i in range(65, 70):
            (low / "deep/b" / f"{i:03d}.png").unlink()
    else:
        shutil.rmtree((low if fault == "larger" else high) / "deep")
        if fault == "larger":
            write(low / "deep/b", 70, (12, 18), low_value)
        else:
            write(high / "deep/b", 70, (24, 35), int)
    with pytest.raises(UserError, match=message):
        build(pairs, ZSM, (2, 2)).prepare_data()


def test_a_frame_that_one_folder_lacks_is_named(tmp_path: Path) -> None:
    for name in ("low", "high"):
        write(tmp_path / name / "a", 40, (12, 16), int)
    (tmp_path / "low/a/017.png").rename(tmp_path / "low/a/099.png")
    with pytest.raises(UserError, match=r"low/a lacks frame 017 and has 099"):
        paired(tmp_path / "high", tmp_path / "low")


def test_options_that_contradict_given_inputs(pairs: Path) -> None:
    for geometry, options, message in (
        (Geometry(4, 3, (Fraction(1),)), {}, "2 times as large .* enlarges 4 times"),
        (ZSM, {"degradation": Degradation([Given(2)], every=1)}, "1 frame for each .* every 1/2 input frame"),
        (ZSM, {"degradation": Degradation([Bicubic(2)])}, "leave out degradation="),
        (ZSM, {"source_size": [8, 8]}, "set data.source_size=null"),
        (ZSM, {"augment_source": True}, "set data.augment_source=false"),
    ):
        with pytest.raises(UserError, match=message):
            build(pairs, geometry, (2, 2), **options)
    with pytest.raises(UserError, match=r"set degradation\.every=2"):
        build(pairs, ZSM, (2, 4)).prepare_data()


def test_the_command_line_of_pairs(pairs: Path) -> None:
    options = ["data=paired", f"data.low={pairs}/low", f"data.high={pairs}/high"]
    config = compose("experiment=zsm_vimeo_jpeg", *options)
    assert (config.degradation.steps, config.degradation.every) == (
        [{"_target_": "src.data.corruptions.Given", "scale": 2}],
        2,
    )
    assert config.data.root == str(pairs / "high")
    assert "given" not in name_overrides([*options, "degradation=_given"])
    blend = compose("model=blend", "model.network.scale=2")
    assert isinstance(build_data(config, build_restorer(blend, build_inference_network(blend))), PairedData)
    edvr = compose(*options, "experiment=edvr_vimeo", "size=mini")
    with pytest.raises(UserError, match=r"enlarges 4 times: add model\.network\.reconstruct\.scale=2\."):
        build_data(edvr, build_restorer(edvr, build_inference_network(edvr)))
    with pytest.raises(InterpolationResolutionError, match="degradation=_given is that of data=paired"):
        _ = compose("degradation=_given").degradation.every
    with pytest.raises(UserError, match=r"no option 'data\.layout\.low'"):
        compose("data=folder", "data.root=x", "data.layout.low=y")


def test_published_frames_that_some_clips_lack_are_named(tmp_path: Path) -> None:
    for number in range(240):
        (tmp_path / "train_sharp" / f"{number:03d}").mkdir(parents=True)
    for name in ("000", "011", "015", "020"):
        write(tmp_path / "train_sharp" / name / "x", 1, (16, 16), int)
        (tmp_path / "train_sharp" / name / "x/000.png").rename(tmp_path / "train_sharp" / name / "000.png")
        if name != "015":
            write(tmp_path / "train_sharp_bicubic/X4" / name, 1, (4, 4), int)
    clips, bicubic = reds(tmp_path).test, Degradation([Bicubic(4)])
    with pytest.raises(UserError, match=r"1 of 4 clips have no bicubic frames, unlike .*X4/000: 015"):
        locate_inputs(clips, Geometry(4, 1, (Fraction(0),)), bicubic)
    others = [clip for clip in clips if clip.name != "015"]
    assert locate_inputs(others, Geometry(4, 1, (Fraction(0),)), bicubic) == tmp_path / "train_sharp_bicubic/X4"
    assert locate_inputs(clips, Geometry(2, 1, (Fraction(0),)), Degradation([Bicubic(2)])) is None


def test_degraded_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "high", 9, (16, 16), int)
    write(tmp_path / "low", 9, (4, 5), int)
    clip = Clip("a", tmp_path / "high", precomputed={("bicubic",): tmp_path / "low"})
    evaluated = EvaluationClip(clip, geometry=Geometry(4, 1, (Fraction(0),)), degradation=Degradation([Bicubic(4)]))
    with pytest.raises(UserError, match=r"low has frames of 5x4, .* replace them by frames of 4x4"):
        next(evaluated.inputs())
