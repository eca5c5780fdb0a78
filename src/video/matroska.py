"""The shape of pixels in Matroska files: FFmpeg writes it only for streams that say it, and PyAV's cannot.

A file is a tree of elements: identifier, length of the content, content (RFC 8794 and RFC 9559). What is added to the
tracks is taken from the void that FFmpeg leaves before them, so that no cluster moves.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

SEGMENT, SEEK_HEAD, SEEK, SEEK_POSITION, INFO = 0x18538067, 0x114D9B74, 0x4DBB, 0x53AC, 0x1549A966
TRACKS, ENTRY, VIDEO, VOID, CRC = 0x1654AE6B, 0xAE, 0xE0, 0xEC, 0xBF
WIDTH, HEIGHT, SHOWN_WIDTH, SHOWN_HEIGHT, SHOWN_UNIT = 0xB0, 0xBA, 0x54B0, 0x54BA, 0x54B2


class _Element(NamedTuple):
    kind: int
    start: int  # of the identifier
    content: int
    end: int


def write_aspect(path: Path, aspect: Fraction) -> None:
    """Give the video of a Matroska file, as FFmpeg writes it, pixels of ``aspect``, width over height.

    It is kept as the size at which the picture is shown, so only where that comes out even is it exact.

    Raises:
        OSError: the file cannot be changed, or has no room for it.
    """
    with path.open("r+b") as file:
        head = file.read(1 << 20)
        segment = next(element for element in _elements(head, 0, len(head)) if element.kind == SEGMENT)
        found = {e.kind: e for e in _elements(head, segment.content, len(head)) if e.end <= len(head)}
        if not {SEEK_HEAD, VOID, INFO, TRACKS} <= found.keys():
            raise OSError(f"{path.name} has no room for the shape of its pixels")
        seek, void, tracks = found[SEEK_HEAD], found[VOID], found[TRACKS]
        shaped = _shaped(head, tracks, aspect)
        grown = len(shaped) - (tracks.end - tracks.start)
        left = void.end - void.content - grown
        if not seek.end == void.start < void.end <= found[INFO].start < tracks.start or left < 0:
            raise OSError(f"{path.name} has no room for the shape of its pixels")
        moved = {found[kind].start - segment.content for kind in (INFO, TRACKS)}
        file.seek(seek.start)
        file.write(_sought(head, seek, moved, grown))
        file.write(head[void.start : void.start + 1] + _length(left, void.content - void.start - 1) + bytes(left))
        file.write(head[void.end : tracks.start] + shaped)
        file.flush()
        os.fsync(file.fileno())


def _shaped(data: bytes, element: _Element, aspect: Fraction) -> bytes:
    """The bytes of an element, the first picture in it given the shape."""
    inside = list(_elements(data, element.content, element.end))
    if element.kind == VIDEO:
        width, height = (
            int.from_bytes(data[e.content : e.end]) for kind in (WIDTH, HEIGHT) for e in inside if e.kind == kind
        )
        body = b"".join(data[e.start : e.end] for e in inside if e.kind not in (SHOWN_WIDTH, SHOWN_HEIGHT, SHOWN_UNIT))
        for kind, value in zip((SHOWN_WIDTH, SHOWN_HEIGHT), _shown(width, height, aspect), strict=True):
            body += kind.to_bytes(2) + _length(4) + value.to_bytes(4)
        return _packed(VIDEO, body)
    body, done = b"", False
    for e in inside:
        deeper = not done and e.kind in (ENTRY, VIDEO)
        part = _shaped(data, e, aspect) if deeper else data[e.start : e.end]
        done = done or (deeper and part != data[e.start : e.end])
        body += part
    return _packed(element.kind, _checked(body))


def _shown(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Width and height at which pixels of ``aspect`` are shown: about as many, exactly in proportion if they can be."""
    across, down = (width * aspect / height).as_integer_ratio()
    times = max(1, round(height / down))
    return (across * times, down * times) if down * times < 2 * height else (round(width * aspect), height)


def _sought(data: bytes, element: _Element, moved: set[int], by: int) -> bytes:
    """The index of the file, some of whose entries have moved towards its beginning."""
    body = bytearray(data[element.content : element.end])
    for seek in _elements(data, element.content, element.end):
        for e in _elements(data, seek.content, seek.end) if seek.kind == SEEK else ():
            position = int.from_bytes(data[e.content : e.end])
            if e.kind == SEEK_POSITION and position in moved:
                place = slice(e.content - element.content, e.end - element.content)
                body[place] = (position - by).to_bytes(e.end - e.content)
    return data[element.start : element.content] + _checked(bytes(body))


def _checked(body: bytes) -> bytes:
    """``body``, its checksum, if it begins with one, put right: a CRC-32 of what follows, least byte first."""
    if body[:2] == bytes((CRC, 0x84)):
        return body[:2] + zlib.crc32(body[6:]).to_bytes(4, "little") + body[6:]
    return body


def _packed(kind: int, body: bytes) -> bytes:
    return kind.to_bytes((kind.bit_length() + 7) // 8) + _length(len(body)) + body


def _length(value: int, width: int = 0) -> bytes:
    """A length in ``width`` bytes, as few as it takes unless told: its first bit that is set tells how many."""
    width = width or next(n for n in range(1, 9) if value < (1 << 7 * n) - 1)
    return (value | 1 << 7 * width).to_bytes(width)


def _elements(data: bytes, start: int, end: int) -> Iterator[_Element]:
    while start + 2 <= end:
        marker = 9 - data[start].bit_length()
        kind = int.from_bytes(data[start : start + marker])
        place = start + marker
        width = 9 - data[place].bit_length() if place < end else 9
        if width > 8:
            return
        size = int.from_bytes(data[place : place + width]) & ((1 << 7 * width) - 1)
        yield _Element(kind, start, place + width, place + width + size)
        start = place + width + size
