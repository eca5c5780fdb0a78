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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.geometry import Geometry
from src.nn.align import PCD, ChainAlign
from src.nn.clips import flatten_time, pad_to_multiple, unflatten_time
from src.nn.encode import BlurredFrameEncoder, FrameEncoder
from src.nn.fuse import TSA, TemporalFuse
from src.nn.upsample import Reconstruct
from src.nn.video_network import VideoNetwork
from src.nn.warm_start import RGB, init_near_identity
from src.ops.color import flow_picture

STEEP = 4.0  # gain on differences between frames, which are small


class EDVR(VideoNetwork):
    """EDVR (Figure 2). (B, T, 3, H, W) to (B, 1, 3, s*H, s*W), any H and W.

    Args:
        encode: features (N, C, H, W) of single frames.
        align: aligns the pyramid of every frame to that of the middle one: a module with ``pyramid(features) -> list``,
            beginning with the features, and ``forward(neighbours, reference) -> (B * T, C, H, W)``.
        fuse: fuses aligned features (B, T, C, H, W) to (B, C, H, W).
        reconstruct: turns features (B, C, H, W) into the residual (B, 3, s*H, s*W) of the upscaled middle frame.
        frames: T = 2N + 1.
        shortcut: add features that pass by alignment and fusion (:meth:`pass_by`) to the fused ones, and start as the
            enlarged middle frame plus almost nothing (:mod:`src.nn.warm_start`), so that few steps suffice. The
            published network has none.

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
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        if frames % 2 == 0:
            raise ValueError(f"the number of frames must be odd, so that there is a middle frame, got {frames}")
        self.encode, self.align, self.fuse, self.reconstruct = encode, align, fuse, reconstruct
        self.multiple = 4 * encode.shrink
        self.geometry = Geometry(reconstruct.scale // encode.shrink, frames, (Fraction(frames // 2),))
        self.shortcut = shortcut
        if shortcut:
            init_near_identity(reconstruct, init_near_identity(encode, RGB))

    def forward(self, clip: Tensor) -> Tensor:
        return self.decode_window(*self.encode_frames(clip))

    def encode_frames(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Return the frames themselves and their feature pyramids, (B, T, ...) each."""
        features = self.encode(flatten_time(pad_to_multiple(clip, self.multiple)))
        return clip, *(unflatten_time(level, clip) for level in self.align.pyramid(features))  # type: ignore[operator]

    def decode_window(self, clip: Tensor, *pyramid: Tensor) -> Tensor:  # type: ignore[override]
        """Restore the middle frame (B, 1, 3, s*H, s*W) of a window from its frames and feature pyramids."""
        scale = self.geometry.scale
        fused = self.fuse(self.align_window(clip, *pyramid))
        residual = self.reconstruct(fused + self.pass_by(pyramid[0]) if self.shortcut else fused)
        base = clip[:, clip.shape[1] // 2]
        height, width = base.shape[-2:]
        if scale > 1:
            base = F.interpolate(base, scale_factor=scale, mode="bilinear", align_corners=False)
        return (base + residual[..., : scale * height, : scale * width]).unsqueeze(1)

    def pass_by(self, features: Tensor) -> Tensor:
        """Return what the shortcut adds to fused features (B, C, H, W), from those of all frames (B, T, C, H, W).

        They are the middle frame's. A network that keeps the size also gets the differences of the other frames to it,
        in the channels behind its colours, as far as there are channels: motion deblurring weighs frames by about one,
        with alternating signs, which is hard to learn.
        """
        middle = features[:, features.shape[1] // 2]
        if self.geometry.scale > 1:
            return middle
        colours = RGB * self.encode.shrink**2
        others = [frame for frame in range(features.shape[1]) if frame != features.shape[1] // 2]
        differences = (features[:, others] - middle.unsqueeze(1))[:, :, :colours].flatten(1, 2)
        differences = STEEP * differences[:, : max(0, middle.shape[1] - colours)]
        behind = middle.shape[1] - colours - differences.shape[1]
        return middle + F.pad(differences, (0, 0, 0, 0, colours, behind))

    def align_window(self, clip: Tensor, *pyramid: Tensor) -> Tensor:
        """Align the features of every frame of a window to those of its middle frame, (B, T, C, H, W)."""
        middle = clip.shape[1] // 2
        neighbours = [flatten_time(level) for level in pyramid]
        reference = [flatten_time(level[:, middle : middle + 1].expand_as(level)) for level in pyramid]
        return unflatten_time(self.align(neighbours, reference), clip)

    def motion(self) -> VideoNetwork | None:
        """Return a network of pictures of the offsets of alignment (Figure 8 has optical flow)."""
        return OffsetPictures(self) if isinstance(self.align, PCD | ChainAlign) else None

    def attention(self) -> VideoNetwork | None:
        """Return a network of pictures of the temporal attention maps (Figure 9)."""
        return AttentionPictures(self) if isinstance(self.fuse, TemporalFuse | TSA) else None


class WindowPictures(VideoNetwork):
    """A picture for each frame of a window of EDVR, side by side: (B, T, 3, H, W) to (B, 1, 3, H, T * W)."""

    def __init__(self, network: EDVR) -> None:
        super().__init__()
        self.network: Any = network
        frames = network.geometry.window
        self.geometry = Geometry(1, frames, (Fraction(frames // 2),))

    def forward(self, clip: Tensor) -> Tensor:
        _, *pyramid = self.network.encode_frames(clip)
        pictures = flatten_time(self.draw(clip, *pyramid))  # of features, which may be smaller than frames
        pictures = F.interpolate(pictures, scale_factor=self.network.encode.shrink)
        pictures = unflatten_time(pictures, clip)[..., : clip.shape[-2], : clip.shape[-1]]
        return torch.cat(pictures.unbind(1), dim=-1).unsqueeze(1)

    def draw(self, clip: Tensor, *pyramid: Tensor) -> Tensor:
        """Draw a picture (B, T, 3, H, W) for each frame of the window."""
        raise NotImplementedError


class AttentionPictures(WindowPictures):
    """Temporal attention maps (Figure 9), grey: white is 1."""

    def draw(self, clip: Tensor, *pyramid: Tensor) -> Tensor:
        aligned = self.network.align_window(clip, *pyramid)
        return self.network.fuse.weigh.weights(aligned, clip.shape[1] // 2).expand(-1, -1, 3, -1, -1)


class OffsetPictures(WindowPictures):
    """Offsets to each frame from the middle one as flow: means over taps and groups, added up over the samplings.

    Colours are as in :class:`src.papers.dsfn.OffsetPictures`: the longest flow of a window has the purest, unless all
    are shorter than half a pixel, and white is no motion.
    """

    def draw(self, clip: Tensor, *pyramid: Tensor) -> Tensor:
        flows: list[Tensor] = []

        def keep(conv: nn.Module, inputs: Any, output: Tensor) -> None:
            offsets = output[:, : output.shape[1] // 3 * 2]
            flows.append(offsets.unflatten(1, (-1, 2)).mean(1))  # (B * T, 2, H, W)

        handles = [pack.offset.register_forward_hook(keep) for pack in self.network.align.sampling]
        try:
            self.network.align_window(clip, *pyramid)
        finally:
            for handle in handles:
                handle.remove()
        flow = unflatten_time(torch.stack(flows).sum(0), clip)
        longest = flow.norm(dim=2).amax((1, 2, 3), keepdim=True).clamp(min=0.5)
        return flow_picture(flow, longest)
