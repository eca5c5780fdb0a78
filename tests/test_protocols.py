"""Protocols, and what is kept of a score."""

from __future__ import annotations

import io
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console

from src.config.composition import CONF, compose
from src.errors import UserError
from src.metrics import FrameScore, Scores, psnr
from src.protocols import Protocol, results, table, write_results

PLAIN = Protocol("plain")


def load(name: str) -> Protocol:
    return instantiate(compose(f"protocol={name}").protocol)


def frames(clip: int, decibels: list[float], step: Fraction = Fraction(1)) -> list[FrameScore]:
    """Frames of one clip with given PSNR; the SSIM is a hundredth of it, and the change since the last 1, 2, ..."""
    return [
        FrameScore(clip, t * step, decibel, min(1.0, decibel / 100), float(t) if t else None)
        for t, decibel in enumerate(decibels)
    ]


def rendered(outcome: dict[str, Any]) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(table(outcome))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "protocol").glob("[!_]*.yaml")))
def test_every_configured_protocol(name: str) -> None:
    protocol = load(name)
    assert protocol.name == name
    json.dumps(protocol.describe(), allow_nan=False)


def test_protocols_are_those_of_the_papers() -> None:
    assert load("vid4") == Protocol("vid4", "y")
    assert load("vid4_rgb") == Protocol("vid4_rgb", "rgb")
    assert load("vid4_wdvr") == Protocol("vid4_wdvr", "y", crop=4)
    assert load("vid4_liu") == Protocol("vid4_liu", "y", crop=4, skip=(2, 2))
    assert load("vid4_zsm_3").clip_length == 3
    assert not load("reds4").luma
    assert list(load("vimeo90k_centre").counted(7)) == [3]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channel": "yuv"}, "channel='yuv': it must be rgb, y or rgb_mean"),
        ({"crop": -1}, "crop=-1: it must be a number of pixels"),
        ({"crop": 1.5}, r"crop=1.5"),
        ({"skip": (1, 2, 3)}, r"skip=\(1, 2, 3\): it must be two numbers"),
        ({"skip": 2}, "skip=2: it must be two numbers"),
        ({"clip_length": 0}, "clip_length=0"),
        ({"edges": "zeros"}, "edges='zeros': it must be replicate, reflect, new_info or none"),
        ({"ensemble": 3}, "ensemble=3: it must be 1, 2, 4 or 8"),
        ({"frames": "first"}, "frames='first'"),
        ({"frames": "centre", "skip": (1, 0)}, "only the centre frame"),
    ],
)
def test_a_wrong_protocol_says_so_in_one_sentence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        Protocol("mine", **wrong)
    assert "\n" not in str(raised.value)


def test_description_traces_a_score() -> None:
    described = load("vid4_liu").describe(degradation={"scale": Fraction(1, 4)}, window=5, clip_length=7)
    assert described["channel"] == "y"
    assert described["colour_matrix"] == "BT.601 limited range"
    assert described["skip"] == [2, 2]
    assert described["degradation"] == {"scale": 0.25}
    assert (described["window"], described["clip_length"]) == (5, 7)
    assert described["ssim"]["window"] == 11
    assert load("rgb").describe()["colour_matrix"] is None
    with pytest.raises(ValueError, match="has crop 4, not 0"):
        load("vid4_liu").describe(crop=0)


def test_summary_is_the_mean_over_clips_of_means_over_frames() -> None:
    outcome = results(
        {0: frames(0, [30, 32]), 1: frames(1, [20, 20, 20, 28])}, protocol=PLAIN, names=["a", "b"], degradation="none"
    )
    assert outcome["summary"]["psnr"] == (31 + 22) / 2
    assert outcome["clips"]["b"]["psnr"] == 22
    assert outcome["clips"]["b"]["psnr_oscillation"] == pytest.approx(8 / 3)
    assert outcome["clips"]["b"]["temporal_difference_error"] == 2
    assert outcome["clips"]["a"]["frames"][1] == {
        "time": 1.0,
        "psnr": 32.0,
        "ssim": 0.32,
        "temporal_difference_error": 1.0,
    }
    assert outcome["protocol"]["degradation"] == "none"
    assert (outcome["protocol"]["clips_counted"], outcome["protocol"]["frames_counted"]) == (2, 6)
    assert "subsets" not in outcome
    assert "psnr_existing" not in outcome["summary"]


def test_skipped_frames_do_not_count() -> None:
    outcome = results({0: frames(0, [1, 2, 30, 34, 3, 4])}, protocol=load("vid4_liu"), names=["a"])
    assert outcome["summary"]["psnr"] == 32
    assert outcome["summary"]["temporal_difference_error"] == 3  # and no change since a frame that does not count
    assert [frame["time"] for frame in outcome["clips"]["a"]["frames"]] == [2.0, 3.0]
    with pytest.raises(UserError, match="clip a has 4 frames, and the protocol vid4_liu skips 2 and 2"):
        results({0: frames(0, [1, 2, 3, 4])}, protocol=load("vid4_liu"), names=["a"])


def test_only_the_centre_counts() -> None:
    outcome = results({0: frames(0, [1, 2, 3, 40, 5, 6, 7])}, protocol=load("vimeo90k_centre"), names=["a"])
    assert outcome["summary"]["psnr"] == 40
    assert outcome["summary"]["temporal_difference_error"] is outcome["summary"]["psnr_oscillation"] is None


