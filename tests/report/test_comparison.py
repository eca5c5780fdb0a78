"""``task=compare``: what runs on the same clips allow to say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from src.config.composition import compose
from src.config.options import run_task
from src.config.validation import validate
from src.errors import UserError
from src.metrics import FrameScore
from src.protocols import Protocol, results, write_results

VID4 = Protocol("vid4", "y")
ABOUT: dict[str, Any] = {"degradation": {"steps": [{"scale": 4}]}, "data": "vid4", "window": 5, "commit": "abc"}


def write(
    directory: Path,
    clips: Mapping[str, Sequence[float]],
    protocol: Protocol = VID4,
    about: Mapping[str, Any] | None = None,
    **more: Any,
) -> Path:
    """Write results with these PSNRs by clip and frame; the SSIM is a fortieth of each."""
    frames = {
        index: [FrameScore(index, Fraction(time), value, value / 40) for time, value in enumerate(values)]
        for index, values in enumerate(clips.values())
    }
    outcome = results(frames, protocol=protocol, names=[*clips], **{**ABOUT, **(about or {})})
    directory.mkdir(parents=True)
    write_results(directory / "results.json", {**outcome, **more})
    return directory


def compared(tmp_path: Path, *runs: object, **options: object) -> dict[str, Any]:
    listed = ",".join(map(str, runs))
    given = [f"{name}={value}" for name, value in options.items()]
    config = compose("task=compare", f"runs=[{listed}]", *given)
    validate(config)
    shutil.rmtree(tmp_path / "compared", ignore_errors=True)
    (one, *_) = run_task(config, tmp_path / "compared")
    assert json.loads((tmp_path / "compared" / "comparison.json").read_text())["comparisons"][0] == one
    assert {"config.yaml", "code.json"} <= {file.name for file in (tmp_path / "compared").iterdir()}
    with pytest.raises(UserError, match="already holds a run"):
        run_task(config, tmp_path / "compared")
    return one


def spread(offset: float, count: int = 8) -> dict[str, list[float]]:
    """Clips of very different PSNR; ``offset`` apart from those of another call, and up to 0.14 more by clip."""
    return {f"clip{n}": [20 + 2 * n + offset * (1 + n / 50), 22 + 2 * n + offset * (1 + n / 50)] for n in range(count)}


def test_a_difference_on_every_clip_is_said_with_its_interval(tmp_path, capsys):
    ours, theirs = write(tmp_path / "ours" / "seed=0", spread(1)), write(tmp_path / "theirs" / "seed=0", spread(0))
    one = compared(tmp_path, ours, theirs)
    verdict = one["metrics"]["psnr"]
    assert verdict["difference"] == pytest.approx(1.07)
    assert 1.0 < verdict["interval"][0] < 1.07 < verdict["interval"][1] < 1.14
    assert verdict["p"] == pytest.approx(2 / 2**8)
    low, high = verdict["interval"]
    assert verdict["sentence"] == (
        f"ours is better than theirs by 1.07 dB (95 %: {low:.2f} to {high:.2f}, 8 clips; Wilcoxon p = 0.0078)."
    )
    clip = one["clips"]["clip3"]
    assert clip["psnr"] == {
        k: pytest.approx(v) for k, v in {"first": 28.06, "second": 27.0, "difference": 1.06}.items()
    }
    assert [frame["time"] for frame in clip["frames"]] == [0, 1]
    assert [frame["psnr"] for frame in clip["frames"]] == [pytest.approx(1.06)] * 2
    assert clip["frames"][0]["ssim"] == pytest.approx(1.06 / 40)
    other = compared(tmp_path, theirs, ours)["metrics"]["psnr"]
    assert other["difference"] == pytest.approx(-1.07)
    assert other["sentence"] == verdict["sentence"]  # whatever the order
    printed = capsys.readouterr().out
    assert verdict["sentence"] in printed
    text = (tmp_path / "compared" / "comparison.md").read_text()
    assert "| clip3 | 27.00 | 28.06 | -1.06 |" in text
    assert verdict["sentence"] in text


def test_nothing_is_said_where_clips_disagree_or_there_is_one(tmp_path):
    values = {f"clip{n}": [30.0 + (0.5 if n % 2 else -0.4)] for n in range(8)}
    ours = write(tmp_path / "ours", values)
    theirs = write(tmp_path / "theirs", {name: [30.0] for name in values})
    sentence = compared(tmp_path, ours, theirs)["metrics"]["psnr"]["sentence"]
    assert sentence.startswith("Nothing can be said: ours is 0.05 dB above theirs (95 %: -0.")
    single = write(tmp_path / "single", {"clip0": [40.0]})
    sentence = compared(tmp_path, single, theirs)["metrics"]["psnr"]["sentence"]
    wanted = "Nothing can be said from a single clip, on which single is 10.00 dB above theirs; 6 are the least."
    assert sentence == wanted
    same = compared(tmp_path, ours, write(tmp_path / "same", values))["metrics"]["psnr"]["sentence"]
    assert same.startswith("Nothing can be said")
    four = compared(tmp_path, write(tmp_path / "a", spread(1, 4)), write(tmp_path / "b", spread(0, 4)))
    wanted = "Nothing can be said from 4 clips, on which a is 1.03 dB above b; 6 are the least."
    assert four["metrics"]["psnr"]["sentence"] == wanted


def test_one_clip_that_decides_alone_is_no_proof(tmp_path):
    values = {f"clip{n}": [30.01 if n else 38.0] for n in range(8)} | {"x": [29.98], "y": [29.97], "z": [29.96]}
    ours = write(tmp_path / "ours", values)
    theirs = write(tmp_path / "theirs", {name: [30.0] for name in values})
    verdict = compared(tmp_path, ours, theirs)["metrics"]["psnr"]
    assert verdict["p"] > 0.05
    assert verdict["sentence"].startswith("Nothing can be said")


def test_seeds_are_pooled(tmp_path):
    for seed, offset in enumerate([0.1, 0.9]):
        write(tmp_path / "ours" / f"seed={seed}", spread(offset))
    theirs = write(tmp_path / "theirs" / "seed=0", spread(0))
    one = compared(tmp_path, tmp_path / "ours", theirs)
    assert (one["first"]["seeds"], one["second"]["seeds"]) == (2, 1)
    verdict = one["metrics"]["psnr"]
    assert verdict["difference"] == pytest.approx(0.5 * 1.07)
    assert verdict["interval"][0] < 0.15  # a third seed may be as bad as the worse of them
    assert verdict["interval"][1] > 0.88
    assert "8 clips, 2 and 1 seeds" in verdict["sentence"]
    listed = compared(tmp_path, tmp_path / "ours" / "seed=0", tmp_path / "ours" / "seed=1" / "results.json", theirs)
    pattern = compared(tmp_path, f"{tmp_path}/our*/seed=*", theirs)
    for metric in ("psnr", "ssim"):
        figures = [{**other["metrics"][metric], "sentence": ""} for other in (one, listed, pattern)]
        assert figures[0] == figures[1] == figures[2]


def test_other_rules_and_other_inputs_are_refused_by_their_keys(tmp_path):
    ours = write(tmp_path / "ours", spread(1))
    rgb = write(tmp_path / "rgb", spread(0), Protocol("vid4", "rgb", crop=4))
    with pytest.raises(
        UserError, match=r'channel: "y" / "rgb"; colour_matrix: .*; crop: 0 / 4\): score both by the same'
    ):
        compared(tmp_path, ours, rgb)
    noisy = write(tmp_path / "noisy", spread(0), about={"degradation": {"steps": [{"scale": 4}, {"sigma": 10}]}})
    with pytest.raises(UserError, match=r"ours and noisy were scored under different protocols \(degradation: "):
        compared(tmp_path, ours, noisy)
    assert not (tmp_path / "compared").exists()
    with pytest.raises(UserError, match=r"one method to compare, .*ours \(seeds: 1\): name another"):
        compared(tmp_path, ours, ours)
    with pytest.raises(UserError, match="nowhere does not exist"):
        compared(tmp_path, ours, "nowhere")
    ensemble = write(tmp_path / "ensemble", spread(0), Protocol("vid4", "y", ensemble=8), {"window": 7})
    assert compared(tmp_path, ours, ensemble)["remarks"] == ["They differ in ensemble: 1 / 8."]


def test_clips_and_frames_of_one_side_are_left_out_and_named(tmp_path):
    ours = write(tmp_path / "ours", {"a": [30.0, 31.0, 35.0], "b": [40.0], "only": [10.0]})
    theirs = write(tmp_path / "theirs", {"b": [39.0], "a": [29.0, 30.0], "other": [50.0]})
    one = compared(tmp_path, ours, theirs)
    assert [*one["clips"]] == ["a", "b"]
    assert one["metrics"]["psnr"]["difference"] == pytest.approx(1.0)
    assert one["remarks"] == [
        "Only ours has only: left out.",
        "Only theirs has other: left out.",
        "Frames that not all have were left out: 1.",
    ]
    far = write(tmp_path / "far", {"x": [30.0]})
    with pytest.raises(UserError, match="have no clip in common, for example a and x"):
        compared(tmp_path, ours, far)


def test_exact_frames_have_no_part_in_psnr(tmp_path):
    ours = write(tmp_path / "ours", {"a": [30.0, float("inf")], "b": [float("inf")], "c": [31.0]})
    theirs = write(tmp_path / "theirs", {"a": [29.0, 20.0], "b": [30.0], "c": [30.0]})
    one = compared(tmp_path, ours, theirs)
    assert one["metrics"]["psnr"]["difference"] == pytest.approx(1.0)
    assert one["metrics"]["psnr"]["clips"] == 2
    assert one["clips"]["b"]["psnr"] is None
    assert [frame["psnr"] for frame in one["clips"]["a"]["frames"]] == [pytest.approx(1.0), None]


def test_frames_restored_elsewhere_are_compared_by_what_is_known(tmp_path):
    ours = write(tmp_path / "ours", spread(1))
    about = {"degradation": None, "data": "elsewhere/vid4", "window": None}
    theirs = write(tmp_path / "score" / "seed=0", spread(0), about=about, name="Theirs", matched={})
    one = compared(tmp_path, ours, theirs)
    assert one["second"]["name"] == "Theirs"
    assert one["metrics"]["psnr"]["sentence"].startswith("ours is better than Theirs by 1.07 dB")
    assert "Theirs was restored elsewhere: from which input is not known." in one["remarks"]
    cropped = write(tmp_path / "cropped", spread(0), Protocol("vid4", "y", crop=4), about, name="Theirs", matched={})
    with pytest.raises(UserError, match=r"\(crop: 0 / 4\)"):
        compared(tmp_path, ours, cropped)


def test_directories_of_runs_have_commas(tmp_path):
    ours = write(tmp_path / "train" / "data=folder,size=mini" / "seed=0", spread(1))
    theirs = write(tmp_path / "train" / "size=mini,x=[a,b]" / "seed=0", spread(0))
    one = compared(tmp_path, ours, theirs.parent)
    assert (one["first"]["name"], one["second"]["name"]) == ("data=folder", "x=[a b]")
    assert compared(tmp_path, ours.parent, f"{tmp_path}/train/size=mini,*/seed=*")["metrics"]["psnr"]["clips"] == 8
