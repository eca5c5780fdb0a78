"""Load the network of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src import zoo
from src.checkpoints.descriptions import MAX_ELEMENTS, build, limit_elements
from src.checkpoints.files import read_contents
from src.checkpoints.references import from_reference
from src.checkpoints.safetensors_files import describe_geometry
from src.checkpoints.states import load_weights
from src.engine.cascade import Cascade
from src.errors import CheckpointError, UserError
from src.nn.video_network import as_video_network


def load(path: str | Path, *, dtype: torch.dtype | None = None) -> nn.Module:
    """Load the network of a checkpoint, of the suite or of a published implementation, in evaluation mode on the CPU.

    Averaged weights take precedence. Code in the file is never executed.

    Args:
        path: a ``.ckpt``, ``.pth`` or ``.safetensors`` file, or a name of :mod:`src.zoo`.
        dtype: type to compute in; None: that of the weights, or float32 where they are stored in fewer bits.

    Raises:
        CheckpointError: the file does not exist, is not a checkpoint, belongs to no known implementation, or cannot be
            fetched.
    """
    path = zoo.locate(path, kind="network")
    content = read_contents(path)
    limit = max(MAX_ELEMENTS, 4 * path.stat().st_size)
    if "network" in content and "state_dict" in content:
        return _load_own(path, content, limit, dtype)
    try:
        with limit_elements(limit):
            return from_reference(content, dtype=dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_frozen(path: str | Path) -> nn.Module:
    """Load the network of a checkpoint as :func:`load` does, with frozen weights: it runs as it is."""
    return load(path).requires_grad_(False)


def cascade(stages: Sequence[str | Path | nn.Module] | None, first: nn.Module | None = None) -> Cascade:
    """Chain trained networks into one, with frozen weights.

    Args:
        stages: checkpoint files, names of weights, or networks such as a baseline, in order.
        first: a network before them.

    Raises:
        UserError: ``stages`` is empty or not a list.
        CheckpointError: as :func:`load`.
    """
    if not stages:
        raise UserError("A cascade needs stages: set model.network.stages=[<checkpoint>,<checkpoint>], in order.")
    if isinstance(stages, str | Path):
        raise UserError(f"A cascade is a list: set model.network.stages=[{stages},<checkpoint>].")
    try:
        files = [stage if isinstance(stage, nn.Module) else zoo.locate(stage, kind="network") for stage in stages]
    except CheckpointError as error:
        raise CheckpointError(f"model.network.stages: {error}") from error
    networks = [file if isinstance(file, nn.Module) else load(file) for file in files]
    networks = networks if first is None else [first, *networks]
    return Cascade(stages={f"stage{number}": network for number, network in enumerate(networks)}, frozen=len(networks))


def _load_own(path: Path, content: Mapping[str, Any], limit: int, dtype: torch.dtype | None) -> nn.Module:
    """Load a file of the suite; ``limit`` as in :func:`build`."""
    if not isinstance(content["state_dict"], Mapping):
        raise CheckpointError(f"The state_dict of {path} is a {type(content['state_dict']).__name__}, no dictionary.")
    weights = {
        str(name).removeprefix("network."): tensor
        for name, tensor in content["state_dict"].items()
        if str(name).startswith("network.") and isinstance(tensor, Tensor)
    }
    network = build(content["network"], path, limit=limit)
    if (geometry := content.get("geometry")) is not None:
        _check_geometry(network, geometry, path)
    return load_weights(network, weights, [], str(path), dtype)


def _check_geometry(network: nn.Module, stated: Any, path: Path) -> None:
    """Compare the geometry that a file states with that of its network."""
    actual = describe_geometry(as_video_network(network).geometry)
    stated = stated if isinstance(stated, Mapping) else {}
    if wrong := [name for name in actual if stated.get(name) != actual[name]]:
        raise CheckpointError(
            f"{path} states another {', '.join(wrong)} than its network has; pack its checkpoint again."
        )
