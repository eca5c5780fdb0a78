"""Time of a network over the whole test clips of a data set, as benchmarks state it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from src.bench.timing import measure_seconds
from src.config.build import build_data, build_restorer
from src.engine.memory import fit_to_memory
from src.engine.stream import resolve_passes, stream


def time_clips(config: DictConfig, network: nn.Module, device: torch.device) -> dict[str, float]:
    """Time the network over every test clip of ``data``, streamed by ``protocol`` as in an evaluation.

    The frames of a clip are read, degraded and moved to the device before the clock starts, and nothing is scored: the
    time is that of the network alone. A pass over the first frames of the first clip comes before. With
    ``protocol.to_the_end`` the pass that restores the frames behind the last input frame is timed, too.

    Returns:
        ``seconds_all_clips``, ``frames_of_clips``, the number of all output frames, and their quotient
        ``seconds_per_frame_of_clips``.
    """
    protocol = instantiate(config.protocol)
    data: Any = build_data(config, build_restorer(config, network))
    seconds, frames = 0.0, 0
    for number, clip in enumerate(data.test_dataloader()):
        inputs = [frame.to(device) for frame in clip.inputs()]
        options = fit_to_memory(network, protocol, inputs[0].shape[-2:], device, length=len(inputs))
        parts = [(inputs, Fraction(0))]
        if protocol.to_the_end and (tail := clip.tail(resolve_passes(network, options).window)) is not None:
            parts.append(([frame.to(device) for frame in tail[0].inputs()], tail[1]))
        times: set[Fraction] = set()

        def run(parts: list[tuple[list[Tensor], Fraction]]) -> None:
            for part, begin in parts:
                times.update(begin + time for time, _ in stream(network, part, options, length=len(part)))  # noqa: B023

        if number == 0:
            run([(inputs[: data.geometry.window], Fraction(0))])
        seconds += measure_seconds(lambda: run(parts), device)  # noqa: B023
        frames += len(times)
    return {
        "seconds_all_clips": seconds,
        "frames_of_clips": frames,
        "seconds_per_frame_of_clips": seconds / frames,
    }
