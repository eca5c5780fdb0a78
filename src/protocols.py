"""Protocols: the rules of a score, kept beside every score.

The same frames differ by several dB between RGB and luma, by tenths with the border or without, so a number without
its protocol means nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from rich.table import Table

from src.atomic import atomic_write
from src.engine.options import InferenceOptions, is_whole
from src.errors import UserError
from src.metrics import (
    EXACT,
    PEAK,
    SSIM_K1,
    SSIM_K2,
    SSIM_SIGMA,
    SSIM_WINDOW,
    FrameScore,
    Scores,
    average,
    summarise,
)


@dataclass(frozen=True)
class Protocol(InferenceOptions):
    """The rules of a score: how the network runs (:class:`src.engine.options.InferenceOptions`), and what counts.

    Args:
        name: as ``protocol=<name>`` on the command line.
        channel: ``rgb``, all three channels together; ``y``, BT.601 limited-range luma; or ``rgb_mean``, the mean over
            channels of the PSNR of each (SSIM is always such a mean).
        crop: pixels of each border of a frame that do not count.
        skip: frames at the beginning and at the end of each clip that do not count.
        input_scale: whether frames at input times are scored once more at the size of the input.
        frames: ``all``, or ``centre``: only the middle frame of each clip counts.
        to_the_end: whether source frames behind the last input frame count, too: one more pass, over input frames at
            the same distances that end with the clip, restores them.

    With a ``factor``, the output of each application of the network is scored.

    Raises:
        UserError: a value is none of those.
    """

    name: str
    channel: Literal["rgb", "y", "rgb_mean"] = "rgb"
    crop: Annotated[int, Ge(0)] = 0
    skip: tuple[int, int] = (0, 0)
    input_scale: bool = False
    frames: Literal["all", "centre"] = "all"
    to_the_end: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.skip, Sequence):
            object.__setattr__(self, "skip", tuple(self.skip))  # a configuration has lists
        super().__post_init__()

    def _rules(self) -> list[tuple[str, bool, str]]:
        skipping = self.skip != (0, 0)
        return [
            ("channel", self.channel in ("rgb", "y", "rgb_mean"), "rgb, y or rgb_mean"),
            ("crop", is_whole(self.crop, 0), "a number of pixels, 0 or more"),
            ("skip", _is_pair(self.skip), "two numbers of frames, 0 or more"),
            ("input_scale", isinstance(self.input_scale, bool), "true or false"),
            ("to_the_end", isinstance(self.to_the_end, bool), "true or false"),
            ("frames", self.frames in ("all", "centre"), "all or centre"),
            ("skip", self.frames == "all" or not skipping, "[0, 0] if only the centre frame counts"),
            *super()._rules(),
        ]

    def _message(self, name: str, expected: str) -> str:
        return f"The protocol {self.name} has {name}={getattr(self, name)!r}: it must be {expected}."

    @property
    def luma(self) -> bool:
        """True if luma is scored instead of RGB."""
        return self.channel == "y"

    @property
    def per_channel(self) -> bool:
        """True if the PSNR of a frame is the mean over its channels."""
        return self.channel == "rgb_mean"

    def counted(self, frames: int) -> range:
        """Return the positions in time of a clip's counted frames, out of ``frames`` output frames; may be empty."""
        if self.frames == "centre":
            return range(frames // 2, min(frames, frames // 2 + 1))
        return range(self.skip[0], max(self.skip[0], frames - self.skip[1]))

    def describe(self, **more: Any) -> dict[str, Any]:
        """Describe everything that traces a score, ready for JSON.

        Args:
            more: further facts: degradation, window, ... They may replace None (``clip_length``, ``padding``), but
                contradict nothing.

        Raises:
            ValueError: ``more`` contradicts the protocol.
        """
        own = {
            "name": self.name,
            "channel": self.channel,
            "colour_matrix": "BT.601 limited range" if self.luma else None,
            "quantised": "8 bit",
            "psnr": {"peak": PEAK, "exact_frames": "left out of means"},
            "ssim": {"window": SSIM_WINDOW, "sigma": SSIM_SIGMA, "k1": SSIM_K1, "k2": SSIM_K2, "border": "valid"},
            "crop": self.crop,
            "frames": self.frames,
            "precision": self.precision,
            "tile": self.tile,
            "overlap": self.overlap,
            "context": self.context,
            "skip": list(self.skip),
            "to_the_end": self.to_the_end,
            "clip_length": self.clip_length,
            "padding": self.padding,
            "edges": self.edges,
            "ensemble": self.ensemble,
            "factor": self.factor,
            "input_scale": self.input_scale,
            "mean": "over clips, each the mean over its frames",
        }
        for key in own.keys() & more.keys():
            if own[key] is not None and own[key] != more[key]:
                raise ValueError(f"the protocol {self.name} has {key} {own[key]!r}, not {more[key]!r}")
        return _plain(own | more)


def results(
    scores: Scores | Mapping[int, Sequence[FrameScore]],
    *,
    protocol: Protocol,
    names: Sequence[str],
    subsets: Sequence[str] | None = None,
    levels: Mapping[int, Mapping[int, Sequence[FrameScore]]] | None = None,
    spans: Mapping[int, tuple[int, int]] | None = None,
    **description: Any,
) -> dict[str, Any]:
    """The content of ``results.json``. On several processes all must call it, and all get the same.

    Args:
        scores: the measurements; or their frames by clip, in the order of time.
        protocol: selects the frames that count; the scores have its channel and crop.
        names: of all clips, by index.
        subsets: the subset of each clip, by index; an empty one is none.
        levels: measurements after each application of a recursively applied network, by its number of output frames
            for each input frame.
        spans: for clips whose ends were not measured: the position of the first measured frame, and the number of
            frames of the whole clip, from whose ends a protocol skips.
        description: further facts for :meth:`Protocol.describe`: degradation, window, ...

    Returns:
        ``summary``, the figures of :func:`src.metrics.summarise` as means over clips; ``protocol``;
        ``clips.<name>``, the same figures of one clip and ``frames``, each with ``time`` (in input frames), ``psnr``,
        ``ssim`` and ``temporal_difference_error``; ``subsets.<name>``, the means over its clips, if clips have any;
        and ``levels.<factor>``, the means over clips after each application of a network that was applied several
        times, with ``clips.<name>`` in it. An infinite PSNR (of an exact frame) is None (null in JSON), and enters no
        mean; ``exact_frames`` counts them, beside each mean that lacks some. The PSNR of a clip of such frames alone is
        None, too; so is a flicker measure unless two neighbouring frames count.

    Raises:
        UserError: nothing was scored, a clip is too short for the protocol, two clips share a name, or
            the estimate was not a number.
    """
    frames = scores.frames() if isinstance(scores, Scores) else scores
    rules = ("luma", "crop", "per_channel")
    if isinstance(scores, Scores) and any(getattr(scores, name) != getattr(protocol, name) for name in rules):
        raise ValueError(f"the scores were not made by the protocol {protocol.name}")
    if not frames:
        raise UserError("Nothing was scored: the data set has no test clips; check data.root.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"Several clips are called {', '.join(twice)}: rename them, scores are kept by name.")
    counted = _counted(frames, protocol, names, spans)
    figures = {clip: summarise(listed) for clip, listed in counted.items()}
    outcome: dict[str, Any] = {
        "summary": average(figures.values()),
        "protocol": protocol.describe(
            **description,
            clips_counted=len(counted),
            frames_counted=sum(map(len, counted.values())),
            clips_missing=[name for index, name in enumerate(names) if index not in counted],
        ),
        "clips": {
            names[clip]: {**figures[clip], "frames": [_entry(frame) for frame in listed]}
            for clip, listed in counted.items()
        },
    }
    if subsets and any(subsets):
        outcome["subsets"] = {
            subset: average(figures[clip] for clip in counted if subsets[clip] == subset)
            for subset in dict.fromkeys(subsets[clip] for clip in counted)
            if subset
        }
    if levels:
        outcome["levels"] = {}
        for factor, measured in levels.items():
            some = {c: summarise(listed) for c, listed in _counted(measured, protocol, names).items()}
            outcome["levels"][factor] = {
                **average(some.values()),
                "clips": {names[clip]: figures for clip, figures in some.items()},
            }
    return _plain(outcome)


def _counted(
    frames: Mapping[int, Sequence[FrameScore]],
    protocol: Protocol,
    names: Sequence[str],
    spans: Mapping[int, tuple[int, int]] | None = None,
) -> dict[int, list[FrameScore]]:
    """The frames of each clip that count.

    Raises:
        UserError: a clip has none, or a figure is not a number.
    """
    counted: dict[int, list[FrameScore]] = {}
    for clip, listed in sorted(frames.items()):
        first, length = (spans or {}).get(clip, (0, len(listed)))
        positions = (position - first for position in protocol.counted(length))
        counted[clip] = [listed[position] for position in positions if 0 <= position < len(listed)]
        if not counted[clip]:
            raise UserError(
                f"The clip {names[clip]} has {len(listed)} frames, and the protocol {protocol.name} skips "
                f"{protocol.skip[0]} and {protocol.skip[1]}: leave the clip out, or choose another protocol."
            )
        for frame in counted[clip]:
            if math.isnan(frame.psnr):
                raise UserError(
                    f"The network's output is not a number at time {float(frame.time)} of the clip {names[clip]}: "
                    "its weights have diverged, or its precision is too low."
                )
    return counted


def write_results(path: Path, outcome: Mapping[str, Any]) -> None:
    """Writes ``outcome`` as JSON; ``path`` never holds half of it, whenever the run is cut off.

    Infinite values and NaN, unknown to JSON, become null.
    """
    with atomic_write(Path(path)) as stream:
        json.dump(_plain(outcome), stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")


def table(outcome: Mapping[str, Any]) -> Table:
    """Format the outcome of :func:`results` for the terminal: clips, subsets, and the mean, in the papers' decimals."""
    protocol = outcome["protocol"]
    counted = protocol["frames"] + (
        f" but {protocol['skip'][0]}+{protocol['skip'][1]}" if any(protocol["skip"]) else ""
    )
    shown = Table(
        title=f"{protocol['name']}: {protocol['channel'].upper()}, crop {protocol['crop']}, frames: {counted}"
    )
    columns = [heading for heading, figures in COLUMNS.items() if figures[0] in outcome["summary"]]
    shown.add_column("clip")
    for heading in columns:
        shown.add_column(heading, justify="right")

    def line(label: str, figures: Mapping[str, Any], **style: Any) -> None:
        cells = ("/".join(_shown(name, figures) for name in COLUMNS[heading]) for heading in columns)
        shown.add_row(label, *cells, **style)

    for name, figures in outcome["clips"].items():
        line(name, figures)
    shown.add_section()
    for name, figures in outcome.get("subsets", {}).items():
        line(f"mean of {name}", figures)
    for factor, figures in list(outcome.get("levels", {}).items())[:-1]:
        line(f"mean at {factor} times the frames", figures)
    last = f" at {factors[-1]} times the frames" if (factors := list(outcome.get("levels", {}))) else ""
    line(f"mean{last}", outcome["summary"], style="bold")
    return shown


COLUMNS: dict[str, tuple[str, ...]] = {
    "PSNR/SSIM": ("psnr", "ssim"),
    "at input scale": ("psnr_input_scale", "ssim_input_scale"),
    "existing": ("psnr_existing", "ssim_existing"),
    "interpolated": ("psnr_interpolated", "ssim_interpolated"),
    "pulsing, dB": ("psnr_oscillation",),
    "swing": ("psnr_swing", "ssim_swing"),
    "flicker": ("temporal_difference_error",),
    "exact frames, not in PSNR": (EXACT,),
}


def _shown(name: str, figures: Mapping[str, Any]) -> str:
    value = figures.get(name)
    if value is None:
        endless = name in figures and name.startswith("psnr") and name not in ("psnr_oscillation", "psnr_swing")
        return "∞" if endless else "-"
    if name == EXACT:
        return str(value)
    return f"{value:.4f}" if name.startswith("ssim") else f"{value:.2f}"


def _entry(frame: FrameScore) -> dict[str, float | None]:
    measured = asdict(frame)
    del measured["clip"]
    for name in ("psnr_input_scale", "ssim_input_scale"):
        if measured[name] is None:
            del measured[name]
    return {**measured, "time": float(frame.time)}


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(is_whole(number, 0) for number in value)


def _plain(value: Any) -> Any:
    """Convert a value to the types of JSON; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return [_plain(part) for part in value]
    return str(value)
