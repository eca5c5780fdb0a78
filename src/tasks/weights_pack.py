"""Pack a checkpoint as safetensors, with a model card beside it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from src.atomic import atomic_write
from src.checkpoints import load, read_contents
from src.checkpoints.descriptions import is_own
from src.checkpoints.packing import check_finite, read_description, round_weights, write_weights
from src.checkpoints.safetensors_files import SUFFIX
from src.config.build import build_data, build_trainer
from src.data.credits import read_credits
from src.engine.stream import resolve_passes
from src.errors import UserError
from src.nn.blocks import fold_norms
from src.papers.baselines import Interpolation
from src.papers.restorer import Restorer
from src.protocols import Protocol
from src.report.before_after import draw_before_after
from src.report.model_card import (
    LAST,
    Evidence,
    TrainingData,
    collect_facts,
    render_card,
    rounding_loss,
    summarise_facts,
)
from src.report.runs import Run
from src.sweeps.run_files import read_configuration
from src.tasks.evaluate import measure
from src.trust import suggest_trust

ACCEPTED_LOSS = 0.01  # dB
SPLITS = {"training": "train", "validation": "validate", "test": "test"}
GROUPS = ("data", "degradation", "protocol")  # of a training's configuration, those that its scores depend on


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """Options of ``task=weights pack=<checkpoint>``.

    Args:
        pack: a checkpoint in the directory of its training.
        output: the file to write, ``.safetensors``.
        card: the model card; None: beside ``output``.
        half: store float16; ``auto``: unless that costs more than 0.01 dB on the test clips of the training.
        licence: of the weights.
        limits: what the weights are bad at, in words.
        picture: test clip of the picture; None: one of median gain.
        overwrite: replace existing files.
    """

    pack: str | None = None
    output: str | None = None
    card: str | None = None
    half: Literal["auto"] | bool = "auto"
    licence: str | None = None
    limits: str | None = None
    picture: str | None = None
    overwrite: bool = False


def pack(config: DictConfig, directory: Path, options: PackOptions) -> None:
    """Write the averaged weights of a checkpoint, their card, and a picture.

    Raises:
        UserError: the checkpoint is none of a training, its weights have diverged, an output exists, there is no such
            clip for the picture, the loss cannot be measured, or there are several devices.
    """
    checkpoint, output, card = _resolve_paths(options)
    run = checkpoint.absolute().parent.parent
    if not (run / "config.yaml").is_file():
        raise UserError(f"{checkpoint} lies in no run: pack <run>/checkpoints/last.ckpt, beside the run's config.yaml.")
    description, network = read_description(checkpoint), load(checkpoint)
    check_finite(network)
    training = read_configuration(run / "config.yaml")
    half, evidence, data = _measure(config, directory, training, checkpoint, network, options, card.with_suffix(".jpg"))
    facts = collect_facts(
        output.stem,
        checkpoint.absolute(),
        network,
        training,
        steps=_read_steps(checkpoint),
        half=half,
        evidence=evidence,
        data=data,
        licence=options.licence,
        limits=options.limits,
    )
    write_weights(output, network, description, half=half, card=summarise_facts(facts))
    with atomic_write(card) as stream:
        stream.write(render_card(facts, card.with_suffix(".jpg").name))
    print(f"Weights: {output} ({output.stat().st_size / 1e6:.2f} MB)   Card: {card}")


def _resolve_paths(options: PackOptions) -> tuple[Path, Path, Path]:
    if not options.output:
        raise UserError(f"Where to? Add output=<file>{SUFFIX}.")
    checkpoint, output = Path(os.path.expanduser(str(options.pack))), Path(os.path.expanduser(options.output))
    if not checkpoint.is_file():
        raise UserError(f"There is no checkpoint {checkpoint}: set pack=<run>/checkpoints/last.ckpt.")
    if output.suffix != SUFFIX:
        raise UserError(f"output={output} must end in {SUFFIX}.")
    card = Path(os.path.expanduser(options.card)) if options.card else output.with_suffix(".md")
    if card.suffix != ".md":
        raise UserError(f"card={card} must end in .md.")
    files = (output, card, card.with_suffix(".jpg"))
    if existing := [path for path in files if path.exists() and not options.overwrite]:
        raise UserError(f"{existing[0]} exists already: choose another name, or add overwrite=true.")
    return checkpoint, output, card


def _measure(
    config: DictConfig,
    directory: Path,
    training: DictConfig,
    checkpoint: Path,
    network: nn.Module,
    options: PackOptions,
    picture: Path,
) -> tuple[bool, Evidence, TrainingData]:
    """Score the weights beside a baseline, choose their type, and draw the picture."""
    settings = _settings(config, training)
    trainer = build_trainer(config, directory, training=False, enable_progress_bar=False)
    if trainer.world_size > 1:
        raise UserError(f"Packing measures on one device, not on {trainer.world_size}: add trainer.devices=1.")
    try:
        protocol = instantiate(settings.protocol)
        data: Any = build_data(settings, Restorer(network=network, protocol=protocol))
        data.prepare_data()
        if not data.splits.test:
            raise UserError(f"The data set in {data.root} has no test clips.")
    except UserError as error:
        if options.half == "auto":
            raise UserError(
                "The loss of float16 cannot be measured without the test clips of the training: set "
                f"data.root=<folder>, or half=true or half=false to pack without measuring. ({error})"
            ) from error
        print(f"Nothing is measured: {error}")
        stored = None if options.half else _read_own_results(checkpoint)
        return bool(options.half), Evidence(ours=stored), TrainingData()
    _check_picture(options.picture, [clip.name for clip in data.splits.test])

    def evaluate(one: nn.Module, rules: Protocol) -> Mapping[str, Any]:
        restorer = Restorer(network=one, protocol=rules)
        clips = build_data(settings, restorer)
        return measure(settings, trainer, restorer, clips, None)

    versions = {False: load(checkpoint), True: load(checkpoint)}  # copies would share their parametrised classes
    versions[True].load_state_dict(round_weights(network.state_dict()))
    for version in versions.values():
        fold_norms(version)
    wanted = (True, False) if options.half == "auto" else (options.half,)
    scores: dict[bool, Mapping[str, Any]] = {}
    for half in wanted:
        own = None if half else _read_own_results(checkpoint)
        known = own and True in scores and _rules(own) == _rules(scores[True])
        scores[half] = own if own and known else evaluate(versions[half], protocol)
    half = bool(options.half) if options.half != "auto" else _choose(scores[False], scores[True])
    baseline, rules = _baseline(network, protocol)
    evidence = Evidence(
        ours=scores[half],
        baseline=evaluate(baseline, rules),
        baseline_name=baseline.name,
        full=scores.get(False) if half else None,
    )
    gains = list(evidence.gains())
    name = options.picture or (gains[len(gains) // 2] if gains else None)
    clips = data.test_dataloader().dataset
    clip = next((clip for clip in clips if clip.name == name), clips[0])
    time = draw_before_after(picture, versions[half].cpu(), baseline.cpu(), clip)
    return (
        half,
        replace(evidence, clip=clip.name, time=float(time), median=clip.name == name != options.picture),
        _list_clips(data, OmegaConf.to_container(settings.data.layout)),
    )


def _read_own_results(checkpoint: Path) -> Mapping[str, Any] | None:
    """Return the scores of a run's last checkpoint, with which its training ended."""
    run = checkpoint.absolute().parent.parent
    return Run(run).results if checkpoint.name == LAST and (run / "results.json").is_file() else None


