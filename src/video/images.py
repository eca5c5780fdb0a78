"""Load images as frames: ``(H, W, 3)``, RGB, upright. Pillow reads 8 bits per channel, FFmpeg 16."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from src.errors import VideoError
from src.video.decoding import check_pixel_limit, describe_error, open_input

# Of an image. Above the limit of videos, since only one is in memory at a time and cameras reach 61 million pixels.
MAX_PIXELS = 1 << 26
DEEP_SUFFIXES = (".png", ".tif", ".tiff", ".ppm", ".pgm")


def is_deep(file: Path) -> bool:
    """Check for more than 8 bits per channel; Pillow does not report them for colour images."""
    return file.suffix.lower() in DEEP_SUFFIXES and _decode(file).format.components[0].bits > 8


def _decode(file: Path) -> av.VideoFrame:
    try:
        # FFmpeg must not expand a % in the file name.
        with open_input(file, {"pattern_type": "none"}, max_pixels=MAX_PIXELS) as container:
            return next(container.decode(video=0))
    except Exception as error:  # PyAV raises exceptions of any type
        raise VideoError(f"{file} cannot be read as an image: {describe_error(error)}") from error


def load_16bit(file: Path) -> np.ndarray:
    """Load an image as uint16 RGB, ``(H, W, 3)``; 8 bits are scaled to 16."""
    frame = _decode(file)
    if frame.format.components[0].bits <= 8:
        return load_8bit(file).astype(np.uint16) * 257
    if frame.format.name[:4] not in ("gray", "rgb4", "rgba"):
        frame = frame.reformat(format="rgb48le")
    pixels = frame.to_ndarray().astype(np.uint16, copy=False)  # (H, W) or (H, W, channels), in native byte order
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.array(np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)), order="C")


def load_8bit(file: Path) -> np.ndarray:
    """Load an image as uint8 RGB, ``(H, W, 3)``; 16 bits are rounded to 8."""
    try:
        with Image.open(file) as image:
            check_pixel_limit(file, (image.height, image.width), MAX_PIXELS)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                rounded = ((np.asarray(upright).astype(np.uint32) + 128) // 257).astype(np.uint8)
                return np.repeat(rounded[..., None], 3, axis=2)
            if upright.mode in ("I", "F"):  # their white level is undefined
                raise VideoError(f"{file} has 32-bit values (mode {upright.mode}); save it with 8 or 16 bits")
            return np.array(upright.convert("RGB"))
    except VideoError:
        raise
    except Exception as error:  # Pillow raises exceptions of any type
        raise VideoError(f"{file} cannot be read as an image: {describe_error(error)}") from error
