"""Find Dolby Vision that a container declares: PyAV shows only what frames carry.

MP4 and MOV declare it by a box in the sample entry of the video, Matroska by a block addition mapping of the same name.
"""

from __future__ import annotations

import struct
from pathlib import Path

from src.video.spatial import MATROSKA_SUFFIXES, MP4_SUFFIXES

BOXES = (b"dvcC", b"dvvC", b"dvwC")
BOX_SIZE = struct.pack(">I", 32)
MAPPING_TYPE = b"\x41\xe7\x84"  # BlockAddIDType, of 4 bytes
HEADER_LIMIT = 1 << 16  # bytes of Matroska before the first frames
MOVIE_LIMIT = 1 << 26  # bytes of MP4's index


def has_dolby_vision(path: Path) -> bool:
    """Return whether a video file declares Dolby Vision."""
    suffix = path.suffix.lower()
    with path.open("rb") as stream:
        if suffix in MATROSKA_SUFFIXES:
            header = stream.read(HEADER_LIMIT)
            return any(MAPPING_TYPE + name in header for name in BOXES)
        if suffix not in MP4_SUFFIXES:
            return False
        while len(box := stream.read(8)) == 8:
            size, name = struct.unpack(">I4s", box)
            read = 8
            if size == 1:
                size, read = struct.unpack(">Q", stream.read(8).rjust(8, b"\0"))[0], 16
            if name == b"moov":
                index = stream.read(min(size - read, MOVIE_LIMIT) if size else MOVIE_LIMIT)
                return any(BOX_SIZE + name in index for name in BOXES)
            if size < read:  # up to the end of the file, or damaged
                return False
            stream.seek(size - read, 1)
    return False
