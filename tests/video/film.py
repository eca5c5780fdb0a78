"""Writers of the image formats of film, byte by byte from their specifications: what reads them is under test."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

DPX_DESCRIPTORS = {1: 6, 3: 50, 4: 51}  # luma, RGB, RGBA


def write_dpx(path: Path, samples: np.ndarray, bits: int, *, order: str = ">", transfer: int = 0) -> Path:
    """Write ``(H, W, C)`` samples as DPX (SMPTE 268M), 10 and 12 bits filled by method A; ``order``: > big-endian."""
    height, width, channels = samples.shape
    header = bytearray(2048)
    struct.pack_into(f"{order}II8s", header, 0, 0x53445058, 2048, b"V1.0")
    struct.pack_into(f"{order}HHII", header, 768, 0, 1, width, height)
    struct.pack_into(
        f"{order}BBBBHHI", header, 800, DPX_DESCRIPTORS[channels], transfer, 0, bits, bits % 8 > 0, 0, 2048
    )
    lines = []
    for row in samples.reshape(height, -1).astype(np.int64):
        if bits == 10:
            triples = np.pad(row, (0, -len(row) % 3)).reshape(-1, 3)
            if channels == 1:  # the first sample lies in the least significant bits
                triples = triples[:, ::-1]
            line = (triples << [22, 12, 2]).sum(1).astype(f"{order}u4").tobytes()
        else:
            line = (row << (4 if bits == 12 else 0)).astype("u1" if bits == 8 else f"{order}u2").tobytes()
        lines.append(line + bytes(-len(line) % 4))
    struct.pack_into(f"{order}I", header, 16, 2048 + sum(map(len, lines)))
    path.write_bytes(bytes(header) + b"".join(lines))
    return path


def write_exr(path: Path, channels: Mapping[str, np.ndarray], dtype: str = "<f2") -> Path:
    """Write ``(H, W)`` channels by name as an uncompressed OpenEXR of half (``<f2``) or single precision (``<f4``)."""
    height, width = next(iter(channels.values())).shape
    names = sorted(channels)
    kind = {"<f2": 1, "<f4": 2}[dtype]
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = {
        ("channels", "chlist"): b"".join(name.encode() + struct.pack("<xiB3xii", kind, 0, 1, 1) for name in names)
        + b"\0",
        ("compression", "compression"): b"\0",
        ("dataWindow", "box2i"): box,
        ("displayWindow", "box2i"): box,
        ("lineOrder", "lineOrder"): b"\0",
        ("pixelAspectRatio", "float"): struct.pack("<f", 1),
        ("screenWindowCenter", "v2f"): struct.pack("<2f", 0, 0),
        ("screenWindowWidth", "float"): struct.pack("<f", 1),
    }
    header = struct.pack("<II", 20000630, 2)
    for (name, type_name), value in attributes.items():
        header += f"{name}\0{type_name}\0".encode() + struct.pack("<I", len(value)) + value
    header += b"\0"
    lines = [b"".join(channels[name][y].astype(dtype).tobytes() for name in names) for y in range(height)]
    stride = 8 + len(lines[0])
    offsets = [len(header) + 8 * height + stride * y for y in range(height)]
    body = b"".join(struct.pack("<iI", y, len(line)) + line for y, line in enumerate(lines))
    path.write_bytes(header + struct.pack(f"<{height}Q", *offsets) + body)
    return path


def write_tiff(
    path: Path, samples: np.ndarray, *, order: str = "<", tile: int = 0, orientation: int = 1, planar: bool = False
) -> Path:
    """Write ``(H, W, C)`` samples as an uncompressed TIFF, in one strip or in square tiles."""
    height, width, channels = samples.shape
    dtype = samples.dtype.newbyteorder(order)
    planes = np.split(samples, channels, 2) if planar else [samples]
    if tile:
        padded = [np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0))) for plane in planes]
        chunks = [
            plane[y : y + tile, x : x + tile].astype(dtype).tobytes()
            for plane in padded
            for y in range(0, height, tile)
            for x in range(0, width, tile)
        ]
    else:
        chunks = [plane.astype(dtype).tobytes() for plane in planes]
    starts = np.cumsum([8, *map(len, chunks)]).tolist()
    offsets, sizes = starts[:-1], [len(chunk) for chunk in chunks]
    entries: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * samples.dtype.itemsize] * channels),
        259: ("H", [1]),  # no compression
        262: ("H", [2 if channels > 2 else 1]),  # RGB, or black is zero
        274: ("H", [orientation]),
        277: ("H", [channels]),
        284: ("H", [1 + planar]),
        339: ("H", [3 if samples.dtype.kind == "f" else 1] * channels),
    }
    if channels in (2, 4):
        entries[338] = ("H", [2])  # alpha
    if tile:
        entries |= {322: ("I", [tile]), 323: ("I", [tile]), 324: ("I", offsets), 325: ("I", sizes)}
    else:
        entries |= {273: ("I", offsets), 278: ("I", [height]), 279: ("I", sizes)}
    position = starts[-1] + starts[-1] % 2
    directory, values = struct.pack(f"{order}H", len(entries)), b""
    for tag, (code, numbers) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        directory += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[code], len(numbers))
        if len(value) > 4:
            place = position + 2 + 12 * len(entries) + 4 + len(values)
            values += value
            value = struct.pack(f"{order}I", place)
        directory += value.ljust(4, b"\0")
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, position)
    pixels = b"".join(chunks)
    path.write_bytes(magic + pixels.ljust(position - 8, b"\0") + directory + bytes(4) + values)
    return path
