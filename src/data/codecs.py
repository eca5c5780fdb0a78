"""Compression of a clip by a real video codec, H.264 or HEVC, through PyAV.

Shapes: T frames, C channels, H and W pixels; a clip is (T, C, H, W) in [0, 1].
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import ClassVar, cast

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, VideoReformatter
from torch import Tensor

from src.data.corruptions import Corruption, quantise
from src.data.draws import (
    Range,
    Weights,
    bounds,
    checked_range,
    checked_weights,
    draw_integer,
    draw_name,
    format_range,
    format_weights,
)
from src.errors import UserError
from src.video.colorspace import BT709, Signal, from_rgb, to_rgb

ENCODERS = {"h264": "libx264", "hevc": "libx265"}
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
SIGNAL = Signal(matrix=BT709, range=int(ColorRange.MPEG))
# libx265 4.x writes beyond its buffers in frames smaller than its coding tree unit of 64 pixels, and its results differ
# from run to run in frames of one such column.
LEAST_SIDE = {"h264": 16, "hevc": 72}


@dataclass(frozen=True)
class VideoCodec:
    """Compression of a clip at 4:2:0, as one sequence with predicted frames.

    Codec and quality are drawn for each clip. In training, the few frames of a sample and those beside them are coded,
    so the encoder predicts from fewer and sees fewer ahead: their error is that of a whole video at a crf 1 to 2
    higher (docs/degradations.md). Colours are converted as video is written and read, so that inputs have the rounding
    of the reader.

    Args:
        codec: h264 or hevc, or their weights.
        crf: constant rate factor, 0 (best) to 51; or a range of whole numbers to draw from.
        preset: speed of the encoder; slower ones find better predictions.
        gop: frames from a key frame to the next; whole clips are coded in groups of that length.
    """

    codec: Weights = "h264"
    crf: Range = 27
    preset: str = "medium"
    gop: int = 24

    kind: ClassVar[str] = "video"
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 8  # deblocking and interpolated chroma
    alignment: ClassVar[int] = 16  # the coding unit

    def __post_init__(self) -> None:
        checked_weights("A video codec", self.codec, tuple(ENCODERS))
        object.__setattr__(self, "crf", checked_range("The crf of a video codec", self.crf, 0, 51, whole=True))
        if self.preset not in PRESETS:
            raise UserError(f"The preset of a video codec must be one of {', '.join(PRESETS)}, got {self.preset}")
        if self.gop < 1:
            raise UserError(f"The gop of a video codec must be 1 or more frames, got {self.gop}")

    @property
    def name(self) -> str:
        """Name of the codec, once drawn."""
        assert isinstance(self.codec, str)
        return self.codec

    @property
    def group_size(self) -> int:
        return self.gop

    def draw(self, rng: np.random.Generator) -> tuple[Corruption, ...]:
        return (replace(self, codec=draw_name(self.codec, rng), crf=draw_integer(self.crf, rng)),)

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        (codec,) = self.draw(rng)
        assert isinstance(codec, VideoCodec)
        height, width = clip.shape[-2:]
        least = LEAST_SIDE[codec.name]
        padding = (0, max(least - width, width % 2), 0, max(least - height, height % 2))
        padded = F.pad(quantise(clip), padding, mode="replicate")
        levels = (padded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()  # (T, H, W, C)
        decoded = np.stack(list(codec._compress(levels)))[:, :height, :width]
        return (torch.from_numpy(decoded).permute(0, 3, 1, 2).to(clip) / 255).contiguous()

    def _compress(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        """Encode frames (T, H, W, C) as one sequence and yield the decoded ones."""
        encoder = cast(VideoCodecContext, av.CodecContext.create(ENCODERS[self.name], "w"))
        encoder.height, encoder.width = frames.shape[1:3]
        encoder.pix_fmt, encoder.time_base, encoder.gop_size = "yuv420p", Fraction(1, 24), self.gop
        encoder.thread_count = 1  # the same bits on every machine
        encoder.options = {"preset": self.preset, "crf": f"{bounds(self.crf)[0]:g}"}
        if self.name == "hevc":
            encoder.options |= {"x265-params": "pools=none:frame-threads=1:log-level=none"}
        elif _has_avx2():
            encoder.options |= {"x264-params": "asm=avx2"}  # its AVX-512 code differs from run to run
        reformatter, packets = VideoReformatter(), []
        for i, frame in enumerate(frames):
            picture = from_rgb(frame, "yuv420p", SIGNAL, reformatter)
            picture.pts = i
            packets += encoder.encode(picture)
        packets += encoder.encode(None)
        decoder = cast(VideoCodecContext, av.CodecContext.create(self.name, "r"))
        decoder.thread_count = 1
        for packet in [*packets, None]:
            for picture in decoder.decode(packet):
                picture.colorspace, picture.color_range = SIGNAL.matrix, SIGNAL.range
                yield to_rgb(picture, 8, reformatter)

    def __str__(self) -> str:
        return f"{format_weights(self.codec)} crf={format_range(self.crf)} preset={self.preset} gop={self.gop}"


@cache
def _has_avx2() -> bool:
    """Return True on a processor with AVX2, whatever torch was told to use."""
    try:
        return bool(re.search(r"^flags\b.*\bavx2\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    except OSError:  # not Linux
        return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