def test_existing_and_interpolated_frames_apart() -> None:
    outcome = results({0: frames(0, [30, 20, 32], Fraction(1, 2))}, protocol=PLAIN, names=["a"])
    assert outcome["summary"]["psnr_existing"] == 31
    assert outcome["summary"]["psnr_interpolated"] == outcome["clips"]["a"]["psnr_interpolated"] == 20
    only_between = [FrameScore(0, Fraction(2 * t + 3, 4), 30, 0.9) for t in range(4)]
    assert "psnr_existing" not in results({0: only_between}, protocol=PLAIN, names=["a"])["summary"]


def test_subsets_have_means_of_their_own() -> None:
    scored = {index: frames(index, [decibel]) for index, decibel in enumerate([10, 20, 60, 99])}
    outcome = results(scored, protocol=PLAIN, names=["a", "b", "c", "d"], subsets=["fast", "slow", "fast", ""])
    assert {name: figures["psnr"] for name, figures in outcome["subsets"].items()} == {"fast": 35, "slow": 20}
    assert "mean of fast" in rendered(outcome)


def test_exact_frames_enter_no_mean_of_psnr() -> None:
    scored = {0: frames(0, [math.inf, 28, 30]), 1: frames(1, [math.inf, math.inf]), 2: frames(2, [35])}
    outcome = results(scored, protocol=PLAIN, names=["a", "black", "c"], subsets=["s", "s", ""])
    assert [outcome["clips"][name]["psnr"] for name in "ac"] == [29, 35]
    assert outcome["clips"]["black"]["psnr"] is None
    assert outcome["summary"]["psnr"] == 32
    assert outcome["summary"]["ssim"] == pytest.approx(((1 + 0.58) / 3 + 1 + 0.35) / 3)
    assert outcome["summary"]["exact_frames"] == 3
    assert outcome["subsets"]["s"] == {**outcome["subsets"]["s"], "psnr": 29, "exact_frames": 3}
    assert [outcome["clips"][name].get("exact_frames") for name in ("a", "black", "c")] == [1, 2, None]
    assert [frame["psnr"] for frame in outcome["clips"]["a"]["frames"]] == [None, 28, 30]
    assert "∞/1.0000" in rendered(outcome)
    assert "exact frames" in rendered(outcome)
    assert "exact_frames" not in results({0: frames(0, [30])}, protocol=PLAIN, names=["a"])["summary"]


def test_a_black_centre_frame_leaves_the_mean_of_a_data_set() -> None:
    scores = {0: frames(0, [1, 1, 1, math.inf, 1, 1, 1]), 1: frames(1, [1, 1, 1, 40, 1, 1, 1])}
    outcome = results(scores, protocol=load("vimeo90k_centre"), names=["black", "b"])
    assert (outcome["summary"]["psnr"], outcome["summary"]["exact_frames"]) == (40, 1)


def test_what_would_falsify_a_score_is_refused() -> None:
    with pytest.raises(UserError, match="Nothing was scored"):
        results({}, protocol=PLAIN, names=[])
    with pytest.raises(UserError, match="Several clips are called a"):
        results({0: frames(0, [1]), 1: frames(1, [2])}, protocol=PLAIN, names=["a", "a"])
    with pytest.raises(UserError, match=r"not a number at time 1.0 of the clip a"):
        results({0: frames(0, [30, math.nan])}, protocol=PLAIN, names=["a"])
    with pytest.raises(ValueError, match="not made by the protocol per_channel"):
        results(Scores(), protocol=Protocol("per_channel", "rgb_mean"), names=["a"])
    with pytest.raises(ValueError, match="not made by the protocol vid4"):
        results(Scores(), protocol=load("vid4"), names=["a"])
    partial = results({1: frames(1, [2])}, protocol=PLAIN, names=["a", "b"])
    assert partial["protocol"]["clips_missing"] == ["a"]


def test_from_pixels_to_the_file(tmp_path: Path) -> None:
    protocol = load("vid4_wdvr")
    scores = Scores(luma=protocol.luma, crop=protocol.crop)
    target = torch.rand(3, 3, 24, 32)
    estimate = (target + 0.1 * torch.rand(3, 3, 24, 32)).clamp(0, 1)
    for t in range(3):
        scores.update(0, Fraction(t, 2), estimate[t], target[t])
    outcome = results(scores, protocol=protocol, names=["rain/01"], window=5)
    assert outcome["summary"]["psnr"] == pytest.approx(scores.compute()["psnr"].item())
    write_results(tmp_path / "runs" / "results.json", outcome)
    read = json.loads((tmp_path / "runs" / "results.json").read_text())
    assert read == outcome
    expected = psnr(estimate, target, luma=True, crop=4).tolist()
    assert [frame["psnr"] for frame in read["clips"]["rain/01"]["frames"]] == pytest.approx(expected, rel=1e-12)
    assert f"{sum(expected) / 3:.2f}/{outcome['summary']['ssim']:.4f}" in rendered(read)


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, {"psnr": math.inf, "scale": OmegaConf.create({"steps": [1, 2]}), "at": Path("here")})
    assert json.loads(path.read_text()) == {"psnr": None, "scale": {"steps": [1, 2]}, "at": "here"}

    class Unwritable:
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results(path, {"psnr": 1, "broken": Unwritable()})
    assert json.loads(path.read_text())["psnr"] is None
    (tmp_path / "taken" / "by a folder").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        write_results(tmp_path / "taken", {"psnr": 1})
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "taken"]  # and no draft is left behind
