"""Initial weights under which a network already interpolates, so that a short training only adds what that lacks.

Three channels of every feature, the *carriers*, bring the colours of the input through all parts to the output: frames
are enlarged bilinearly, those in between are blended. The other channels start as they always do. Nothing here changes
what a network can learn, or its parameters' names and shapes. The published trainings start without it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.nn.align import DeformablePack, PyramidAlign
from src.nn.blocks import Blend, FrameEncoder, ResidualBlock
from src.nn.recur import ConvLSTM
from src.nn.upsample import Reconstruct

CARRIERS = 3  # red, green, blue
OPEN = 6.0  # bias of a gate that lets through, sigmoid(6) = 0.998
SMALL = 0.25  # what carriers are scaled by before tanh, which is nearly linear there


def start_interpolating(network: nn.Module) -> None:
    """Sets the carriers' weights in every part of ``network``, in place."""
    gain = 1.0  # of the carriers between encoder and reconstruction
    for part in network.modules():
        if isinstance(part, FrameEncoder):
            _carry(part.conv, [1.0])
        elif isinstance(part, ResidualBlock):
            _carry(part.conv2, [0.0])  # nothing is added to them
        elif isinstance(part, DeformablePack):
            _carry_weight(part.weight, [2.0])  # the mask starts at one half
        elif isinstance(part, PyramidAlign):
            for blend in part.blend:
                _carry(blend, [1.0, 0.0])
        elif isinstance(part, Blend):
            _carry(part, [0.5, 0.5])
        elif isinstance(part, ConvLSTM):
            gain = _carry_through_gates(part)
    for part in network.modules():
        if isinstance(part, Reconstruct):
            for conv, step in zip(part.upscale, part.steps, strict=True):
                _enlarge(conv, step)
            _carry(part.refine, [1.0])
            _carry(part.last, [1 / gain])


@torch.no_grad()
def _carry(conv: nn.Module, shares: list[float]) -> None:
    """Carriers come out of ``conv`` as the weighted sum of those of each of its concatenated inputs."""
    assert isinstance(conv, nn.Conv2d)
    _carry_weight(conv.weight, shares)
    if conv.bias is not None:
        conv.bias[:CARRIERS] = 0


@torch.no_grad()
def _carry_weight(weight: Tensor, shares: list[float]) -> None:
    middle, inputs = weight.shape[-1] // 2, weight.shape[1] // len(shares)
    weight[:CARRIERS] = 0
    for number, share in enumerate(shares):
        for channel in range(CARRIERS):
            weight[channel, number * inputs + channel, middle, middle] = share


@torch.no_grad()
def _carry_through_gates(lstm: ConvLSTM) -> float:
    """The current frame's carriers go through, the state's hardly; returns how much smaller they come out."""
    weight, bias = lstm.gates.weight, lstm.gates.bias
    assert bias is not None
    channels = len(bias) // 4
    for gate, start in enumerate((OPEN, -OPEN, OPEN, 0.0)):  # input, forget, output, candidate
        rows = slice(gate * channels, gate * channels + CARRIERS)
        weight[rows], bias[rows] = 0, start
    for channel in range(CARRIERS):
        weight[3 * channels + channel, channel, 1, 1] = SMALL
    return SMALL * float(torch.tensor(OPEN).sigmoid()) ** 2


@torch.no_grad()
def _enlarge(conv: nn.Module, step: int) -> None:
    """Carriers come out of ``conv`` and the pixel shuffle behind it enlarged bilinearly ``step`` times."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    places = (torch.arange(step) + 0.5) / step - 0.5  # of the new pixels, in old ones
    taps = (1 - (places[:, None] - torch.arange(-1, 2)).abs()).clamp(min=0)  # (step, 3)
    conv.weight[: CARRIERS * step**2], conv.bias[: CARRIERS * step**2] = 0, 0
    for channel in range(CARRIERS):
        for row in range(step):
            for column in range(step):
                output = channel * step**2 + row * step + column
                conv.weight[output, channel] = torch.outer(taps[row], taps[column])
