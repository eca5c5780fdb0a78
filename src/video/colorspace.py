"""Colour description of video samples, and conversion between decoded frames and RGB arrays.

8-bit frames are converted with swscale, accurate to one step. Above 8 bits, swscale maps white to 1020 instead of 1023
and computes with 15 bits, so those frames are converted here, with the same formulas in both directions (ITU-T H.273,
section 8.3) and MPEG's left-aligned chroma.

Shapes: an RGB array is ``(H, W, 3)``, uint8 for 8 bits, otherwise uint16 with values ``0 .. 2**depth - 1``. With alpha,
it is ``(H, W, 4)``; alpha is straight (colours are not multiplied by it) and of full range.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, cast

import av
import av.buffer
import numpy as np
import torch
from av.sidedata.sidedata import Type as SideData
from av.video.format import VideoFormat
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

RGB, UNSPECIFIED = 0, 2  # matrix coefficients in H.273
BT709, BT601, BT2020 = 1, 6, 9
# KR and KB by matrix (H.273, table 4). Others are treated as BT.601, as swscale does.
LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
LUMA_601 = (0.299, 0.114)
# Round Y, Cb and Cr to the nearest, and average chroma over all pixels instead of every other one.
ACCURATE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
# Names of chroma subsampling by its factors along rows and columns.
CHROMA = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440", (4, 1): "411", (4, 4): "410", (4, 2): "410"}
STRIP = 128  # lines converted at once: floating point needs many times the memory of samples
# Side data that describes only the original frames, by the names of PyAV, or of FFmpeg for kinds that PyAV lacks.
DROPPED = {
    "DOVI_METADATA": "Dolby Vision metadata",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "AMBIENT_VIEWING_ENVIRONMENT": "the brightness of the surroundings that it was mastered for",
    "ICC_PROFILE": "an ICC profile",
    "S12M_TIMECODE": "a time code in its frames",
    "A53_CC": "closed captions",
    "View ID": "the other views of 3D video",
}


def _name_unlisted(value: object) -> SideData:
    """Name a kind of side data that PyAV does not list as FFmpeg does."""
    name_of = ctypes.CDLL(av.buffer.__file__).av_frame_side_data_name
    name_of.restype = ctypes.c_char_p
    kind: Any = object.__new__(SideData)
    kind._name_ = (name_of(value) or b"unknown side data").decode()
    kind._value_ = value
    return cast(SideData, kind)


# PyAV's enumeration is older than the FFmpeg that it ships. One unlisted kind would make all side data unreadable.
SideData._missing_ = _name_unlisted  # type: ignore[method-assign]


@dataclass(frozen=True)
class Signal:
    """Colour description in the code points of ITU-T H.273 (and PyAV), ``UNSPECIFIED`` if the source has none.

    Attributes:
        depth: bits per sample of the RGB arrays: 8, 10, 12, 14 or 16.
        matrix: matrix coefficients of Y, Cb, Cr; 0 for video coded as RGB.
        range: 0 unspecified, 1 limited, 2 full.
        primaries: colour primaries.
        transfer: transfer characteristics.
        mastering: mastering display: x and y of red, green, blue and white, then minimum and maximum luminance in
            cd/m2; empty if unspecified.
        light: maximum content and maximum frame-average light level (MaxCLL, MaxFALL), cd/m2; empty if unspecified.
        dropped: names of per-frame metadata that restoration discards.
        alpha: the arrays have an alpha channel.
        chroma: subsampling of the source's chroma, as in ``420``; 444 for RGB, empty for grey and if unknown.
    """

    depth: int = 8
    matrix: int = UNSPECIFIED
    range: int = int(ColorRange.UNSPECIFIED)
    primaries: int = int(ColorPrimaries.UNSPECIFIED)
    transfer: int = int(ColorTrc.UNSPECIFIED)
    mastering: tuple[Fraction, ...] = ()
    light: tuple[int, ...] = ()
    dropped: tuple[str, ...] = ()
    alpha: bool = False
    chroma: str = field(default="", compare=False)  # of the source, not of the arrays

    @classmethod
    def from_frame(cls, frame: av.VideoFrame, deep: bool = False) -> Signal:
        """Read the colour description of a decoded frame; with ``deep``, at its own bit depth, otherwise 8."""
        bits = min(frame.format.components[0].bits, 16)
        depth = 8 if not deep or bits <= 8 else bits + bits % 2
        matrix, color_range = int(frame.colorspace), int(frame.color_range)
        if frame.format.is_rgb:
            matrix, color_range = RGB, int(ColorRange.JPEG)
        elif _is_grey(frame.format) and color_range == ColorRange.UNSPECIFIED:
            color_range = int(ColorRange.JPEG)  # as swscale reads it
        elif matrix in (RGB, 3):  # impossible for Y, Cb, Cr, or reserved
            matrix = UNSPECIFIED
        primaries, transfer = (int(tag) or UNSPECIFIED for tag in (frame.color_primaries, frame.color_trc))
        side_data = _read_mastering(frame), _read_light(frame), _list_dropped(frame)
        chroma = name_chroma(frame.format)
        return cls(depth, matrix, color_range, primaries, transfer, *side_data, chroma=chroma)

    def for_pixel_format(self, pixel_format: str, source_size: tuple[int, int] | None, matrix: int = BT709) -> Signal:
        """Return the colour description after conversion to ``pixel_format``.

        RGB formats keep RGB. For Y, Cb, Cr, a signal without a matrix (RGB, or unspecified without a source) gets
        BT.2020 if its primaries are, otherwise ``matrix``, in limited range.
        """
        if VideoFormat(pixel_format).is_rgb:
            return replace(self, matrix=RGB, range=int(ColorRange.JPEG))
        if self.matrix != RGB and (self.matrix != UNSPECIFIED or source_size):
            return self
        return replace(
            self,
            matrix=BT2020 if self.primaries == int(ColorPrimaries.BT2020) else matrix,
            range=int(ColorRange.MPEG),
            primaries=int(ColorPrimaries.BT709) if self.primaries == UNSPECIFIED else self.primaries,
            transfer=int(ColorTrc.BT709) if self.transfer == UNSPECIFIED else self.transfer,
        )

    def container_tags(self, size: tuple[int, int], source_size: tuple[int, int] | None) -> Signal:
        """Return the colour tags for a file with frames of ``size``.

        Unspecified stays unspecified, unless players, guessing the matrix from the frame size, would guess another than
        for the source; then the tags name the guess for the source.
        """
        if self.matrix == UNSPECIFIED and source_size and guess_matrix(size) != guess_matrix(source_size):
            return replace(self, matrix=guess_matrix(source_size))
        return self


def to_tensor(samples: torch.Tensor, depth: int = 8) -> torch.Tensor:
    """Convert a frame of integers, (H, W, 3) of ``depth`` bits, to network input: (3, H, W) float32 in [0, 1]."""
    return samples.float().div_(2**depth - 1).permute(2, 0, 1).contiguous()


def to_samples(frame: torch.Tensor, depth: int = 8) -> torch.Tensor:
    """Convert network output, (3, H, W) in [0, 1], to integers (H, W, 3): clamped, rounded, uint8 or uint16."""
    peak = 2**depth - 1
    values = frame.mul(peak).round_().clamp_(0, peak).to(torch.uint8 if depth == 8 else torch.uint16)
    return values.cpu().permute(1, 2, 0)


def guess_matrix(size: Sequence[int]) -> int:
    """Return the matrix that players assume for an untagged frame of ``(height, width)``."""
    return BT709 if size[0] > 576 else BT601


def to_rgb(frame: av.VideoFrame, depth: int, reformatter: VideoReformatter) -> np.ndarray:
    """Convert a decoded frame to RGB, ``(H, W, 3)``: uint8 for ``depth`` 8, otherwise uint16 of ``depth`` bits."""
    if _is_grey(frame.format) and frame.color_range == ColorRange.MPEG:
        return _expand_grey(frame, depth, reformatter)
    if depth == 8:
        return cast(np.ndarray, reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
    source_format = frame.format
    if source_format.is_rgb or _is_grey(source_format):
        name = f"gbrp{depth}le"
        # Of planes with alpha, swscale returns wrong colours.
        if source_format.name != name and not source_format.name.startswith("gbrap1"):
            frame = reformatter.reformat(frame, format=name, threads=1)
        return np.ascontiguousarray(frame.to_ndarray()[..., :3])
    bits, (horizontal, vertical) = source_format.components[0].bits, _chroma_subsampling(source_format)
    planar = f"yuv4{'20' if vertical == 2 else '22' if horizontal == 2 else '44'}p{bits}le"
    if source_format.name not in (planar, planar.replace("yuv", "yuva")):
        frame = reformatter.reformat(frame, format=planar, threads=1)
    luma, chroma_blue, chroma_red = (_view_plane(frame, i) for i in range(3))
    full, (kr, kb) = frame.color_range == ColorRange.JPEG, LUMA.get(int(frame.colorspace), LUMA_601)
    rgb = np.empty((*luma.shape, 3), np.uint16)
    for top in range(0, len(luma), STRIP):
        lines = range(len(luma))[top : top + STRIP]
        y, cb, cr = _dequantize(
            luma[lines.start : lines.stop].float(),
            _upsample_lines(chroma_blue, lines, luma.shape),
            _upsample_lines(chroma_red, lines, luma.shape),
            bits,
            full,
        )
        red, blue = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
        green = (y - kr * red - kb * blue) / (1 - kr - kb)
        rgb[lines.start : lines.stop] = _quantize(torch.stack((red, green, blue), -1), depth)
    return rgb


def to_rgba(frame: av.VideoFrame, depth: int, reformatter: VideoReformatter) -> np.ndarray:
    """Convert a decoded frame with alpha as :func:`to_rgb` does, ``(H, W, 4)``."""
    return np.dstack((to_rgb(frame, depth, reformatter), _extract_alpha(frame, depth, reformatter)))


def has_alpha(pixel_format: VideoFormat) -> bool:
    """Check for an alpha channel, or a palette whose colours may have one."""
    return pixel_format.has_palette or any(component.is_alpha for component in pixel_format.components)


def is_transparent(frame: av.VideoFrame, reformatter: VideoReformatter) -> bool:
    """Check for a pixel of a frame with alpha that is not opaque."""
    return bool(_extract_alpha(frame, 8, reformatter).min() < 255)


def _extract_alpha(frame: av.VideoFrame, depth: int, reformatter: VideoReformatter) -> np.ndarray:
    """Return the alpha of a frame, ``(H, W)``, of ``depth`` bits."""
    *_, component = frame.format.components
    bits = component.bits
    if component.plane == 0 or bits > 16:  # interleaved, in a palette, or floating point
        name, bits = ("rgba", 8) if bits == 8 else ("rgba64le", 16)
        return rescale_depth(reformatter.reformat(frame, format=name).to_ndarray()[..., 3], bits, depth)
    if frame.format.name.endswith("be"):
        frame = reformatter.reformat(frame, format=f"{frame.format.name[:-2]}le")
    return rescale_depth(_view_plane(frame, component.plane).numpy().copy(), bits, depth)


def name_chroma(pixel_format: VideoFormat) -> str:
    """Name the subsampling of chroma as in ``420``; 444 for RGB, empty for grey."""
    if pixel_format.is_rgb or pixel_format.has_palette:
        return "444"
    factors = 8 // pixel_format.chroma_width(8), 8 // pixel_format.chroma_height(8)
    return "" if _is_grey(pixel_format) else CHROMA.get(factors, "")


def _is_grey(pixel_format: VideoFormat) -> bool:
    """Check for luma without chroma, with or without alpha."""
    return len(pixel_format.components) < 3 and not pixel_format.is_rgb and not pixel_format.has_palette


def _expand_grey(frame: av.VideoFrame, depth: int, reformatter: VideoReformatter) -> np.ndarray:
    """Convert a grey frame of limited range to RGB; swscale takes every grey frame for one of full range."""
    bits = min(max(8, frame.format.components[0].bits), 16)
    name = "gray" if bits == 8 else f"gray{bits}le"
    if frame.format.name != name:
        frame = reformatter.reformat(frame, format=name, threads=1)
    luma = (_view_plane(frame, 0).float() / 2 ** (bits - 8) - 16) / 219
    return np.repeat(to_samples(luma[None], depth).numpy(), 3, axis=2)


def from_rgb(array: np.ndarray, pixel_format: str, signal: Signal, reformatter: VideoReformatter) -> av.VideoFrame:
    """Convert an RGB array of ``signal.depth`` bits to a frame of ``pixel_format``, with alpha if both have it.

    Y, Cb and Cr follow the matrix and range of ``signal``, rounded to the nearest. RGB formats of at least the same
    depth are exact.
    """
    target_format = VideoFormat(pixel_format, array.shape[1], array.shape[0])
    bits = target_format.components[0].bits
    full = signal.range == ColorRange.JPEG
    if target_format.is_rgb:
        if bits == 8:
            name = "rgba" if array.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(rescale_depth(array, signal.depth, 8), name)
            frame = frame if pixel_format == name else reformatter.reformat(frame, format=pixel_format)
        else:
            frame = av.VideoFrame.from_ndarray(rescale_depth(array, signal.depth, bits), pixel_format)
    elif signal.depth == bits == 8 and not full:
        frame = reformatter.reformat(
            av.VideoFrame.from_ndarray(array, "rgb24"),
            format=pixel_format,
            dst_colorspace=signal.matrix if signal.matrix in LUMA else int(Colorspace.ITU601),
            dst_color_range=ColorRange.MPEG,
            interpolation=ACCURATE,
        )
    else:
        frame = av.VideoFrame(array.shape[1], array.shape[0], pixel_format)
        _fill_planes(frame, array, signal, bits, full)
    frame.colorspace, frame.color_range = signal.matrix, signal.range
    frame.color_primaries, frame.color_trc = signal.primaries, signal.transfer
    return frame


def _fill_planes(frame: av.VideoFrame, array: np.ndarray, signal: Signal, bits: int, full: bool) -> None:
    """Convert RGB to Y, Cb, Cr and write them to the planes of ``frame``."""
    red, green, blue = (torch.from_numpy(array[..., :3]).float() / (2**signal.depth - 1)).unbind(-1)
    kr, kb = LUMA.get(signal.matrix, LUMA_601)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    subsampling = _chroma_subsampling(frame.format)
    peak, unit = 2**bits - 1, 2 ** (bits - 8)
    for index, plane in enumerate((y, _downsample_chroma(cb, subsampling), _downsample_chroma(cr, subsampling))):
        if full:
            values = plane * peak + (2 ** (bits - 1) if index else 0)
        else:
            values = plane * ((224 if index else 219) * unit) + (128 if index else 16) * unit
        samples = values.round_().clamp_(0, peak).to(torch.uint8 if bits == 8 else torch.uint16)
        _view_plane(frame, index).copy_(samples)
    if array.shape[2] == 4:
        _view_plane(frame, 3).copy_(torch.from_numpy(rescale_depth(array[..., 3], signal.depth, bits)))


def _dequantize(
    y: torch.Tensor, cb: torch.Tensor, cr: torch.Tensor, bits: int, full: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scale stored values to Y in [0, 1] and Cb, Cr in [-1/2, 1/2]."""
    if full:
        peak, middle = 2**bits - 1, 2 ** (bits - 1)
        return y / peak, (cb - middle) / peak, (cr - middle) / peak
    unit = 2 ** (bits - 8)
    return (y / unit - 16) / 219, (cb / unit - 128) / 224, (cr / unit - 128) / 224


