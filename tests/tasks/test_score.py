"""``task=score``: frames that were restored elsewhere."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.config.composition import compose
from src.config.options import run_task
from src.config.overrides import quote_paths
from src.config.validation import validate
from src.errors import UserError
from src.metrics import psnr, ssim
from src.report.runs import find_runs
from src.video.writer import VideoWriter

CLIPS = {"calendar": 12, "city": 9}


def paint(name: str, number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A frame of moving stripes, (H, W, 3): no two of a clip are alike."""
    rows, columns = np.mgrid[:height, :width]
    phase = len(name) + 0.8 * number
    waves = [np.sin(rows / 5 + columns / 7 + phase + channel) for channel in range(3)]
    return np.uint8(np.round(127 + 100 * np.stack(waves, -1)))


def disturb(frame: np.ndarray, level: int = 6) -> np.ndarray:
    """The frame with an error of known size: ``level`` up and down in turn."""
    checks = np.indices(frame.shape[:2]).sum(0) % 2 * 2 - 1
    return np.uint8(np.clip(frame.astype(int) + level * checks[..., None], 0, 255))


def save(folder: Path, frames: list[np.ndarray], first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, first):
        Image.fromarray(frame).save(folder / f"{number:04}.png")
    return folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    for name, count in CLIPS.items():
        save(root / name, [paint(name, number) for number in range(count)])
    return root


def run(tmp_path: Path, *overrides: str) -> dict:
    config = compose("task=score", *overrides)
    validate(config)
    return run_task(config, tmp_path / "run")


def test_scores_are_those_of_the_metrics_under_the_protocol(originals, tmp_path, capsys):
    for name, count in CLIPS.items():
        save(tmp_path / "theirs" / name, [disturb(paint(name, number)) for number in range(count)])
    outcome = run(
        tmp_path,
        *(f"input={tmp_path / 'theirs'}", f"target={originals}", "protocol=vid4", "name=Theirs", "protocol.skip=[1,2]"),
    )
    assert outcome == json.loads((tmp_path / "run" / "results.json").read_text())
    assert outcome["name"] == "Theirs"
    assert (outcome["protocol"]["name"], outcome["protocol"]["channel"]) == ("vid4", "y")
    assert outcome["protocol"]["ensemble"] is None  # nobody knows
    assert outcome["protocol"]["frames_counted"] == sum(CLIPS.values()) - 6
    for name, count in CLIPS.items():
        frames = outcome["clips"][name]["frames"]
        assert [frame["time"] for frame in frames] == [*range(1, count - 2)]
        for frame in frames:
            target = paint(name, int(frame["time"]))
            pair = [torch.from_numpy(p).permute(2, 0, 1).float() / 255 for p in (disturb(target), target)]
            assert frame["psnr"] == pytest.approx(psnr(*pair, luma=True).item(), abs=1e-6)
            assert frame["ssim"] == pytest.approx(ssim(*pair, luma=True).item(), abs=1e-6)
        assert outcome["matched"][name]["offset"] == 0
    assert outcome["summary"]["psnr"] == pytest.approx(
        np.mean([outcome["clips"][name]["psnr"] for name in CLIPS]), abs=1e-9
    )
    printed = capsys.readouterr().out
    assert "calendar" in printed
    assert "vid4: Y, crop 0" in printed


@pytest.mark.parametrize(("first", "last", "offset"), [(1, 0, 1), (0, 1, 0), (2, 1, 2), (-1, 0, -1)])
def test_frames_that_a_method_leaves_out_or_adds_are_found_and_told(originals, tmp_path, capsys, first, last, offset):
    numbers = range(first, CLIPS["calendar"] - last)
    save(tmp_path / "theirs" / "calendar", [disturb(paint("calendar", number)) for number in numbers])
    outcome = run(tmp_path, f"input={tmp_path / 'theirs'}", f"target={originals}", "protocol=rgb")
    assert outcome["matched"]["calendar"]["offset"] == offset
    frames = outcome["clips"]["calendar"]["frames"]
    assert [frame["time"] for frame in frames] == [number for number in numbers if number >= 0]
    expected = 20 * math.log10(255 / 6)
    assert all(frame["psnr"] == pytest.approx(expected, abs=0.01) for frame in frames)
    printed = capsys.readouterr().out
    assert "No restored clip for: city." in printed
    assert outcome["protocol"]["clips_missing"] == ["city"]
    (remark,) = outcome["matched"]["calendar"]["remarks"]
    assert remark in printed
    part = {1: "the first 1 original ", 0: "the last 1 original ", 2: "the first 2 originals and the last 1 original "}
    assert part.get(offset, "the first 1 restored frame ") in remark


def test_skipped_frames_are_counted_from_the_ends_of_the_original(originals, tmp_path):
    """A method without the first frame is scored on the frames that others are scored on."""
    save(tmp_path / "theirs", [disturb(paint("calendar", number)) for number in range(1, 12)])
    outcome = run(
        tmp_path,
        f"input={tmp_path / 'theirs'}",
        f"target={originals / 'calendar'}",
        "protocol=rgb",
        "protocol.skip=[2,2]",
    )
    assert [frame["time"] for frame in outcome["clips"]["calendar"]["frames"]] == [*range(2, 10)]


