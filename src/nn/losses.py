"""Training losses: scalars, as functions of an estimate and a target of the same shape.

Shapes: B batch, T frames, C channels, H height, W width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from src.nn.backbones import normalise_imagenet
from src.nn.clips import map_frames


def charbonnier(
    estimate: Tensor, target: Tensor, epsilon: float = 1e-3, *, reduction: Literal["sum", "mean"] = "sum"
) -> Tensor:
    r"""Compute the Charbonnier penalty :math:`\sqrt{(x - y)^2 + \epsilon^2}` of every element, a differentiable L1.

    Zooming SlowMo, Equation 7 (epsilon 1e-3); EDVR, Section 4.1.

    Args:
        estimate, target: of the same shape.
        epsilon: the error below which the penalty is quadratic.
        reduction: ``sum`` over all elements of the batch, as in both published training codes, or their ``mean``. Adam
            ignores the scale of a loss only where gradients are far above its eps of 1e-8. From the published weights
            at the start, those of the deformable alignment are not under a mean, and it hardly moves. Under a sum,
            clip no gradients at a norm that suits a mean.

    Returns:
        A scalar. Batches of ``accumulate_grad_batches`` are averaged by Lightning, and gradients of several devices by
        DDP, as in the published training on 8 GPUs: the sum is that of a device's batch.

    Raises:
        ValueError: ``reduction`` is neither.
    """
    penalty = torch.sqrt(_difference(estimate, target).square() + epsilon**2)
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be sum or mean, got {reduction!r}")
    return penalty.sum() if reduction == "sum" else penalty.mean()


def l1(estimate: Tensor, target: Tensor) -> Tensor:
    r"""Compute the L1 loss of clips (B, T, C, H, W), :math:`\sum_t \lVert x_t - y_t \rVert_1 / CHW`, averaged over B.

    VTSR (thesis, Section 3.3, first term of Equation 3.13): a sum over frames, and an average over pixels, if its norm
    is read as relative to their number.
    """
    return _sum_of_frames(_difference(estimate, target).abs().mean(dim=(-3, -2, -1)))


def sharpness(estimate: Tensor, target: Tensor) -> Tensor:
    r"""Compute the loss on the edges of clips (B, T, C, H, W), averaged over B.

    .. math:: \sum_t \lVert \nabla^2 x_t - \nabla^2 y_t \rVert_1 / CHW

    VTSR (thesis, Section 3.3, last term of Equation 3.13); see :func:`laplacian`.
    """
    return _sum_of_frames(
        laplacian(_difference(estimate, target)).abs().mean(dim=(-3, -2, -1))
    )  # the Laplacian is linear


def laplacian(x: Tensor) -> Tensor:
    """Convolve each channel with [[0, 1, 0], [1, -4, 1], [0, 1, 0]]: (..., H, W) to (..., H, W), of any size.

    The kernel is the sum of the second differences along rows and columns. The thesis does not specify a padding;
    replicated borders make the edges of a constant image zero everywhere.
    """
    down, across = (
        torch.diff(x, n=2, dim=axis, prepend=x.narrow(axis, 0, 1), append=x.narrow(axis, -1, 1)) for axis in (-2, -1)
    )
    return down + across


class Perceptual:
    r"""Perceptual loss: distance of a network's features of clips (B, T, 3, H, W) in [0, 1].

    .. math:: \sum_t \lVert \phi(x_t) - \phi(y_t) \rVert_2 / \sqrt{n}

    averaged over B, with :math:`\phi` the features of the ImageNet-normalised frames and n the number of their
    elements: a root mean square, so that lambda_p of Equation 3.13 does not depend on the size of the crops. Equal
    clips have a loss and a gradient of exactly zero. VTSR (thesis, Section 3.3), with conv4_3 of VGG16.

    It is deliberately not a Module: it adds no parameters to its owner, and its weights enter no checkpoint.

    Args:
        features: (N, 3, H, W) to features of N frames, such as :class:`src.nn.backbones.VGG16` with ImageNet weights.
            The network is frozen, computes in float32, and moves to the device of the estimate.
    """

    def __init__(self, features: nn.Module) -> None:
        self.features = features.eval().requires_grad_(False).float()

    def __call__(self, estimate: Tensor, target: Tensor) -> Tensor:
        device = estimate.device
        with torch.inference_mode(False):  # validation may run first, and training needs the moved weights
            self.features.to(device)
        with torch.autocast(device.type, enabled=False):
            expected = self._encode(target.detach())  # no graph; under no_grad the memory layout would differ
            difference = self._encode(estimate) - expected  # (B, T, C, H, W)
        distance = torch.linalg.vector_norm(difference, dim=(-3, -2, -1))  # its gradient at zero is zero
        return _sum_of_frames(distance / math.sqrt(difference[0, 0].numel()))

    def _encode(self, clip: Tensor) -> Tensor:
        return map_frames(self.features, normalise_imagenet(clip.float()))


def _difference(estimate: Tensor, target: Tensor) -> Tensor:
    """Subtract in float32 for any dtype: bfloat16 rounds small differences away."""
    return estimate.float() - target.float()


def _sum_of_frames(errors: Tensor) -> Tensor:
    """Reduce errors of frames (B, T) to a scalar: sum over the frames of a clip, average over clips."""
    return errors.sum(dim=1).mean()
