"""Mutations that damage the bytes of a file: functions of the file, a random state and another file to splice."""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator

EXTREMES = (0, 1, -1, 2**31 - 1, -(2**31), 2**32 - 2, 2**16 - 1, 2**15 - 1, 2**14, 2**24, 2**30, 2**63 - 1)
BOXES = frozenset(b"moov trak mdia minf stbl edts udta dinf meta ilst moof traf mvex".split())
ORDERS = ("big", "little")

Field = tuple[int, int, str]  # offset, bytes, byte order


def find_fields(data: bytes) -> list[Field]:
    """Locate the sizes and counts in a PNG, JPEG, TIFF, RIFF, Matroska or MP4 file."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        found = []
        for start, size in _parse_chunks(data):
            found += [(start, 4, "big"), *((start + 8 + 4 * k, 4, "big") for k in range(min(size, 20) // 4))]
        return found
    if data[:2] == b"\xff\xd8":
        found, at = [], 2
        while at + 9 < len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
            found += [(at + 2, 2, "big")]
            if data[at + 1] in (0xC0, 0xC1, 0xC2):
                found += [(at + 5, 2, "big"), (at + 7, 2, "big")] * 4
            at += 2 + max(1, int.from_bytes(data[at + 2 : at + 4], "big"))
        return found
    if data[:4] in (b"II*\0", b"MM\0*"):
        order = "little" if data[:1] == b"I" else "big"
        start = int.from_bytes(data[4:8], order)
        count = int.from_bytes(data[start : start + 2], order)
        entries = [start + 2 + 12 * k for k in range(min(count, 64))]
        return [
            (4, 4, order),
            (start, 2, order),
            *((e + k, w, order) for e in entries for k, w in ((2, 2), (4, 4), (8, 4))),
        ]
    if data[:4] == b"RIFF":
        chunks = re.finditer(rb"RIFF|LIST|avih|strh|strf|idx1|0\ddc|VP8[ LX]|ALPH", data)
        return [(m.end() + 4 * k, 4, "little") for m in chunks for k in range(1 if m[0][2:] == b"dc" else 10)]
    if data[:4] == b"\x1aE\xdf\xa3":
        masters = re.finditer(
            rb"\x1aE\xdf\xa3|\x18S\x80g|\x15I\xa9f|\x16T\xaek|\x1fC\xb6u|\x1cS\xbbk|\xae|\xe0|\xb0|\xba|\x83\x81", data
        )
        return [(m.end(), width, "big") for m in masters for width in (1, 2, 8)]
    return list(_parse_boxes(data, 0, len(data)))


def _parse_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield at, size
        at += 12 + size


def _parse_boxes(data: bytes, start: int, end: int) -> Iterator[Field]:
    while start + 8 <= end:
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if not kind.isalnum() or size < 8:
            return
        yield start, 4, "big"
        if kind in BOXES:
            yield from _parse_boxes(data, start + 8 + (4 if kind == b"meta" else 0), min(end, start + size))
        elif kind != b"mdat":
            yield from ((start + 8 + 4 * k, 4, "big") for k in range(min(size - 8, 120) // 4))
        start += size


def _draw_position(data: bytes, rng: random.Random) -> int:
    """Draw a position: anywhere, in the first 512 bytes, in the last 2048, or a known size field."""
    choice = rng.randrange(4)
    if choice == 0 and (fields := find_fields(data)):
        return min(rng.choice(fields)[0], len(data) - 1)
    low, high = {1: (0, 512), 2: (len(data) - 2048, len(data))}.get(choice, (0, len(data)))
    return rng.randrange(max(0, low), max(1, min(high, len(data))))


def _draw_block(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = _draw_position(data, rng)
    return start, min(len(data), start + int(2 ** rng.uniform(0, 15)))


def _overwrite(data: bytes, at: int, new: bytes) -> bytes:
    return (data[:at] + new + data[at + len(new) :])[: len(data)]


def _flip_bits(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Flip 1 to 64 bits."""
    out = bytearray(data)
    for _ in range(int(2 ** rng.uniform(0, 6))):
        out[_draw_position(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _randomize(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Overwrite a block with random bytes."""
    start, end = _draw_block(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _truncate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Cut the file at a random position."""
    return data[: _draw_position(data, rng)]


def _cut_tail(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Cut up to 1 KiB from the end."""
    return data[: max(0, len(data) - int(2 ** rng.uniform(0, 10)))]


def _fill(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Fill a block with 0 or 255."""
    start, end = _draw_block(data, rng)
    return data[:start] + bytes([rng.choice((0, 0, 255))]) * (end - start) + data[end:]


def _duplicate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Repeat a block up to 50 times."""
    start, end = _draw_block(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _drop(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Delete a block."""
    start, end = _draw_block(data, rng)
    return data[:start] + data[end:]


def _swap(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Swap two blocks."""
    (a, b), (c, d) = sorted((_draw_block(data, rng), _draw_block(data, rng)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _write_integer(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Overwrite one or two adjacent integers anywhere with an extreme value."""
    at, width, order = _draw_position(data, rng), rng.choice((1, 2, 4, 8)), rng.choice(ORDERS)
    new = (rng.choice(EXTREMES) % 256**width).to_bytes(width, order)
    return _overwrite(data, at, new * rng.choice((1, 1, 2)))


def _change_size(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Overwrite known size fields with extreme or slightly wrong values."""
    fields = find_fields(data)
    if not fields:
        return _write_integer(data, rng, other)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, width, order = rng.choice(fields)
        current = int.from_bytes(data[at : at + width], order)
        value = rng.choice(
            (rng.choice(EXTREMES), current + rng.choice((-8, -1, 1, 4, 8)), current * 2, current // 2, current << 8)
        )
        data = _overwrite(data, at, (value % 256**width).to_bytes(width, order))
    return data


def _change_digits(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Overwrite a decimal number in a text header, as of y4m and PPM."""
    matches = [m for m in re.finditer(rb"\d+", data[:4096]) if m.end() - m.start() < 12]
    if not matches:
        return _write_integer(data, rng, other)
    match = rng.choice(matches[: rng.choice((4, len(matches)))])
    new = str(rng.choice((*EXTREMES, 10**30, 40000, 65536, 99999))).encode()
    return data[: match.start()] + new + data[match.end() :]


def _splice(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Continue with the rest of another file."""
    return data[: _draw_position(data, rng)] + other[_draw_position(other, rng) :]


MUTATIONS: dict[str, Callable[[bytes, random.Random, bytes], bytes]] = {
    function.__name__[1:]: function
    for function in (
        *(_flip_bits, _randomize, _truncate, _cut_tail, _fill, _duplicate, _drop),
        *(_swap, _write_integer, _change_size, _change_digits, _splice),
    )
}


def repair_checksums(data: bytes) -> bytes:
    """Recompute the chunk checksums of a PNG, so that decoders parse its damaged chunks."""
    for at, size in list(_parse_chunks(data)):
        if at + 12 + size <= len(data):
            data = _overwrite(data, at + 8 + size, struct.pack(">I", zlib.crc32(data[at + 4 : at + 8 + size])))
    return data
