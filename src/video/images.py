"""Load images as frames: ``(H, W, 3)``, RGB, or RGBA, ``(H, W, 4)``, upright.

Pillow reads images of 8 bits per channel. FFmpeg reads deeper ones, and those of film: DPX, EXR, SGI, TGA.
Floating-point values are linear light; they become sRGB of 16 bits, clipped at 1. Alpha is straight (colours are not
multiplied by it); EXR's is not, so its colours are divided by it.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import get_sampling
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from src.errors import UserError, VideoError
from src.video.colorspace import has_alpha, name_chroma, rescale_depth, to_rgb, to_rgba
from src.video.decoding import apply_orientation, check_pixel_limit, describe_error, open_input, read_orientation
from src.video.discovery import FILM_SUFFIXES
from src.video.exr import describe_fault

# Of an image. Above the limit of videos, since only one is in memory at a time and cameras reach 61 million pixels.
MAX_PIXELS = 1 << 26
DEPTH_OF_FLOATS = 16
DEFLATE = (8, 32946)  # compressions of TIFF
LOGARITHMIC = (1, 3)  # transfer characteristics of DPX (SMPTE 268M): printing density, logarithmic


class DecodedImage(NamedTuple):
    """An image as stored.

    Attributes:
        pixels: ``(H, W, 3 or 4)``, RGB or RGBA, upright; uint8, or uint16 with values of ``depth`` bits.
        depth: bits per channel.
        has_alpha: the file has an alpha channel, whether it is in ``pixels`` or not.
        chroma: subsampling of chroma, as in ``420``; 444 for RGB, empty for grey and if unknown.
        note: a predicate about the image that its user needs to know; empty if there is none.
    """

    pixels: np.ndarray
    depth: int
    has_alpha: bool = False
    chroma: str = ""
    note: str = ""


def load_image(file: Path, depth: int, alpha: bool = False) -> np.ndarray:
    """Load an image as RGB of ``depth`` bits, ``(H, W, 3)``: uint8 for 8 bits, otherwise uint16.

    With ``alpha``, it is RGBA, ``(H, W, 4)``, opaque if the file has no alpha.
    """
    image = decode_image(file, alpha)
    pixels = rescale_depth(image.pixels, image.depth, depth)
    if not alpha or image.has_alpha:
        return pixels
    return np.dstack((pixels, np.full(pixels.shape[:2], 2**depth - 1, pixels.dtype)))


def check_alpha(file: Path) -> bool:
    """Check for an alpha channel by the header of an image that Pillow knows."""
    if file.suffix.lower() in (".jpeg", ".jpg", ".pgm", ".ppm"):
        return False
    try:
        with Image.open(file) as image:
            return image.has_transparency_data
    except Exception:  # loading it will name the error
        return False


def decode_image(file: Path, alpha: bool = False) -> DecodedImage:
    """Load an image with its own bit depth, with its alpha channel if requested.

    Raises:
        VideoError: it cannot be read.
    """
    suffix = file.suffix.lower()
    try:
        if suffix == ".exr" and (fault := describe_fault(file)):
            raise VideoError(f"{file} cannot be read as an image: {fault}")
        if suffix in (".tif", ".tiff"):
            return _decode_tiff(file, alpha)
        if suffix in FILM_SUFFIXES:
            return _decode_with_ffmpeg(file, alpha)
        return _decode_with_pillow(file, alpha)
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


def _decode_with_pillow(file: Path, alpha: bool) -> DecodedImage:
    with Image.open(file) as image:
        check_pixel_limit(file, (image.height, image.width), MAX_PIXELS)
        if not _is_deep(image):
            has_alpha, chroma = image.has_transparency_data, _read_chroma(image)
            mode = "RGBA" if alpha and has_alpha else "RGB"
            return DecodedImage(np.array(ImageOps.exif_transpose(image).convert(mode)), 8, has_alpha, chroma)
    return _decode_with_ffmpeg(file, alpha)  # Pillow would cut colours to 8 bits


def _read_chroma(image: Any) -> str:
    """Name the subsampling of the chroma of an image that is open but not loaded; empty for WebP, mostly 4:2:0."""
    if image.mode in ("1", "L", "LA") or image.format == "WEBP":
        return ""
    return {0: "444", 1: "422", 2: "420"}.get(get_sampling(image), "") if image.format == "JPEG" else "444"


def _is_deep(image: Any) -> bool:
    """Check a PNG, PGM or PPM that is open but not loaded for more than 8 bits per channel."""
    if image.format not in ("PNG", "PPM"):
        return False
    arguments = image.tile[0].args  # of the decoder: RGB;16B, or (RGB, 65535)
    return "16" in arguments if isinstance(arguments, str) else arguments[1] > 255


def _decode_tiff(file: Path, alpha: bool) -> DecodedImage:
    """Load a TIFF with the library that reads its kind; FFmpeg returns wrong pixels for tiles and half floats."""
    with file.open("rb") as stream:
        tags: Any = ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
    bits, is_float = max(tags.get(Base.BitsPerSample, (1,))), 3 in tags.get(Base.SampleFormat, ())
    if bits <= 8:
        return _decode_with_pillow(file, alpha)
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
    _check_strips(file, tags)
    return _decode_with_ffmpeg(file, alpha)


def _check_strips(file: Path, tags: Any) -> None:
    """Check what FFmpeg does not: strips that it cannot decode come out black."""
    with file.open("rb") as stream:
        for offset, size in zip(tags[Base.StripOffsets], tags[Base.StripByteCounts], strict=True):
            stream.seek(offset)
            strip = stream.read(size)
            if len(strip) < size:
                raise VideoError(f"{file} cannot be read as an image: it is cut off")
            if tags.get(Base.Compression) in DEFLATE:
                zlib.decompress(strip)


def _decode_with_ffmpeg(file: Path, alpha: bool) -> DecodedImage:
    # FFmpeg must not expand a % in the file name.
    with open_input(file, {"pattern_type": "none"}, max_pixels=MAX_PIXELS) as container:
        frame = next(container.decode(video=0))
    alpha = alpha and has_alpha(frame.format)
    if "f16" in frame.format.name or "f32" in frame.format.name:
        image = _from_linear(_view_float_planes(frame)[: 4 if alpha else 3])
    else:
        bits = frame.format.components[0].bits
        depth = max(8, bits + bits % 2)
        convert = to_rgba if alpha else to_rgb
        image = DecodedImage(convert(frame, depth, VideoReformatter()), depth, note=_describe_transfer(file))
    pixels = apply_orientation(image.pixels, read_orientation(frame))
    return image._replace(pixels=pixels, has_alpha=has_alpha(frame.format), chroma=name_chroma(frame.format))


def _view_float_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Return red, green, blue, and alpha if there is one, of a floating-point frame, ``(H, W)`` each."""
    name = frame.format.name
    if name.startswith("rgb"):  # interleaved
        return list(np.moveaxis(frame.to_ndarray(), 2, 0))
    dtype = np.dtype(np.float16 if "f16" in name else np.float32).newbyteorder(">" if name.endswith("be") else "<")
    planes = [np.frombuffer(bytes(plane), dtype).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]
    order = (2, 0, 1, 3) if name.startswith("gbr") else (0, 0, 0, 1)
    return [planes[i] for i in order if i < len(planes)]


