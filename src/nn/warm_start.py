"""Warm start: initial weights under which a network interpolates, and adds almost nothing to that, whatever its parts.

A short training then only learns the difference to interpolation. What makes that difference, the last part of a
network, starts faint: its output is almost zero for any features, those of parts from outside the suite included.

So that it learns fast, the first channels of features, the *identity channels*, carry the colours of the input: three
for red, green and blue, or a multiple of three where an encoder turns pixels into channels. The first and last parts
of a network, which implement :class:`NearIdentity`, carry them. Parts that are exchanged in comparisons (alignment,
fusion, interpolation, recurrence) keep their own initialisation, all alike; EDVR and Zooming SlowMo have a shortcut
past them. A warm start changes neither the names nor the shapes of parameters. The published trainings start at random.

A leaky ReLU would distort what the last part makes of them: leaky(x) - leaky(-x) = (1 + slope) x restores a channel
from itself and its negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.errors import UserError
from src.ops.resize import imresize

RGB = 3  # identity channels of one pixel
MIDDLE = 0.5  # of the range of colours
RANDOM = 0.1  # factor for the random weights beside those that carry differences
FAINT = 1e-3  # factor for the random weights of a layer that starts by adding almost nothing


class NearIdentity:
    """Base of parts that can start near the identity."""

    def init_near_identity(self, count: int) -> int:
        """Initialise the part and its own parts in place, so that the identity channels pass through.

        Args:
            count: number of identity channels of its input.

        Returns:
            that of its output.

        Raises:
            UserError: the part has too few channels.
        """
        raise NotImplementedError


def init_near_identity(module: nn.Module, count: int) -> int:
    """Initialise every :class:`NearIdentity` part of ``module``, in the order of registration, in place.

    Args:
        module: a network, a part or a container of parts that run in the order of their registration.
        count: number of identity channels of its input.

    Returns:
        that of its output.
    """
    if isinstance(module, NearIdentity):
        return module.init_near_identity(count)
    for part in module.children():
        count = init_near_identity(part, count)
    return count


@torch.no_grad()
def pass_through(conv: nn.Module, shares: Sequence[float], count: int = RGB) -> None:
    """Make the first ``count`` outputs of ``conv`` a weighted sum of the identity channels of its inputs.

    Args:
        conv: a convolution of odd kernel size over concatenated inputs of equal width.
        shares: weight of each input.
        count: number of identity channels.
    """
    assert isinstance(conv, nn.Conv2d)
    pass_through_weight(conv.weight, shares, count)
    if conv.bias is not None:
        conv.bias[:count] = 0


@torch.no_grad()
def pass_through_weight(weight: Tensor, shares: Sequence[float], count: int) -> None:
    """Set the kernels (C', C, K, K) of the first ``count`` outputs as in :func:`pass_through`."""
    middle, inputs = weight.shape[-1] // 2, weight.shape[1] // len(shares)
    check_width(weight.shape[0], count)
    weight[:count] = 0
    for number, share in enumerate(shares):
        for channel in range(count):
            weight[channel, number * inputs + channel, middle, middle] = share


@torch.no_grad()
def init_difference(conv: nn.Module, gain: float) -> None:
    """Make a convolution of two concatenated features see only their difference, first minus second.

    Its outputs are zero wherever both are equal, that is, where nothing moves. The first half of them carries the
    difference of as many channels, the second half its negative, so that a leaky ReLU loses neither sign.

    Args:
        conv: a convolution of odd kernel size over two inputs of equal width.
        gain: factor on the differences, which are small.
    """
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    first, second = conv.weight.chunk(2, dim=1)
    first *= gain * RANDOM
    middle, half = first.shape[-1] // 2, len(first) // 2
    for channel in range(half):
        first[channel, channel, middle, middle] += gain
        first[half + channel, channel, middle, middle] -= gain
    second.copy_(-first)
    conv.bias.zero_()


@torch.no_grad()
def pass_signed(conv: nn.Module, slope: float) -> None:
    """Make a convolution pass on what :func:`init_difference` carries in its first inputs, behind a leaky ReLU.

    leaky(x) - leaky(-x) = (1 + slope) x restores a channel from itself and its negative.

    Args:
        conv: a convolution of odd kernel size; it may have further inputs, whose random weights become small.
        slope: of the leaky ReLU before it.
    """
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    conv.weight *= RANDOM
    middle, half = conv.weight.shape[-1] // 2, len(conv.weight) // 2
    for channel in range(half):
        for row, sign in ((channel, 1), (half + channel, -1)):
            conv.weight[row, channel, middle, middle] += sign / (1 + slope)
            conv.weight[row, half + channel, middle, middle] -= sign / (1 + slope)
    conv.bias.zero_()


def check_width(width: int, count: int) -> None:
    """Raise a :class:`UserError` for a layer of fewer than ``count`` channels."""
    if width < count:
        raise UserError(
            f"a warm start needs {count} channels or more in this layer: raise size.width, or set size.warm_start=false"
        )


@torch.no_grad()
def init_bicubic(direct: Any, residual: Any, scale: int) -> None:
    """Initialise two convolutions so that their shuffled sum is the bicubic enlargement of the middle frame.

    Args:
        direct: convolution over 5x5 pixels of frames, channels before time: weights (3*s*s, 3*T, 5, 5) or
            (3*s*s, 3, T, 5, 5).
        residual: the convolution added to it, over any input; its weights are scaled to a tenth.
        scale: s.
    """
    taps = imresize(torch.eye(25).view(25, 5, 5), scale)[:, 2 * scale : 3 * scale, 2 * scale : 3 * scale]
    shape = direct.weight.shape
    weight = torch.zeros(shape).view(RGB, scale**2, RGB, -1, 5, 5)
    for channel in range(RGB):
        weight[channel, :, channel, weight.shape[3] // 2] = taps.reshape(5, 5, -1).permute(2, 0, 1)
    direct.weight = weight.view(shape)
    residual.weight = 0.1 * residual.weight
    for conv in (direct, residual):
        conv.bias.zero_()
