"""Model cards: what weights do, how they were trained and on what, what they score, and where they fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from src.config.run_directory import read_command
from src.data.credits import Credit
from src.geometry import Geometry
from src.nn.blocks import count_parameters
from src.nn.video_network import as_video_network
from src.report.render import render
from src.report.runs import Run
from src.zoo import is_name

FIDELITY = ("psnr", "psnr_existing", "psnr_interpolated")
LAST = "last.ckpt"  # the checkpoint that a run's results.json belongs to
MOST_CLIPS, WEAKEST = 100, 3  # clips in the table of data, and among those with the least gain


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Scores behind a card, as in ``results.json``.

    Args:
        ours: of the weights as they are stored.
        baseline: of :class:`src.papers.baselines.Interpolation` on the same frames; None: not measured.
        baseline_name: its effect, in words.
        full: of the weights in float32; None: not measured beside those in float16.
        clip, time: the frame in the picture; None: there is no picture.
        median: whether the clip is the one of median gain.
    """

    ours: Mapping[str, Any] | None = None
    baseline: Mapping[str, Any] | None = None
    baseline_name: str = ""
    full: Mapping[str, Any] | None = None
    clip: str | None = None
    time: float | None = None
    median: bool = False

    @property
    def loss(self) -> float | None:
        """PSNR lost by rounding, in dB: the largest loss of a mean; None: not measured."""
        return rounding_loss(self.full, self.ours) if self.full and self.ours else None

    def gains(self) -> dict[str, float]:
        """Return the gain of each clip over the baseline in dB, the least first."""
        if not (self.ours and self.baseline):
            return {}
        pairs = {
            name: (clip["psnr"], self.baseline["clips"][name]["psnr"]) for name, clip in self.ours["clips"].items()
        }
        known = {name: ours - theirs for name, (ours, theirs) in pairs.items() if None not in (ours, theirs)}
        return dict(sorted(known.items(), key=lambda item: (item[1], item[0])))


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The clips of a data set.

    Args:
        uses: what each clip was used for, by name.
        credits: its terms.
    """

    uses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    credits: Mapping[str, Credit] = field(default_factory=dict)


def rounding_loss(full: Mapping[str, Any], half: Mapping[str, Any]) -> float:
    """Return the largest loss of a mean PSNR between two results, in dB; below 0 for a gain."""
    pairs = [(full["summary"].get(name), half["summary"].get(name)) for name in FIDELITY]
    return max((before - after for before, after in pairs if None not in (before, after)), default=0.0)


def collect_facts(
    name: str,
    checkpoint: Path,
    network: nn.Module,
    config: DictConfig,
    *,
    steps: int | None,
    half: bool,
    evidence: Evidence,
    data: TrainingData,
    licence: str | None = None,
    limits: str | None = None,
) -> dict[str, Any]:
    """Return the facts of a card, ready for JSON.

    Args:
        name: of the weights.
        checkpoint: absolute path of their file in the directory of the training.
        network: the network.
        config: configuration of the training.
        steps: optimiser steps of the checkpoint.
        half: whether the weights are stored in float16.
        evidence: scores.
        data: clips of the training.
        licence: of the weights.
        limits: what they are bad at, in words.
    """
    run = checkpoint.parent.parent
    record = Run(run)
    geometry = as_video_network(network).geometry
    gains = evidence.gains()
    mean_gain = sum(gains.values()) / len(gains) if gains else 0.0
    return {
        "name": name,
        "does": describe_effect(geometry),
        "network": {"class": type(network).__name__, "parameters": count_parameters(network)},
        "stored": "float16" if half else "float32",
        "rounding_loss": None if evidence.loss is None else max(0.0, _rounded(evidence.loss) or 0.0),
        "recipe": read_command(run),
        "folder": "/".join(run.parts[-3:]),
        "commit": record.commit,
        "degradation": describe_degradation(config.degradation),
        "start": _name_start(OmegaConf.select(config, "checkpoint")),
        "steps": steps,
        "batch_size": OmegaConf.select(config, "data.batch_size"),
        "crop": OmegaConf.select(config, "data.crop"),
        "hours": _hours(record, steps),
        "data": {
            "layout": str(OmegaConf.select(config, "data.layout._target_") or "").rpartition(".")[2],
            "folder": Path(str(OmegaConf.select(config, "data.root") or "")).name,
            "clips": [
                {"name": clip, "use": ", ".join(data.uses[clip]), **asdict(data.credits.get(clip, Credit()))}
                for clip in sorted(data.uses)
            ],
        },
        "protocol": _describe_protocol(evidence.ours) if evidence.ours else "",
        "scores": _compare(evidence),
        "clips": [_clip_scores(evidence, clip, gain) for clip, gain in gains.items()],
        "tests": _other_tests(checkpoint),
        "weakest": [clip for clip, gain in list(gains.items())[:WEAKEST] if gain < mean_gain],
        "baseline": evidence.baseline_name if evidence.baseline else "",
        "picture": {"clip": evidence.clip, "time": evidence.time, "median": evidence.median} if evidence.clip else None,
        "licence": licence,
        "limits": limits,
    }


def summarise_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the facts that goes into the file of weights."""
    short = (
        "name",
        "does",
        "recipe",
        "commit",
        "start",
        "steps",
        "hours",
        "protocol",
        "scores",
        "baseline",
        "tests",
        "licence",
        "limits",
    )
    clips = facts["data"]["clips"]
    terms = {clip["name"]: clip["credit"] or clip["licence"] for clip in clips[:MOST_CLIPS]}
    data = {"layout": facts["data"]["layout"], "folder": facts["data"]["folder"], "clips": len(clips)}
    return {**{name: facts[name] for name in short}, "data": data, "credits": terms}


