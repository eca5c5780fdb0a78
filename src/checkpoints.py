"""Networks in and out of files: our own checkpoints and those of the published implementations."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from src.engine.cascade import Cascade
from src.errors import CheckpointError, UserError
from src.papers import weights
from src.papers.weights.reference import Reference

WRAPPERS = (
    "params_ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
)  # where others keep the weights, best first
PREFIXES = ("module.", "_orig_mod.", "network.")  # what wrapping in DDP, compile and Lightning leaves on names
TRUSTED = ("src.papers", "src.nn", "src.engine", "torch.nn")  # a file may only describe Modules of these
MOVED = {"src.papers.cascade.Cascade": "src.engine.cascade.Cascade"}  # targets in older files
RENAMED = {"interpolating": "warm_start"}  # arguments in older files
OF_FILES = "src.checkpoints.cascade"  # makes a network of checkpoints
DEEPEST, MOST, GREATEST = 32, 10_000, 10**6  # levels, parts and numbers of a description; networks have 6, 200, 300,000
LARGEST, EACH = 2**28, 20_000  # elements that a network may have, and as how many each of its tensors counts at least


def load(path: str | Path) -> nn.Module:
    """The network in a checkpoint file, ours or a published implementation's, in evaluation mode on the CPU.

    The averaged weights are taken where there are some. No code in the file is ever executed.

    Raises:
        CheckpointError: no such file, not a checkpoint, or not one that the suite recognises.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}; give checkpoint=<a .ckpt or .pth file>.")
    content = contents(path)
    largest = max(LARGEST, 4 * path.stat().st_size)
    if "network" in content and "state_dict" in content:
        return _ours(path, content, largest)
    try:
        with _no_larger(largest):
            return from_reference(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def contents(path: Path) -> Mapping[str, Any]:
    """What a checkpoint file holds: tensors and plain values by name, on the CPU. No code in it is ever executed.

    Raises:
        CheckpointError: it is damaged, holds what is no plain value, or more than its size tells.
    """
    try:
        _check_packing(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file makes the loader raise almost anything
        if isinstance(error, pickle.UnpicklingError) and (match := re.search(r"(GLOBAL|class) ([\w.]+)", str(error))):
            raise CheckpointError(
                f"{path} holds more than plain weights ({match[2]}), which might do anything: it is not loaded; "
                "ask for a file with weights alone."
            ) from error
        first = re.split(r"[.\n]", str(error))[0] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a checkpoint: it is damaged, or none ({first}).") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights.")
    return content


def _check_packing(path: Path) -> None:
    """Refuses an archive that becomes much larger in memory: torch does not compress what it saves."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
    if unpacked > 2 * path.stat().st_size:
        raise CheckpointError(
            f"{path} is packed more tightly than torch packs ({unpacked / 2**20:,.0f} MiB in "
            f"{path.stat().st_size / 2**20:,.1f}), and is not loaded; unzip it and zip it anew without compression."
        )


def cascade(stages: Sequence[str | Path | nn.Module] | None) -> Cascade:
    """Trained networks one after another as one, which is not trained any further.

    Args:
        stages: checkpoint files, or networks such as a baseline, in order.

    Raises:
        UserError: there are none, or it is no list.
        CheckpointError: as :func:`load`.
    """
    if not stages:
        raise UserError("A cascade needs its stages: give model.network.stages=[<checkpoint>,<checkpoint>], in order.")
    if isinstance(stages, str | Path):
        raise UserError(f"A cascade is a list: give model.network.stages=[{stages},<checkpoint>].")
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
    state, references = _unwrap(state_dict), find_references()
    for reference in references:
        if reference.marker in state:
            break
    else:
        known = ", ".join(reference.name for reference in references)
        raise CheckpointError(f"keys of no known implementation ({known}): {_some(state)}")
    renamed, unknown = reference.rename(state)
    try:
        network = reference.build(renamed)
    except KeyError as error:
        raise CheckpointError(f"a {reference.name} checkpoint without {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"a {reference.name} checkpoint whose tensors make no network: {error}") from error
    return _fill(network, renamed, unknown, reference.name)


def find_references() -> list[Reference]:
    """Collect every :class:`Reference` that a module of the package ``src.papers.weights`` defines."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(weights.__path__, f"{weights.__name__}.")
    ]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Reference)]


