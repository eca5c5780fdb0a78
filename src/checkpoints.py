"""Networks in and out of files: our own checkpoints and those of the published implementations."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from src.errors import CheckpointError, Problem
from src.papers import edvr, wdvr, zsm
from src.papers.cascade import Cascade
from src.papers.reference import Reference

REFERENCES: list[Reference] = [edvr.REFERENCE, zsm.REFERENCE, *wdvr.REFERENCES]
WRAPPERS = (
    "params_ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
)  # where others keep the weights, best first
PREFIXES = ("module.", "_orig_mod.", "network.")  # what wrapping in DDP, compile and Lightning leaves on names
TRUSTED = ("src.papers", "src.nn", "torch.nn")  # a checkpoint's configuration may only build Modules of these


def load(path: str | Path) -> nn.Module:
    """The network in a checkpoint file, ours or a published implementation's, in evaluation mode on the CPU.

    The averaged weights are taken where there are some. No code in the file is ever executed.

    Raises:
        CheckpointError: no such file, not a checkpoint, or not one that the suite recognises.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}; give checkpoint=<a .ckpt or .pth file>.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is damaged, or holds more than plain weights "
            f"({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights.")
    if "network" in content and "state_dict" in content:
        return _ours(path, content)
    try:
        return from_reference(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def cascade(stages: Sequence[str | Path | nn.Module] | None) -> Cascade:
    """Trained networks one after another as one, which is not trained any further.

    Args:
        stages: checkpoint files, or networks such as a baseline, in order.

    Raises:
        Problem: there are none, or it is no list.
        CheckpointError: as :func:`load`.
    """
    if not stages:
        raise Problem("A cascade needs its stages: give model.network.stages=[<checkpoint>,<checkpoint>], in order.")
    if isinstance(stages, str | Path):
        raise Problem(f"A cascade is a list: give model.network.stages=[{stages},<checkpoint>].")
    if absent := [str(stage) for stage in stages if not isinstance(stage, nn.Module) and not Path(stage).is_file()]:
        raise CheckpointError(f"There is no checkpoint {absent[0]}, of those in model.network.stages; mend the path.")
    networks = [stage if isinstance(stage, nn.Module) else load(stage) for stage in stages]
    return Cascade(stages={f"stage{number}": part for number, part in enumerate(networks)}, frozen=len(networks))


def from_reference(state_dict: Mapping[str, Any]) -> nn.Module:
    """Our network with the weights of a published implementation, in evaluation mode.

    The implementation is recognised by its keys, and every size is read from its tensors. Wrappers
    (``params_ema``, ``module.`` and the like) are taken off.

    Raises:
        CheckpointError: the keys belong to no known implementation, or some are missing or left over.
    """
    state = _unwrap(state_dict)
    for reference in REFERENCES:
        if reference.marker in state:
            break
    else:
        known = ", ".join(reference.name for reference in REFERENCES)
        raise CheckpointError(f"keys of no known implementation ({known}): {_some(state)}")
    renamed, unknown = reference.rename(state)
    try:
        network = reference.build(renamed)
    except KeyError as error:
        raise CheckpointError(f"a {reference.name} checkpoint without {error}") from error
    return _fill(network, renamed, unknown, reference.name)


def _ours(path: Path, content: Mapping[str, Any]) -> nn.Module:
    description = content["network"]
    _check_trusted(path, description)
    network = instantiate(description)
    weights = {
        name.removeprefix("network."): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith("network.")
    }
    return _fill(network, weights, [], str(path))


def _check_trusted(path: Path, node: Any) -> None:
    if isinstance(node, Mapping):
        strange = [key for key in node if str(key).startswith("_") and key != "_target_"]
        if strange or ("_target_" in node and not _is_module(str(node["_target_"]))):
            raise CheckpointError(
                f"{path} wants to build {node.get('_target_')!r}, which is no part of this suite; it is not loaded."
            )
    for child in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        _check_trusted(path, child)


def _is_module(target: str) -> bool:
    """Whether a dotted name is a Module class, where it is defined (or torch.nn's), in a trusted place."""
    place, _, name = target.rpartition(".")
    if place != "torch.nn" and not place.startswith(("src.papers.", "src.nn.")):
        return False
    try:
        found = getattr(importlib.import_module(place), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(TRUSTED)


def _fill(network: nn.Module, weights: Mapping[str, Tensor], unknown: list[str], name: str) -> nn.Module:
    own = network.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys()) + unknown
    shapes = [key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape]
    faults = [
        f"{what}: {_some(keys)}"
        for what, keys in (("missing", missing), ("left over", unexpected), ("of another shape", shapes))
        if keys
    ]
    if faults:
        raise CheckpointError(f"the weights of {name} do not fit; " + "; ".join(faults))
    network.load_state_dict(weights)
    dtype = next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), torch.float32)
    return network.to(dtype).eval()


def _unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return _unwrap(content[wrapper])
    state = {}
    for name, value in content.items():
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        if isinstance(value, Tensor):
            state[name] = value
    return state


def _some(keys: Any) -> str:
    keys = list(keys)
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "") if keys else "none at all"
