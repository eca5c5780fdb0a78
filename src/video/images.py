"""Load images as frames: ``(H, W, 3)``, RGB, upright.

Pillow reads images of 8 bits per channel. FFmpeg reads deeper ones, and those of film: DPX, EXR, SGI, TGA.
Floating-point values are linear light; they become sRGB of 16 bits, clipped at 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from src.errors import UserError, VideoError
from src.video.colorspace import rescale_depth, to_rgb
from src.video.decoding import apply_orientation, check_pixel_limit, describe_error, open_input, read_orientation
from src.video.discovery import FILM_SUFFIXES
from src.video.exr import describe_fault

# Of an image. Above the limit of videos, since only one is in memory at a time and cameras reach 61 million pixels.
MAX_PIXELS = 1 << 26
DEPTH_OF_FLOATS = 16
LOGARITHMIC = (1, 3)  # transfer characteristics of DPX (SMPTE 268M): printing density, logarithmic


class DecodedImage(NamedTuple):
    """An image as stored.

    Attributes:
        pixels: ``(H, W, 3)``, RGB, upright; uint8, or uint16 with values of ``depth`` bits.
        depth: bits per channel.
        note: a predicate about the image that its user needs to know; empty if there is none.
    """

    pixels: np.ndarray
    depth: int
    note: str = ""


def load_image(file: Path, depth: int) -> np.ndarray:
    """Load an image as RGB of ``depth`` bits, ``(H, W, 3)``: uint8 for 8 bits, otherwise uint16."""
    image = decode_image(file)
    return rescale_depth(image.pixels, image.depth, depth)


def decode_image(file: Path) -> DecodedImage:
    """Load an image with its own bit depth.

    Raises:
        VideoError: it cannot be read.
    """
    suffix = file.suffix.lower()
    try:
        if suffix == ".exr" and (fault := describe_fault(file)):
            raise VideoError(f"{file} cannot be read as an image: {fault}")
        if suffix in (".tif", ".tiff"):
            return _decode_tiff(file)
        if suffix in FILM_SUFFIXES:
            return _decode_with_ffmpeg(file)
        return _decode_with_pillow(file)
    except UserError:
        raise
    except Exception as error:  # PyAV and Pillow raise exceptions of any type
        raise VideoError(f"{file} cannot be read as an image: {describe_error(error)}") from error


def read_size(file: Path) -> tuple[int, int]:
    """Return the height and width of an image, from its header if Pillow knows the format."""
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except UnidentifiedImageError:  # DPX, EXR, some kinds of TIFF
        height, width, _ = decode_image(file).pixels.shape
        return height, width


def _decode_with_pillow(file: Path) -> DecodedImage:
    with Image.open(file) as image:
        check_pixel_limit(file, (image.height, image.width), MAX_PIXELS)
        if not _is_deep(image):
            return DecodedImage(np.array(ImageOps.exif_transpose(image).convert("RGB")), 8)
    return _decode_with_ffmpeg(file)  # Pillow would cut colours to 8 bits


def _is_deep(image: Any) -> bool:
    """Check a PNG, PGM or PPM that is open but not loaded for more than 8 bits per channel."""
    if image.format not in ("PNG", "PPM"):
        return False
    arguments = image.tile[0].args  # of the decoder: RGB;16B, or (RGB, 65535)
    return "16" in arguments if isinstance(arguments, str) else arguments[1] > 255


def _decode_tiff(file: Path) -> DecodedImage:
    """Load a TIFF with the library that reads its kind; FFmpeg returns wrong pixels for tiles and half floats."""
    with file.open("rb") as stream:
        tags: Any = ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
    bits, is_float = max(tags.get(Base.BitsPerSample, (1,))), 3 in tags.get(Base.SampleFormat, ())
    if bits <= 8:
        return _decode_with_pillow(file)
    if bits != 16 + 16 * is_float:
        raise VideoError(f"{file} has {bits}-bit {'floats' if is_float else 'integers'}; save 16-bit integers instead")
    is_tiled, is_grey = Base.TileWidth in tags, tags.get(Base.SamplesPerPixel, 1) == 1
    if is_grey and (is_tiled or is_float):
        with Image.open(file) as image:
            check_pixel_limit(file, (image.height, image.width), MAX_PIXELS)
            values = np.asarray(ImageOps.exif_transpose(image))
        return _from_linear([values] * 3) if is_float else DecodedImage(np.dstack([values.astype(np.uint16)] * 3), 16)
    if is_tiled:
        raise VideoError(f"{file} is a tiled TIFF of {bits} bits, which only works for grey; save it without tiles")
    return _decode_with_ffmpeg(file)


def _decode_with_ffmpeg(file: Path) -> DecodedImage:
    # FFmpeg must not expand a % in the file name.
    with open_input(file, {"pattern_type": "none"}, max_pixels=MAX_PIXELS) as container:
        frame = next(container.decode(video=0))
    if "f16" in frame.format.name or "f32" in frame.format.name:
        image = _from_linear(_view_float_planes(frame))
    else:
        bits = frame.format.components[0].bits
        depth = max(8, bits + bits % 2)
        image = DecodedImage(to_rgb(frame, depth, VideoReformatter()), depth, _describe_transfer(file))
    return image._replace(pixels=apply_orientation(image.pixels, read_orientation(frame)))


def _view_float_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Return red, green and blue of a floating-point frame, ``(H, W)`` each."""
    name = frame.format.name
    if name.startswith("rgb"):  # interleaved
        return list(np.moveaxis(frame.to_ndarray(), 2, 0)[:3])
    dtype = np.dtype(np.float16 if "f16" in name else np.float32).newbyteorder(">" if name.endswith("be") else "<")
    planes = [np.frombuffer(bytes(plane), dtype).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]
    return [planes[i] for i in ((2, 0, 1) if name.startswith("gbr") else (0, 0, 0))]


def _from_linear(channels: list[np.ndarray]) -> DecodedImage:
    """Convert linear light, in which 1 is white, to sRGB (IEC 61966-2-1)."""
    pixels = np.empty((*channels[0].shape, 3), np.uint16)
    for i, channel in enumerate(channels):
        linear = np.nan_to_num(channel.astype(np.float32), nan=0).clip(0, 1)
        srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        pixels[..., i] = np.rint(srgb * (2**DEPTH_OF_FLOATS - 1))
    note = "has floating-point values, read as linear light: converted to sRGB, and clipped above 1.0 (white)"
    return DecodedImage(pixels, DEPTH_OF_FLOATS, note)


def _describe_transfer(file: Path) -> str:
    """Return a note for a DPX with logarithmic values."""
    if file.suffix.lower() != ".dpx":
        return ""
    with file.open("rb") as stream:
        transfer = stream.read(802)[801]
    return "has logarithmic values (film density), which are taken as they are" if transfer in LOGARITHMIC else ""
