"""Contents of checkpoint files. Code in a file is never executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from src.checkpoints.safetensors_files import SUFFIX, is_safetensors, read_safetensors
from src.errors import CheckpointError


def read_contents(path: Path) -> Mapping[str, Any]:
    """Read the tensors and plain values of a checkpoint file by name, on the CPU. Code in it is never executed.

    The format is recognised by the content, not by the name.

    Raises:
        CheckpointError: the file is damaged or compressed, or holds other objects than tensors and plain values.
    """
    try:
        if is_safetensors(path):
            return read_safetensors(path)
        if path.suffix == SUFFIX:
            raise CheckpointError(f"{path} is no safetensors file, whatever its name says; it is not read.")
        _check_compression(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch.load raises almost any exception for a damaged file
        if isinstance(error, pickle.UnpicklingError) and (match := re.search(r"(GLOBAL|class) ([\w.]+)", str(error))):
            raise CheckpointError(
                f"{path} holds more than plain weights ({match[2]}) and could execute code, so it is not loaded; use a "
                "file with nothing but weights."
            ) from error
        reason = re.split(r"[.\n]", str(error))[0] or type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is damaged or has another format ({reason})."
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights.")
    return content


def read_step(path: Path) -> int | None:
    """Return the training step of a checkpoint of this project, without reading its weights; None for other files."""
    try:
        _check_compression(path)
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception:  # another format, or a damaged file, which is reported where it is loaded
        return None


def _check_compression(path: Path) -> None:
    """Reject a compressed archive, which could exhaust memory; torch saves without compression."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > 2 * path.stat().st_size:
        raise CheckpointError(
            f"{path} is compressed, unlike torch's files ({unpacked / 2**20:,.0f} MiB in "
            f"{path.stat().st_size / 2**20:,.1f}), so it is not loaded; unzip it and zip it again without compression."
        )
