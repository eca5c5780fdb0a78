"""Benchmark networks: parameters, FLOPs, time and memory, beside the time of plain convolutions."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from src.bench.deformable import compare_operators, import_torchvision, replace_operator
from src.bench.display import build_tables, plot, warn_slow_loading
from src.bench.models import OWN_MODEL, measure_model
from src.bench.options import BenchOptions
from src.config.code_record import complete_record
from src.config.composition import compose
from src.config.options import override_options
from src.config.run_directory import claim_directory, read_commit
from src.nn.flops import count


def bench(config: DictConfig, directory: Path, *, bench: BenchOptions) -> dict[str, Any]:
    """``task=bench``: measure ``bench.models``, each on a window of ``bench.height`` x ``bench.width`` input pixels.

    An entry is a model, followed by changes to it: ``edvr_m model/network/fuse=conv bench.crop=64``. Without entries
    (``bench.models=null``), the configuration's own ``model`` is measured. Parameters that only training uses (a guide)
    count, too.

    - ``flops``: two per multiply-add, for one window; deformable convolutions count as their multiplications.
    - ``seconds_per_frame``: time of streaming per output frame, with all copies of ``protocol.ensemble``, which is
      repeated as ``ensemble``; ``frames_per_second`` is its inverse.
    - ``seconds_per_pass``: time from the last input frame of a pass to its new output frames, the latency.
    - ``seconds_per_step``: time of a training step on ``bench.batch`` crops of ``bench.crop`` input pixels, with all
      losses; weights that training would load (``model.imagenet``) are random.
    - ``hours``: time of ``bench.steps`` of them.
    - ``floor_per_frame``, ``floor_per_step``: time of the same multiply-adds at the speed of a plain channels-last 3x3
      convolution of 64 channels, measured in turn.
    - ``samples_per_second``: rate of the training steps.
    - ``loader_samples_per_second`` (``bench.loader=true``): rate of reading the same samples from the entry's ``data``,
      with the number of workers of its training. A rate below twice that of the steps prints a warning.
    - ``seconds_all_clips``, ``frames_of_clips``, ``seconds_per_frame_of_clips`` (``bench.clips=true``): time of
      streaming over all test clips of the entry's ``data`` by ``protocol``, without reading and scoring.
    - ``peak_memory``: peak memory of restoring, in bytes: of the device; on the CPU, of the tensors alive at the same
      time.

    Times are medians of ``bench.repeats`` calls after two warm-up calls, of up to 20 calls for short ones. With
    ``bench.mean=true``, those of restoring are means of ``bench.repeats`` windows.

    With ``bench.deformable=true`` modulated deformable convolutions are measured against plain ones of the same size,
    and against torchvision's on a CUDA device with torchvision.

    Returns:
        The content of ``results.json``: ``models.<entry>`` and ``deformable``.
    """
    with claim_directory(config, directory):
        outcome = _measure(config, bench) | {"code": complete_record(directory)}
        (directory / "results.json").write_text(json.dumps(outcome, indent=2) + "\n")
        console = Console()
        if not console.is_terminal:  # use a fixed width so tables do not wrap
            console = Console(width=160)
        for table in build_tables(outcome):
            console.print(table)
        for warning in warn_slow_loading(outcome["models"]):
            print(warning)
        plot(outcome, directory / "plot.svg")
        print(f"Results: {directory / 'results.json'}   Plot: {directory / 'plot.svg'}")
        return outcome


def _measure(config: DictConfig, bench: BenchOptions) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    entries = [OWN_MODEL] if bench.models is None else bench.models
    return {
        "models": {entry: _measure_entry(entry, config, bench, device) for entry in track(entries, "Measuring")},
        "deformable": compare_operators(bench.height, bench.width, bench.repeats, device) if bench.deformable else [],
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "input": [bench.height, bench.width],
        "torch": torch.__version__,
        "commit": read_commit(),
    }


def _measure_entry(entry: str, config: DictConfig, bench: BenchOptions, device: torch.device) -> dict[str, Any]:
    model, *changes = entry.split()
    own_options = [change.removeprefix("bench.") for change in changes if change.startswith("bench.")]
    options = override_options(bench, own_options, "bench")
    if entry != OWN_MODEL:
        changes = [change for change in changes if not change.startswith("bench.")]
        shared = f"protocol.ensemble={config.protocol.ensemble}"  # of all entries without one of their own
        config = compose(f"model={model}", f"size={bench.size}", shared, *changes)
    metrics: dict[str, Any] = count(instantiate(config.model.network), options.height, options.width)
    if bench.time:
        with replace_operator(import_torchvision()) if options.operator == "torchvision" else nullcontext():
            metrics |= measure_model(config, options, device)
    return metrics
