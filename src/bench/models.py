"""Time and memory of a network: streaming a video, a training step, reading its samples."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from src.bench.clips import time_clips
from src.bench.options import BenchOptions
from src.bench.throughput import read_batches
from src.bench.timing import Timing, time_work
from src.config.build import build_data, build_restorer
from src.engine.cascade import Cascade
from src.engine.ensemble import FLIPS, apply_flip
from src.engine.memory import estimate_peak
from src.nn.blocks import compile_parts, count_parameters, fold_norms
from src.nn.video_network import as_video_network
from src.papers.restorer import enable_fused

OWN_MODEL = "model"  # entry of the configuration's own model


def measure_model(config: DictConfig, options: BenchOptions, device: torch.device) -> dict[str, float]:
    """Measure ``model``: seconds and their floors, samples per second, peak bytes, as named in ``results.json``."""
    torch.manual_seed(0)
    network = instantiate(config.model.network).to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, options.precision == "bf16")
    metrics: dict[str, float] = {}
    if count_parameters(network, trainable=True):
        metrics |= _measure_training(config, network, options, autocast, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    fold_norms(network).requires_grad_(False)
    if options.compile:
        torch.compiler.reset()  # forget earlier models, whose shapes would make this one's dynamic
        compile_parts(network)
    clip = torch.rand(1, network.geometry.window, 3, options.height, options.width, device=device)
    with autocast:
        timing = time_streaming(
            network, clip, options.repeats, device, copies=config.protocol.ensemble, mean=options.mean
        )
    metrics["ensemble"] = config.protocol.ensemble
    metrics["seconds_per_frame"], metrics["floor_per_frame"] = timing
    metrics["frames_per_second"] = 1 / timing.seconds
    metrics["seconds_per_pass"] = float(timing.seconds * network.geometry.stride / network.geometry.spacing)
    if options.clips:
        with autocast:
            metrics |= time_clips(config, network, device)
    on_gpu = device.type == "cuda"
    metrics["peak_memory"] = torch.cuda.max_memory_allocated() if on_gpu else estimate_peak(network, clip.shape)
    return metrics


def _measure_training(
    config: DictConfig,
    network: Any,
    options: BenchOptions,
    autocast: AbstractContextManager[Any],
    device: torch.device,
) -> dict[str, float]:
    """Time a training step on random samples, and with ``bench.loader=true`` the reading of real ones.

    The step computes all losses of the training. Networks that start from published weights, also those that a loss
    is based on, have random ones: any take as long.
    """
    restorer = build_restorer(config, network).to(device)
    restorer.initialise(fresh=True, pretrained=False)
    assert restorer.optimizer is not None
    optimizer = enable_fused(restorer.optimizer(network.parameters()))
    samples = options.batch
    batch = restorer.make_batch(samples, options.crop, partial(torch.rand, device=device))

    def step() -> None:
        optimizer.zero_grad()
        with autocast:
            loss = torch.stack(list(restorer.losses_of(batch).values())).sum()
        loss.backward()
        optimizer.step()

    timing = time_work(step, options.repeats, device)
    metrics = {
        "seconds_per_step": timing.seconds,
        "floor_per_step": timing.floor,
        "samples_per_second": samples / timing.seconds,
    }
    if options.steps:
        metrics["hours"] = options.steps * timing.seconds / 3600
    if options.loader:
        config = copy.deepcopy(config)
        config.data.crop = network.geometry.scale * options.crop
        config.data.batch_size = samples
        seconds, _, count = read_batches(build_data(config, restorer))
        metrics["loader_samples_per_second"] = count / seconds
    return metrics


@torch.inference_mode()
def time_streaming(
    network: nn.Module, clip: Tensor, repeats: int, device: torch.device, *, copies: int = 1, mean: bool = False
) -> Timing:
    """Time :func:`src.engine.stream.stream` per output frame, on frames of the size of ``clip``'s.

    ``copies`` is the ``ensemble`` of :class:`src.engine.options.InferenceOptions`: each copy has features of its own.
    ``mean``: see :func:`src.bench.timing.time_work`.
    """
    if isinstance(network, Cascade):
        whole, frames = Timing(0.0, 0.0), Fraction(1)  # per input frame; frames after the stages so far
        for stage in network.networks:
            geometry = stage.geometry
            frames /= geometry.spacing
            height, width = clip.shape[-2:]
            inputs = torch.rand(1, geometry.window, 3, height, width, device=device)
            part = time_streaming(stage, inputs, repeats, device, copies=copies, mean=mean).scale(float(frames))
            whole = Timing(whole.seconds + part.seconds, whole.floor + part.floor)
            clip = torch.empty(1, 1, 3, height * geometry.scale, width * geometry.scale, device="meta")
        return whole.scale(1 / float(frames))
    network = as_video_network(network)
    stride, added = network.geometry.stride, float(network.geometry.stride / network.geometry.spacing)
    views = [apply_flip(clip, flip) for flip in FLIPS[copies]]
    features = [network.encode_frames(view) for view in views]  # most are kept when the window moves on
    new = clip[:, : network.encode_window - 1 + stride]

    def advance() -> Tensor:
        outputs = []
        for flip, kept in zip(FLIPS[copies], features, strict=True):
            network.encode_frames(apply_flip(new, flip))
            outputs.append(apply_flip(network.decode_window(*kept), flip, inverse=True))
        return torch.stack(outputs).mean(0) if copies > 1 else outputs[0]

    return time_work(advance, repeats, device, mean=mean).scale(1 / added)
