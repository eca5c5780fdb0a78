"""Load networks from checkpoints of the suite and of published implementations."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")  # keys of weights in files, best first
PREFIXES = ("module.", "_orig_mod.", "network.")  # of parameter names, added by DDP, torch.compile and Lightning
TRUSTED = ("src.papers", "src.nn", "src.engine", "torch.nn")  # packages of the Modules that a description may name
MOVED = {"src.papers.cascade.Cascade": "src.engine.cascade.Cascade"}  # targets in older files
RENAMED = {"interpolating": "warm_start"}  # arguments in older files
CASCADE = "src.checkpoints.cascade"  # the one target that loads checkpoints
MAX_DEPTH, MAX_PARTS, MAX_NUMBER = 32, 10_000, 10**6  # of a description; those of the suite have 6, 200 and 300,000
MAX_ELEMENTS, MIN_ELEMENTS = 2**28, 20_000  # limit for a network, and the least that counts for one of its tensors


def load(path: str | Path) -> nn.Module:
    """Load the network of a checkpoint, of the suite or of a published implementation, in evaluation mode on the CPU.

    Averaged weights take precedence. Code in the file is never executed.

    Raises:
        CheckpointError: the file does not exist, is not a checkpoint, or belongs to no known implementation.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}; set checkpoint=<a .ckpt or .pth file>.")
    content = read_contents(path)
    limit = max(MAX_ELEMENTS, 4 * path.stat().st_size)
    if "network" in content and "state_dict" in content:
        return _load_own(path, content, limit)
    try:
        with _limit_elements(limit):
            return from_reference(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_contents(path: Path) -> Mapping[str, Any]:
    """Read the tensors and plain values of a checkpoint file by name, on the CPU. Code in it is never executed.

    Raises:
        CheckpointError: the file is damaged or compressed, or holds other objects than tensors and plain values.
    """
    try:
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


def cascade(stages: Sequence[str | Path | nn.Module] | None, first: nn.Module | None = None) -> Cascade:
    """Chain trained networks into one, with frozen weights.

    Args:
        stages: checkpoint files, or networks such as a baseline, in order.
        first: a network before them.

    Raises:
        UserError: ``stages`` is empty or not a list.
        CheckpointError: as :func:`load`.
    """
    if not stages:
        raise UserError("A cascade needs stages: set model.network.stages=[<checkpoint>,<checkpoint>], in order.")
    if isinstance(stages, str | Path):
        raise UserError(f"A cascade is a list: set model.network.stages=[{stages},<checkpoint>].")
    if missing := [str(stage) for stage in stages if not isinstance(stage, nn.Module) and not Path(stage).is_file()]:
        raise CheckpointError(f"There is no checkpoint {missing[0]}; correct its path in model.network.stages.")
    networks = [stage if isinstance(stage, nn.Module) else load(stage) for stage in stages]
    networks = networks if first is None else [first, *networks]
    return Cascade(stages={f"stage{number}": network for number, network in enumerate(networks)}, frozen=len(networks))


def from_reference(state_dict: Mapping[str, Any]) -> nn.Module:
    """Build the suite's network with the weights of a published implementation, in evaluation mode.

    The keys identify the implementation, and the shapes of the tensors determine all sizes. Wrappers
    (``params_ema``, ``module.`` and the like) are removed.

    Raises:
        CheckpointError: the keys belong to no known implementation, or some are missing or left over.
    """
    state, references = _unwrap(state_dict), find_references()
    for reference in references:
        if reference.marker in state:
            break
    else:
        known = ", ".join(reference.name for reference in references)
        raise CheckpointError(f"keys of no known implementation ({known}): {_abbreviate(state)}")
    renamed, unknown = reference.rename(state)
    try:
        network = reference.build(renamed)
    except KeyError as error:
        raise CheckpointError(f"the checkpoint of {reference.name} lacks {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the tensors of {reference.name} do not form a network: {error}") from error
    return _load_weights(network, renamed, unknown, reference.name)


def find_references() -> list[Reference]:
    """Collect every :class:`Reference` that a module of the package ``src.papers.weights`` defines."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(weights.__path__, f"{weights.__name__}.")
    ]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Reference)]


def _load_own(path: Path, content: Mapping[str, Any], limit: int) -> nn.Module:
    """Load a checkpoint of the suite; ``limit`` as in :func:`build`."""
    if not isinstance(content["state_dict"], Mapping):
        raise CheckpointError(f"The state_dict of {path} is a {type(content['state_dict']).__name__}, no dictionary.")
    weights = {
        str(name).removeprefix("network."): tensor
        for name, tensor in content["state_dict"].items()
        if str(name).startswith("network.") and isinstance(tensor, Tensor)
    }
    return _load_weights(build(content["network"], path, limit=limit), weights, [], str(path))


def build(description: Any, source: str | Path, *, allow_cascade: bool = False, limit: int = MAX_ELEMENTS) -> nn.Module:
    """Build the network that a file describes: a checkpoint's ``network``, or ``model.network`` of a run's config.yaml.

    The file is not trusted: only Modules of this suite and of ``torch.nn`` are built, from plain values.

    Args:
        description: ``_target_`` and arguments.
        source: the file, for messages.
        allow_cascade: accept a :func:`cascade`, which loads the checkpoints in its ``stages``.
        limit: maximum number of elements of all weights.

    Raises:
        CheckpointError: the description contains anything else, or building fails.
    """
    _check_description(source, description, allow_cascade)
    try:
        with _limit_elements(limit):
            network = instantiate(_modernise(description))
    except Exception as error:  # of another version, for example
        cause = error.__cause__ or error
        raise CheckpointError(
            f"The network in {source} cannot be built: {' '.join(str(cause).split()).rstrip('.')}."
        ) from error
    if not isinstance(network, nn.Module):
        raise CheckpointError(f"{source} describes no network.")
    return network


def _check_description(source: str | Path, description: Any, allow_cascade: bool) -> None:
    """Raise a CheckpointError for a description with anything but Modules and plain values of plausible size."""
    pending, parts = [(description, 1)], 1
    while pending:  # no recursion: an untrusted description may be deep, and may repeat or contain itself
        node, depth = pending.pop()
        children = [*node.values()] if isinstance(node, Mapping) else node if isinstance(node, list) else []
        parts += len(children)
        if depth > MAX_DEPTH or parts > MAX_PARTS:
            raise CheckpointError(
                f"The network in {source} has more than {MAX_DEPTH} levels or {MAX_PARTS:,} parts, unlike any of this "
                "suite; it is not built."
            )
        pending += [(child, depth + 1) for child in children]
        if isinstance(node, Mapping):
            odd = [key for key in node if not isinstance(key, str) or (key[:1] == "_" and key != "_target_")]
            target = MOVED.get(str(node.get("_target_")), node.get("_target_"))
            trusted = _is_module(str(target)) or (allow_cascade and target == CASCADE)
            if odd or ("_target_" in node and not trusted):
                raise CheckpointError(f"The network in {source} has the target {target!r}, no part of this suite.")
        elif isinstance(node, str) and "${" in node:
            raise CheckpointError(f"The network in {source} has an interpolation, {node!r}; it is not built.")
        elif isinstance(node, int | float) and not abs(node) <= MAX_NUMBER:
            raise CheckpointError(f"The network in {source} has a number that is too large, {node}; it is not built.")
        elif not isinstance(node, str | int | float | list | None):
            raise CheckpointError(
                f"The network in {source} contains a {type(node).__name__}, not a plain value; it is not built."
            )


def _modernise(node: Any) -> Any:
    """Replace names of earlier versions in a trusted description."""
    if isinstance(node, Mapping):
        node = {RENAMED.get(name, name): _modernise(part) for name, part in node.items()}
        return {**node, "_target_": MOVED.get(node["_target_"], node["_target_"])} if "_target_" in node else node
    return [_modernise(part) for part in node] if isinstance(node, list) else node


@contextmanager
def _limit_elements(limit: int) -> Iterator[None]:
    """Stop the construction of networks with more elements than ``limit``, before they exhaust memory."""
    left = limit

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal left
        left -= max(MIN_ELEMENTS, parameter.numel())
        if left < 0:
            raise ValueError("it is larger than any network of this suite, or than its weights")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _is_module(target: str) -> bool:
    """Check that a dotted name is a Module class in a trusted package, and defined in a trusted package too."""
    module, _, name = target.rpartition(".")
    if module != "torch.nn" and not module.startswith(("src.papers.", "src.nn.", "src.engine.")):
        return False
    try:
        value = vars(importlib.import_module(module)).get(name)
    except ImportError:
        return False
    return isinstance(value, type) and issubclass(value, nn.Module) and value.__module__.startswith(TRUSTED)


def _load_weights(network: nn.Module, weights: Mapping[str, Tensor], unknown: list[str], name: str) -> nn.Module:
    """Load ``weights`` strictly, in their dtype; list missing, unexpected and ``unknown`` keys in a CheckpointError."""
    expected = network.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(weights.keys() - expected.keys()) + unknown
    misshapen = [key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape]
    faults = [
        f"{fault}: {_abbreviate(keys)}"
        for fault, keys in (("missing", missing), ("left over", surplus), ("of another shape", misshapen))
        if keys
    ]
    if faults:
        raise CheckpointError(f"the weights of {name} do not match its network; " + "; ".join(faults))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:  # sparse tensors, for example
        raise CheckpointError(f"the weights of {name} cannot be loaded: {' '.join(str(error).split())}") from error
    dtype = next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), torch.float32)
    return network.to(dtype).eval()


def _unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, without wrappers and prefixes."""
    for _ in range(MAX_DEPTH):  # a dictionary may contain itself
        content = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), content)
    state = {}
    for name, value in content.items():
        name = str(name)
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        if isinstance(value, Tensor):
            state[name] = value
    return state


def _abbreviate(keys: Iterable[str]) -> str:
    """List the first keys, and count the others."""
    keys = list(keys)
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "") if keys else "none at all"
