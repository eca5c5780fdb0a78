"""What networks cost: parameters, operations, time and memory, side by side."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from src.config import build_restorer, claim, commit, compose
from src.engine.memory import peak
from src.nn.blocks import count_parameters, fold_weight_norm
from src.nn.cost import count

OWN = "model"  # what the configuration's own model is called where it alone is measured


def bench(config: DictConfig, directory: Path) -> dict[str, Any]:
    """``task=bench``: each of ``bench.models`` on one window of ``bench.height`` x ``bench.width`` input pixels.

    An entry is a model, with changes to it behind spaces: ``edvr_m model/network/fuse=conv``; without entries
    (``bench.models=null``) the configuration's own ``model`` is measured. Parameters that only training uses (a guide)
    count, too.

    ``flops`` are two for each multiply-add, for one window, deformable convolutions counted as what they multiply.
    ``seconds_per_frame`` is what streaming takes for each frame of its output, ``seconds_per_step`` that of a training
    step on ``bench.batch`` crops of ``bench.crop`` input pixels; both the median of ``bench.repeats`` after
    one that does not count. ``peak_memory`` in bytes, of restoring: the device's, on
    the CPU what tensors take at the same time.

    Returns:
        The content of ``results.json``: ``models.<name>``.
    """
    with claim(config, directory):
        return _measured(config, directory)


def _measured(config: DictConfig, directory: Path) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models: dict[str, dict[str, Any]] = {}
    for name in track(config.bench.models or [OWN], "Measuring"):
        model, *changes = name.split()
        chosen = config if name == OWN else compose(f"model={model}", f"size={config.bench.size}", *changes)
        models[name] = count(instantiate(chosen.model.network), config.bench.height, config.bench.width)
        if config.bench.time:
            models[name] |= measure(chosen, config.bench, device)
    outcome = {
        "models": models,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "input": [config.bench.height, config.bench.width],
        "torch": torch.__version__,
        "commit": commit(),
    }
    (directory / "results.json").write_text(json.dumps(outcome, indent=2) + "\n")
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(_table(outcome))  # a log has room
    print(f"Figures: {directory / 'results.json'}")
    return outcome


def measure(config: DictConfig, options: DictConfig, device: torch.device) -> dict[str, float]:
    """Seconds and bytes of restoring a window and of a training step."""
    torch.manual_seed(0)
    network = instantiate(config.model.network).to(device)
    geometry, found = network.geometry, {}
    if count_parameters(network, trainable=True):
        restorer = build_restorer(config, network).to(device)
        optimizer = torch.optim.Adam(network.parameters(), 1e-6)
        side = geometry.scale * options.crop
        supervised = restorer.training_geometry
        samples = max(1, options.batch // restorer.passes)
        inputs = torch.rand(samples, supervised.window, 3, options.crop, options.crop, device=device)
        targets = torch.rand(samples, len(supervised.times), 3, side, side, device=device)

        def step() -> None:
            optimizer.zero_grad()
            torch.stack(list(restorer.losses(inputs, targets).values())).sum().backward()
            optimizer.step()

        found["seconds_per_step"] = _median(step, options.repeats, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    fold_weight_norm(network)
    clip = torch.rand(1, geometry.window, 3, options.height, options.width, device=device)
    found["seconds_per_frame"] = streamed(network, clip, options.repeats, device)
    found["frames_per_second"] = 1 / found["seconds_per_frame"]
    found["peak_memory"] = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak(network, clip.shape)
    return found


@torch.inference_mode()
def streamed(network: Any, clip: Tensor, repeats: int, device: torch.device) -> float:
    """Seconds that :func:`src.engine.stream.stream` takes for an output frame, on frames like those of ``clip``."""
    if hasattr(network, "stages"):
        seconds, frames = 0.0, Fraction(1)  # for each frame of the input; how many of these stages there are then
        for stage in network.stages.values():
            geometry = stage.geometry
            frames /= geometry.spacing
            height, width = clip.shape[-2:]
            given = torch.rand(1, geometry.window, 3, height, width, device=device)
            seconds += float(frames) * streamed(stage, given, repeats, device)
            clip = torch.empty(1, 1, 3, height * geometry.scale, width * geometry.scale, device="meta")
        return seconds / float(frames)
    stride, added = network.geometry.stride, float(network.geometry.stride / network.geometry.spacing)
    if not hasattr(network, "frame_features"):
        return _median(lambda: network(clip), repeats, device) / added
    features = network.frame_features(clip)  # most of which are kept when the window moves on
    new = clip[:, : getattr(network, "feature_window", 1) - 1 + stride]
    return _median(lambda: (network.frame_features(new), network.restore(*features)), repeats, device) / added


def _median(work: Callable[[], Any], repeats: int, device: torch.device) -> float:
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _table(outcome: dict[str, Any]) -> Table:
    height, width = outcome["input"]
    table = Table(title=f"One window of {width}x{height} input frames, {outcome['device']}")
    table.add_column("model")
    for title in ("parameters", "GFLOPs", "s/frame", "s/step", "peak MiB"):
        table.add_column(title, justify="right")
    first = next(iter(outcome["models"].values()))
    for name, row in outcome["models"].items():
        seconds = [f"{row[key]:.3g}" if key in row else "" for key in ("seconds_per_frame", "seconds_per_step")]
        memory = f"{row['peak_memory'] / 2**20:,.0f}" if "peak_memory" in row else ""
        if "seconds_per_step" in row and "seconds_per_step" in first and row is not first:
            seconds[1] += f" ({row['seconds_per_step'] / first['seconds_per_step']:.2f} x)"
        table.add_row(name, f"{row['parameters']:,}", f"{row['flops'] / 1e9:,.1f}", *seconds, memory)
    return table
