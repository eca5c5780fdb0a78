"""What becomes of memory that is freed on the CPU."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX


@cache
def keep_freed_memory() -> None:
    """Lets this process keep what it frees, for the next pass.

    glibc gives large tensors back to the system as soon as they are freed and gets the next one anew, page by page,
    each cleared first: a third of a pass on the CPU (EDVR-M, 180x144: 6.4 s a frame, 4.1 without). Where there is
    another allocator, nothing happens.
    """
    if tune := _glibc("mallopt"):
        tune(MMAP_MAX, 0)
        tune(TRIM_THRESHOLD, -1)


def give_freed_memory_back() -> None:
    """Gives what is kept back to the system, so that it counts as free."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def _glibc(name: str) -> Any:
    """A function of glibc's; None where there is none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
