"""Writers of files with properties that are easily lost: EXIF metadata, several streams, cropping."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from src.video.matroska import write_properties

ORIENTATION, MAKE = 0x0112, 0x010F  # EXIF tags


def write_images(path: Path, codec: str, orientation: int) -> np.ndarray:
    """Write four images with EXIF metadata as a video, unchanged; return their pixels as stored."""
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "a camera", orientation
    y, x = np.mgrid[:48, :64]
    frames = np.stack([np.stack((3 * x, 4 * y, x + y + 9 * t), -1) for t in range(4)]).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "rgb24"
        for number, pixels in enumerate(frames):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG" if codec == "mjpeg" else "PNG", exif=exif)
            packet = av.Packet(file.getvalue())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            container.mux(packet)
    return frames


def write_streams(path: Path, *streams: tuple[str, tuple[int, int], int, int, int]) -> Path:
    """Write video streams side by side: codec, (height, width), frames, grey value, disposition."""
    with av.open(str(path), "w") as container:
        added = []
        for number, (codec, size, _, _, disposition) in enumerate(streams):
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition, stream.metadata["title"] = disposition, f"stream {number}"
            added.append(stream)
        for number in range(max(count for _, _, count, _, _ in streams)):
            for stream, (_, size, count, value, _) in zip(added, streams, strict=True):
                if number < count:
                    frame = av.VideoFrame.from_ndarray(np.full((*size, 3), value, np.uint8), "rgb24")
                    frame = frame.reformat(format=stream.pix_fmt)
                    frame.pts = number
                    container.mux(stream.encode(frame))
        for stream in added:
            container.mux(stream.encode(None))
    return path


def hide_edges(path: Path, left: int = 0, right: int = 0, top: int = 0, bottom: int = 0) -> Path:
    """Let the container of H.264 of 128x96 hide edges: a clean aperture in MP4 and MOV, a pixel crop in Matroska."""
    if path.suffix == ".mkv":
        write_properties(path, Fraction(2))  # two elements to replace: display width and height
        data = bytearray(path.read_bytes())
        kinds = {b"\x54\xcc": left, b"\x54\xdd": right, b"\x54\xbb": top, b"\x54\xaa": bottom}
        used = [(kind, value) for kind, value in kinds.items() if value]
        for old, (kind, value) in zip((b"\x54\xb0\x84", b"\x54\xba\x84"), used, strict=True):
            start = data.index(old)
            data[start : start + 7] = kind + b"\x84" + value.to_bytes(4)
        path.write_bytes(data)
        return path
    aperture = struct.pack(
        ">I4s8i", 40, b"clap", 128 - left - right, 1, 96 - top - bottom, 1, left - right, 2, top - bottom, 2
    )
    return add_to_sample_entry(path, aperture)


def add_to_sample_entry(path: Path, box: bytes) -> Path:
    """Add a box to the video's sample entry in an MP4 or MOV of H.264."""
    data = bytearray(path.read_bytes())
    movie = data.index(b"moov")  # behind the frames, so that they do not move
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        start = data.index(kind, movie) - 4
        (size,) = struct.unpack_from(">I", data, start)
        struct.pack_into(">I", data, start, size + len(box))
    data[start + size : start + size] = box
    path.write_bytes(data)
    return path
