import ctypes
import subprocess
import sys

import pytest

from src.ops import allocator

PROGRAM = """
import resource, torch
from src.ops.allocator import give_freed_memory_back, keep_freed_memory
torch.set_num_threads(1)

def taken():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20

def pass_():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**24) for _ in range(3)]  # 64 MiB each, more than glibc would keep by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

start = taken()
if KEEP: keep_freed_memory()
passes = [pass_() for _ in range(10)]  # the first passes settle the layout of kept memory
left, again = taken() - start, min(passes)
give_freed_memory_back()
print(left, again, taken() - start)
"""


def measure(keep: bool) -> list[int]:
    """Return MiB kept after ten passes, the least page faults of a pass, and MiB kept after giving memory back."""
    done = subprocess.run(
        [sys.executable, "-c", f"KEEP = {keep}\n{PROGRAM}"], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.long
@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's allocator alone is tuned"
)
def test_freed_memory_is_kept_for_the_next_pass_and_can_be_given_back() -> None:
    left, again, _ = measure(keep=False)
    assert left < 32
    assert again > 2000  # every pass gets every page again
    left, again, back = measure(keep=True)
    assert left > 150
    assert again < 500
    assert back < 32


def test_no_effect_with_other_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    allocator.keep_freed_memory.__wrapped__()
    allocator.give_freed_memory_back()
    assert allocator._glibc("malloc_trim") is None
