"""Sentences on what the output of a restoration keeps of its input, and what not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from src.video.encoders import NOT_COARSER, can_store_chroma, suggest_codecs
from src.video.pipe import PipeReader
from src.video.reader import FrameReader
from src.video.writer import VideoWriter

RGB_CODECS = ("ffv1", "lossless", "png")
PLAYABLE_DEPTH = 10  # bits of HEVC and AV1 that devices decode in hardware


def describe_losses(
    reader: FrameReader | PipeReader, source: str, output: str, writer: VideoWriter | None, size: tuple[int, int]
) -> Iterator[str]:
    """Yield a sentence for each property of the input that its user should know of, most of them lost.

    Args:
        reader: the input.
        source, output: their names.
        writer: writes the output; None: YUV4MPEG2.
        size: ``(height, width)`` of the output.
    """
    yield from (f"{source} {note}." for note in reader.notes)
    if reader.signal.dropped:
        yield f"{source} has {' and '.join(reader.signal.dropped)}: left out."
    lost = reader.layout.list_lost(writer.path.suffix.lower() if writer else "") if reader.layout else []
    if lost:
        yield f"{source} has a {' and a '.join(lost)}: left out, as {output} cannot store it."
    if reader.signal.alpha:
        yield f"{source} has an alpha channel: kept, and taken as straight (not premultiplied)."
    elif reader.has_alpha:
        able = suggest_codecs(Path(output), lambda codec: bool(codec.alpha_formats))
        yield f"{source} has an alpha channel: left out; {able} and folders of PNGs can store it."
    if writer is None:
        return
    depth = reader.signal.depth
    if writer.depth < depth:
        yield f"{output} is written with {writer.depth} of {depth} bits, the maximum of {writer.codec}."
    elif writer.depth > PLAYABLE_DEPTH and writer.codec in ("hevc", "av1"):
        yield f"{output} is written with {writer.depth} bits, which few players show; codec=h264 writes 8."
    kept, stored = NOT_COARSER.get(reader.signal.chroma, reader.signal.chroma), writer.chroma_of(size)
    if stored < kept:
        able = suggest_codecs(writer.path, lambda codec: can_store_chroma(codec, kept))
        yield (
            f"{source} has {_spell(reader.signal.chroma)} chroma, {output} {_spell(stored)}; "
            f"chroma=source keeps it with {able}."
        )
    elif stored > kept == "420" and writer.codec not in RGB_CODECS:
        yield f"{output} has an odd side, and therefore {_spell(stored)} chroma, which some players do not show."


def _spell(chroma: str) -> str:
    """Spell a subsampling with colons."""
    return ":".join(chroma)
