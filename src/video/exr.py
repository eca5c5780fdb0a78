"""Find faults of OpenEXR images that FFmpeg does not report: lines of a file cut off come out black, for example."""

from __future__ import annotations

import struct
from pathlib import Path

HEADER_LIMIT = 1 << 20  # bytes
SCAN_LINES = 2  # version 2 of the format, without flags for tiles, deep data or several parts
LONG_NAMES = 0x400
# By number of the compression: none, RLE, ZIPS, ZIP, PIZ, PXR24, B44, B44A, DWAA, DWAB.
LINES_PER_CHUNK = (1, 1, 1, 16, 32, 16, 32, 32, 32, 256)


def describe_fault(file: Path) -> str:
    """Describe why an image cannot be read, as a sentence about it; empty if all is well.

    Images of tiles or of several parts are not checked.

    Raises:
        ValueError, LookupError, struct.error: the header is damaged.
    """
    with file.open("rb") as stream:
        header = stream.read(HEADER_LIMIT)
        if struct.unpack_from("<I", header, 4)[0] & ~LONG_NAMES != SCAN_LINES:
            return ""
        attributes, end = _read_attributes(header)
        names = _list_channels(attributes[b"channels"])
        if not ({"R", "G", "B"} <= set(names) or "Y" in names):
            return f"it has the channels {', '.join(names)}; save R, G and B, or Y"
        _, top, _, bottom = struct.unpack("<4i", attributes[b"dataWindow"])
        chunks = -(-(bottom - top + 1) // LINES_PER_CHUNK[attributes[b"compression"][0]])
        offsets = struct.unpack_from(f"<{chunks}Q", header, end)
        stream.seek(max(offsets))
        _, size = struct.unpack("<iI", stream.read(8).ljust(8, b"\xff"))
        is_complete = min(offsets) > 0 and max(offsets) + 8 + size <= file.stat().st_size
        return "" if is_complete else "it is cut off"


def _read_attributes(header: bytes) -> tuple[dict[bytes, bytes], int]:
    """Return the values of the attributes by name, and the position after them."""
    attributes, position = {}, 8
    while header[position]:
        name_end = header.index(0, position)
        kind_end = header.index(0, name_end + 1)
        start = kind_end + 5
        (size,) = struct.unpack_from("<I", header, kind_end + 1)
        attributes[header[position:name_end]] = header[start : start + size]
        position = start + size
    return attributes, position + 1


def _list_channels(value: bytes) -> list[str]:
    names, position = [], 0
    while value[position]:
        end = value.index(0, position)
        names.append(value[position:end].decode(errors="replace"))
        position = end + 17  # type, linearity and sampling
    return names
