"""Fixtures and helpers of several test files."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

GOLDEN = Path(__file__).parents[0] / "golden"
SHARED = Path(__file__).resolve().parents[2] / "shared"

settings.register_profile(
    "repeatable", derandomize=True, deadline=None
)  # the same examples on every machine, every time
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real videos and reference numbers beside the project; its tests skip where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder {SHARED.name}/ beside the project")
    return SHARED


def golden_parameter(name: str, shape: list[int], seed: int) -> torch.Tensor:
    """The value that a golden case gives to one reference parameter (float64), from its name alone."""
    values = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), seed])).standard_normal(shape)
    if name.endswith("running_var"):
        values = np.abs(values) * 0.1 + 1.0
    elif name.endswith("_g") or (name.endswith(".weight") and len(shape) == 1):
        values = 1.0 + 0.1 * values
    elif len(shape) <= 1:
        values = 0.1 * values
    else:
        values = values / math.sqrt(math.prod(shape[1:]))
    return torch.as_tensor(values)


def golden_network(case: str) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, dict]:
    """A network's golden case: reference state dict, input clip, expected output (float64) and its description."""
    about = json.loads((GOLDEN / f"{case}.json").read_text())
    state = {name: golden_parameter(name, shape, about["seed"]) for name, shape in about["parameters"]}
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(b"input"), about["seed"]]))
    clip = torch.as_tensor(rng.random(about["input_shape"]))
    return state, clip, torch.as_tensor(np.load(GOLDEN / f"{case}.npy")).double(), about
