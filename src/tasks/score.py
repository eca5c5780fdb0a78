"""Score frames that were restored elsewhere by a named protocol, into ``results.json`` and a table."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from src.config.code_record import complete_record, read_commit
from src.config.run_directory import claim_directory
from src.data.external import Matches, align, match_clips, paired_frames
from src.engine.options import InferenceOptions
from src.metrics import Scores, psnr
from src.protocols import Protocol, results, table, write_results
from src.video.reader import open_video


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of ``task=score``; conf/task/score.yaml explains them."""

    input: str | list[str]
    target: str | list[str]
    name: str | None = None
    scale: Annotated[int, Ge(1)] = 4
    factor: Annotated[int, Ge(1)] = 1
    offset: int | Literal["auto"] = "auto"


def score(config: DictConfig, directory: Path, *, options: ScoreOptions) -> dict[str, Any]:
    """``task=score``: score the restored clips ``input`` beside the originals ``target``.

    Returns:
        The content of ``results.json``: as that of ``task=evaluate``, and ``name``, of the method, and ``matched``, the
        files, the offset and the size of each clip.

    Raises:
        UserError: no clips match, or a restored clip does not fit its original.
    """
    sources, targets = ([one] if isinstance(one, str) else list(one) for one in (options.input, options.target))
    matches = match_clips(sources, targets)
    protocol: Protocol = instantiate(config.protocol)
    with claim_directory(config, directory):
        _tell_missing(matches)
        outcome = _measure(matches, protocol, options, targets)
        outcome = {"name": options.name or Path(os.path.expanduser(sources[0])).resolve().name, **outcome}
        outcome["code"] = complete_record(directory)
        write_results(directory / "results.json", outcome)
        console = Console()
        (console if console.is_terminal else Console(width=160)).print(table(outcome))  # a log has room
        print(f"Scores of {outcome['name']}: {directory / 'results.json'}")
    return outcome


def _tell_missing(matches: Matches) -> None:
    for fault, names in (
        ("No restored clip for", matches.without_restored),
        ("No original, so not scored", matches.without_target),
    ):
        if names:
            print(f"{fault}: {', '.join(names)}.")


def _measure(matches: Matches, protocol: Protocol, options: ScoreOptions, targets: list[str]) -> dict[str, Any]:
    """Measure every pair; return the scores as in ``results.json``."""
    reduction = options.scale if protocol.input_scale else None
    scores = Scores(protocol.luma, protocol.crop, reduction, protocol.per_channel)
    spans: dict[int, tuple[int, int]] = {}
    matched: dict[str, dict[str, Any]] = {}
    for index, (name, (restored, target)) in enumerate(matches.pairs.items()):
        with open_video(restored) as estimates, open_video(target) as originals:
            alignment = align(
                name,
                estimates,
                originals,
                scale=options.scale,
                measure=lambda x, y: float(psnr(x, y, protocol.luma, protocol.crop, per_channel=protocol.per_channel)),
                offset=None if options.offset == "auto" else options.offset,
            )
        for remark in alignment.remarks:
            print(remark)
        spans[index] = (alignment.paired.start, len(originals))
        matched[name] = {
            "restored": str(restored),
            "target": str(target),
            "offset": alignment.offset,
            "frames": list(alignment.frames),
            "size": list(alignment.size),
            "psnr_by_offset": {str(tried): value for tried, value in alignment.psnr.items()},
            "remarks": list(alignment.remarks),
        }
        for number, estimate, original in paired_frames(restored, target, alignment):
            scores.update(index, Fraction(number, options.factor), estimate, original)
    outcome = results(
        scores,
        protocol=protocol,
        names=[*matches.pairs, *matches.without_restored],
        spans=spans,
        degradation=None,
        data=targets[0] if len(targets) == 1 else ", ".join(targets),
        commit=read_commit(),
    )
    # nobody knows how the frames were made
    outcome["protocol"] |= {option.name: None for option in fields(InferenceOptions)}
    return outcome | {"matched": matched, "without_target": matches.without_target}