def render_card(facts: Mapping[str, Any], picture: str) -> str:
    """Return the card as Markdown; ``picture`` is the name of the picture's file."""
    return render("card.md", None, facts=facts, picture=picture, most_clips=MOST_CLIPS)


def describe_effect(geometry: Geometry) -> str:
    """Describe in a sentence what a network does to size and time."""
    rate = 1 / geometry.spacing
    size = f"{geometry.scale} times the height and width" if geometry.scale > 1 else "the same size"
    frames = f"{rate} times the frames" if rate != 1 else "the same number of frames"
    ins, outs = (_plural(count, "frame") for count in (geometry.window, len(geometry.times)))
    return f"{size[0].upper()}{size[1:]}, {frames}; {ins} in and {outs} out at a time."


def describe_degradation(degradation: Any) -> str:
    """Describe a degradation by its options and steps."""
    plain: Any = OmegaConf.to_container(degradation) if isinstance(degradation, DictConfig) else degradation or {}
    steps = [_call(step) for step in plain.get("steps") or []]
    options = [f"{name}={value}" for name, value in plain.items() if name[0] != "_" and value is not None]
    return ", ".join([*(option for option in options if not option.startswith("steps=")), *steps]) or "none"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _call(node: Any) -> str:
    """Write a described object as a call: ``Bicubic(scale=2)``."""
    if isinstance(node, Mapping):
        options = [f"{name}={_call(value)}" for name, value in node.items() if not str(name).startswith("_")]
        name = str(node.get("_target_", "")).rpartition(".")[2]
        return f"{name}({', '.join(options)})" if name else f"{{{', '.join(options)}}}"
    if isinstance(node, list | tuple):
        return f"[{', '.join(map(_call, node))}]"
    return str(node)


def _describe_protocol(results: Mapping[str, Any]) -> str:
    protocol = results["protocol"]
    skip = protocol["skip"]
    parts = [
        f"{protocol['name']}: {str(protocol['channel']).upper()}",
        f"{protocol['crop']} pixels of each border left out" if protocol["crop"] else "whole frames",
        f"without {skip[0]} frames at the beginning and {skip[1]} at the end" if any(skip) else "",
        f"edges {protocol['edges']}",
        f"ensemble of {protocol['ensemble']}" if protocol["ensemble"] != 1 else "",
        f"x{protocol['factor']} frame rate" if protocol.get("factor") else "",
        f"first {limit} input frames of each clip" if (limit := protocol.get("input_frames_limit")) else "",
        f"{_plural(protocol['clips_counted'], 'clip')}, {_plural(protocol['frames_counted'], 'frame')}",
    ]
    return "; ".join(part for part in parts if part)


def _compare(evidence: Evidence) -> list[dict[str, Any]]:
    """Return a line for each kind of score: its title, ours and the baseline's."""
    if not evidence.ours:
        return []
    ours, theirs = evidence.ours["summary"], evidence.baseline["summary"] if evidence.baseline else {}
    titles = {"psnr": "all frames", "psnr_existing": "existing frames", "psnr_interpolated": "added frames"}
    lines = []
    for psnr, title in titles.items():
        ssim = psnr.replace("psnr", "ssim")
        if ours.get(psnr) is not None:
            line = {name: _rounded(ours[name]) for name in (psnr, ssim)}
            line |= {f"{name}_baseline": _rounded(theirs.get(name)) for name in (psnr, ssim)}
            lines.append({"frames": title, **{name.replace(psnr[4:], "", 1): value for name, value in line.items()}})
    return lines


def _clip_scores(evidence: Evidence, clip: str, gain: float) -> dict[str, Any]:
    assert evidence.ours
    assert evidence.baseline
    ours, theirs = evidence.ours["clips"][clip], evidence.baseline["clips"][clip]
    values = {"psnr": ours["psnr"], "ssim": ours["ssim"], "psnr_baseline": theirs["psnr"], "gain": gain}
    return {"name": clip, **{name: _rounded(value) for name, value in values.items()}}


def _name_start(checkpoint: Any) -> str | None:
    """Name the checkpoint that a training started from: a name as it is, a path by its folders within the runs."""
    if not checkpoint or is_name(checkpoint):
        return checkpoint or None
    parts = Path(str(checkpoint)).parts
    return "/".join(parts[-5:] if parts[-2:-1] == ("checkpoints",) else parts[-1:])


def _other_tests(checkpoint: Path) -> list[dict[str, Any]]:
    """Return the scores of other tests of a checkpoint: runs of the same experiment with ``test=``."""
    tests, run = [], checkpoint.parent.parent
    for file in sorted(run.parent.parent.glob("*/seed=*/results.json")):
        test = Run(file.parent)
        if file.parent == run or not test.readable or "protocol" not in test.results:
            continue
        protocol, tested = test.results["protocol"], test.config.get("checkpoint")
        if tested and Path(tested).absolute() == checkpoint:
            scores = {name: _rounded(test.results["summary"].get(name)) for name in ("psnr", "ssim")}
            data = Path(str(protocol.get("data"))).name
            tests.append({"data": data, "protocol": _describe_protocol(test.results), **scores})
    return tests


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _hours(record: Run, steps: int | None) -> float | None:
    """Return the hours of all steps, without validation; None if the run recorded no times."""
    seconds = [value for _, value in record.metrics.get("train/seconds_per_step", [])]
    return round(sum(seconds) / len(seconds) * steps / 3600, 4) if seconds and steps else None
