"""Activation checkpointing: discard activations within the parts of a network and recompute them in the backward pass.

T. Chen, B. Xu, C. Zhang, C. Guestrin: "Training Deep Nets with Sublinear Memory Cost", 2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(network: nn.Module) -> None:
    """Keep only the inputs of each part of ``network`` until its backward pass, in place.

    Outputs, gradients, names of weights and passes without gradients stay the same. Parts are the modules that a
    network consists of and, within them, the smallest composite modules (a residual block, a deformable convolution
    with that of its offsets), so nothing is computed more than three times. A part with batch normalisation is left
    out, because a second pass would count its statistics twice. A part with random draws would also have to be left
    out; no network here has one.
    """
    parts = {*_composite_parts(network), *(part for part in network.modules() if _is_smallest(part))} - {network}
    for part in parts:
        if not any(isinstance(module, _BatchNorm) for module in part.modules()):
            part.forward = partial(_checkpointed, part.forward)  # a deep copy of the network rebinds it


def _checkpointed(forward: Any, *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **options)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **options)


def _composite_parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the children of a module that have children; for lists, which have no forward, those of their entries."""
    for part in module.children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield from _composite_parts(part)
        elif _is_composite(part):
            yield part


def _is_smallest(module: nn.Module) -> bool:
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
    return not is_list and _is_composite(module) and next(_composite_parts(module), None) is None


def _is_composite(module: nn.Module) -> bool:
    return next(module.children(), None) is not None and not parametrize.is_parametrized(module)
