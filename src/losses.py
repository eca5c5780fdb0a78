"""Training losses as functions of an estimate and a target of one shape, each a scalar."""

from __future__ import annotations

import torch
from torch import Tensor


def charbonnier(estimate: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    r"""Mean Charbonnier penalty, :math:`\sqrt{(x - y)^2 + \epsilon^2}`, a differentiable L1.

    Zooming SlowMo, Equation 7 (epsilon 1e-3); EDVR, Section 4.1.
    """
    return torch.sqrt((estimate - target).float().square() + epsilon**2).mean()
