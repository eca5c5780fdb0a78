"""Deformable alignment of one frame's features with another's.

Shapes: N batch (clips times frames), C channels, H height, W width, G deformable groups. A *pyramid* is a list
of features at full, half and quarter size, finest first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from src.nn.blocks import Blend, conv3x3, leaky, upsample2x
from src.ops.deform_conv import deform_conv2d

Pyramid = list[Tensor]


class DeformablePack(nn.Module):
    """Modulated deformable 3x3 convolution with offsets and mask from another feature (DCNv2).

    One convolution turns the offset feature into 3 * G * 9 channels: the first two thirds are the offsets, the
    sigmoid of the last third is the mask. Its weights start at zero: offsets at zero, and the mask at one half.
    """

    def __init__(self, channels: int, *, groups: int = 8) -> None:  # 8 groups in EDVR and in Zooming SlowMo
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.offset = conv3x3(channels, 3 * groups * 9)
        bound = 1 / math.sqrt(channels * 9)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, offset_feature: Tensor) -> Tensor:
        offset = self.offset(offset_feature)
        third = offset.shape[1] // 3
        offset, mask = offset.split([2 * third, third], dim=1)
        return deform_conv2d(x, offset, self.weight, self.bias, padding=1, mask=mask.sigmoid())


class FeaturePyramid(nn.Module):
    """Features at full, half and quarter size: two convolutions a level. (N, C, H, W) to a pyramid."""

    def __init__(self, channels: int, *, levels: int = 3) -> None:
        super().__init__()
        self.down = nn.ModuleList(conv3x3(channels, channels, stride=2) for _ in range(levels - 1))
        self.mix = nn.ModuleList(conv3x3(channels, channels) for _ in range(levels - 1))

    def forward(self, x: Tensor) -> Pyramid:
        pyramid = [x]
        for down, mix in zip(self.down, self.mix, strict=True):
            pyramid.append(leaky(mix(leaky(down(pyramid[-1])))))
        return pyramid


class PyramidAlign(nn.Module):
    """Align a neighbour's features with a reference's, from coarse to fine (EDVR, Section 3.2, Equations 2 to 4).

    Each level compares the two in an offset feature. It is merged with the offset feature of the coarser level,
    upsampled and doubled, since one pixel there is two pixels here. The aligned features are merged with the upsampled
    ones of the coarser level.
    """

    def __init__(self, channels: int, *, groups: int = 8, levels: int = 3) -> None:
        super().__init__()
        finer = range(levels - 1)
        self.compare = nn.ModuleList(conv3x3(2 * channels, channels) for _ in range(levels))
        self.inherit = nn.ModuleList(conv3x3(2 * channels, channels) for _ in finer)
        self.refine = nn.ModuleList(conv3x3(channels, channels) for _ in range(levels))
        self.sample = nn.ModuleList(DeformablePack(channels, groups=groups) for _ in range(levels))
        self.blend = nn.ModuleList(conv3x3(2 * channels, channels) for _ in finer)

    def forward(self, neighbour: Pyramid, reference: Pyramid) -> Tensor:
        return self.levels(neighbour, reference)[0]

    def levels(self, neighbour: Pyramid, reference: Pyramid) -> Pyramid:
        """Return the aligned features of every level."""
        coarsest, pyramid = len(neighbour) - 1, list[Tensor]()
        offset = aligned = neighbour[coarsest]  # placeholders, unused at the coarsest level
        for level in range(coarsest, -1, -1):
            below, aligned_below = offset, aligned
            offset = leaky(self.compare[level](torch.cat([neighbour[level], reference[level]], dim=1)))
            if level < coarsest:
                offset = leaky(self.inherit[level](torch.cat([offset, 2 * upsample2x(below)], dim=1)))
            offset = leaky(self.refine[level](offset))
            aligned = self.sample[level](neighbour[level], offset)
            if level < coarsest:
                aligned = self.blend[level](torch.cat([aligned, upsample2x(aligned_below)], dim=1))
            aligned = leaky(aligned) if level > 0 else aligned
            pyramid.insert(0, aligned)
        return pyramid


class PairAlign(nn.Module):
    """Align two features with each other, with separate weights, and blend them by a 1x1 convolution.

    Zooming SlowMo interpolates the features between two frames with it (Section 3.2), and aligns its recurrent state
    with the current frame (Section 3.3).
    """

    def __init__(self, channels: int, *, groups: int = 8) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(channels)
        self.forward_align = PyramidAlign(channels, groups=groups)
        self.backward_align = PyramidAlign(channels, groups=groups)
        self.blend = Blend(channels)

    def forward(self, first: Pyramid, second: Pyramid) -> Tensor:
        """Map two pyramids of :attr:`pyramid` to one feature (N, C, H, W)."""
        return self.blend(self.forward_align(first, second), self.backward_align(second, first))


class PCD(nn.Module):
    """Pyramid, cascading and deformable alignment (EDVR, Section 3.2 and Figure 3).

    A cascade after the pyramid compares the aligned features with the reference and samples them once more.
    """

    def __init__(self, channels: int, *, groups: int = 8) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(channels)
        self.align = PyramidAlign(channels, groups=groups)
        self.cascade = ChainAlign(channels, groups=groups, refinements=1)

    @property
    def sampling(self) -> list[nn.Module]:
        """The deformable convolutions at full size that move the neighbour's features, one after the other."""
        return [self.align.sample[0], *self.cascade.sampling]

    def forward(self, neighbour: Pyramid, reference: Pyramid) -> Tensor:
        """Map two pyramids of :attr:`pyramid` to one feature (N, C, H, W)."""
        return self.cascade([self.align(neighbour, reference)], reference)


