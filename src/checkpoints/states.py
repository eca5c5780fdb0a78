"""Load tensors into a network strictly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from src.errors import CheckpointError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of weights
LONGEST = 100  # characters of a name in a message


def load_weights(
    network: nn.Module, weights: Mapping[str, Tensor], unknown: list[str], name: str, dtype: torch.dtype | None = None
) -> nn.Module:
    """Load ``weights`` strictly; return the network in evaluation mode.

    Args:
        network: the network, as built.
        weights: its tensors by name.
        unknown: names in the file that belong to no tensor of the network.
        name: the file or the implementation, for messages.
        dtype: type to compute in; None: that of the weights, or float32 where they are stored in fewer bits.

    Raises:
        CheckpointError: keys are missing, left over or ``unknown``, or a tensor has another shape or type.
    """
    expected = network.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(weights.keys() - expected.keys()) + unknown
    common = [key for key in expected if key in weights]
    misshapen = [key for key in common if expected[key].shape != weights[key].shape]
    mistyped = [key for key in common if not _fits(weights[key].dtype, expected[key].dtype)]
    faults = [
        f"{fault}: {abbreviate(keys)}"
        for fault, keys in (
            ("missing", missing),
            ("left over", surplus),
            ("of another shape", misshapen),
            ("of another type", mistyped),
        )
        if keys
    ]
    if faults:
        raise CheckpointError(f"the weights of {name} do not match its network; " + "; ".join(faults))
    stored = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    dtype = dtype or (torch.float64 if torch.float64 in stored else torch.float32)
    try:
        network.to(dtype).load_state_dict(weights)
    except RuntimeError as error:  # sparse tensors, for example
        raise CheckpointError(f"the weights of {name} cannot be loaded: {' '.join(str(error).split())}") from error
    return network.eval()


def _fits(stored: torch.dtype, expected: torch.dtype) -> bool:
    """Check that a tensor holds weights where weights are expected, and counters where counters are."""
    return stored in DTYPES if expected.is_floating_point else stored == expected


def abbreviate(keys: Iterable[str]) -> str:
    """List the first keys, and count the others."""
    keys = [" ".join(str(key)[:LONGEST].split()) for key in keys]
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "") if keys else "none at all"
