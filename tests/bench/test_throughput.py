"""Throughput: cold and warm caches, and a row for each copy and number of workers."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.bench.throughput import drop_from_cache, load_into_cache, measure_throughput
from src.data.corruptions import Bicubic
from src.data.datamodule import DataModule
from src.data.degradation import Degradation
from src.data.layouts.folder import folder
from src.data.packing import pack
from src.errors import UserError
from src.geometry import Geometry
from tests.tasks.test_tasks import run

pytestmark = pytest.mark.long

PAIR = Geometry(2, 1, (0,))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("measured")
    for k in range(2):
        (base / "png" / str(k)).mkdir(parents=True)
        for i in range(30):
            pixels = np.random.default_rng([k, i]).integers(0, 256, (32, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(base / "png" / str(k) / f"{i:02}.png")
    pack(base / "png", base / "packed")
    return {"folders": base / "png", "packed": base / "packed"}


def build(root: Path, workers: int) -> DataModule:
    return DataModule(
        layout=lambda root: folder(root, hold_back=0), root=root, geometry=PAIR, degradation=Degradation([Bicubic(2)]),
        crop=16, batch_size=2, workers=workers,
    )  # fmt: skip


def test_a_row_for_each_copy_cache_and_number_of_workers(roots: dict[str, Path]) -> None:
    rows = measure_throughput(build, roots, workers=[0], batches=3, repeats=2)
    assert [(row["data"], row["cache"], row["workers"]) for row in rows] == [
        (name, cache, 0) for name in roots for cache in ("cold", "warm")
    ]
    for row in rows:
        assert len(row["measured"]) == 2
        assert min(row["measured"]) <= row["samples_per_second"] <= max(row["measured"])
        assert row["cpu_seconds_per_sample"] > 0
        assert row["data"] == "packed" or row["ratio"] == 1
    with pytest.raises(UserError, match="30 training batches, but the measurement needs 1 \\+ 40"):
        measure_throughput(build, roots, workers=[0], batches=40)


def resident(path: Path) -> float:
    """Return the share of a file's pages in the page cache."""
    import ctypes

    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as pages:
        count = -(-size // mmap.PAGESIZE)
        pages_in_memory = (ctypes.c_ubyte * count)()
        begin = ctypes.c_char.from_buffer(pages)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(begin)), ctypes.c_size_t(size), pages_in_memory)
        del begin
        assert not failed
        return sum(page & 1 for page in pages_in_memory) / count


def test_cold_files_are_not_in_memory_and_warm_ones_are(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(0).bytes(1 << 20))
    drop_from_cache([path])
    if resident(path):
        pytest.skip("this file system keeps its files in memory")
    load_into_cache([path])
    assert resident(path) == 1
    drop_from_cache([path])
    assert resident(path) == 0


def test_prepare_packs_checks_and_measures(roots: dict[str, Path], tmp_path: Path) -> None:
    log = run(
        "task=prepare", "data=folder", f"data.root={roots['folders']}", "data.layout.hold_back=0", "size=mini",
        "data.crop=16", "data.batch_size=2", "data.patches_per_read=1", f"pack={tmp_path / 'packed'}", "check=true",
        "measure=[0]", "batches=2", "repeats=1", f"output={tmp_path / 'figures.json'}", "processes=1",
    )  # fmt: skip
    assert "2 clips packed, 2 of them now" in log
    assert log.count("every frame of every clip can be read") == 2
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {(row["data"], row["cache"]) for row in figures["rows"]} == {
        (data, cache) for data in ("as it is", "packed") for cache in ("cold", "warm")
    }
    spoilt = bytearray((tmp_path / "packed" / "1.mp4").read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    (tmp_path / "packed" / "1.mp4").write_bytes(spoilt)
    log = run(
        "task=prepare", "data=folder", f"data.root={tmp_path / 'packed'}", "data.layout.hold_back=0", "check=true",
        "processes=1", fails=True,
    )  # fmt: skip
    assert "1 clips of" in log
    assert "1.mp4 is damaged at frame" in log
    assert "Traceback" not in log
