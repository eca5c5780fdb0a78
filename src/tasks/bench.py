"""What networks cost: parameters, operations, time and memory, side by side, and the least that they could cost."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from annotated_types import Ge
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from src.config.build import build_data, build_restorer
from src.config.composition import compose
from src.config.options import override_options
from src.config.run_directory import claim_directory, read_commit
from src.data.datamodule import DataModule
from src.engine.cascade import Cascade
from src.engine.memory import measure_peak
from src.errors import UserError
from src.nn.blocks import compile_parts, count_parameters, fold_norms
from src.nn.clips import to_fast_layout
from src.nn.flops import count
from src.nn.video_network import as_video_network
from src.ops import deform_conv
from src.papers.restorer import fused
from src.tasks.throughput import read

OWN = "model"  # what the configuration's own model is called where it alone is measured
MOST = 20  # repeats of what is short
FEATURES, GROUPS = 64, 8  # channels, deformable groups: of EDVR-M, Zooming SlowMo and DSFN


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of ``bench``; conf/task/bench.yaml explains them."""

    models: Sequence[str] | None = ("bicubic", "zsm", "edvr_m", "edvr_l")
    size: str = "full"
    height: Annotated[int, Ge(1)] = 180
    width: Annotated[int, Ge(1)] = 320
    time: bool = True
    repeats: Annotated[int, Ge(1)] = 3
    precision: Literal["32", "bf16"] = "32"
    operator: Literal["ours", "torchvision"] = "ours"
    compile: bool = False
    deformable: bool = True
    loader: bool = False
    batch: Annotated[int, Ge(1)] = 1
    crop: Annotated[int, Ge(1)] = 32


class Timing(NamedTuple):
    """Median seconds of some work, and its floor: what its multiply-adds alone would take in a convolution."""

    seconds: float
    floor: float

    @property
    def ratio(self) -> float:
        return self.seconds / self.floor if self.floor else float("nan")

    def times(self, factor: float) -> Timing:
        return Timing(self.seconds * factor, self.floor * factor)


def bench(config: DictConfig, directory: Path, *, bench: BenchOptions) -> dict[str, Any]:
    """``task=bench``: each of ``bench.models`` on one window of ``bench.height`` x ``bench.width`` input pixels.

    An entry is a model, with changes to it behind spaces: ``edvr_m model/network/fuse=conv bench.crop=64``; without
    entries (``bench.models=null``) the configuration's own ``model`` is measured. Parameters that only training uses
    (a guide) count, too.

    ``flops`` are two for each multiply-add, for one window, deformable convolutions counted as what they multiply.
    ``seconds_per_frame`` is what streaming takes for each frame of its output, ``seconds_per_step`` that of a training
    step on ``bench.batch`` crops of ``bench.crop`` input pixels; both the median of ``bench.repeats`` after two that do
    not count, or of up to 20 where those are short. Beside each stands its ``floor_...``: the time that its
    multiply-adds take at the speed that a plain 3x3 convolution of 64 channels, channels last, reaches in turn with it.
    ``peak_memory`` in bytes, of restoring: the device's, on the CPU what tensors take at the same time.

    With ``bench.loader=true`` the same samples are read from the entry's ``data``, by as many processes as training has
    for it: ``loader_samples_per_second``. Where that is less than twice what steps take, it is said.

    With ``bench.deformable=true`` modulated deformable convolutions are measured against plain ones of the same size,
    and against torchvision's where there are both a CUDA device and torchvision.

    Returns:
        The content of ``results.json``: ``models.<name>`` and ``deformable``.
    """
    with claim_directory(config, directory):
        return _measured(config, directory, bench)


def _measured(config: DictConfig, directory: Path, bench: BenchOptions) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models: dict[str, dict[str, Any]] = {}
    for name in track([OWN] if bench.models is None else bench.models, "Measuring"):
        model, *changes = name.split()
        own = [change.removeprefix("bench.") for change in changes if change.startswith("bench.")]
        options = override_options(bench, own, "bench")
        changes = [change for change in changes if not change.startswith("bench.")]
        chosen = config if name == OWN else compose(f"model={model}", f"size={bench.size}", *changes)
        models[name] = count(instantiate(chosen.model.network), options.height, options.width)
        if bench.time:
            with operator(_torchvision()) if options.operator == "torchvision" else nullcontext():
                models[name] |= measure(chosen, options, device)
    outcome = {
        "models": models,
        "deformable": compared(bench, device) if bench.deformable else [],
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "input": [bench.height, bench.width],
        "torch": torch.__version__,
        "commit": read_commit(),
    }
    (directory / "results.json").write_text(json.dumps(outcome, indent=2) + "\n")
    console = Console()
    for table in _tables(outcome):
        (console if console.is_terminal else Console(width=160)).print(table)  # a log has room
    for sentence in _limits(models):
        print(sentence)
    _draw(outcome, directory / "plot.svg")
    print(f"Figures: {directory / 'results.json'}   Plot: {directory / 'plot.svg'}")
    return outcome


