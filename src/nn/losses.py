"""Training losses as functions of an estimate and a target of one shape, each a scalar.

Shapes: B batch, T frames, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from src.nn.backbones import imagenet_normalised
from src.nn.clips import map_frames


def charbonnier(estimate: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    r"""Mean Charbonnier penalty, :math:`\sqrt{(x - y)^2 + \epsilon^2}`, a differentiable L1.

    Zooming SlowMo, Equation 7 (epsilon 1e-3); EDVR, Section 4.1.
    """
    return torch.sqrt(_difference(estimate, target).square() + epsilon**2).mean()


def l1(estimate: Tensor, target: Tensor) -> Tensor:
    r"""Pixel-wise loss of clips (B, T, C, H, W): :math:`\sum_t \lVert x_t - y_t \rVert_1 / CHW`, averaged over B.

    VTSR (thesis, Section 3.3, first term of Equation 3.13), where frames are summed and pixels, by a norm that is taken
    as relative to their number, are averaged.
    """
    return _sum_of_frames(_difference(estimate, target).abs().mean(dim=(-3, -2, -1)))


def sharpness(estimate: Tensor, target: Tensor) -> Tensor:
    r"""Loss on edges of clips (B, T, C, H, W): :math:`\sum_t \lVert \nabla^2 x_t - \nabla^2 y_t \rVert_1 / CHW`.

    Averaged over B. VTSR (thesis, Section 3.3, last term of Equation 3.13); see :func:`laplacian`.
    """
    return _sum_of_frames(laplacian(_difference(estimate, target)).abs().mean(dim=(-3, -2, -1)))  # it is linear


def laplacian(x: Tensor) -> Tensor:
    """Convolution with [[0, 1, 0], [1, -4, 1], [0, 1, 0]] of each channel: (..., H, W) to (..., H, W).

    The outermost pixels are repeated beyond the border, which the thesis leaves open: a constant picture has no edge,
    not even around itself, and any size goes. The kernel is the sum of a second difference in rows and one in columns.
    """
    down, across = (
        torch.diff(x, n=2, dim=axis, prepend=x.narrow(axis, 0, 1), append=x.narrow(axis, -1, 1)) for axis in (-2, -1)
    )
    return down + across


class Perceptual:
    r"""Loss on a network's features of clips (B, T, 3, H, W) in [0, 1].

    .. math:: \sum_t \lVert \phi(x_t) - \phi(y_t) \rVert_2 / \sqrt{n}

    averaged over B, with :math:`\phi` the features of the ImageNet-normalised frames and n the number of their
    elements: a root mean square, so that lambda_p of Equation 3.13 does not depend on the size of the crops. Equal
    clips have a loss and a gradient of exactly zero. VTSR (thesis, Section 3.3), with conv4_3 of VGG16.

    It is no module on purpose: whoever holds one has no parameters more, and checkpoints do not contain the features.

    Args:
        features: (N, 3, H, W) to features of N frames, such as :class:`src.nn.backbones.VGG16` with ImageNet weights.
            It is frozen for good, computes in float32, and follows the estimate from device to device.
    """

    def __init__(self, features: nn.Module) -> None:
        self.features = features.eval().requires_grad_(False).float()

    def __call__(self, estimate: Tensor, target: Tensor) -> Tensor:
        device = estimate.device
        with torch.inference_mode(False):  # a validation may come first, and what it moves must still serve training
            self.features.to(device)
        with torch.autocast(device.type, enabled=False):
            wanted = self._encode(target.detach())  # without a graph, and laid out in memory as the estimate is
            difference = self._encode(estimate) - wanted  # (B, T, C, H, W)
        distance = torch.linalg.vector_norm(difference, dim=(-3, -2, -1))  # its gradient at zero is zero
        return _sum_of_frames(distance / math.sqrt(difference[0, 0].numel()))

    def _encode(self, clip: Tensor) -> Tensor:
        return map_frames(self.features, imagenet_normalised(clip.float()))


def _difference(estimate: Tensor, target: Tensor) -> Tensor:
    """In float32, which has the digits that neighbours in bfloat16 differ by, whatever they come in."""
    return estimate.float() - target.float()


def _sum_of_frames(errors: Tensor) -> Tensor:
    """Errors of frames (B, T) to a scalar: summed over a clip, averaged over clips."""
    return errors.sum(dim=1).mean()
