"""Says what is installed, which device there is, and which data sets are found and whole, a line each."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.config import CONF, compose
from src.data.layouts import inspect
from src.errors import Problem
from src.nn.backbones import VGG16, MobileNetV2, imagenet_file

PACKAGES = ("torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "kornia", "wandb", "decord", "av", "numpy")


def doctor(config: DictConfig, directory: Path) -> None:
    """``task=doctor``: prints one line a finding; ``ok``, ``no`` or ``!!`` in front says how it stands.

    Raises:
        Problem: a package is missing, or a data set that was found is not whole.
    """
    faults = [*_installation(), *_devices(), *_data_sets(config)]
    if faults:
        raise Problem(f"{len(faults)} of these need attention: " + "; ".join(faults))


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


def _data_sets(config: DictConfig) -> list[str]:
    """Every data set at its own place, the one that the command line names at the place that it gives."""
    faults = []
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
        complaints = inspect(instantiate(data.layout), root)
        for complaint in complaints:
            _say("!!", f"data={path.stem}: {complaint}")
            faults.append(f"data={path.stem}")
        if not complaints:
            splits = instantiate(data.layout)(root)
            counts = (
                f"{len(splits.train)} clips to train, {len(splits.validate)} to validate, {len(splits.test)} to test"
            )
            _say("ok", f"data={path.stem}: {counts}, at {root}")
    return faults