def _downsample_chroma(plane: torch.Tensor, subsampling: tuple[int, int]) -> torch.Tensor:
    """Subsample chroma: filter columns with (1 2 1) at every other column, average pairs of lines."""
    horizontal, vertical = subsampling
    if horizontal == 2:
        padded = torch.cat((plane[:, :1], plane, plane[:, -1:]), 1)
        plane = (padded[:, :-2:2] + 2 * padded[:, 1:-1:2] + padded[:, 2::2]) / 4
    if vertical == 2:
        plane = plane if len(plane) % 2 == 0 else torch.cat((plane, plane[-1:]), 0)
        plane = (plane[::2] + plane[1::2]) / 2
    return plane


def _upsample_lines(plane: torch.Tensor, lines: range, size: Sequence[int]) -> torch.Tensor:
    """Upsample chroma for a strip of ``lines``, starting at an even one, of a frame of ``(height, width)``."""
    if len(plane) == size[0]:
        return _upsample_chroma(plane[lines.start : lines.stop].float(), (len(lines), size[1]))
    first = max(0, lines.start // 2 - 1)  # interpolation needs the chroma lines on both sides
    strip = plane[first : lines.stop // 2 + 2].float()
    return _upsample_chroma(strip, (2 * len(strip), size[1]))[lines.start - 2 * first : lines.stop - 2 * first]


def _upsample_chroma(plane: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Interpolate chroma linearly: samples lie on even columns, and halfway between pairs of lines."""
    if plane.shape[0] < size[0]:
        above, below = torch.cat((plane[:1], plane[:-1])), torch.cat((plane[1:], plane[-1:]))
        plane = torch.stack(((3 * plane + above) / 4, (3 * plane + below) / 4), 1).flatten(0, 1)[: size[0]]
    if plane.shape[1] < size[1]:
        right = torch.cat((plane[:, 1:], plane[:, -1:]), 1)
        plane = torch.stack((plane, (plane + right) / 2), 2).flatten(1, 2)[:, : size[1]]
    return plane


def _chroma_subsampling(pixel_format: VideoFormat) -> tuple[int, int]:
    """Return the horizontal and vertical subsampling factors of chroma, 1 or 2."""
    return 1 if pixel_format.chroma_width(4) == 4 else 2, 1 if pixel_format.chroma_height(4) == 4 else 2


def _view_plane(frame: av.VideoFrame, index: int) -> torch.Tensor:
    """Return a view of plane ``index``, ``(h, w)``."""
    plane, bits = frame.planes[index], frame.format.components[0].bits
    flat = torch.frombuffer(cast(Any, plane), dtype=torch.uint8 if bits == 8 else torch.uint16)
    stride = plane.line_size // flat.element_size()
    return flat[: stride * plane.height].view(plane.height, stride)[:, : plane.width]


def _quantize(values: torch.Tensor, depth: int) -> np.ndarray:
    """Round values in [0, 1] to uint16 of ``depth`` bits, in place."""
    peak = 2**depth - 1
    return values.mul_(peak).round_().clamp_(0, peak).to(torch.uint16).numpy()


def rescale_depth(array: np.ndarray, depth: int, bits: int) -> np.ndarray:
    """Rescale values from ``depth`` to ``bits`` bits, mapping black to black and white to white."""
    if depth == bits:
        return array
    peak, new_peak = 2**depth - 1, 2**bits - 1
    values = (array.astype(np.uint32) * new_peak + peak // 2) // peak
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def _read_mastering(frame: av.VideoFrame) -> tuple[Fraction, ...]:
    """Read AVMasteringDisplayMetadata: ten fractions (primaries, white point, luminance) and two presence flags."""
    data = frame.side_data.get("MASTERING_DISPLAY_METADATA")
    if data is None:
        return ()
    *numbers, has_primaries, has_luminance = struct.unpack("=22i", bytes(cast(Any, data))[:88])
    if not (has_primaries and has_luminance and all(numbers[1::2])):
        return ()
    return tuple(Fraction(p, q) for p, q in zip(numbers[::2], numbers[1::2], strict=True))


def _read_light(frame: av.VideoFrame) -> tuple[int, ...]:
    """Read AVContentLightMetadata: MaxCLL and MaxFALL."""
    data = frame.side_data.get("CONTENT_LIGHT_LEVEL")
    return () if data is None else struct.unpack("=2I", bytes(cast(Any, data))[:8])


def _list_dropped(frame: av.VideoFrame) -> tuple[str, ...]:
    """Name the side data of a frame that restoration discards."""
    kinds = {data.type.name for data in cast(Any, frame.side_data)}
    partial = "MASTERING_DISPLAY_METADATA" in kinds and not _read_mastering(frame)
    unlisted = sorted(kinds - DROPPED.keys() - SideData.__members__.keys())
    known = [name for kind, name in DROPPED.items() if kind in kinds]
    return (*known, *(["incomplete metadata of the mastering display"] if partial else []), *unlisted)
