"""Descriptions of networks (``_target_`` and arguments) in files: checked against an allow-list, then built."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

from hydra.utils import instantiate
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from src.errors import CheckpointError
from src.trust import is_trusted, suggest_trust

TRUSTED = ("src.papers", "src.nn", "src.engine", "torch.nn")  # packages of the Modules that a description may name
MOVED = {"src.papers.cascade.Cascade": "src.engine.cascade.Cascade"}  # targets in older files
RENAMED = {"interpolating": "warm_start"}  # arguments in older files
CASCADE = "src.checkpoints.cascade"  # loads checkpoints
FROZEN = "src.checkpoints.load_frozen"  # loads a checkpoint
MAX_DEPTH, MAX_PARTS, MAX_NUMBER = 32, 10_000, 10**6  # of a description; those of the suite have 6, 200 and 300,000
MAX_ELEMENTS, MIN_ELEMENTS = 2**28, 20_000  # limit for a network, and the least that counts for one of its tensors


def build(
    description: Any, source: str | Path, *, allow_checkpoints: bool = False, limit: int = MAX_ELEMENTS
) -> nn.Module:
    """Build the network that a file describes: a checkpoint's ``network``, or ``model.network`` of a run's config.yaml.

    The file is not trusted: only Modules of this suite, of ``torch.nn`` and of :func:`src.trust.trust` are built, from
    plain values.

    Args:
        description: ``_target_`` and arguments.
        source: the file, for messages.
        allow_checkpoints: accept :func:`cascade` and :func:`load_frozen`, which load the checkpoints that it names.
        limit: maximum number of elements of all weights.

    Raises:
        CheckpointError: the description contains anything else, or building fails.
    """
    check_description(source, description, allow_checkpoints=allow_checkpoints)
    try:
        with limit_elements(limit):
            network = instantiate(_modernise(description))
    except Exception as error:  # of another version, for example
        cause = error.__cause__ or error
        raise CheckpointError(
            f"The network in {source} cannot be built: {' '.join(str(cause).split()).rstrip('.')}."
        ) from error
    if not isinstance(network, nn.Module):
        raise CheckpointError(f"{source} describes no network.")
    return network


def check_description(source: str | Path, description: Any, *, allow_checkpoints: bool = False) -> None:
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
            trusted = _is_module(str(target)) or (allow_checkpoints and target in (CASCADE, FROZEN))
            if odd or ("_target_" in node and not trusted):
                reason = _explain_refusal(target, description)
                raise CheckpointError(f"The network in {source} has the target {target!r}, {reason}.")
        elif isinstance(node, str) and "${" in node:
            raise CheckpointError(f"The network in {source} has an interpolation, {node!r}; it is not built.")
        elif isinstance(node, int | float) and not abs(node) <= MAX_NUMBER:
            raise CheckpointError(f"The network in {source} has a number that is too large, {node}; it is not built.")
        elif not isinstance(node, str | int | float | list | None):
            raise CheckpointError(
                f"The network in {source} contains a {type(node).__name__}, not a plain value; it is not built."
            )


def _explain_refusal(target: Any, description: Any) -> str:
    """Say why a target is not built, and which option would change that."""
    module = str(target).rpartition(".")[0]
    if not is_trusted(module):
        return f"no part of this suite{suggest_trust(description)}"
    try:
        importlib.import_module(module)
    except Exception as error:  # anything that the user's code raises
        return f"and {module} cannot be imported ({type(error).__name__}: {' '.join(str(error).split())})"
    return "which is no class of torch.nn.Module"


def _modernise(node: Any) -> Any:
    """Replace names of earlier versions in a trusted description."""
    if isinstance(node, Mapping):
        node = {RENAMED.get(name, name): _modernise(part) for name, part in node.items()}
        return {**node, "_target_": MOVED.get(node["_target_"], node["_target_"])} if "_target_" in node else node
    return [_modernise(part) for part in node] if isinstance(node, list) else node


@contextmanager
def limit_elements(limit: int) -> Iterator[None]:
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
    module = target.rpartition(".")[0]
    if is_trusted(module):  # with everything that the user's code imports
        value = _find_member(target)
        return isinstance(value, type) and issubclass(value, nn.Module)
    if module != "torch.nn" and not module.startswith(("src.papers.", "src.nn.", "src.engine.")):
        return False
    value = _find_member(target)
    return isinstance(value, type) and issubclass(value, nn.Module) and value.__module__.startswith(TRUSTED)


def is_own(target: str) -> bool:
    """Check that a dotted name is a class or function that the suite defines, or one of the user's own trusted code."""
    if is_trusted(target.rpartition(".")[0]):
        return isinstance(_find_member(target), type | FunctionType)
    value = _find_member(target) if target.startswith("src.") else None
    return isinstance(value, type | FunctionType) and value.__module__.startswith("src.")


def _find_member(target: str) -> object:
    """Return a member of a module by its dotted name; None if there is no such module or member."""
    module, _, name = target.rpartition(".")
    try:
        return vars(importlib.import_module(module)).get(name)
    except ImportError:
        return None
    except Exception:  # of the user's own code
        if is_trusted(module):
            return None
        raise
