"""Predict the memory of a pass without running it, and choose passes and tiles that fit."""

from __future__ import annotations

import copy
import os
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from src.engine.options import InferenceOptions
from src.engine.stream import resolve_passes
from src.engine.tiles import GRID, shrink_side
from src.errors import UserError
from src.nn.video_network import as_video_network
from src.ops.allocator import give_freed_memory_back

WORKSPACE_FACTOR = 2.0  # memory of a pass over that of its visible tensors: measured on the CPU, 1.1 to 1.9
MAX_FRAMES_PER_PADDING = 20  # frames for each frame of padding: longer passes would save less than a tenth
Options = TypeVar("Options", bound=InferenceOptions)


def fit_to_memory(
    network: nn.Module,
    options: Options,
    size: tuple[int, int],
    device: torch.device,
    *,
    memory: int | None = None,
    length: int | None = None,
) -> Options:
    """Resolve the options that depend on memory or on the network: tile, overlap, clip length, padding, context.

    Args:
        network: as :func:`src.engine.stream.stream` accepts it.
        options: ``tile=None`` becomes the largest tile that fits (0: whole frames), ``clip_length=auto`` the longest
            pass; ``padding`` and ``context`` are left out for networks without a use for them.
        size: ``(H, W)`` of the input frames.
        device: device that the network runs on.
        memory: budget of a pass, in bytes; None: half of the free memory.
        length: input frames of the video, so that passes are of about equal length.

    Raises:
        UserError: tiles of the given size would consist of overlap alone.
    """
    contract = as_video_network(network)
    overlap = contract.tile_overlap if options.overlap is None else options.overlap
    if options.tile and options.tile < overlap + GRID:
        raise UserError(f"tile={options.tile} is too small: it must be at least {GRID} more than overlap={overlap}.")
    padded, geometry = contract.temporal_padding is not None, contract.geometry
    recurrent = geometry.elastic and geometry.window > 1 and not padded
    options = replace(
        options,
        overlap=overlap,
        padding=options.padding if padded else None,
        context=options.context if recurrent else 0,
    )
    if options.tile is not None and options.clip_length != "auto":
        return options
    memory = memory or measure_available(device) // 2
    if options.tile is None:
        options = replace(options, tile=_fit_tile(contract, size, overlap, memory) or 0)
    if options.clip_length == "auto":
        height, width = (min(side, options.tile or side) for side in size)
        fitting = fit_frames(contract, height, width, memory, options.padding) if padded else None
        options = replace(options, clip_length=fitting)
        if padded and length is not None:
            options = replace(options, clip_length=len(resolve_passes(contract, options, length).times))
    return options


def _fit_tile(network: nn.Module, size: tuple[int, int], overlap: int, memory: int) -> int | None:
    """Return the side of the largest tiles that fit in ``memory`` bytes; None: whole frames."""
    padded = as_video_network(network).temporal_padding is not None
    geometry = resolve_passes(network, InferenceOptions(clip_length=1 if padded else None))
    tile: int | None = None
    while True:
        height, width = (min(length, tile or length) for length in size)
        if WORKSPACE_FACTOR * estimate_peak(network, (1, geometry.window, 3, height, width)) <= memory:
            return tile
        if (next_tile := shrink_side(size, tile, overlap)) is None:
            return tile
        tile = next_tile


def fit_frames(network: nn.Module, height: int, width: int, memory: int, padding: int | None = None) -> int:
    """Return the number of frames to restore in one pass: as many as fit, at least 1, and not more than are worthwhile.

    Args:
        network: a network with temporal padding.
        height, width: size of its input.
        memory: budget of a pass, in bytes.
        padding: input frames on either side; None: the network's own.
    """
    around = as_video_network(network).temporal_padding if padding is None else padding
    assert around is not None

    def estimate(frames: int) -> int:
        return int(
            WORKSPACE_FACTOR * estimate_peak(network, (1, frames + 2 * around, 3, height, width), padding=around)
        )

    choices = range(1, MAX_FRAMES_PER_PADDING * max(1, around) + 1)
    return max(1, bisect_right(choices, memory, key=estimate))


def measure_available(device: torch.device) -> int:
    """Return the free bytes of the device's memory, within a container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    give_freed_memory_back()
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]  # the only figure on some systems
    with suppress(OSError, IndexError):
        limits = [int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024]
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no container, or no limit
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(limits))


def estimate_peak(network: nn.Module, shape: Sequence[int], **options: Any) -> int:
    """Estimate the peak memory of one forward pass in bytes, without weights, from a dry run on the meta device.

    ``options`` are passed to ``forward``. Workspaces of kernels come on top: see ``WORKSPACE_FACTOR``.
    """
    shadow = copy.deepcopy(network).to("meta")
    with torch.device("meta"), torch.no_grad(), _LiveStorages() as live:
        shadow(torch.empty(*shape), **options)
    return live.peak


class _LiveStorages(TorchDispatchMode):
    """Tracks the bytes of storages from the operation that returns them until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[int, int] = {}
        self.current = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.bytes:
                self.bytes[storage._cdata] = storage.nbytes()
                self.current += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata)
        self.peak = max(self.peak, self.current)
        return result

    def _free(self, storage: int) -> None:
        self.current -= self.bytes.pop(storage)
