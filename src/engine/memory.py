"""What a pass of a network takes in memory, computed without doing it."""

from __future__ import annotations

import copy
import os
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from src.ops.allocator import give_freed_memory_back

WORKSPACE = 2.0  # what a pass takes over the tensors that can be seen: measured on the CPU, 1.1 to 1.9
ENOUGH = 20  # frames for each frame of padding: more frames a pass would save less than a tenth


def frames_within(network: nn.Module, height: int, width: int, memory: int, padding: int | None = None) -> int:
    """How many frames to restore in one pass.

    Args:
        network: one whose passes may have any length and share their padding in time.
        height, width: of its input.
        memory: bytes that a pass may take.
        padding: input frames on either side of those; by default the network's own.

    Returns:
        As many as fit, at least 1; no more than are worth it.
    """
    around: int = network.padding if padding is None else padding  # type: ignore[assignment]

    def takes(frames: int) -> int:
        return int(WORKSPACE * peak(network, (1, frames + 2 * around, 3, height, width), padding=around))

    choices = range(1, ENOUGH * max(1, around) + 1)
    return max(1, bisect_right(choices, memory, key=takes))


def free(device: torch.device) -> int:
    """Bytes of the device's memory that may be had, within what a container is given."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    give_freed_memory_back()
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]  # where the system says no more
    with suppress(OSError, IndexError):
        limits = [int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024]
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no container, or no limit
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(limits))


def peak(network: nn.Module, shape: Sequence[int], **options: Any) -> int:
    """Bytes of tensors, weights left out, that are alive at the same time while ``network`` restores such a clip."""
    shadow = copy.deepcopy(network).to("meta")
    with torch.device("meta"), torch.no_grad(), _Alive() as alive:
        shadow(torch.empty(*shape), **options)
    return alive.most


class _Alive(TorchDispatchMode):
    """Counts the bytes of storages from when an operation returns them until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = function(*args, **(kwargs or {}))
        for tensor in tree_iter(returned):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.bytes:
                self.bytes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata)
        self.most = max(self.most, self.now)
        return returned

    def _freed(self, storage: int) -> None:
        self.now -= self.bytes.pop(storage)
