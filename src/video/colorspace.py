"""What the samples of a video mean, and the way between decoded frames and RGB arrays.

Eight bits go through swscale, which is right there to the last bit but one. Beyond 8 bits it is not (it takes 1020 for
the white of 1023, and loses the rest in 15 bits), so those are converted here, in both directions by the same formulas
(ITU-T H.273, section 8.3), with chroma lying left as MPEG has it.

Shapes: an RGB array is ``(H, W, 3)``, uint8 for 8 bits, else uint16 with values ``0 .. 2**depth - 1``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import torch
from av.sidedata.sidedata import Type as SideData
from av.video.format import VideoFormat
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

RGB, UNSPECIFIED = 0, 2  # of a matrix, by H.273
BT709, BT601, BT2020 = 1, 6, 9
# KR and KB by matrix (H.273, table 4). What is missing is taken for BT.601, as swscale does.
LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
LUMA_601 = (0.299, 0.114)
# Rounds each of Y, Cb and Cr to the nearest, and takes chroma from every pixel rather than from every other.
ACCURATE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
STRIP = 128  # lines converted at a time: floating point takes many times the memory of samples
# What comes with frames that is of no use to others.
LOST = {
    SideData.DOVI_METADATA: "Dolby Vision's metadata",
    SideData.DYNAMIC_HDR_PLUS: "HDR10+'s metadata",
    SideData.A53_CC: "closed captions",
}


@dataclass(frozen=True)
class Signal:
    """What samples mean, by the numbers of ITU-T H.273 (which are av's), ``UNSPECIFIED`` where the source does not say.

    Attributes:
        depth: bits a sample of the RGB arrays: 8, 10, 12, 14 or 16.
        matrix: of Y, Cb, Cr; 0 for what is coded as RGB.
        range: 0 unspecified, 1 limited, 2 full.
        primaries: of red, green, blue.
        transfer: the curve from light to value.
        mastering: of the display that it was graded on, x and y of red, green, blue and white, then its least and
            greatest luminance in cd/m2; empty where the source does not say.
        light: greatest and mean greatest luminance of the content, cd/m2; empty where the source does not say.
        lost: what else comes with each frame, and goes with it when the frame is restored.
    """

    depth: int = 8
    matrix: int = UNSPECIFIED
    range: int = int(ColorRange.UNSPECIFIED)
    primaries: int = int(ColorPrimaries.UNSPECIFIED)
    transfer: int = int(ColorTrc.UNSPECIFIED)
    mastering: tuple[Fraction, ...] = ()
    light: tuple[int, ...] = ()
    lost: tuple[str, ...] = ()

    @classmethod
    def of(cls, frame: av.VideoFrame, deep: bool = False) -> Signal:
        """What a decoded frame says of itself; its depth where ``deep``, else 8."""
        bits = frame.format.components[0].bits
        depth = 8 if not deep or bits <= 8 else bits + bits % 2
        matrix, full = int(frame.colorspace), int(frame.color_range)
        if frame.format.is_rgb:
            matrix, full = RGB, int(ColorRange.JPEG)
        elif matrix in (RGB, 3):  # which Y, Cb and Cr cannot be, and what is reserved
            matrix = UNSPECIFIED
        primaries, transfer = (int(tag) or UNSPECIFIED for tag in (frame.color_primaries, frame.color_trc))
        return cls(depth, matrix, full, primaries, transfer, _mastering(frame), _light(frame), _lost(frame))

    def settled(self, pixels: str, source_size: tuple[int, int] | None, matrix: int = BT709) -> Signal:
        """What becomes of the signal where it is coded as ``pixels``.

        RGB stays RGB. What has no matrix, since it comes as RGB or from nowhere (no ``source_size``), gets that of its
        primaries, ``matrix`` unless they are BT.2020, in limited range.
        """
        if VideoFormat(pixels).is_rgb:
            return replace(self, matrix=RGB, range=int(ColorRange.JPEG))
        if self.matrix != RGB and (self.matrix != UNSPECIFIED or source_size):
            return self
        unsaid = (int(ColorPrimaries.UNSPECIFIED), int(ColorTrc.UNSPECIFIED))
        return replace(
            self,
            matrix=BT2020 if self.primaries == int(ColorPrimaries.BT2020) else matrix,
            range=int(ColorRange.MPEG),
            primaries=int(ColorPrimaries.BT709) if self.primaries == unsaid[0] else self.primaries,
            transfer=int(ColorTrc.BT709) if self.transfer == unsaid[1] else self.transfer,
        )

    def tags(self, size: tuple[int, int], source_size: tuple[int, int] | None) -> Signal:
        """What a file of ``size`` has to say.

        Nothing that its source does not say, unless players, who go by the size where nothing is said, would take
        another matrix than for the source: then the one they take for the source is named.
        """
        if self.matrix == UNSPECIFIED and source_size and guessed(size) != guessed(source_size):
            return replace(self, matrix=guessed(source_size))
        return self


def to_tensor(samples: torch.Tensor, depth: int = 8) -> torch.Tensor:
    """A frame of integers (H, W, 3) of ``depth`` bits as what networks take: (3, H, W) float32 in [0, 1]."""
    return samples.float().div_(2**depth - 1).permute(2, 0, 1).contiguous()


def to_samples(frame: torch.Tensor, depth: int = 8) -> torch.Tensor:
    """The way back, to the nearest: uint8 or, beyond 8 bits, uint16; what lies outside [0, 1] is cut off."""
    peak = 2**depth - 1
    values = frame.mul(peak).round_().clamp_(0, peak).to(torch.uint8 if depth == 8 else torch.uint16)
    return values.cpu().permute(1, 2, 0)


def guessed(size: Sequence[int]) -> int:
    """The matrix that players take for an untagged picture of ``(height, width)``."""
    return BT709 if size[0] > 576 else BT601


def to_rgb(frame: av.VideoFrame, depth: int, convert: VideoReformatter) -> np.ndarray:
    """A decoded frame as RGB, ``(H, W, 3)``: uint8 for a ``depth`` of 8, else uint16 with values of ``depth`` bits."""
    if depth == 8:
        return cast(np.ndarray, convert.reformat(frame, format="rgb24", threads=1).to_ndarray())
    form = frame.format
    if form.is_rgb or len(form.components) < 3:
        name = f"gbrp{depth}le"
        if form.name != name:
            frame = convert.reformat(frame, format=name, threads=1)
        return cast(np.ndarray, frame.to_ndarray())
    bits, (wide, high) = form.components[0].bits, _shrink(form)
    plain = f"yuv4{'20' if high == 2 else '22' if wide == 2 else '44'}p{bits}le"
    if form.name not in (plain, plain.replace("yuv", "yuva")):
        frame = convert.reformat(frame, format=plain, threads=1)
    luma, blues, reds = (_samples(frame, i) for i in range(3))
    full, (kr, kb) = frame.color_range == ColorRange.JPEG, LUMA.get(int(frame.colorspace), LUMA_601)
    rgb = np.empty((*luma.shape, 3), np.uint16)
    for top in range(0, len(luma), STRIP):
        lines = range(len(luma))[top : top + STRIP]
        part = luma[lines.start : lines.stop].float()
        y, cb, cr = _decode(part, _at(blues, lines, luma.shape), _at(reds, lines, luma.shape), bits, full)
        red, blue = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
        green = (y - kr * red - kb * blue) / (1 - kr - kb)
        rgb[lines.start : lines.stop] = _quantised(torch.stack((red, green, blue), -1), depth)
    return rgb


def from_rgb(array: np.ndarray, pixels: str, signal: Signal, convert: VideoReformatter) -> av.VideoFrame:
    """An RGB array of ``signal.depth`` bits as a frame for an encoder that takes ``pixels``.

    Y, Cb and Cr are by the matrix and range of ``signal``, rounded to the nearest: exact where ``pixels`` are RGB of
    no less depth.
    """
    form = VideoFormat(pixels, array.shape[1], array.shape[0])
    bits = form.components[0].bits
    full = signal.range == ColorRange.JPEG
    if form.is_rgb:
        if bits == 8:
            frame = av.VideoFrame.from_ndarray(rescaled(array, signal.depth, 8), "rgb24")
            frame = frame if pixels == "rgb24" else convert.reformat(frame, format=pixels)
        else:
            frame = av.VideoFrame.from_ndarray(rescaled(array, signal.depth, bits), pixels)
    elif signal.depth == bits == 8 and not full:
        known = signal.matrix if signal.matrix in LUMA else int(Colorspace.ITU601)
        frame = convert.reformat(
            av.VideoFrame.from_ndarray(array, "rgb24"),
            format=pixels,
            dst_colorspace=known,
            dst_color_range=ColorRange.MPEG,
            interpolation=ACCURATE,
        )
    else:
        frame = av.VideoFrame(array.shape[1], array.shape[0], pixels)
        _fill(frame, array, signal, bits, full)
    frame.colorspace, frame.color_range = signal.matrix, signal.range
    frame.color_primaries, frame.color_trc = signal.primaries, signal.transfer
    return frame


def _fill(frame: av.VideoFrame, array: np.ndarray, signal: Signal, bits: int, full: bool) -> None:
    red, green, blue = (torch.from_numpy(array).float() / (2**signal.depth - 1)).unbind(-1)
    kr, kb = LUMA.get(signal.matrix, LUMA_601)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    shrink = _shrink(frame.format)
    top, unit = 2**bits - 1, 2 ** (bits - 8)
    for index, plane in enumerate((y, _reduce(cb, shrink), _reduce(cr, shrink))):
        if full:
            values = plane * top + (2 ** (bits - 1) if index else 0)
        else:
            values = plane * ((224 if index else 219) * unit) + (128 if index else 16) * unit
        _samples(frame, index).copy_(values.round_().clamp_(0, top).to(torch.uint8 if bits == 8 else torch.uint16))


def _decode(
    y: torch.Tensor, cb: torch.Tensor, cr: torch.Tensor, bits: int, full: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values as stored to Y in [0, 1] and Cb, Cr in [-1/2, 1/2]."""
    if full:
        top, middle = 2**bits - 1, 2 ** (bits - 1)
        return y / top, (cb - middle) / top, (cr - middle) / top
    unit = 2 ** (bits - 8)
    return (y / unit - 16) / 219, (cb / unit - 128) / 224, (cr / unit - 128) / 224


def _reduce(plane: torch.Tensor, shrink: tuple[int, int]) -> torch.Tensor:
    """Chroma of every pixel to what is stored: at every other column (1 2 1), and between two lines."""
    wide, high = shrink
    if wide == 2:
        padded = torch.cat((plane[:, :1], plane, plane[:, -1:]), 1)
        plane = (padded[:, :-2:2] + 2 * padded[:, 1:-1:2] + padded[:, 2::2]) / 4
    if high == 2:
        plane = plane if len(plane) % 2 == 0 else torch.cat((plane, plane[-1:]), 0)
        plane = (plane[::2] + plane[1::2]) / 2
    return plane


def _at(plane: torch.Tensor, lines: range, size: Sequence[int]) -> torch.Tensor:
    """Chroma as stored at every pixel of some lines, the first an even one, of a picture of ``(height, width)``."""
    if len(plane) == size[0]:
        return _enlarge(plane[lines.start : lines.stop].float(), (len(lines), size[1]))
    first = max(0, lines.start // 2 - 1)  # what lies between two lines needs those on either side
    some = plane[first : lines.stop // 2 + 2].float()
    return _enlarge(some, (2 * len(some), size[1]))[lines.start - 2 * first : lines.stop - 2 * first]


def _enlarge(plane: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Chroma as stored to every pixel, linear in between: the columns stored are even ones, lines lie between two."""
    if plane.shape[0] < size[0]:
        above, below = torch.cat((plane[:1], plane[:-1])), torch.cat((plane[1:], plane[-1:]))
        plane = torch.stack(((3 * plane + above) / 4, (3 * plane + below) / 4), 1).flatten(0, 1)[: size[0]]
    if plane.shape[1] < size[1]:
        right = torch.cat((plane[:, 1:], plane[:, -1:]), 1)
        plane = torch.stack((plane, (plane + right) / 2), 2).flatten(1, 2)[:, : size[1]]
    return plane


def _shrink(form: VideoFormat) -> tuple[int, int]:
    """How many columns and lines share a sample of chroma: 2 or 1."""
    return 1 if form.chroma_width(4) == 4 else 2, 1 if form.chroma_height(4) == 4 else 2


def _samples(frame: av.VideoFrame, index: int) -> torch.Tensor:
    """A view of plane ``index``, ``(h, w)``."""
    plane, bits = frame.planes[index], frame.format.components[0].bits
    flat = torch.frombuffer(cast(Any, plane), dtype=torch.uint8 if bits == 8 else torch.uint16)
    line = plane.line_size // flat.element_size()
    return flat[: line * plane.height].view(plane.height, line)[:, : plane.width]


def _quantised(values: torch.Tensor, depth: int) -> np.ndarray:
    top = 2**depth - 1
    return values.mul_(top).round_().clamp_(0, top).to(torch.uint16).numpy()


def rescaled(array: np.ndarray, depth: int, bits: int) -> np.ndarray:
    """Values of ``depth`` bits in ``bits``, black to black and white to white."""
    if depth == bits:
        return array
    top, new = 2**depth - 1, 2**bits - 1
    values = (array.astype(np.uint32) * new + top // 2) // top
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def _mastering(frame: av.VideoFrame) -> tuple[Fraction, ...]:
    """AVMasteringDisplayMetadata: ten fractions (primaries, white, luminance) and whether either is there."""
    data = frame.side_data.get("MASTERING_DISPLAY_METADATA")
    if data is None:
        return ()
    *numbers, primaries, luminance = struct.unpack("=22i", bytes(cast(Any, data))[:88])
    if not (primaries and luminance and all(numbers[1::2])):
        return ()
    return tuple(Fraction(p, q) for p, q in zip(numbers[::2], numbers[1::2], strict=True))


def _lost(frame: av.VideoFrame) -> tuple[str, ...]:
    kinds = {data.type for data in cast(Any, frame.side_data)}
    return tuple(name for kind, name in LOST.items() if kind in kinds)


def _light(frame: av.VideoFrame) -> tuple[int, ...]:
    """AVContentLightMetadata: MaxCLL and MaxFALL."""
    data = frame.side_data.get("CONTENT_LIGHT_LEVEL")
    return () if data is None else struct.unpack("=2I", bytes(cast(Any, data))[:8])