def _from_linear(channels: list[np.ndarray]) -> DecodedImage:
    """Convert linear light, in which 1 is white, to sRGB (IEC 61966-2-1); a fourth channel is premultiplied alpha."""
    pixels = np.empty((*channels[0].shape, len(channels)), np.uint16)
    values = [np.nan_to_num(channel.astype(np.float32), nan=0) for channel in channels]
    if len(values) == 4:
        alpha = values.pop().clip(0, 1)
        values = [np.divide(value, alpha, out=value, where=alpha > 0) for value in values]
        pixels[..., 3] = np.rint(alpha * (2**DEPTH_OF_FLOATS - 1))
    for i, value in enumerate(values):
        linear = value.clip(0, 1)
        srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        pixels[..., i] = np.rint(srgb * (2**DEPTH_OF_FLOATS - 1))
    note = "has floating-point values, read as linear light: converted to sRGB, and clipped above 1.0 (white)"
    return DecodedImage(pixels, DEPTH_OF_FLOATS, note=note)


def _describe_transfer(file: Path) -> str:
    """Return a note for a DPX with logarithmic values."""
    if file.suffix.lower() != ".dpx":
        return ""
    with file.open("rb") as stream:
        transfer = stream.read(802)[801]
    return "has logarithmic values (film density), which are taken as they are" if transfer in LOGARITHMIC else ""
