"""Timing of a piece of work beside its floor: the time of its multiply-adds in a plain convolution."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

MAX_REPEATS = 20  # limit of the number of calls of short work
CHANNELS = 64  # width of EDVR-M, Zooming SlowMo and DSFN


class Timing(NamedTuple):
    """Median seconds of some work, and their floor."""

    seconds: float
    floor: float

    def scale(self, factor: float) -> Timing:
        return Timing(self.seconds * factor, self.floor * factor)


def time_work(work: Callable[[], Any], repeats: int, device: torch.device, *, mean: bool = False) -> Timing:
    """Return the median time of ``work`` over ``repeats`` calls after two warm-up calls, and its floor.

    Short work is repeated more often, up to ``MAX_REPEATS``: a brief load on the machine would be a large part of it.
    With ``mean``, the time is the mean of ``repeats`` calls.
    FLOPs are counted on uncompiled code, since torch never compiles code that it first meets while it counts.
    """
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        work()
    flops, first = counter.get_total_flops(), measure_seconds(work, device)  # the first call may compile
    if not mean:
        repeats = max(repeats, min(MAX_REPEATS, math.ceil(repeats / 3 / first)))
    timings = [(measure_seconds(work, device), flops / _measure_convolution(device)) for _ in range(repeats)]
    return Timing(*map(statistics.mean if mean else statistics.median, zip(*timings, strict=True)))


@torch.inference_mode()
def _measure_convolution(device: torch.device) -> float:
    """Return FLOPs per second of a channels-last 3x3 convolution, 64 channels at 180x144; a batch of 16 on a GPU."""
    x = torch.rand(16 if device.type == "cuda" else 1, CHANNELS, 144, 180, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.rand(CHANNELS, CHANNELS, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    work = partial(nn.functional.conv2d, x, weight, padding=1)
    work()
    return 2 * weight.numel() * x[:, 0].numel() / statistics.median(measure_seconds(work, device) for _ in range(5))


def measure_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Return the wall-clock seconds of one call, with the device synchronised before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
