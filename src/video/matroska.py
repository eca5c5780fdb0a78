"""Set aspect ratio and projection in Matroska files: FFmpeg writes them only from properties that PyAV cannot set.

A file is a tree of elements: identifier, length of the content, content (RFC 8794 and RFC 9559). The space for the new
elements comes from the void element that FFmpeg leaves before the tracks, so no cluster moves.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from src.video.spatial import CUBE_MAP, SpatialLayout

SEGMENT, SEEK_HEAD, SEEK, SEEK_POSITION, INFO = 0x18538067, 0x114D9B74, 0x4DBB, 0x53AC, 0x1549A966
TRACKS, TRACK_ENTRY, VIDEO, VOID, CRC = 0x1654AE6B, 0xAE, 0xE0, 0xEC, 0xBF
WIDTH, HEIGHT, DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT = 0xB0, 0xBA, 0x54B0, 0x54BA, 0x54B2
PROJECTION, PROJECTION_TYPE, PROJECTION_PRIVATE, PROJECTION_POSE = 0x7670, 0x7671, 0x7672, (0x7673, 0x7674, 0x7675)


class _Element(NamedTuple):
    kind: int
    start: int  # of the identifier
    content: int
    end: int


def write_properties(path: Path, aspect: Fraction = Fraction(1), layout: SpatialLayout | None = None) -> None:
    """Set pixel aspect ratio (width over height) and projection of the video in a Matroska file that FFmpeg wrote.

    The aspect ratio is stored as the display size in whole pixels, so it is exact only if that is.

    Raises:
        OSError: the file cannot be changed or has no space for it.
    """
    with path.open("r+b") as file:
        head = file.read(1 << 20)
        segment = next(element for element in _parse_elements(head, 0, len(head)) if element.kind == SEGMENT)
        elements = {e.kind: e for e in _parse_elements(head, segment.content, len(head)) if e.end <= len(head)}
        if not {SEEK_HEAD, VOID, INFO, TRACKS} <= elements.keys():
            raise OSError(f"{path.name} has no space for aspect ratio and projection")
        seek_head, void, tracks = elements[SEEK_HEAD], elements[VOID], elements[TRACKS]
        new_tracks = _set_properties(head, tracks, aspect, layout)
        growth = len(new_tracks) - (tracks.end - tracks.start)
        remaining = void.end - void.content - growth
        is_expected_order = seek_head.end == void.start < void.end <= elements[INFO].start < tracks.start
        if not is_expected_order or remaining < 0:
            raise OSError(f"{path.name} has no space for aspect ratio and projection")
        moved = {elements[kind].start - segment.content for kind in (INFO, TRACKS)}
        file.seek(seek_head.start)
        file.write(_shift_positions(head, seek_head, moved, growth))
        void_length = _encode_length(remaining, void.content - void.start - 1)
        file.write(head[void.start : void.start + 1] + void_length + bytes(remaining))
        file.write(head[void.end : tracks.start] + new_tracks)
        file.flush()
        os.fsync(file.fileno())


def _set_properties(data: bytes, element: _Element, aspect: Fraction, layout: SpatialLayout | None) -> bytes:
    """Return the bytes of an element with display size and projection of its first video set."""
    children = list(_parse_elements(data, element.content, element.end))
    if element.kind == VIDEO:
        body = data[element.content : element.end]
        if aspect != 1:
            width, height = (
                int.from_bytes(data[e.content : e.end]) for kind in (WIDTH, HEIGHT) for e in children if e.kind == kind
            )
            replaced = DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT
            body = b"".join(data[e.start : e.end] for e in children if e.kind not in replaced)
            display_size = _compute_display_size(width, height, aspect)
            for kind, value in zip((DISPLAY_WIDTH, DISPLAY_HEIGHT), display_size, strict=True):
                body += _encode_element(kind, value.to_bytes(4))
        if layout and layout.projection is not None:
            body += _encode_projection(layout)
        return _encode_element(VIDEO, body)
    body, done = b"", False
    for child in children:
        original = data[child.start : child.end]
        descend = not done and child.kind in (TRACK_ENTRY, VIDEO)
        part = _set_properties(data, child, aspect, layout) if descend else original
        done = done or (descend and part != original)
        body += part
    return _encode_element(element.kind, _update_checksum(body))


def _encode_projection(layout: SpatialLayout) -> bytes:
    body = _encode_element(PROJECTION_TYPE, bytes([2 if layout.projection == CUBE_MAP else 1]))
    body += _encode_element(PROJECTION_PRIVATE, layout.describe_projection())
    for kind, angle in zip(PROJECTION_POSE, layout.pose, strict=True):
        if angle:
            body += _encode_element(kind, struct.pack(">f", angle / (1 << 16)))
    return _encode_element(PROJECTION, body)


def _compute_display_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Return a display size close to the frame size, in the exact proportion if possible."""
    across, down = (width * aspect / height).as_integer_ratio()
    factor = max(1, round(height / down))
    return (across * factor, down * factor) if down * factor < 2 * height else (round(width * aspect), height)


def _shift_positions(data: bytes, seek_head: _Element, moved: set[int], offset: int) -> bytes:
    """Return the seek head after the elements at the positions ``moved`` have moved forward by ``offset``."""
    body = bytearray(data[seek_head.content : seek_head.end])
    for seek in _parse_elements(data, seek_head.content, seek_head.end):
        for e in _parse_elements(data, seek.content, seek.end) if seek.kind == SEEK else ():
            position = int.from_bytes(data[e.content : e.end])
            if e.kind == SEEK_POSITION and position in moved:
                place = slice(e.content - seek_head.content, e.end - seek_head.content)
                body[place] = (position - offset).to_bytes(e.end - e.content)
    return data[seek_head.start : seek_head.content] + _update_checksum(bytes(body))


def _update_checksum(body: bytes) -> bytes:
    """Recompute the checksum, if ``body`` starts with one: the little-endian CRC-32 of the rest."""
    if body[:2] == bytes((CRC, 0x84)):
        return body[:2] + zlib.crc32(body[6:]).to_bytes(4, "little") + body[6:]
    return body


def _encode_element(kind: int, body: bytes) -> bytes:
    return kind.to_bytes((kind.bit_length() + 7) // 8) + _encode_length(len(body)) + body


def _encode_length(value: int, width: int = 0) -> bytes:
    """Encode a length in ``width`` bytes, by default as few as possible; the first set bit marks the width."""
    width = width or next(n for n in range(1, 9) if value < (1 << 7 * n) - 1)
    return (value | 1 << 7 * width).to_bytes(width)


def _parse_elements(data: bytes, start: int, end: int) -> Iterator[_Element]:
    """Yield the elements between two positions."""
    while start + 2 <= end:
        kind_width = 9 - data[start].bit_length()
        kind = int.from_bytes(data[start : start + kind_width])
        position = start + kind_width
        width = 9 - data[position].bit_length() if position < end else 9
        if width > 8:
            return
        size = int.from_bytes(data[position : position + width]) & ((1 << 7 * width) - 1)
        yield _Element(kind, start, position + width, position + width + size)
        start = position + width + size