def measure(config: DictConfig, options: BenchOptions, device: torch.device) -> dict[str, float]:
    """Seconds, their floors, and bytes of restoring a window and of a training step."""
    torch.manual_seed(0)
    network = instantiate(config.model.network).to(device)
    geometry, found = network.geometry, {}
    low = torch.autocast(device.type, torch.bfloat16, options.precision == "bf16")
    if count_parameters(network, trainable=True):
        restorer = build_restorer(config, network).to(device)
        assert restorer.optimizer is not None
        optimizer = fused(restorer.optimizer(network.parameters()))
        side = geometry.scale * options.crop
        supervised = restorer.training_geometry
        samples = max(1, options.batch // restorer.passes_per_sample)
        inputs = torch.rand(samples, supervised.window, 3, options.crop, options.crop, device=device)
        targets = torch.rand(samples, len(supervised.times), 3, side, side, device=device)

        def step() -> None:
            optimizer.zero_grad()
            with low:
                loss = torch.stack(list(restorer.losses(inputs, targets).values())).sum()
            loss.backward()
            optimizer.step()

        found["seconds_per_step"], found["floor_per_step"] = timing = timed(step, options.repeats, device)
        found["samples_per_second"] = samples / timing.seconds
        if options.loader:
            own = {"crop": side, "batch_size": samples * restorer.passes_per_sample}
            data = cast(DataModule, build_data(cast(DictConfig, OmegaConf.merge(config, {"data": own})), restorer))
            seconds, _, given = read(data)
            found["loader_samples_per_second"] = given / seconds
        del optimizer, restorer
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    fold_norms(network).requires_grad_(False)
    if options.compile:
        torch.compiler.reset()  # or what another model was compiled for would count, as shapes that vary
        compile_parts(network)
    clip = torch.rand(1, geometry.window, 3, options.height, options.width, device=device)
    with low:
        timing = streamed(network, clip, options.repeats, device)
    found["seconds_per_frame"], found["floor_per_frame"] = timing
    found["frames_per_second"] = 1 / timing.seconds
    on_gpu = device.type == "cuda"
    found["peak_memory"] = torch.cuda.max_memory_allocated() if on_gpu else measure_peak(network, clip.shape)
    return found


@torch.inference_mode()
def streamed(network: nn.Module, clip: Tensor, repeats: int, device: torch.device) -> Timing:
    """Time :func:`src.engine.stream.stream` for each output frame, on frames like those of ``clip``."""
    if isinstance(network, Cascade):
        whole, frames = Timing(0.0, 0.0), Fraction(1)  # a frame of the input; how many of these stages there are then
        for stage in network.networks:
            geometry = stage.geometry
            frames /= geometry.spacing
            height, width = clip.shape[-2:]
            given = torch.rand(1, geometry.window, 3, height, width, device=device)
            part = streamed(stage, given, repeats, device).times(float(frames))
            whole = Timing(whole.seconds + part.seconds, whole.floor + part.floor)
            clip = torch.empty(1, 1, 3, height * geometry.scale, width * geometry.scale, device="meta")
        return whole.times(1 / float(frames))
    network = as_video_network(network)
    stride, added = network.geometry.stride, float(network.geometry.stride / network.geometry.spacing)
    features = network.encode_frames(clip)  # most are kept when the window moves on
    new = clip[:, : network.encode_window - 1 + stride]
    work = timed(lambda: (network.encode_frames(new), network.decode_window(*features)), repeats, device)
    return work.times(1 / added)


def compared(options: BenchOptions, device: torch.device) -> list[dict[str, Any]]:
    """Deformable convolutions beside plain ones of the same size: seconds forward, and forward and backward."""
    cuda = device.type == "cuda"
    theirs = None
    with suppress(UserError):
        theirs = _torchvision() if cuda else None
    rows: list[dict[str, Any]] = []
    for channels in (FEATURES, 2 * FEATURES) if cuda else (FEATURES,):
        for kind in (torch.float32, torch.bfloat16) if cuda else (torch.float32,):
            tensors = [
                torch.randn(size, device=device, dtype=kind)
                for size in (
                    *((1, many, options.height, options.width) for many in (channels, 18 * GROUPS, 9 * GROUPS)),
                    *((channels, channels, 3, 3), (channels, 1, 1, 1)),
                )
            ]
            operators: dict[str, Any] = {
                "convolution": lambda x, offset, weight, bias, mask, padding: nn.functional.conv2d(
                    x, weight, bias, padding=padding
                ),
                "deformable": deform_conv.deform_conv2d,
                **({"torchvision": theirs} if theirs else {}),
            }
            for name, operator in operators.items():
                row = {"operator": name, "channels": channels, "type": str(kind).removeprefix("torch.")}
                for what, trains in (("forward", False), ("both", True)):
                    with torch.set_grad_enabled(trains):
                        x, offset, mask, weight, bias = map(to_fast_layout, tensors)  # as in networks
                        mask = mask.sigmoid()
                        work: Callable[[], Any] = partial(
                            operator, x, offset, weight=weight, bias=bias.flatten(), mask=mask, padding=(1, 1)
                        )
                        if trains:
                            work = partial(_there_and_back, work, x, offset, weight, mask)
                        row[what] = timed(work, options.repeats, device).seconds
                rows.append(row)
    return rows


def _there_and_back(work: Callable[[], Tensor], *leaves: Tensor) -> None:
    for leaf in leaves:
        leaf.requires_grad_()
    result = work()
    used = [leaf for leaf in leaves if leaf.requires_grad]
    torch.autograd.grad(result, used, torch.ones_like(result), allow_unused=True)
    for leaf in leaves:
        leaf.requires_grad_(False)


def _torchvision() -> Any:
    """torchvision's operator.

    Raises:
        UserError: it is not installed.
    """
    try:
        from torchvision.ops import deform_conv2d  # an oracle, and no dependency
    except (ImportError, RuntimeError) as error:
        raise UserError("bench.operator=torchvision needs torchvision, of a version that goes with torch.") from error
    return deform_conv2d


@contextmanager
def operator(theirs: Callable[..., Tensor]) -> Iterator[None]:
    """Networks with another deformable convolution, of the same signature, in the place of ours."""
    ours = deform_conv.deform_conv2d
    users = [module for name, module in sys.modules.items() if name.startswith("src.")]
    users = [module for module in users if getattr(module, "deform_conv2d", None) is ours]
    try:
        for module in users:
            module.deform_conv2d = theirs  # type: ignore[attr-defined]
        yield
    finally:
        for module in users:
            module.deform_conv2d = ours  # type: ignore[attr-defined]


def timed(work: Callable[[], Any], repeats: int, device: torch.device) -> Timing:
    """Seconds of ``work``, the median of ``repeats`` after two that do not count, and their floor.

    Of more where they are short: what else a machine does for a moment would be a large part of them. What is compiled
    is counted as it is written, since torch leaves for good uncompiled what it meets while it counts.
    """
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        work()
    flops, once = counter.get_total_flops(), _seconds(work, device)  # which may be the time that compiling takes
    repeats = max(repeats, min(MOST, math.ceil(repeats / 3 / once)))
    measured = [(_seconds(work, device), flops / _convolution_speed(device)) for _ in range(repeats)]
    return Timing(*map(statistics.median, zip(*measured, strict=True)))


@torch.inference_mode()
def _convolution_speed(device: torch.device) -> float:
    """Operations a second of a 3x3 convolution of 64 channels, channels last: 180x144, on a GPU 16 of these."""
    x = torch.rand(16 if device.type == "cuda" else 1, FEATURES, 144, 180, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.rand(FEATURES, FEATURES, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    work = partial(nn.functional.conv2d, x, weight, padding=1)
    work()
    return 2 * weight.numel() * x[:, 0].numel() / statistics.median(_seconds(work, device) for _ in range(5))


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _limits(models: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A sentence for each model that is given less than twice as many samples as its steps take."""
    for name, label in _labels(models).items():
        given, taken = (models[name].get(key, 0) for key in ("loader_samples_per_second", "samples_per_second"))
        if 0 < given < 2 * taken:
            what = "limits training" if given < taken else "leaves little room"
            yield f"{label}: reading {what}: {given:.3g} samples a second come, {taken:.3g} could be taken."


def _labels(entries: Iterable[str]) -> dict[str, str]:
    """Entries without the changes that all entries of their model have in common."""
    words = {entry: entry.split() for entry in entries}
    common = {
        model: set.intersection(*(set(some[1:]) for some in words.values() if some[0] == model))
        for model, *_ in words.values()
    }
    return {entry: " ".join(word for word in some if word not in common[some[0]]) for entry, some in words.items()}


def _tables(outcome: dict[str, Any]) -> Iterator[Table]:
    height, width = outcome["input"]
    table = Table(title=f"One window of {width}x{height} input frames, {outcome['device']}; floor: convolutions alone")
    table.add_column("model")
    timings = (title for what in ("s/frame", "s/step") for title in (what, "floor", "ratio"))
    for title in ("parameters", "GFLOPs", *timings, "samples/s", "read", "peak MiB"):
        table.add_column(title, justify="right")
    first: dict[str, Any] = next(iter(outcome["models"].values()), {})
    labels = _labels(outcome["models"])
    for name, row in outcome["models"].items():
        cells = []
        for what in ("frame", "step"):
            seconds, floor = row.get(f"seconds_per_{what}"), row.get(f"floor_per_{what}")
            known = [f"{seconds:.3g}", f"{floor:.3g}", f"{seconds / floor:.2f}" if floor else ""] if seconds else []
            cells += known or [""] * 3
        if "seconds_per_step" in row and "seconds_per_step" in first and row is not first:
            cells[3] += f" ({row['seconds_per_step'] / first['seconds_per_step']:.2f} x)"
        rates = [f"{row[key]:.3g}" if key in row else "" for key in ("samples_per_second", "loader_samples_per_second")]
        memory = f"{row['peak_memory'] / 2**20:,.0f}" if "peak_memory" in row else ""
        table.add_row(labels[name], f"{row['parameters']:,}", f"{row['flops'] / 1e9:,.1f}", *cells, *rates, memory)
    yield table
    if rows := outcome["deformable"]:
        table = Table(title=f"Convolutions of {width}x{height} pixels, {GROUPS} deformable groups; x: of a plain one")
        for title in ("operator", "channels", "type", "forward, ms", "x", "and backward, ms", "x"):
            table.add_column(title, justify="right" if title not in ("operator", "type") else "left")
        for row in rows:
            plain = next(
                r for r in rows if r["operator"] == "convolution" and all(r[k] == row[k] for k in ("channels", "type"))
            )
            times = [text for k in ("forward", "both") for text in (f"{row[k] * 1e3:.3g}", f"{row[k] / plain[k]:.2f}")]
            table.add_row(row["operator"], str(row["channels"]), row["type"], *times)
        yield table


def _draw(outcome: dict[str, Any], file: Path) -> None:
    """Seconds of each model, a bar each, with a mark at the floor."""
    from matplotlib import rc_context  # only here: training does without
    from matplotlib.figure import Figure

    panels = [what for what in ("frame", "step") if any(f"seconds_per_{what}" in r for r in outcome["models"].values())]
    if not panels:
        panels = ["flops"]
    labels = _labels(outcome["models"])
    figure = Figure(figsize=(5 * len(panels), 1 + 0.4 * len(outcome["models"])), layout="constrained")
    for axes, what in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        key = what if what == "flops" else f"seconds_per_{what}"
        rows = {labels[name]: row for name, row in outcome["models"].items() if key in row}
        axes.barh(list(rows), [row[key] for row in rows.values()], height=0.6)
        floors = [row.get(f"floor_per_{what}") or float("nan") for row in rows.values()]
        axes.scatter(floors, list(rows), marker="|", s=200, color="black", zorder=3)
        axes.invert_yaxis()
        axes.set_title("operations a window" if what == "flops" else f"seconds a {what}; bar: its floor", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{outcome['input'][1]}x{outcome['input'][0]} input pixels, {outcome['device']}", fontsize=11)
    with rc_context({"svg.fonttype": "none"}):  # text stays text
        figure.savefig(file)
