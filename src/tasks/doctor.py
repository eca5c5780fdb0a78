"""Says what is installed, which device there is, which data sets are found and whole, and what is amiss with clips."""

from __future__ import annotations

import copy
import logging
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from src.config.composition import CONF, compose
from src.data.integrity import Finding, check_clips
from src.data.layouts.inspection import inspect
from src.data.splits import Clip, Splits, abbreviate
from src.errors import UserError
from src.nn.backbones import VGG16, MobileNetV2, imagenet_file
from src.video.discovery import find_videos, natural_key

PACKAGES = ("torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "kornia", "wandb", "decord", "av", "numpy")

FOLDERS = 1000  # of frames, which take seconds to open; Vimeo-90K has 91,701


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Options of ``doctor``; conf/task/doctor.yaml explains them."""

    read: bool = False
    processes: Annotated[int, Ge(1)] | None = None


def doctor(config: DictConfig, directory: Path, *, doctor: DoctorOptions) -> None:
    """``task=doctor``: prints one line a finding; ``ok``, ``no`` or ``!!`` in front says how it stands.

    Of the data set that is chosen (``data=``) each clip is opened, and with ``doctor.read=true`` every frame decoded.

    Raises:
        UserError: a package is missing, or a data set that was found is not whole.
    """
    faults = [*_installation(), *_devices()]
    logging.disable(logging.WARNING)  # what layouts and readers warn of is told here
    try:
        faults += _data_sets(config, doctor)
    finally:
        logging.disable(logging.NOTSET)
    if faults:
        raise UserError(f"{len(faults)} of these need attention: " + "; ".join(faults))


def _say(mark: str, what: str) -> None:
    print(f"{mark}  {what}", flush=True)


def _installation() -> list[str]:
    faults = []
    _say("ok", f"Python {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            _say("ok", f"{name} {version(name)}")
        except PackageNotFoundError:
            _say("!!", f"{name} is not installed: pip install -r requirements.lock")
            faults.append(name)
    return faults


def _devices() -> list[str]:
    _say("ok", f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads for torch")
    if not torch.cuda.is_available():
        _say("no", "no CUDA device: trainings at full size would take months; use size=mini")
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        _say("ok", f"{about.name}, {about.total_memory / 2**30:.0f} GiB")
    for backbone in (MobileNetV2, VGG16):
        file, name = imagenet_file(backbone), backbone.__name__
        if file.exists():
            _say("ok", f"ImageNet weights of {name}, {file}")
        else:
            _say("no", f"ImageNet weights of {name} (VTSR at full size): downloaded to {file} when they are needed")
    return []


def _data_sets(config: DictConfig, options: DoctorOptions) -> list[str]:
    """Every data set at its own place, the one that the command line names at the place that it gives."""
    faults = []
    config = copy.deepcopy(config)
    config.data.skip_damaged = sys.maxsize  # a layout shall not end at the first
    chosen = HydraConfig.get().runtime.choices["data"] if HydraConfig.initialized() else "procedural"
    for path in sorted((CONF / "data").glob("[!_]*.yaml")):
        data = (
            config.data if path.stem == chosen else compose(f"data={path.stem}", f"paths.data={config.paths.data}").data
        )
        root = None if OmegaConf.is_missing(data, "root") else Path(data.root).expanduser()
        if root is None or not root.exists():
            where = f"at {root}" if root else "data.root=<folder> says where"
            what = "not rendered yet; made when it is first used" if path.stem == "procedural" else "not found"
            _say("no", f"data={path.stem}: {what} ({where})")
            continue
        layout = instantiate(data.layout)
        complaints, splits = inspect(layout, root), Splits()
        for complaint in complaints:
            _say("!!", f"data={path.stem}: {complaint}")
            faults.append(f"data={path.stem}")
        if not complaints:
            splits = layout(root)
            counts = (
                f"{len(splits.train)} clips to train, {len(splits.validate)} to validate, {len(splits.test)} to test"
            )
            _say("ok", f"data={path.stem}: {counts}, at {root}")
        if path.stem == chosen:
            faults += _clips(options, path.stem, root, splits)
    return faults


def _clips(options: DoctorOptions, name: str, root: Path, splits: Splits) -> list[str]:
    """Every clip of the chosen data set; a line for each that is damaged, or not as most are."""
    read = options.read
    trained, evaluated = _paths(splits.train), _paths([*splits.validate, *splits.test])
    known = trained | evaluated | {Path(path) for path in splits.damaged}
    paths = sorted(known or {path.resolve() for path in find_videos(root)}, key=_order)
    folders = sum(path.is_dir() for path in paths)
    if folders > FOLDERS and not read:
        _say("no", f"data={name}: {folders} folders of frames are not opened one by one; doctor.read=true reads them")
        paths = [path for path in paths if not path.is_dir()]
    found = check_clips(paths, read=read, processes=options.processes or os.cpu_count() or 1)
    bad = []
    for finding in _watched(found, len(paths)):
        if finding.fault:
            bad.append(finding)
            share = f" ({finding.readable} of {finding.frames} frames can be read)" if finding.frames else ""
            _say("!!", f"data={name}: {finding.fault}{share}")
        elif finding.notes:
            _say("ok", f"data={name}: {finding.path}: {'; '.join(finding.notes)}")
    how = "are decoded, every frame," if read else "are opened (doctor.read=true decodes every frame)"
    if not bad:
        _say("ok", f"data={name}: {len(paths)} clips {how} and none is damaged")
        return []
    _say(
        "!!", f"data={name}: {len(paths)} clips {how} and {len(bad)} are damaged; {'; '.join(_advice(bad, evaluated))}"
    )
    return [f"{len(bad)} clips of data={name}"]


def _paths(clips: Sequence[Clip]) -> set[Path]:
    return {path for clip in clips for path in (clip.path, *clip.precomputed.values())}


def _order(path: Path) -> list[tuple[int, str]]:
    return natural_key(str(path))


def _watched(findings: Iterator[Finding], total: int) -> Iterable[Finding]:
    console = Console(stderr=True)
    return track(findings, "Reading", total, console=console, disable=not console.is_terminal, transient=True)


def _advice(bad: Sequence[Finding], evaluated: set[Path]) -> Iterator[str]:
    """What to type, and what to replace."""
    skipped = {finding.path for finding in bad if finding.skipped}
    if skipped:
        yield f"data.skip_damaged={len(skipped)} trains without those that cannot be read"
    if others := sorted({finding.path for finding in bad} - skipped, key=_order):
        yield f"replace {abbreviate(map(str, others))}, which training would take as they are, or end with"
    if scored := sorted(skipped & evaluated, key=_order):
        yield f"replace {abbreviate(map(str, scored))}, which scores are taken of: these leave nothing out"
