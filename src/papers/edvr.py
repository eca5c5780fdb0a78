"""EDVR: video restoration with enhanced deformable convolutions.

X. Wang, K. C. K. Chan, K. Yu, C. Dong, C. C. Loy: "EDVR: Video Restoration with Enhanced Deformable Convolutional
Networks". A window of 2N + 1 frames becomes its restored middle frame, four times the size or as large as before.

Table 4's models are choices of parts:

    Model 1   align=ChainAlign(samples=1)   fuse=ConvFuse
    Model 2   align=TDANAlign                   "
    Model 3   align=PCD                         "
    Model 4   align=PCD                     fuse=TSA

Shapes: B batch, T input frames, C feature channels, H height, W width, s scale.
"""

from __future__ import annotations

from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor, nn

from src.geometry import Geometry
from src.nn.clips import flatten_time, pad_to_multiple, unflatten_time
from src.nn.encode import BlurredFrameEncoder, FrameEncoder
from src.nn.upsample import Reconstruct
from src.nn.video_network import VideoNetwork
from src.nn.warm_start import IdentityChannels, init_near_identity


class EDVR(VideoNetwork):
    """EDVR (Figure 2). (B, T, 3, H, W) to (B, 1, 3, s*H, s*W), any H and W.

    Args:
        encode: features (N, C, H, W) of single frames.
        align: aligns the pyramid of every frame to that of the middle one: a module with ``pyramid(features) -> list``
            and ``forward(neighbours, reference) -> (B * T, C, H, W)``.
        fuse: fuses aligned features (B, T, C, H, W) to (B, C, H, W).
        reconstruct: turns features (B, C, H, W) into the residual (B, 3, s*H, s*W) of the upscaled middle frame.
        frames: T = 2N + 1.
        warm_start: start as the enlarged middle frame plus almost nothing, instead of at random.

    The network's scale is ``reconstruct.scale // encode.shrink``.
    """

    def __init__(
        self,
        *,
        encode: FrameEncoder | BlurredFrameEncoder,
        align: nn.Module,
        fuse: nn.Module,
        reconstruct: Reconstruct,
        frames: int = 5,
        warm_start: bool = False,
    ) -> None:
        super().__init__()
        if frames % 2 == 0:
            raise ValueError(f"the number of frames must be odd, so that there is a middle frame, got {frames}")
        self.encode, self.align, self.fuse, self.reconstruct = encode, align, fuse, reconstruct
        self.multiple = 4 * encode.shrink
        self.geometry = Geometry(reconstruct.scale // encode.shrink, frames, (Fraction(frames // 2),))
        if warm_start:
            init_near_identity(self, IdentityChannels(differences=self.geometry.scale == 1))

    def forward(self, clip: Tensor) -> Tensor:
        return self.decode_window(*self.encode_frames(clip))

    def encode_frames(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Return the frames themselves and their feature pyramids, (B, T, ...) each."""
        features = self.encode(flatten_time(pad_to_multiple(clip, self.multiple)))
        return clip, *(unflatten_time(level, clip) for level in self.align.pyramid(features))  # type: ignore[operator]

    def decode_window(self, clip: Tensor, *pyramid: Tensor) -> Tensor:  # type: ignore[override]
        """Restore the middle frame (B, 1, 3, s*H, s*W) of a window from its frames and feature pyramids."""
        middle, scale = clip.shape[1] // 2, self.geometry.scale
        neighbours = [flatten_time(level) for level in pyramid]
        reference = [flatten_time(level[:, middle : middle + 1].expand_as(level)) for level in pyramid]
        aligned = unflatten_time(self.align(neighbours, reference), clip)  # (B, T, C, H, W)
        residual = self.reconstruct(self.fuse(aligned))
        base = clip[:, middle]
        height, width = base.shape[-2:]
        if scale > 1:
            base = F.interpolate(base, scale_factor=scale, mode="bilinear", align_corners=False)
        return (base + residual[..., : scale * height, : scale * width]).unsqueeze(1)
