"""Convolutional building blocks, independent of time and of papers.

Shapes: B batch, T frames, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from src.nn.video_network import VideoNetwork
from src.nn.warm_start import NearIdentity, pass_through

SLOPE = 0.1  # of the leaky ReLUs of EDVR, Zooming SlowMo and DSFN


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with zero padding; the output has the size of the input divided by ``stride``."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1)


class Blend(nn.Conv2d):
    """1x1 convolution of two concatenated features: twice (N, C, H, W) to (N, C, H, W).

    The weighted blending of Zooming SlowMo's Equation 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels, channels, kernel_size=1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([first, second], dim=1))


def leaky(x: Tensor) -> Tensor:
    """Apply the LeakyReLU of EDVR, Zooming SlowMo and DSFN (slope 0.1), in place."""
    return F.leaky_relu_(x, SLOPE)


def upsample2x(x: Tensor) -> Tensor:
    """Upsample bilinearly by two, without aligned corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def upsample2x_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Compute ``conv(upsample2x(x))`` at a quarter of the operations: (N, C, H, W) to (N, C', 2H, 2W).

    Upsampling treats all channels alike. So a 1x1 convolution for each of the nine taps mixes them at the small size,
    and the upsampled results are shifted and added.

    Args:
        conv: a convolution of :func:`conv3x3`.
        x: features.
    """
    taps = conv.weight.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, conv.in_channels, 1, 1)
    mixed = upsample2x(F.conv2d(x, taps).contiguous())
    total = F.fold(mixed.flatten(2), mixed.shape[-2:], conv.kernel_size, padding=conv.padding)  # type: ignore[arg-type]
    return total + conv.bias.view(-1, 1, 1)  # type: ignore[union-attr]


class ResidualBlock(nn.Module, NearIdentity):
    """EDSR's residual block: conv, ReLU (leaky with a ``slope``), conv, plus the input; no normalisation.

    Weights start as Kaiming normal by fan-in times 0.1, so that a deep trunk starts near the identity.
    """

    def __init__(self, channels: int, *, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.leaky_relu_(self.conv1(x), self.slope)).add_(x)

    def init_near_identity(self, count: int) -> int:
        """Add nothing to the identity channels."""
        pass_through(self.conv2, [0.0], count)
        return count


def trunk(channels: int, blocks: int) -> nn.Sequential:
    """Return a sequence of ``blocks`` residual blocks."""
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))


def fold_norms(network: nn.Module) -> nn.Module:
    """Fold weight normalisation, and batch normalisation after convolutions, into the kernels.

    The network is changed in place and returned. It computes the same, for inference only.
    """
    for module in list(network.eval().modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
        if isinstance(module, nn.Sequential):
            for place, (conv, norm) in enumerate(pairwise(list(module))):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[place], module[place + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network


def compile_parts(network: nn.Module) -> None:
    """Compile the parts of a network in place. Its copies, which serve to estimate memory, stay uncompiled."""
    for part in network.children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict | VideoNetwork):
            compile_parts(part)
        else:
            part.compile()


def count_parameters(modules: nn.Module | Iterable[nn.Module], *, trainable: bool = False) -> int:
    """Count parameters, shared ones once; with ``trainable`` only those that require gradients."""
    modules = [modules] if isinstance(modules, nn.Module) else modules
    parameters = {id(p): p for m in modules for p in m.parameters() if p.requires_grad or not trainable}
    return sum(math.prod(p.shape) for p in parameters.values())
