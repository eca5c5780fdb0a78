"""The encoders that video is written with: pixel formats, qualities, speeds and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from src.errors import VideoError
from src.video.containers import check_container

SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
X264 = (16384, 16384)
CHROMA = ("420", "422", "444")
# Subsampling to store that of a source with: the coarsest of ``CHROMA`` that is as fine.
NOT_COARSER = {"": "420", "410": "420", "411": "422", "440": "444"}


class Codec(NamedTuple):
    encoder: str
    pixel_formats: dict[int, str]  # by depth
    alpha_formats: Mapping[int, str] = MappingProxyType({})  # by depth; empty: no alpha
    chroma: tuple[str, ...] = ()  # subsampling to choose from, that of ``pixel_formats`` first; empty: RGB
    keeps_chroma: bool = False  # as fine as the source's by default, as a master should be
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
    "h264": Codec(
        "libx264",
        {8: "yuv420p"},
        chroma=CHROMA,
        crf=17,
        presets=SPEEDS,
        preset="veryfast",
        threads=8,
        max_size=X264,
    ),
    "hevc": Codec(
        "libx265",
        {8: "yuv420p", 10: "yuv420p10le", 12: "yuv420p12le"},
        chroma=CHROMA,
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
        chroma=CHROMA[:1],
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
        {8: "bgra", 10: "gbrap10le", 12: "gbrap12le", 14: "gbrap14le", 16: "gbrap16le"},
        options={"level": "3", "slicecrc": "1"},
    ),
    "prores": Codec(
        "prores_ks",
        {10: "yuv422p10le"},
        {10: "yuva444p10le"},
        chroma=CHROMA[1:],
        keeps_chroma=True,
        options={"vendor": "apl0"},
        max_size=(65535, 65535),
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


def can_store_alpha(path: Path, codec: str) -> bool:
    """Check that frames written to ``path``, a folder or a file with ``codec``, keep their alpha."""
    return not path.suffix or (codec in CODECS and bool(CODECS[codec].alpha_formats))


def can_store_chroma(codec: Codec, chroma: str) -> bool:
    """Check that a codec can store chroma as fine as 420, 422 or 444; RGB can."""
    return max(codec.chroma or CHROMA) >= chroma


def resolve_chroma(name: str, requested: str | None, source: str, path: Path) -> str:
    """Resolve the chroma subsampling that a codec stores, as in ``420``; 444 for RGB.

    Args:
        name: the codec.
        requested: 420, 422, 444, ``source``, or None: the codec's default.
        source: subsampling of the source, or empty.
        path: the output, for messages.

    Raises:
        VideoError: the codec cannot store what is requested, or ``requested`` is unknown.
    """
    if requested not in (None, "source", *CHROMA):
        raise VideoError(f"unknown chroma={requested}; choose {', '.join(CHROMA)} or source")
    codec, kept = CODECS[name], NOT_COARSER.get(source, source)
    choices = codec.chroma or CHROMA[2:]
    if requested in CHROMA:
        chroma = requested if requested in choices else None
    else:
        least = kept if requested or codec.keeps_chroma else choices[0]
        chroma = next((choice for choice in choices if choice >= least), None)
    if chroma is None:
        able = suggest_codecs(
            path, lambda codec: requested in codec.chroma if requested in CHROMA else can_store_chroma(codec, kept)
        )
        stored = f"only chroma={' or '.join(choices)}" if codec.chroma else "RGB, without subsampled chroma"
        raise VideoError(f"chroma={requested} is not possible with {name}, which stores {stored}; choose {able}")
    return chroma


def suggest_codecs(path: Path, is_usable: Callable[[Codec], bool]) -> str:
    """List the codecs that are usable, each with a file name if ``path`` cannot store it."""
    names = []
    for name, codec in CODECS.items():
        if not is_usable(codec):
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
