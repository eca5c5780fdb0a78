"""Sentences on what the output of a restoration keeps of its input, and what not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from src.video.encoders import NOT_COARSER, can_store_chroma, suggest_codecs
from src.video.pipe import PipeReader
from src.video.reader import FrameReader
from src.video.writer import VideoWriter


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
    kept, stored = NOT_COARSER.get(reader.signal.chroma, reader.signal.chroma), writer.chroma_of(size)
    if stored < kept:
        able = suggest_codecs(writer.path, lambda codec: can_store_chroma(codec, kept))
        yield (
            f"{source} has {_spell(reader.signal.chroma)} chroma, {output} {_spell(stored)}, which every player shows; "
            f"chroma=source keeps it with {able}."
        )


def _spell(chroma: str) -> str:
    """Spell a subsampling with colons."""
    return ":".join(chroma)
