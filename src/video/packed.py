"""Packed videos: lossless H.264 of a folder of frames, in short groups of pictures, with a checksum for each frame.

The ``comment`` tag of a packed video holds the CRC-32 of every frame. Therefore it is indexed from its container's
sample table without reading packets, and a frame with other pixels than were packed is always detected.
:mod:`src.data.packing` writes these files.
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
from src.video.decoding import UPRIGHT, open_stream
from src.video.discovery import PACKED_SUFFIX
from src.video.probe import VideoIndex

RECORD = "packed.json"  # marks a packed data set
SIGNAL = Signal(8, matrix=RGB, range=2, primaries=1, transfer=13)  # that of a folder of images
TAG = re.compile(r"zeitlupe, frames of a folder, CRC-32 of each: ((?:[0-9a-f]{8})+)")


def compute_checksum(pixels: np.ndarray) -> int:
    """Compute the CRC-32 of a frame, uint8 ``(H, W, 3)``."""
    return zlib.crc32(cast(Any, np.ascontiguousarray(pixels)))


def format_tag(checksums: Iterable[int]) -> str:
    """Format the ``comment`` tag of a packed video from the checksums of its frames."""
    return TAG.pattern.partition("(")[0] + "".join(f"{checksum:08x}" for checksum in checksums)


def read_index(path: Path) -> VideoIndex | None:
    """Index a packed video from its sample table; None for any other file, and for an excerpt of a packed video."""
    if path.suffix.lower() != PACKED_SUFFIX:
        return None
    try:
        container, stream = open_stream(path, 0, skip_analysis=True)
    except (av.FFmpegError, IndexError, ValueError):  # av raises ValueError if there is no stream to apply options to
        return None  # probing reports the error
    with container:
        tag = TAG.fullmatch(container.metadata.get("comment", ""))
        return _build_index(stream, tag[1]) if tag and stream.type == "video" else None


def _build_index(stream: Any, digits: str) -> VideoIndex | None:
    checksums = tuple(int(digits[i : i + 8], 16) for i in range(0, len(digits), 8))
    entries, rate = list(stream.index_entries), stream.average_rate
    timestamps = tuple(entry.timestamp for entry in entries)
    time_base = Fraction(stream.time_base)
    is_complete = len(entries) == len(checksums) == stream.frames and entries[0].is_keyframe and timestamps[0] == 0
    if not (is_complete and rate):
        return None  # an excerpt that kept the tag
    keyframes = tuple(entry.timestamp for entry in entries if entry.is_keyframe)
    return VideoIndex(
        stream=stream.index,
        count=len(checksums),
        timestamps=timestamps,
        keyframes=keyframes,
        seek_targets=keyframes,
        time_base=time_base,
        frame_rates=(Fraction(rate),),
        coded_size=(stream.codec_context.height, stream.codec_context.width),
        orientation=UPRIGHT,
        aspect=Fraction(1),
        interlaced=False,
        frames_flagged=False,
        signal=SIGNAL,
        last_duration=round(1 / rate / time_base),
        decord_objection="",
        checksums=checksums,
    )


def find_black_frames(path: Path) -> list[bool]:
    """Flag the frames of a packed video that are entirely black, by their checksums.

    Raises:
        VideoError: not a packed video, or a damaged one.
    """
    index = read_index(path)
    if index is None:
        raise VideoError(f"{path} is not an intact packed video; pack the data set again")
    height, width = index.coded_size
    return [checksum == zlib.crc32(bytes(3 * height * width)) for checksum in index.checksums]


def verify_frame(path: Path, checksums: tuple[int, ...], number: int, pixels: np.ndarray) -> None:
    """Compare the pixels of frame ``number`` with its checksum.

    Raises:
        VideoError: they differ.
    """
    if compute_checksum(pixels) != checksums[number]:
        raise VideoError(f"{path} is damaged at frame {number} (wrong checksum); delete the file and pack it again")
