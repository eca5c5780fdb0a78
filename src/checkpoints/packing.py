"""Pack a checkpoint of training into a small file of weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from src.atomic import atomic_write
from src.checkpoints.descriptions import build
from src.checkpoints.files import read_contents
from src.checkpoints.safetensors_files import SUFFIX, describe_geometry, to_safetensors
from src.errors import CheckpointError
from src.nn.video_network import as_video_network


def read_description(path: Path) -> Any:
    """Return the description of the network in a checkpoint of the suite.

    Raises:
        CheckpointError: the file is none, or describes a network whose parts lie in other checkpoints.
    """
    content = read_contents(path)
    if "network" not in content or "state_dict" not in content:
        raise CheckpointError(f"{path} is no checkpoint of this suite, and only these describe their network.")
    build(content["network"], path)
    return content["network"]


def round_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round weights to float16, except tensors with values beyond its range; counters stay as they are."""
    rounded = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    return {name: tensor if tensor.isfinite().all() else weights[name] for name, tensor in rounded.items()}


def check_finite(network: nn.Module) -> None:
    """Check the weights of a network.

    Raises:
        CheckpointError: one is not a finite number.
    """
    if infinite := [name for name, tensor in _state(network) if not tensor.isfinite().all()]:
        raise CheckpointError(f"The weights have diverged, the first in {infinite[0]}: pack an earlier checkpoint.")


def write_weights(path: Path, network: nn.Module, description: Any, *, half: bool, card: Mapping[str, Any]) -> None:
    """Write the weights of a network as safetensors. Equal arguments give equal bytes.

    Args:
        path: the file; it is replaced at once, or not at all.
        network: the network.
        description: how :func:`src.checkpoints.build` builds it.
        half: whether to round to float16.
        card: facts about the weights, ready for JSON.

    Raises:
        CheckpointError: a weight is not a finite number.
    """
    check_finite(network)
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in _state(network)}
    geometry = describe_geometry(as_video_network(network).geometry)
    data = to_safetensors(
        round_weights(weights) if half else weights, network=description, geometry=geometry, card=card
    )
    with atomic_write(path, "wb") as stream:
        stream.write(data)


def save(network: nn.Module, path: str | Path, *, description: Any) -> None:
    """Write a network as a checkpoint that :func:`src.checkpoints.load` and all tasks take.

    Args:
        network: the network.
        path: the file, ``.safetensors`` or any other suffix; it is replaced at once, or not at all.
        description: how the network is built, as ``config.model.network``: ``_target_`` and arguments, plain values or
            a node of a configuration.

    Raises:
        CheckpointError: the description builds another network, or a weight is not a finite number.
    """
    path = Path(path)
    plain = OmegaConf.to_container(description, resolve=True) if OmegaConf.is_config(description) else description
    shapes = [{n: tuple(t.shape) for n, t in net.state_dict().items()} for net in (network, build(plain, path))]
    differing = sorted(shapes[0].items() ^ shapes[1].items())
    if differing:
        raise CheckpointError(f"The description builds another network than this one: {differing[0][0]} differs.")
    if path.suffix == SUFFIX:
        write_weights(path, network, plain, half=False, card={})
        return
    check_finite(network)
    with atomic_write(path, "wb") as stream:
        torch.save({"network": plain, "state_dict": {f"network.{n}": t for n, t in _state(network)}}, stream)


def _state(network: nn.Module) -> list[tuple[str, Tensor]]:
    return sorted((name, tensor.detach().to(torch.device("cpu"))) for name, tensor in network.state_dict().items())
