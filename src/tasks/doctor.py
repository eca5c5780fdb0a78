"""Diagnose the installation: packages, devices, data sets, and damaged clips."""

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

MAX_FOLDERS = 1000  # of frames, opened one by one within seconds; Vimeo-90K has 91,701


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Options of ``doctor``; conf/task/doctor.yaml explains them."""

    read: bool = False
    processes: Annotated[int, Ge(1)] | None = None


def doctor(config: DictConfig, directory: Path, *, doctor: DoctorOptions) -> None:
    """``task=doctor``: print a line for each finding, marked ``ok``, ``no`` (missing) or ``!!`` (a problem).

    Every clip of the chosen data set (``data=``) is opened; ``doctor.read=true`` decodes every frame.

    Raises:
        UserError: a package is missing, or a data set is incomplete or damaged.
    """
    problems = [*_check_packages(), *_check_devices()]
    logging.disable(logging.WARNING)  # the warnings of layouts and readers are printed as findings
    try:
        problems += _check_data_sets(config, doctor)
    finally:
        logging.disable(logging.NOTSET)
    if problems:
        raise UserError(f"Problems found: {'; '.join(problems)}. See above.")


def _print(mark: str, finding: str) -> None:
    print(f"{mark}  {finding}", flush=True)


def _check_packages() -> list[str]:
    missing = []
    _print("ok", f"Python {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            _print("ok", f"{name} {version(name)}")
        except PackageNotFoundError:
            _print("!!", f"{name} is not installed: pip install -r requirements.lock")
            missing.append(f"{name} is missing")
    return missing


def _check_devices() -> list[str]:
    _print("ok", f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads for torch")
    if not torch.cuda.is_available():
        _print("no", "no CUDA device: training at full size would take months; use size=mini")
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        _print("ok", f"{device.name}, {device.total_memory / 2**30:.0f} GiB")
    for backbone in (MobileNetV2, VGG16):
        file, name = imagenet_file(backbone), backbone.__name__
        if file.exists():
            _print("ok", f"ImageNet weights of {name}, {file}")
        else:
            _print("no", f"ImageNet weights of {name} (VTSR at full size): downloaded to {file} when needed")
    return []


def _check_data_sets(config: DictConfig, options: DoctorOptions) -> list[str]:
    """Check every data set at its default root, the chosen one at ``data.root``."""
    problems = []
    config = copy.deepcopy(config)
    config.data.skip_damaged = sys.maxsize  # list all damaged clips, not only the first
    chosen = HydraConfig.get().runtime.choices["data"] if HydraConfig.initialized() else "procedural"
    for name in sorted(path.stem for path in (CONF / "data").glob("[!_]*.yaml")):
        data = config.data if name == chosen else compose(f"data={name}", f"paths.data={config.paths.data}").data
        needed = [f"data.{option}=<folder>" for option in ("low", "high", "root") if OmegaConf.is_missing(data, option)]
        root = None if needed else Path(os.path.expanduser(data.root))
        if root is None or not root.exists():
            place = f"at {root}" if root else f"set {' '.join(needed)}"
            state = "not rendered yet; rendered when first used" if name == "procedural" else "not found"
            _print("no", f"data={name}: {state} ({place})")
            continue
        layout = instantiate(data.layout)
        complaints, splits = inspect(layout, root), Splits()
        for complaint in complaints:
            _print("!!", f"data={name}: {complaint}")
            problems.append(f"data={name} is incomplete")
        if not complaints:
            splits = layout(root)
            counts = [(len(splits.train), "train"), (len(splits.validate), "validate"), (len(splits.test), "test")]
            clips = ", ".join(f"{count}{' clips' if use == 'train' else ''} to {use}" for count, use in counts)
            _print("ok", f"data={name}: {clips}, at {root}")
        if name == chosen:
            problems += _check_clips(options, name, root, splits)
    return problems


def _check_clips(options: DoctorOptions, name: str, root: Path, splits: Splits) -> list[str]:
    """Check every clip of the chosen data set; print those that are damaged or unusual."""
    read = options.read
    trained, evaluated = _list_paths(splits.train), _list_paths([*splits.validate, *splits.test])
    known = trained | evaluated | {Path(path) for path in splits.damaged}
    paths = sorted(known or {path.resolve() for path in find_videos(root)}, key=_order)
    folders = sum(path.is_dir() for path in paths)
    if folders > MAX_FOLDERS and not read:
        _print("no", f"data={name}: {folders} folders of frames are not opened one by one; doctor.read=true reads them")
        paths = [path for path in paths if not path.is_dir()]
    findings = check_clips(paths, read=read, processes=options.processes or os.cpu_count() or 1)
    damaged = []
    for finding in _track(findings, len(paths)):
        if finding.fault:
            damaged.append(finding)
            share = f" ({finding.readable} of {finding.frames} frames can be read)" if finding.frames else ""
            _print("!!", f"data={name}: {finding.fault}{share}")
        elif finding.notes:
            _print("ok", f"data={name}: {finding.path}: {'; '.join(finding.notes)}")
    checked = "decoded, every frame," if read else "opened (doctor.read=true decodes every frame)"
    if not damaged:
        _print("ok", f"data={name}: {len(paths)} clips {checked} and none is damaged")
        return []
    advice = "; ".join(_advise(damaged, evaluated))
    _print("!!", f"data={name}: {len(paths)} clips {checked} and {len(damaged)} are damaged; {advice}")
    return [f"{len(damaged)} clips of data={name} are damaged"]


def _list_paths(clips: Sequence[Clip]) -> set[Path]:
    return {path for clip in clips for path in (clip.path, *clip.precomputed.values())}


def _order(path: Path) -> list[tuple[int, str]]:
    return natural_key(str(path))


def _track(findings: Iterator[Finding], total: int) -> Iterable[Finding]:
    console = Console(stderr=True)
    return track(findings, "Reading", total, console=console, disable=not console.is_terminal, transient=True)


def _advise(damaged: Sequence[Finding], evaluated: set[Path]) -> Iterator[str]:
    """Yield the option to add and the clips to replace."""
    skipped = {finding.path for finding in damaged if finding.skipped}
    if skipped:
        yield f"data.skip_damaged={len(skipped)} trains without the unreadable ones"
    if others := sorted({finding.path for finding in damaged} - skipped, key=_order):
        yield f"replace {abbreviate(map(str, others))}, or training may use damaged frames or stop at them"
    if scored := sorted(skipped & evaluated, key=_order):
        yield f"replace {abbreviate(map(str, scored))}, since scores cannot skip clips"
