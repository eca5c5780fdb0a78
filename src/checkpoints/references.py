"""State dicts of published implementations: recognised by their keys, loaded into networks of the suite."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from src.checkpoints.descriptions import MAX_DEPTH
from src.checkpoints.states import abbreviate, load_weights
from src.errors import CheckpointError
from src.papers import weights
from src.papers.weights.reference import Reference

WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")  # keys of weights in files, best first
PREFIXES = ("module.", "_orig_mod.", "network.")  # of parameter names, added by DDP, torch.compile and Lightning
COPIES = (  # of a network in one state dict of mmengine: averaged ones first
    re.compile(r"(?:generator_ema|ema_module)\.(?:module\.)?(?:generator\.)?"),
    re.compile(r"generator\."),
)


def from_reference(state_dict: Mapping[str, Any], *, dtype: torch.dtype | None = None) -> nn.Module:
    """Build the suite's network with the weights of a published implementation, in evaluation mode.

    The keys identify the implementation, and the shapes of the tensors determine all sizes. Wrappers
    (``params_ema``, ``module.`` and the like) are removed. ``dtype`` is as in :func:`src.checkpoints.load`.

    Raises:
        CheckpointError: the keys belong to no known implementation, or some are missing or left over.
    """
    state, references = _unwrap(state_dict), find_references()
    for reference in references:
        if reference.marker in state:
            break
    else:
        known = ", ".join(reference.name for reference in references)
        raise CheckpointError(f"keys of no known implementation ({known}): {abbreviate(state)}")
    renamed, unknown = reference.rename(state)
    try:
        network = reference.build(renamed)
    except KeyError as error:
        raise CheckpointError(f"the checkpoint of {reference.name} lacks {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the tensors of {reference.name} do not form a network: {error}") from error
    return load_weights(network, renamed, unknown, reference.name, dtype)


def find_references() -> list[Reference]:
    """Collect every :class:`Reference` that a module of the package ``src.papers.weights`` defines."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(weights.__path__, f"{weights.__name__}.")
    ]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Reference)]


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
    return _select_copy(state)


def _select_copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the best copy of a network that mmengine stored, without its other copies and counters of steps."""
    for prefix in COPIES:
        found = [(match, name) for name in state if (match := prefix.match(name))]
        copy = {name[match.end() :]: state[name] for match, name in found if state[name].ndim}
        if copy:
            return copy
    return state