def _rules(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what scores depend on beside the weights."""
    return {key: value for key, value in results["protocol"].items() if key not in ("checkpoint", "commit")}


def _check_picture(name: str | None, clips: list[str]) -> None:
    if name is not None and name not in clips:
        raise UserError(f"There is no test clip picture={name}: choose one of {', '.join(dict.fromkeys(clips))}.")


def _settings(config: DictConfig, training: DictConfig) -> DictConfig:
    """Return this command's configuration with the data, the degradation and the protocol of the training."""
    settings = copy.deepcopy(config)
    with open_dict(settings):
        for group in GROUPS:
            settings[group] = training[group]
            if foreign := _find_foreign(OmegaConf.to_container(training[group])):
                way = suggest_trust({"_target_": foreign})
                raise UserError(f"The run's config.yaml names {foreign} in {group}, no part of this suite{way}.")
        settings.seed = training.seed
        overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        if any(override.startswith("data.root=") for override in overrides):
            settings.data.root = config.data.root
    return settings


def _find_foreign(node: Any) -> str | None:
    """Return the first target that the suite does not define: a run's directory may come from anywhere."""
    if isinstance(node, dict) and "_target_" in node and not is_own(str(node["_target_"])):
        return str(node["_target_"])
    children = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    return next(filter(None, map(_find_foreign, children)), None)


def _choose(full: Mapping[str, Any], half: Mapping[str, Any]) -> bool:
    """Return whether float16 is good enough, and say why."""
    loss = rounding_loss(full, half)
    for name, scores in (("float32", full), ("float16", half)):
        print(f"{name}: {scores['summary']['psnr']:.4f} dB, SSIM {scores['summary']['ssim']:.5f}")
    if loss < ACCEPTED_LOSS:
        print(f"Rounding costs {max(loss, 0):.4f} dB: stored as float16.")
        return True
    print(f"Rounding costs {loss:.4f} dB, {ACCEPTED_LOSS} or more: stored as float32; half=true rounds nevertheless.")
    return False


def _baseline(network: nn.Module, protocol: Protocol) -> tuple[Interpolation, Protocol]:
    """Return interpolation at the times of a network's passes, and the protocol that gives it the same passes."""
    if protocol.clip_length == "all" or protocol.factor:
        return Interpolation(geometry=network.geometry), protocol  # type: ignore[arg-type]
    changes: dict[str, Any] = {"clip_length": None, "padding": None, "context": 0, "ensemble": 1}
    return Interpolation(geometry=resolve_passes(network, protocol)), replace(protocol, **changes)


def _list_clips(data: Any, layout: Any) -> TrainingData:
    """Return the clips of a data set with their terms, from its folder or from the list that the layout is."""
    splits = {use: getattr(data.splits, split) for use, split in SPLITS.items()}
    places: dict[str, set[Path]] = {}
    for clip in chain(*splits.values()):
        places.setdefault(clip.name, set()).add(clip.path)
    names: dict[Path, str] = {}  # a file may be several clips, e.g. at two sizes
    uses: dict[str, list[str]] = {}
    root = Path(data.root).resolve()
    for use, clips in splits.items():
        for clip in clips:
            ambiguous = len(places[clip.name]) > 1 and clip.path.is_relative_to(root)
            name = clip.path.relative_to(root).with_suffix("").as_posix() if ambiguous else clip.name
            listed = uses.setdefault(names.setdefault(clip.path, name), [])
            listed += [use] if use not in listed else []
    return TrainingData(uses=uses, credits=read_credits(Path(data.root), uses, layout.get("clips")))


def _read_steps(checkpoint: Path) -> int | None:
    steps = read_contents(checkpoint).get("global_step")
    return steps if isinstance(steps, int) else None
