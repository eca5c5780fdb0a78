"""Images of a folder as frames: ``(H, W, 3)``, RGB, upright. Pillow reads 8 bits, FFmpeg more."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from src.errors import VideoError
from src.video.probe import check_pixels, in_words, open_input

MOST_PIXELS = 1 << 26  # of an image, of which one is held at a time: more than in videos, for cameras have 61 million


def is_deep(file: Path) -> bool:
    """Whether an image has more than 8 bits a channel: Pillow does not say so of colours."""
    return (
        file.suffix.lower() in (".png", ".tif", ".tiff", ".ppm", ".pgm") and _stored(file).format.components[0].bits > 8
    )


def _stored(file: Path) -> av.VideoFrame:
    try:
        # A name with a % in it is no pattern.
        with open_input(file, {"pattern_type": "none"}, most=MOST_PIXELS) as container:
            return next(container.decode(video=0))
    except (av.FFmpegError, StopIteration) as error:
        raise VideoError(f"{file} cannot be read as an image: {in_words(error)}") from error


def load_deep(file: Path) -> np.ndarray:
    """An image as uint16 RGB ``(H, W, 3)``, all 16 bits of it."""
    frame = _stored(file)
    if frame.format.components[0].bits <= 8:
        return load(file).astype(np.uint16) * 257
    if frame.format.name[:4] not in ("gray", "rgb4", "rgba"):
        frame = frame.reformat(format="rgb48le")
    pixels = frame.to_ndarray().astype(np.uint16, copy=False)  # (H, W) or (H, W, channels), in the machine's byte order
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.array(np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)), order="C")


def load(file: Path) -> np.ndarray:
    """An image as uint8 RGB ``(H, W, 3)``."""
    try:
        with Image.open(file) as image:
            check_pixels(file, (image.height, image.width), MOST_PIXELS)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                nearest = ((np.asarray(upright).astype(np.uint32) + 128) // 257).astype(np.uint8)
                return np.repeat(nearest[..., None], 3, axis=2)
            if upright.mode in ("I", "F"):  # what is white in these, nobody says
                raise VideoError(f"{file} holds {upright.mode} values of 32 bits, save it with 8 or 16 bits a channel")
            return np.array(upright.convert("RGB"))
    except VideoError:
        raise
    except Exception as error:  # Pillow raises whatever it likes
        raise VideoError(f"{file} cannot be read as an image: {in_words(error)}") from error