class ChainAlign(nn.Module):
    """Deformable convolution at full size: the alternative to PCD in EDVR's Table 4, and the cascade of PCD.

    Args:
        channels: C.
        groups: G.
        samples: number of deformable convolutions. The last samples the neighbour, any before it the offset feature.
        refinements: number of convolutions after the comparison. The paper gives none for Table 4. With 2, operations
            of Model 1 are 1 % below it.
    """

    def __init__(self, channels: int, *, groups: int = 8, samples: int = 1, refinements: int = 2) -> None:
        super().__init__()
        self.compare = conv3x3(2 * channels, channels)
        self.refine = nn.ModuleList(conv3x3(channels, channels) for _ in range(refinements))
        self.sample = nn.ModuleList(DeformablePack(channels, groups=groups) for _ in range(samples))

    def pyramid(self, x: Tensor) -> Pyramid:
        """Return a pyramid of full size only."""
        return [x]

    @property
    def sampling(self) -> list[nn.Module]:
        """The deformable convolutions that move the neighbour's features, one after the other."""
        return [*self.sample][-1:]

    def compare_features(self, neighbour: Pyramid, reference: Pyramid) -> Tensor:
        """Return the offset feature (N, C, H, W)."""
        offset = leaky(self.compare(torch.cat([neighbour[0], reference[0]], dim=1)))
        for refine in self.refine:
            offset = leaky(refine(offset))
        return offset

    def forward(self, neighbour: Pyramid, reference: Pyramid) -> Tensor:
        offset = self.compare_features(neighbour, reference)
        *before, last = self.sample
        for sample in before:
            offset = leaky(sample(offset, offset))
        return leaky(last(neighbour[0], offset))


class TDANAlign(ChainAlign):
    """Four deformable convolutions at full size, in the design of TDAN (EDVR, Model 2 of Table 4).

    TDAN (Tian et al., 2018), in its published code: two deformable convolutions refine the offset feature, each with
    offsets that it predicts from that feature. A third samples the neighbour, by the refined feature. The fourth
    samples the result once more, with offsets predicted from the result itself. No activation lies between them. The
    convolutions before them, the modulation, and the activation at the end are those of Model 1. With these, operations
    are 2 % below Table 4.
    """

    def __init__(self, channels: int, *, groups: int = 8, refinements: int = 2) -> None:
        super().__init__(channels, groups=groups, samples=4, refinements=refinements)

    @property
    def sampling(self) -> list[nn.Module]:
        return [*self.sample][-2:]

    def forward(self, neighbour: Pyramid, reference: Pyramid) -> Tensor:
        offset = self.compare_features(neighbour, reference)
        first, second, third, fourth = self.sample
        offset = first(offset, offset)
        offset = second(offset, offset)
        aligned = third(neighbour[0], offset)
        return leaky(fourth(aligned, aligned))
