"""Seed files: videos of many codecs and containers and images of many formats, with fixed content, or real files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from src.data.packing import pack_clip
from src.video.colorspace import Signal
from src.video.discovery import IMAGE_SUFFIXES
from src.video.pipe import Y4MWriter
from src.video.writer import VideoWriter, write_video
from tests.video.clips import make_scene
from tests.video.film import write_dpx, write_exr, write_tiff
from tests.video.properties import hide_edges, write_images, write_streams

REAL_FILES = Path(__file__).resolve().parents[3] / "shared" / "data" / "odd"

HEIGHT, WIDTH, LENGTH = 64, 96, 14
H264, HEVC = {"threads": "1", "g": "6", "bf": "2"}, "log-level=none:pools=none:frame-threads=1"
VPX = {"g": "6", "auto-alt-ref": "1", "lag-in-frames": "8", "b": "200k", "cpu-used": "8", "threads": "1"}
# file name: encoder, pixel format, options
ENCODED: dict[str, tuple[str, str, dict[str, str]]] = {
    **{f"h264.{kind}": ("libx264", "yuv420p", H264) for kind in ("mp4", "mov", "mkv", "ts", "avi", "h264")},
    "h264_444.mp4": ("libx264", "yuv444p", H264),
    "h264_10.mkv": ("libx264", "yuv420p10le", H264),
    "h264_rotated.mp4": ("libx264", "yuv420p", H264),
    "h264_variable.mkv": ("libx264", "yuv420p", H264),
    "h264_woven.ts": ("libx264", "yuv420p", {**H264, "x264-params": "tff=1"}),
    "rgb.mp4": ("libx264rgb", "rgb24", {**H264, "qp": "0"}),
    "hevc.mp4": ("libx265", "yuv420p", {"g": "6", "x265-params": HEVC}),
    "hevc_10.mkv": ("libx265", "yuv420p10le", {"g": "6", "x265-params": HEVC}),
    "vp8.webm": ("libvpx", "yuv420p", VPX),
    "vp9.webm": ("libvpx-vp9", "yuv420p", VPX),
    "vp9.mp4": ("libvpx-vp9", "yuv420p", VPX),
    "av1.mp4": ("libsvtav1", "yuv420p", {"preset": "12", "g": "6"}),
    "av1_10.webm": ("libsvtav1", "yuv420p10le", {"preset": "12", "g": "6"}),
    "ffv1.mkv": ("ffv1", "bgr0", {"level": "3", "slicecrc": "1"}),
    "ffv1_10.mkv": ("ffv1", "gbrp10le", {"level": "3", "slicecrc": "1"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "6", "bf": "2"}),
    "mpeg4.mp4": ("mpeg4", "yuv420p", {"g": "6"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "mjpeg.mov": ("mjpeg", "yuvj420p", {}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"g": "6", "bf": "2"}),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {"g": "6"}),
    "prores.mov": ("prores_ks", "yuv422p10le", {}),
    "png.mov": ("png", "rgb24", {}),
    "picture.gif": ("gif", "rgb8", {}),
    "alpha.mov": ("prores_ks", "yuva444p10le", {}),
    "alpha.webm": ("libvpx-vp9", "yuva420p", {**VPX, "auto-alt-ref": "0"}),
    "alpha_rle.mov": ("qtrle", "argb", {}),
    "alpha.apng": ("apng", "rgba", {}),
    "grey.mkv": ("ffv1", "gray", {"level": "3", "slicecrc": "1"}),
    "grey_10.mp4": ("libx265", "gray10le", {"g": "6", "x265-params": HEVC}),
    **{f"chroma_{kind}.mkv": ("ffv1", f"yuv{kind}p", {}) for kind in ("410", "411", "440", "444")},
    "chroma_444.avi": ("mjpeg", "yuvj444p", {}),
}
# name of a folder of two images: suffix, Pillow mode, options
IMAGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": (".png", "RGB", {}),
    "png_palette": (".png", "P", {}),
    "png_grey": (".png", "L", {}),
    "png_grey_16": (".png", "I;16", {}),
    "png_alpha": (".png", "RGBA", {}),
    "jpeg": (".jpg", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
    "jpeg_cmyk": (".jpg", "CMYK", {}),
    "jpeg_progressive": (".jpg", "RGB", {"progressive": True}),
    "tiff": (".tif", "RGB", {}),
    "tiff_lzw": (".tif", "RGB", {"compression": "tiff_lzw"}),
    "tiff_grey_16": (".tif", "I;16", {}),
    "webp": (".webp", "RGB", {}),
    "webp_lossless": (".webp", "RGBA", {"lossless": True}),
    "bmp": (".bmp", "RGB", {}),
    "ppm": (".ppm", "RGB", {}),
}


FILM = ("dpx", "exr", "tif_float")


def make_frames() -> list[np.ndarray]:
    """Make frames of a moving texture, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8 + 4, WIDTH // 8 + 6, 3), dtype=np.uint8)
    texture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    return [np.ascontiguousarray(texture[k : k + HEIGHT, 2 * k : 2 * k + WIDTH]) for k in range(LENGTH)]


