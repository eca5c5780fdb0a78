"""Less memory for more time: what lies within a part of a network is computed again when its gradient is.

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


def recompute(network: nn.Module) -> None:
    """Has ``network`` keep only what enters its parts until their gradients are computed, in place.

    Outputs, gradients and names of weights stay as they are; so do passes without gradients. Parts are the modules
    that a network is put together of, and within them the smallest that are made of others (a residual block, a
    deformable convolution with that of its offsets), so that nothing is computed more than three times. What normalises
    by statistics of its batches would count them twice, and is left out; so is what draws at random, of which no
    network here has anything.
    """
    parts = {*_composite(network), *(part for part in network.modules() if _smallest(part))} - {network}
    for part in parts:
        if not any(isinstance(module, _BatchNorm) for module in part.modules()):
            part.forward = partial(_again, part.forward)  # copies of the network have it as their own


def _again(forward: Any, *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **options)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **options)


def _composite(module: nn.Module) -> Iterator[nn.Module]:
    """Parts of a module that have parts themselves; of mere lists, which are never called, their entries."""
    for part in module.children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield from _composite(part)
        elif _composed(part):
            yield part


def _smallest(module: nn.Module) -> bool:
    lists = isinstance(module, nn.ModuleList | nn.ModuleDict)
    return not lists and _composed(module) and next(_composite(module), None) is None


def _composed(module: nn.Module) -> bool:
    return next(module.children(), None) is not None and not parametrize.is_parametrized(module)
