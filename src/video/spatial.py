"""Layout of 360-degree and stereoscopic video: read it from frames, and write it into MP4 and MOV files.

PyAV cannot pass it to FFmpeg's muxers. In Matroska, it is a tag and an element (:mod:`src.video.matroska`). In MP4, it
is two boxes in the sample entry of the video, as Google's Spherical Video V2 RFC defines them: ``st3d`` and ``sv3d``.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import av

PROJECTIONS = ("equirectangular", "cube map", "cropped equirectangular")  # by AVSphericalProjection
EQUIRECTANGULAR, CUBE_MAP, CROPPED = range(3)
# By AVStereo3DType, and if its views are swapped: names of Matroska's tag.
STEREO = {(1, 0): "left_right", (1, 1): "right_left", (2, 0): "top_bottom", (2, 1): "bottom_top"}
ST3D_MODES = {"top_bottom": 1, "left_right": 2}
MP4_SUFFIXES, MATROSKA_SUFFIXES = (".mp4", ".m4v", ".mov"), (".mkv", ".webm")
SAMPLE_ENTRY_HEADER = 86  # bytes before the boxes inside a video's sample entry
VIDEO_HANDLER = re.compile(rb"hdlr.{8}vide", re.DOTALL)


@dataclass(frozen=True)
class SpatialLayout:
    """How the frames of a video cover a sphere, and hold the views of both eyes.

    Attributes:
        stereo: place of the views, as in ``left_right``; empty for one view.
        projection: index in ``PROJECTIONS``; None for a flat picture.
        pose: yaw, pitch and roll, in degrees times 65536.
        bounds: cropped left, top, right and bottom edges, in fractions times 2**32.
        padding: of the faces of a cube map, in pixels.
    """

    stereo: str = ""
    projection: int | None = None
    pose: tuple[int, int, int] = (0, 0, 0)
    bounds: tuple[int, int, int, int] = (0, 0, 0, 0)
    padding: int = 0

    def enlarge(self, scale: int) -> SpatialLayout:
        """Return the layout of frames enlarged by ``scale``."""
        return replace(self, padding=scale * self.padding)

    def list_lost(self, suffix: str) -> list[str]:
        """Name what a file with ``suffix``, or a folder (empty), cannot store."""
        stereo = suffix in MATROSKA_SUFFIXES or (suffix in MP4_SUFFIXES and self.stereo in ST3D_MODES)
        names = [] if stereo or not self.stereo else [f"3D layout ({self.stereo.replace('_', '-')})"]
        if self.projection is not None and suffix not in (*MATROSKA_SUFFIXES, *MP4_SUFFIXES):
            names.append(f"360-degree projection ({PROJECTIONS[self.projection]})")
        return names

    def describe_projection(self) -> bytes:
        """Return the content of the ``equi`` or ``cbmp`` box, which is also Matroska's ProjectionPrivate."""
        if self.projection == CUBE_MAP:
            return struct.pack(">III", 0, 0, self.padding)
        left, top, right, bottom = self.bounds
        return struct.pack(">IIIII", 0, top, bottom, left, right)


def read_layout(frame: av.VideoFrame, is_whole: bool) -> tuple[SpatialLayout | None, tuple[str, ...]]:
    """Return the layout of a frame, None if it is flat with one view, and names of what is lost of it.

    Kinds without a name in both containers are lost, as is a layout unless ``is_whole``: neither rotated nor cropped.
    """
    layout, lost = SpatialLayout(), []
    if (data := frame.side_data.get("STEREO3D")) is not None:
        kind, flags = struct.unpack("=2i", bytes(cast(Any, data))[:8])
        layout = replace(layout, stereo=STEREO.get((kind, flags & 1), ""))
        if kind and not layout.stereo:
            lost.append("3D layout")
    if (data := frame.side_data.get("SPHERICAL")) is not None:
        projection, *pose = struct.unpack("=4i", bytes(cast(Any, data))[:16])
        *bounds, padding = struct.unpack("=5I", bytes(cast(Any, data))[16:36])
        if projection < len(PROJECTIONS):
            yaw, pitch, roll = pose
            left, top, right, bottom = bounds
            layout = replace(
                layout,
                projection=projection,
                pose=(yaw, pitch, roll),
                bounds=(left, top, right, bottom) if projection == CROPPED else (0, 0, 0, 0),
                padding=padding if projection == CUBE_MAP else 0,
            )
        else:
            lost.append("360-degree projection")
    if not is_whole:
        return None, (*lost, *layout.list_lost(""))
    return (None if layout == SpatialLayout() else layout), tuple(lost)


def write_layout(path: Path, layout: SpatialLayout) -> None:
    """Add the boxes of a layout to the video of an MP4 or MOV file that FFmpeg wrote.

    Its index, the ``moov`` box, comes last, so that no frame moves.

    Raises:
        OSError: the file cannot be changed, or is built otherwise.
    """
    boxes = b""
    if layout.stereo in ST3D_MODES:
        boxes += _make_box(b"st3d", bytes(4) + bytes([ST3D_MODES[layout.stereo]]))
    if layout.projection is not None:
        kind = b"cbmp" if layout.projection == CUBE_MAP else b"equi"
        header = _make_box(b"prhd", struct.pack(">I3i", 0, *layout.pose))
        projection = _make_box(b"proj", header + _make_box(kind, layout.describe_projection()))
        boxes += _make_box(b"sv3d", _make_box(b"svhd", bytes(4) + b"Zeitlupe\0") + projection)
    with path.open("r+b") as file:
        size, start = os.fstat(file.fileno()).st_size, 0
        while start < size:
            file.seek(start)
            header = file.read(16)
            length = struct.unpack(">I", header[:4])[0]
            length = struct.unpack(">Q", header[8:])[0] if length == 1 else length
            if header[4:8] == b"moov" and start + length == size:
                file.seek(start)
                index = file.read(length)
                file.seek(start)
                file.write(_insert(index, [b"trak", b"mdia", b"minf", b"stbl", b"stsd", b""], boxes))
                return
            start += max(8, length)
    raise OSError(f"{path.name} has no index at its end")


def _insert(box: bytes, path: list[bytes], boxes: bytes) -> bytes:
    """Return a box with ``boxes`` after the last child of the video's box at ``path``; an empty name stands for any."""
    header = 16 if box[4:8] == b"stsd" else 8 if path else SAMPLE_ENTRY_HEADER
    children = list(_list_children(box, header))
    if not path:
        place = children[-1][1] if children else header
        grown = box[:place] + boxes + box[place:]
    else:
        for start, end in children:
            child = box[start:end]
            if child[4:8] == (path[0] or child[4:8]) and (path[0] != b"trak" or VIDEO_HANDLER.search(child)):
                grown = box[:start] + _insert(child, path[1:], boxes) + box[end:]
                break
        else:
            raise OSError(f"the index has no {path[0].decode()} for a video")
    return len(grown).to_bytes(4) + grown[4:]


def _list_children(box: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Yield the start and end of the boxes inside a box from ``start`` on."""
    while start + 8 <= len(box):
        end = start + int.from_bytes(box[start : start + 4])
        if not start + 8 <= end <= len(box):
            return
        yield start, end
        start = end


def _make_box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4) + kind + content
