"""The encoders that video is written with: pixel formats, qualities, speeds and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from src.errors import VideoError
from src.video.containers import check_container

SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
X264 = (16384, 16384)


class Codec(NamedTuple):
    encoder: str
    pixel_formats: dict[int, str]  # by depth
    odd_chroma: str = "444"  # chroma format for odd heights and widths; empty: not supported
    crf: int | None = None  # default constant rate factor, lower is better; None: not adjustable
    max_crf: int = 51
    presets: tuple[str, ...] = ()
    preset: str = ""
    threads: int = 0  # fixed encoder thread count, because output bytes depend on it; 0: encoder default
    options: Mapping[str, str] = MappingProxyType({})
    hdr: tuple[str, ...] = ()  # name of the encoder option, and of its fields for mastering display and light level
    min_side: int = 1
    max_size: tuple[int, int] = (1 << 24, 1 << 24)  # height and width, as measured with the encoders of PyAV 18


CODECS = {
    "h264": Codec("libx264", {8: "yuv420p"}, crf=17, presets=SPEEDS, preset="veryfast", threads=8, max_size=X264),
    "hevc": Codec(
        "libx265",
        {8: "yuv420p", 10: "yuv420p10le", 12: "yuv420p12le"},
        crf=19,
        presets=SPEEDS,
        preset="veryfast",
        threads=2,
        options={"x265-params": "log-level=error:open-gop=0"},
        hdr=("x265-params", "master-display", "max-cll"),
        min_side=16,
    ),
    "av1": Codec(
        "libsvtav1",
        {8: "yuv420p", 10: "yuv420p10le"},
        odd_chroma="",
        crf=20,
        max_crf=63,
        presets=tuple(map(str, range(14))),
        preset="6",
        hdr=("svtav1-params", "mastering-display", "content-light"),
        min_side=4,
        max_size=(8704, 16384),
    ),
    # RGB, exact at every depth, for archives.
    "ffv1": Codec(
        "ffv1",
        {8: "bgr0", 10: "gbrp10le", 12: "gbrp12le", 14: "gbrp14le", 16: "gbrp16le"},
        options={"level": "3", "slicecrc": "1"},
    ),
    "prores": Codec(
        "prores_ks", {10: "yuv422p10le"}, options={"profile": "hq", "vendor": "apl0"}, max_size=(65535, 65535)
    ),
    # RGB, exact. decord reads it with equal pixels, unlike FFV1 in RGB.
    "lossless": Codec(
        "libx264rgb", {8: "rgb24"}, presets=SPEEDS, preset="veryfast", threads=8, options={"qp": "0"}, max_size=X264
    ),
}


def resolve_codec(path: str | Path, codec: str = "auto", depth: int = 8) -> str:
    """Resolve ``auto`` to a name in ``CODECS``, by the suffix of ``path`` and the bit depth.

    Raises:
        VideoError: ``codec`` is unknown.
    """
    if codec != "auto" and codec not in CODECS:
        raise VideoError(f"unknown codec {codec}; choose {', '.join(CODECS)} or auto")
    if codec != "auto":
        return codec
    return "av1" if Path(path).suffix.lower() == ".webm" else "h264" if depth == 8 else "hevc"


def suggest_codecs(path: Path, size: tuple[int, int]) -> str:
    """List the codecs that can hold frames of ``size``, each with a file name if ``path`` cannot store it."""
    names = []
    for name, codec in CODECS.items():
        if describe_size_limit(codec, size):
            continue
        try:
            check_container(path, codec.encoder)
            names.append(name)
        except VideoError:
            suffix = ".mov" if codec.encoder == "prores_ks" else ".mkv"
            names.append(f"{name} (in {path.stem}{suffix})")
    return ", ".join(names)


def describe_size_limit(codec: Codec, size: tuple[int, int]) -> str:
    """Describe why an encoder refuses frames of ``(height, width)``; empty if it takes them."""
    (height, width), (tallest, widest) = size, codec.max_size
    if height > tallest or width > widest:
        return f"does not support {width}x{height} pixels: its maximum is {widest}x{tallest}"
    if min(size) < codec.min_side:
        return f"does not support {width}x{height} pixels: its minimum is {codec.min_side}x{codec.min_side}"
    if (height % 2 or width % 2) and not codec.odd_chroma:
        return f"does not support odd sizes such as {width}x{height}"
    return ""


def describe_quality(codec: Codec) -> str:
    if codec.crf is not None:
        return f"the range is 0 (best) to {codec.max_crf}"
    return "it is not adjustable" if codec.encoder == "prores_ks" else "it is always lossless"
