"""Videos that folders of frames are packed into: lossless, of short groups of pictures, every frame with its checksum.

Such a video says of itself how many frames it has and what the pixels of each add up to. So it is opened by its table
alone, without reading packets, and a frame that is not what was packed is never taken for it. :mod:`src.data.packing`
writes them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from src.errors import VideoError
from src.video.colorspace import RGB, Signal
from src.video.discovery import PACKED
from src.video.probe import UPRIGHT, Index, open_stream

SIGNAL = Signal(8, matrix=RGB, range=2, primaries=1, transfer=13)  # as that of a folder of images
SEAL = re.compile(r"zeitlupe, frames of a folder, CRC-32 of each: ((?:[0-9a-f]{8})+)")


def checksum(pixels: np.ndarray) -> int:
    """CRC-32 of a frame, uint8 ``(H, W, 3)``."""
    return zlib.crc32(cast(Any, np.ascontiguousarray(pixels)))


def seal(sums: Iterable[int]) -> str:
    """What a packed video says of itself (its tag ``comment``), given the checksums of its frames in order."""
    return SEAL.pattern.partition("(")[0] + "".join(f"{number:08x}" for number in sums)


def index(path: Path) -> Index | None:
    """The index of a packed video, from its table alone; None for any other file, and for what was cut out of one."""
    if path.suffix.lower() != PACKED:
        return None
    try:
        container, stream = open_stream(path, 0, known=True)
    except (av.FFmpegError, IndexError, ValueError):  # the last of av, where there are no streams to give options to
        return None  # what is wrong with it, probing tells
    with container:
        said = SEAL.fullmatch(container.metadata.get("comment", ""))
        return _index(stream, said[1]) if said and stream.type == "video" else None


def _index(stream: Any, said: str) -> Index | None:
    sums = tuple(int(said[i : i + 8], 16) for i in range(0, len(said), 8))
    table, rate = list(stream.index_entries), stream.average_rate
    marks = tuple(entry.timestamp for entry in table)
    base = Fraction(stream.time_base)
    if not len(table) == len(sums) == stream.frames or not table[0].is_keyframe or marks[0] or not rate:
        return None  # somebody has cut it and kept its words
    keys = tuple(entry.timestamp for entry in table if entry.is_keyframe)
    return Index(
        stream=stream.index,
        count=len(sums),
        marks=marks,
        keys=keys,
        goals=keys,
        base=base,
        rates=(Fraction(rate),),
        stored=(stream.codec_context.height, stream.codec_context.width),
        turn=UPRIGHT,
        aspect=Fraction(1),
        interlaced=False,
        flagged=False,
        signal=SIGNAL,
        last=round(1 / rate / base),
        objection="",
        sums=sums,
    )


def blank(path: Path) -> list[bool]:
    """Which frames of a packed video are all black, which their checksums tell.

    Raises:
        VideoError: it is no packed video, or damaged.
    """
    found = index(path)
    if found is None:
        raise VideoError(f"{path} is no packed video that is whole; pack the data set again")
    height, width = found.stored
    return [number == zlib.crc32(bytes(3 * height * width)) for number in found.sums]


def check(path: Path, sums: tuple[int, ...], number: int, pixels: np.ndarray) -> None:
    """Raises a VideoError where frame ``number`` of a packed video does not have the pixels that were packed."""
    if checksum(pixels) != sums[number]:
        raise VideoError(f"{path} is damaged: frame {number} is not what was packed; remove the file and pack it again")
