"""Find faults of OpenEXR images that FFmpeg does not report: lines of a file cut off come out black, for example."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path

HEADER_LIMIT = 1 << 20  # bytes
SCAN_LINES = 2  # version 2 of the format, without flags for tiles, deep data or several parts
LONG_NAMES = 0x400
# By number of the compression: none, RLE, ZIPS, ZIP, PIZ, PXR24, B44, B44A, DWAA, DWAB.
LINES_PER_CHUNK = (1, 1, 1, 16, 32, 16, 32, 32, 32, 256)
ZLIB = (2, 3, 5)  # ZIPS, ZIP, PXR24


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
        channels = _list_channels(attributes[b"channels"])
        if not ({"R", "G", "B"} <= channels.keys() or "Y" in channels):
            return f"it has the channels {', '.join(channels)}; save R, G and B, or Y"
        left, top, right, bottom = struct.unpack("<4i", attributes[b"dataWindow"])
        compression = attributes[b"compression"][0]
        chunks = -(-(bottom - top + 1) // LINES_PER_CHUNK[compression])
        stream.seek(end)
        offsets = struct.unpack(f"<{chunks}Q", stream.read(8 * chunks).ljust(8 * chunks, b"\0"))
        for number, offset in enumerate(offsets):
            stream.seek(offset)
            _, size = struct.unpack("<iI", stream.read(8).ljust(8, b"\xff"))
            if not offset or offset + 8 + size > file.stat().st_size:
                return "it is cut off"
            first = number * LINES_PER_CHUNK[compression]
            lines = min(LINES_PER_CHUNK[compression], bottom - top + 1 - first)
            raw_size = lines * (right - left + 1) * sum(channels.values())
            if compression in ZLIB and size != raw_size and not _can_expand(stream.read(size)):  # or not compressed
                return f"its lines {first} to {first + lines - 1} are damaged"
        return ""


def _can_expand(chunk: bytes) -> bool:
    with suppress(zlib.error):
        zlib.decompress(chunk)
        return True
    return False


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


def _list_channels(value: bytes) -> dict[str, int]:
    """Return the bytes of a sample of each channel: integers, halves or floats."""
    channels, position = {}, 0
    while value[position]:
        end = value.index(0, position)
        (kind,) = struct.unpack_from("<I", value, end + 1)
        channels[value[position:end].decode(errors="replace")] = (4, 2, 4)[kind]
        position = end + 17  # type, linearity and sampling
    return channels
