"""Weights as safetensors, with everything that describes them in the metadata.

The metadata of the suite's own files has one entry, ``zeitlupe``, a JSON object with ``format``, ``network`` (the
description that a ``.ckpt`` holds, too), ``geometry`` and ``card``. It is one entry because the library writes several
in an arbitrary order, and equal weights must give equal bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from src.errors import CheckpointError
from src.geometry import Geometry

SUFFIX = ".safetensors"
ENTRY, FORMAT = "zeitlupe", 1  # of the metadata
MAX_HEADER = 2**23  # bytes; EDVR's is 60,000


def is_safetensors(path: Path) -> bool:
    """Recognise a file by its first bytes: the length of a header, then the header, a JSON object."""
    with path.open("rb") as stream:
        return stream.read(9)[8:] == b"{"


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read the tensors of a file by name, or ``network``, ``geometry``, ``card`` and ``state_dict`` of a file of ours.

    Raises:
        CheckpointError: the file is damaged, or the library is missing.
    """
    _check_header(path)
    safe_open = _import_library().safe_open
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not iterable
    except Exception as error:  # the library's own, and those of a type unknown to torch
        reason = " ".join(str(error).split()).rstrip(".")
        raise CheckpointError(f"{path} cannot be read as safetensors: it is damaged ({reason}).") from error
    if ENTRY not in metadata:
        return tensors
    own = _parse(path, metadata[ENTRY])
    return {**own, "state_dict": {f"network.{name}": tensor for name, tensor in tensors.items()}}


def to_safetensors(tensors: Mapping[str, Tensor], **about: Any) -> bytes:
    """Return the bytes of a file of the suite.

    Args:
        tensors: the weights by name.
        about: ``network``, ``geometry`` and ``card``, ready for JSON.
    """
    _import_library()
    from safetensors.torch import save

    entry = json.dumps({"format": FORMAT, **about}, sort_keys=True, allow_nan=False)
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, {ENTRY: entry})


def describe_geometry(geometry: Geometry) -> dict[str, Any]:
    """Return the geometry of a network, ready for JSON."""
    exposures = [str(exposure) for exposure in geometry.exposures or ()]
    return {
        "scale": geometry.scale,
        "window": geometry.window,
        "times": [str(time) for time in geometry.times],
        "stride": geometry.stride,
        "exposures": exposures or None,
    }


def _check_header(path: Path) -> None:
    """Refuse a header that is longer than its file or than any header of weights."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
    if length > size - 8:
        raise CheckpointError(
            f"{path} cannot be read as safetensors: its header would have {length:,} bytes, and the file has {size:,}; "
            "it is damaged or was not copied whole."
        )
    if length > MAX_HEADER:
        raise CheckpointError(
            f"{path} has a header of {length:,} bytes, more than the names of any weights need ({MAX_HEADER:,}); it is "
            "not read."
        )


def _parse(path: Path, text: str) -> dict[str, Any]:
    """Read the metadata of a file of the suite."""
    try:
        own = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has metadata that are no JSON; pack its checkpoint again.") from error
    if not isinstance(own, dict) or "network" not in own:
        raise CheckpointError(f"{path} has metadata without a network; pack its checkpoint again.")
    if own.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has the format {own.get('format')!r}, and this version reads {FORMAT}; update the suite."
        )
    return {name: own.get(name) for name in ("network", "geometry", "card")}


def _import_library() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise CheckpointError("Files of safetensors need a package: pip install safetensors.") from error
    return safetensors
