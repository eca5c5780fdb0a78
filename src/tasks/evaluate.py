"""Score a network on a data set by a named protocol, into ``results.json`` and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console

from src.config.as_trained import evaluate_as_trained
from src.config.build import build_data, build_inference_network, build_restorer, build_trainer
from src.config.code_record import complete_record
from src.config.comparison import describe_published
from src.config.composition import to_plain
from src.config.run_directory import claim_directory, read_commit
from src.data.splits import OPENED
from src.engine.stream import resolve_passes
from src.errors import UserError
from src.nn.blocks import count_parameters
from src.nn.video_network import as_video_network
from src.protocols import results, table, write_results
from src.training.distributed import fail_together
from src.wording import number_of


def evaluate(config: DictConfig, directory: Path) -> dict[str, Any]:
    """``task=evaluate``: score ``checkpoint`` (or a baseline) on the test clips of ``data``.

    Returns:
        The content of ``results.json``.
    """
    network = build_inference_network(config)
    if not config.checkpoint and count_parameters(network, trainable=True):
        raise UserError(
            "There are no trained weights to evaluate: give checkpoint=<file>, or a baseline such as model=bicubic."
        )
    for sentence in evaluate_as_trained(config):
        rank_zero_only(print)(sentence, flush=True)
    restorer = build_restorer(config, network)
    data = build_data(config, restorer)
    samples = (config.callbacks or {}).get("samples")
    trainer = build_trainer(config, directory, training=False, callbacks=[instantiate(samples)] if samples else [])
    if trainer.is_global_zero:  # the other ranks find the files of the first
        data.prepare_data()  # reports a missing data set before anything is written
        tell_scored_frames(restorer, data)
    with claim_directory(config, directory, first=trainer.is_global_zero), fail_together(trainer, directory):
        outcome = score(config, directory, trainer, restorer, data, config.checkpoint)
        if trainer.is_global_zero:
            print("".join(f"{line}\n" for line in describe_published(config, outcome["summary"])), end="")
        return outcome


def tell_scored_frames(restorer: Any, data: Any) -> None:
    """Tell that a protocol scores one frame of each clip, where clips are longer than the window of the network."""
    if restorer.protocol.frames == "all":
        return
    clips = data.splits.test[:OPENED]
    frames = [len(clip.target_times()) for clip in data.evaluation_clips(clips, data.test_frames)]
    if max(frames, default=0) > data.geometry.window:
        print(
            f"protocol={restorer.protocol.name} scores the middle frame of each clip: {len(frames)} of {sum(frames)} "
            f"frames{' of the first clips' if len(data.splits.test) > OPENED else ''}. protocol.frames=all scores all.",
            flush=True,
        )


def score(
    config: DictConfig,
    directory: Path,
    trainer: pl.Trainer,
    restorer: Any,
    data: pl.LightningDataModule,
    checkpoint: str | Path | None,
) -> dict[str, Any]:
    """Run every test clip through the network and write the scores into ``directory``."""
    outcome = measure(config, trainer, restorer, data, checkpoint)
    if trainer.is_global_zero:
        outcome["code"] = complete_record(directory)
        write_results(directory / "results.json", outcome)
        console = Console()
        (console if console.is_terminal else Console(width=160)).print(table(outcome))  # a log has room
        described = outcome["protocol"]
        frames, clips = (number_of(described[f"{noun}s_counted"], noun) for noun in ("frame", "clip"))
        print(f"Scored: {frames} of {clips} of {described['data']}, {described['part']}.")
        print(f"Scores: {directory / 'results.json'}")
    return outcome


def measure(
    config: DictConfig,
    trainer: pl.Trainer,
    restorer: Any,
    data: pl.LightningDataModule,
    checkpoint: str | Path | None,
) -> dict[str, Any]:
    """Run every test clip through the network; return the scores as in ``results.json``."""
    trainer.test(restorer, datamodule=data, verbose=False)
    protocol, network = restorer.protocol, as_video_network(restorer.network)
    geometry = resolve_passes(network, protocol)
    whole = protocol.clip_length == "all"
    clips = data.splits.test  # type: ignore[attr-defined]
    return results(
        restorer.measured[-1],
        levels={int(1 / g.spacing): m for g, m in zip(restorer.geometries, restorer.measured, strict=True)}
        if protocol.factor
        else None,
        protocol=protocol,
        names=[clip.name for clip in clips],
        subsets=[clip.subset for clip in clips],
        degradation=to_plain(config.degradation),
        window=None if whole else geometry.window,
        clip_length=protocol.clip_length if isinstance(protocol.clip_length, str) else len(geometry.times),
        padding=network.temporal_padding if protocol.padding is None else protocol.padding,
        data=str(data.root),  # type: ignore[attr-defined]
        part=data.splits.scored_part,  # type: ignore[attr-defined]
        inputs=data.input_source,  # type: ignore[attr-defined]
        input_frames_limit=data.test_frames,  # type: ignore[attr-defined]
        **data.source_size.describe(),  # type: ignore[attr-defined]
        checkpoint=str(checkpoint) if checkpoint else None,
        commit=read_commit(),
    )
