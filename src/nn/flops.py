"""Cost of a network, computed without running it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from src.nn.blocks import count_parameters


def count(network: Any, height: int, width: int) -> dict[str, int]:
    """Count parameters, and operations on one window of ``height`` x ``width`` input pixels.

    The network is moved to the meta device and loses its weights.

    Returns:
        ``parameters`` and ``flops``: two for each multiply-add, including those of deformable convolutions.
    """
    network = network.to("meta")
    with torch.device("meta"), torch.no_grad():
        clip = torch.empty(1, network.geometry.window, 3, height, width)
        with FlopCounterMode(display=False) as counter:
            network(clip)
    return {"parameters": count_parameters(network), "flops": counter.get_total_flops()}