def test_a_late_method_of_full_length_is_told_and_not_helped(originals, tmp_path, capsys):
    late = [disturb(paint("city", max(0, number - 1))) for number in range(CLIPS["city"])]
    save(tmp_path / "theirs" / "city", late)
    paths = (f"input={tmp_path / 'theirs'}", f"target={originals}", "protocol=rgb")
    plain = run(tmp_path, *paths)
    assert "with offset=-1 they would have" in capsys.readouterr().out
    assert plain["matched"]["city"]["offset"] == 0
    config = compose("task=score", *paths, "offset=-1")
    shifted = run_task(config, tmp_path / "shifted")
    assert shifted["summary"]["psnr"] == pytest.approx(20 * math.log10(255 / 6), abs=0.01)
    assert plain["summary"]["psnr"] < shifted["summary"]["psnr"] - 5


def test_sizes_may_differ_by_less_than_a_scale_step(originals, tmp_path, capsys):
    smaller = [disturb(paint("city", number))[:45, :62] for number in range(CLIPS["city"])]
    save(tmp_path / "theirs" / "city", smaller)
    paths = (f"input={tmp_path / 'theirs'}", f"target={originals}", "protocol=rgb")
    outcome = run(tmp_path, *paths)
    assert outcome["matched"]["city"]["size"] == [45, 62]
    assert outcome["summary"]["psnr"] == pytest.approx(20 * math.log10(255 / 6), abs=0.02)
    assert "city: 62x45 restored, 64x48 originally; both cropped to 62x45." in capsys.readouterr().out
    with pytest.raises(UserError, match=r"city have 62x45 pixels, their originals 64x48: .* less than scale=3"):
        run_task(compose("task=score", *paths, "scale=3"), tmp_path / "again")
    assert not (tmp_path / "again" / "config.yaml").exists()


def test_videos_match_folders_and_twice_the_frame_rate_has_scores_of_both_kinds(originals, tmp_path):
    (tmp_path / "theirs").mkdir()
    with VideoWriter(tmp_path / "theirs" / "city.mp4", Fraction(25), codec="lossless") as writer:
        for number in range(CLIPS["city"]):
            writer.write(torch.from_numpy(disturb(paint("city", number), 4 if number % 2 else 8)))
    outcome = run(tmp_path, f"input={tmp_path / 'theirs'}", f"target={originals}", "protocol=rgb", "factor=2")
    assert [frame["time"] for frame in outcome["clips"]["city"]["frames"]] == [number / 2 for number in range(9)]
    assert outcome["summary"]["psnr_existing"] == pytest.approx(20 * math.log10(255 / 8), abs=0.02)
    assert outcome["summary"]["psnr_interpolated"] == pytest.approx(20 * math.log10(255 / 4), abs=0.02)


def test_folders_around_the_clips_do_not_matter_and_ambiguous_names_are_named(originals, tmp_path):
    root = tmp_path / "vid4"
    for name in CLIPS:
        save(root / "GT" / name / "original", [paint(name, number) for number in range(7)])
        save(tmp_path / "theirs" / "x4" / name, [disturb(paint(name, number)) for number in range(7)])
    outcome = run(tmp_path, f"input={tmp_path / 'theirs'}", f"target={root}", "protocol=rgb")
    assert [*outcome["clips"]] == [*CLIPS]
    for name in CLIPS:
        save(root / "BIx4" / name / "original", [paint(name, number) for number in range(7)])
    with pytest.raises(
        UserError, match=r"calendar has several originals, BIx4/calendar and GT/calendar: name the folder"
    ):
        run_task(compose("task=score", f"input={tmp_path / 'theirs'}", f"target={root}"), tmp_path / "again")
    outcome = run_task(
        compose("task=score", f"input={tmp_path / 'theirs'}", f"target={root / 'GT'}"), tmp_path / "again"
    )
    assert len(outcome["clips"]) == 2


def test_what_cannot_be_scored_is_refused_in_a_sentence(originals, tmp_path):
    save(tmp_path / "theirs" / "sea", [paint("sea", number) for number in range(4)])
    save(tmp_path / "short", [paint("city", number) for number in range(2)])

    def message(*overrides: str) -> str:
        with pytest.raises(UserError) as raised:
            run_task(compose("task=score", *overrides), tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return str(raised.value)

    assert "input has sea, target has calendar, city" in message(f"input={tmp_path / 'theirs'}", f"target={originals}")
    assert "input=nowhere does not exist" in message("input=nowhere", f"target={originals}")
    paths = (f"input={tmp_path / 'short'}", f"target={originals / 'city'}")
    assert "city has 2 restored frames and 9 originals" in message(*paths)


def test_the_report_has_a_row_of_it_without_a_network(originals, tmp_path):
    save(tmp_path / "theirs" / "city", [disturb(paint("city", number)) for number in range(CLIPS["city"])])
    runs = tmp_path / "runs"
    config = compose(
        "task=score",
        f"input={tmp_path / 'theirs'}",
        f"target={originals}",
        "protocol=vid4",
        "name=Theirs",
        f"paths.runs={runs}",
    )
    run_task(config, runs / "score" / "name=Theirs" / "seed=0")
    (listed,) = find_runs(runs)
    assert listed.readable, listed.notes
    assert (listed.parameters, listed.value("count/parameters_m"), listed.notes) == (None, None, [])
    assert listed.value("results/summary/psnr") > 20
    assert listed.data == f"Theirs on {originals.name}, 1 clip"
    assert "restored elsewhere" in listed.protocol
    assert "degradation" not in listed.protocol
    page = (
        run_task(compose("task=report", f"paths.runs={runs}"), tmp_path)
        and (runs / "report" / "index.html").read_text()
    )
    assert f"Theirs on {originals.name}, 1 clip" in page


def test_a_name_of_several_words_needs_no_quotes():
    assert quote_paths("name=My method (2)") == "name='My method (2)'"
    assert quote_paths("name=EDVR-L") == "name=EDVR-L"
    assert quote_paths("name=3") == "name='3'"