def _ours(path: Path, content: Mapping[str, Any], largest: int) -> nn.Module:
    if not isinstance(content["state_dict"], Mapping):
        raise CheckpointError(f"{path} has a {type(content['state_dict']).__name__} for weights, not a dictionary.")
    weights = {
        str(name).removeprefix("network."): tensor
        for name, tensor in content["state_dict"].items()
        if str(name).startswith("network.") and isinstance(tensor, Tensor)
    }
    return _fill(build(content["network"], path, largest=largest), weights, [], str(path))


def build(description: Any, source: str | Path, *, of_files: bool = False, largest: int = LARGEST) -> nn.Module:
    """The network that is described in a file: a checkpoint's ``network``, or ``model.network`` of a run's config.yaml.

    Whoever wrote the file, nothing is made but Modules of this suite and of ``torch.nn``, from plain values.

    Args:
        description: ``_target_`` and arguments.
        source: the file, for messages.
        of_files: whether it may be a :func:`cascade`, which loads the checkpoints that it names.
        largest: so many elements may its weights have in all.

    Raises:
        CheckpointError: it describes anything else, or what cannot be built.
    """
    _check_trusted(source, description, of_files)
    try:
        with _no_larger(largest):
            network = instantiate(_modernise(description))
    except Exception as error:  # of another version, say
        cause = error.__cause__ or error
        raise CheckpointError(
            f"{source} describes a network that cannot be built here: {' '.join(str(cause).split()).rstrip('.')}."
        ) from error
    if not isinstance(network, nn.Module):
        raise CheckpointError(f"{source} describes no network.")
    return network


def _check_trusted(source: str | Path, description: Any, of_files: bool) -> None:
    """Refuses a description that might do anything but build Modules, or that no network has."""
    left, parts = [(description, 1)], 1
    while left:  # no recursion, since whoever wrote it chooses how deep it is, and may refer to a part many times
        node, depth = left.pop()
        children = [*node.values()] if isinstance(node, Mapping) else node if isinstance(node, list) else []
        parts += len(children)
        if depth > DEEPEST or parts > MOST:
            raise CheckpointError(
                f"{source} describes a network of more than {DEEPEST} levels or {MOST:,} parts, as none of this suite "
                "is; it is not built."
            )
        left += [(child, depth + 1) for child in children]
        if isinstance(node, Mapping):
            strange = [key for key in node if not isinstance(key, str) or (key[:1] == "_" and key != "_target_")]
            target = MOVED.get(str(node.get("_target_")), node.get("_target_"))
            if strange or (
                "_target_" in node and not _is_module(str(target)) and not (of_files and target == OF_FILES)
            ):
                raise CheckpointError(
                    f"{source} wants to build {target!r}, which is no part of this suite; it is not loaded."
                )
        elif isinstance(node, str) and "${" in node:
            raise CheckpointError(f"{source} has {node!r} in its network, which is to be replaced; it is not loaded.")
        elif isinstance(node, int | float) and not abs(node) <= GREATEST:
            raise CheckpointError(
                f"{source} has the number {node} in its network, larger than any has; it is not built."
            )
        elif not isinstance(node, str | int | float | list | None):
            raise CheckpointError(
                f"{source} has a {type(node).__name__} in its network, no plain value; it is not built."
            )


def _modernise(node: Any) -> Any:
    """Replace names of earlier versions in a trusted description."""
    if isinstance(node, Mapping):
        node = {RENAMED.get(name, name): _modernise(part) for name, part in node.items()}
        return {**node, "_target_": MOVED.get(node["_target_"], node["_target_"])} if "_target_" in node else node
    return [_modernise(part) for part in node] if isinstance(node, list) else node


@contextmanager
def _no_larger(largest: int) -> Iterator[None]:
    """Ends the building of networks that have more weights than that before it has taken the memory."""
    left = largest

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal left
        left -= max(EACH, parameter.numel())
        if left < 0:
            raise ValueError("it would be larger than any network of this suite, or than its weights")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _is_module(target: str) -> bool:
    """Whether a dotted name is a Module class, where it is defined (or torch.nn's), in a trusted place."""
    place, _, name = target.rpartition(".")
    if place != "torch.nn" and not place.startswith(("src.papers.", "src.nn.", "src.engine.")):
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
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:  # sparse tensors, say
        raise CheckpointError(f"the weights of {name} cannot be taken over: {' '.join(str(error).split())}") from error
    dtype = next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), torch.float32)
    return network.to(dtype).eval()


def _unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    for _ in range(DEEPEST):  # a dictionary may hold itself
        content = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), content)
    state = {}
    for name, value in content.items():
        name = str(name)
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        if isinstance(value, Tensor):
            state[name] = value
    return state


def _some(keys: Any) -> str:
    keys = list(keys)
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "") if keys else "none at all"