def make_seeds(folder: Path) -> None:
    """Write the synthetic seed files."""
    os.environ.setdefault("SVT_LOG", "0")
    folder.mkdir(parents=True, exist_ok=True)
    frames = make_frames()
    for name, (encoder, pixel_format, options) in ENCODED.items():
        with av.open(str(folder / name), "w", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream(encoder, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
            if name.startswith("grey"):
                stream.codec_context.color_range = 1  # limited
            if "rotated" in name:
                stream.set_display_rotation(90)
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pixel_format)
                frame.pts = number + (number // 3 if "variable" in name else 0)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    for depth in (8, 16):
        images = [frame if depth == 8 else frame.astype(np.uint16) * 257 for frame in frames[:2]]
        write_video(folder / f"deep_{depth}", images, Fraction(25), signal=Signal(depth, matrix=0, range=2))
    for depth in (8, 10):
        with (
            (folder / f"y4m_{depth}.y4m").open("wb") as file,
            Y4MWriter(file, Fraction(25), signal=Signal(depth)) as writer,
        ):
            for frame in frames[:5]:
                writer.write(frame if depth == 8 else frame.astype(np.uint16) * 4)
    for name, (suffix, mode, options) in IMAGES.items():
        (folder / name).mkdir()
        for number, frame in enumerate(frames[:2]):
            image = Image.fromarray(frame)
            if mode == "I;16":
                image = Image.fromarray(frame[..., 0].astype(np.uint16) * 257)
            image = image if image.mode == mode else image.convert(mode)
            image.save(folder / name / f"{number}{suffix}", **options)
    pack_clip(folder / "deep_8", folder / "packed.mp4")
    for name in ("exif.mkv", "exif.avi", "exif.mov"):
        write_images(folder / name, "mjpeg", 6)
    streams = ("mjpeg", (48, 64), 1, 39, 0), ("libx264", (HEIGHT, WIDTH), 10, 126, 1)
    for name in ("streams.mkv", "streams.mp4"):
        write_streams(folder / name, *streams)
    for name in ("cropped.mkv", "cropped.mp4"):
        with VideoWriter(folder / name, Fraction(25), "lossless") as writer:
            for frame in make_scene(6):
                writer.write(frame)
        hide_edges(folder / name, top=6, bottom=10)
    for name in FILM:
        (folder / name).mkdir()
        for number, frame in enumerate(frames[:2]):
            path = folder / name / f"{number}.{name[:3]}"
            if name == "exr":
                light = frame.astype(np.float32) / 255
                write_exr(path, {channel: light[..., index] for index, channel in enumerate("RGB")})
            elif name == "tif_float":
                write_tiff(path, frame.astype(np.float32) / 255)
            else:
                write_dpx(path, frame.astype(np.uint16) * 4, 10)


@dataclass(frozen=True)
class Seed:
    """A video file or a folder of images."""

    name: str
    files: tuple[Path, ...]

    @property
    def is_folder(self) -> bool:
        return self.files[0].suffix.lower() in IMAGE_SUFFIXES


def list_seeds(synthetic: Path, real: Path | None = None) -> list[Seed]:
    """List the seeds of both folders, in a fixed order."""
    folders = [synthetic, real] if real and real.is_dir() else [synthetic]
    seeds = []
    for folder in folders:
        for entry in sorted(folder.iterdir()):
            files = tuple(sorted(entry.iterdir())) if entry.is_dir() else (entry,)
            seeds.append(Seed(entry.name if folder is synthetic else f"{folder.name}/{entry.name}", files))
    return seeds
