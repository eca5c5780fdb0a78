"""Fuzzing of the reader: videos and images, damaged in every way, are read by processes that may die of it.

    python -m tests.fuzz --count 2000 --seed 0 --findings findings --json fuzz.json
    python -m tests.fuzz --only 1234 --seed 0            # one of them again

Each file is read in one of the ways that a user has, in order and at random. What may come of it are frames, or a
VideoError of one sentence that names the file, in bounded time and memory; anything else is a failure. Readers work in
processes of their own, many files each. One that dies, hangs or takes too much is found by the parent, named and
replaced.

Memory is by how much a worker's resident set grows at most while it reads a file: VmHWM, begun anew for each, over
VmRSS before it, when what malloc kept was given back. The parent watches it grow, too.

A mutation is a function of the seed files, ``--seed`` and its number. Seed files are made here, with fixed content, and
joined by those of a folder of real ones where there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from src.data.packing import pack_clip
from src.errors import VideoError
from src.ops.allocator import give_freed_memory_back
from src.video.colorspace import Signal
from src.video.discovery import IMAGE_SUFFIXES
from src.video.pipe import Y4MWriter, open_pipe
from src.video.reader import open_video
from src.video.writer import write_video

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "odd"
MEMORY = 2 << 30  # bytes that a worker may grow by for one file
LIMIT = 60.0  # seconds that one file may take; beyond it hangs
TIMEOUT = 10.0  # of the reader, after which a decoder that gives nothing is given up
FRAMES, PIXELS = 200, 40_000_000  # read in order of one file at most
IMPORTED = 400 << 20  # bytes of a worker that has read nothing yet
LIFE = 200  # files that a worker reads

# --- Seeds ---

HEIGHT, WIDTH, LENGTH = 64, 96, 14
H264, HEVC = {"threads": "1", "g": "6", "bf": "2"}, "log-level=none:pools=none:frame-threads=1"
VPX = {"g": "6", "auto-alt-ref": "1", "lag-in-frames": "8", "b": "200k", "cpu-used": "8", "threads": "1"}
# name: encoder, pixels, options
ENCODED: dict[str, tuple[str, str, dict[str, str]]] = {
    **{f"h264.{kind}": ("libx264", "yuv420p", H264) for kind in ("mp4", "mov", "mkv", "ts", "avi", "h264")},
    "h264_444.mp4": ("libx264", "yuv444p", H264),
    "h264_10.mkv": ("libx264", "yuv420p10le", H264),
    "h264_rotated.mp4": ("libx264", "yuv420p", H264),
    "h264_variable.mkv": ("libx264", "yuv420p", H264),
    "h264_woven.ts": ("libx264", "yuv420p", {**H264, "x264-params": "tff=1"}),
    "rgb.mp4": ("libx264rgb", "rgb24", {**H264, "qp": "0"}),
    "hevc.mp4": ("libx265", "yuv420p", {"g": "6", "x265-params": HEVC}),
    "hevc_10.mkv": ("libx265", "yuv420p10le", {"g": "6", "x265-params": HEVC}),
    "vp8.webm": ("libvpx", "yuv420p", VPX),
    "vp9.webm": ("libvpx-vp9", "yuv420p", VPX),
    "vp9.mp4": ("libvpx-vp9", "yuv420p", VPX),
    "av1.mp4": ("libsvtav1", "yuv420p", {"preset": "12", "g": "6"}),
    "av1_10.webm": ("libsvtav1", "yuv420p10le", {"preset": "12", "g": "6"}),
    "ffv1.mkv": ("ffv1", "bgr0", {"level": "3", "slicecrc": "1"}),
    "ffv1_10.mkv": ("ffv1", "gbrp10le", {"level": "3", "slicecrc": "1"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "6", "bf": "2"}),
    "mpeg4.mp4": ("mpeg4", "yuv420p", {"g": "6"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "mjpeg.mov": ("mjpeg", "yuvj420p", {}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"g": "6", "bf": "2"}),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {"g": "6"}),
    "prores.mov": ("prores_ks", "yuv422p10le", {}),
    "png.mov": ("png", "rgb24", {}),
    "picture.gif": ("gif", "rgb8", {}),
}
# name of a folder of two images: suffix, Pillow's mode, options
IMAGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": (".png", "RGB", {}),
    "png_palette": (".png", "P", {}),
    "png_grey": (".png", "L", {}),
    "png_grey_16": (".png", "I;16", {}),
    "png_alpha": (".png", "RGBA", {}),
    "jpeg": (".jpg", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
    "jpeg_cmyk": (".jpg", "CMYK", {}),
    "jpeg_progressive": (".jpg", "RGB", {"progressive": True}),
    "tiff": (".tif", "RGB", {}),
    "tiff_lzw": (".tif", "RGB", {"compression": "tiff_lzw"}),
    "tiff_grey_16": (".tif", "I;16", {}),
    "webp": (".webp", "RGB", {}),
    "webp_lossless": (".webp", "RGBA", {"lossless": True}),
    "bmp": (".bmp", "RGB", {}),
    "ppm": (".ppm", "RGB", {}),
}


def scene() -> list[np.ndarray]:
    """A texture that moves, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8 + 4, WIDTH // 8 + 6, 3), dtype=np.uint8)
    whole = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    return [np.ascontiguousarray(whole[k : k + HEIGHT, 2 * k : 2 * k + WIDTH]) for k in range(LENGTH)]


def make_seeds(folder: Path) -> None:
    """Writes the seed files that are made here."""
    os.environ.setdefault("SVT_LOG", "0")
    folder.mkdir(parents=True, exist_ok=True)
    frames = scene()
    for name, (encoder, pixels, options) in ENCODED.items():
        with av.open(str(folder / name), "w", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream(encoder, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
            if "rotated" in name:
                stream.set_display_rotation(90)
            for number, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format=pixels)
                picture.pts = number + (number // 3 if "variable" in name else 0)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    for depth in (8, 16):
        images = [frame if depth == 8 else frame.astype(np.uint16) * 257 for frame in frames[:2]]
        write_video(folder / f"deep_{depth}", images, Fraction(25), signal=Signal(depth, matrix=0, range=2))
    for depth in (8, 10):
        with (
            (folder / f"y4m_{depth}.y4m").open("wb") as file,
            Y4MWriter(file, Fraction(25), signal=Signal(depth)) as y4m,
        ):
            for frame in frames[:5]:
                y4m.write(frame if depth == 8 else frame.astype(np.uint16) * 4)
    for name, (suffix, mode, options) in IMAGES.items():
        (folder / name).mkdir()
        for number, frame in enumerate(frames[:2]):
            image = Image.fromarray(frame)
            if mode == "I;16":
                image = Image.fromarray(frame[..., 0].astype(np.uint16) * 257)
            image = image if image.mode == mode else image.convert(mode)
            image.save(folder / name / f"{number}{suffix}", **options)
    pack_clip(folder / "deep_8", folder / "packed.mp4")


@dataclass(frozen=True)
class Seed:
    """A video file, or a folder of images, to be damaged."""

    name: str
    files: tuple[Path, ...]

    @property
    def of_images(self) -> bool:
        return self.files[0].suffix.lower() in IMAGE_SUFFIXES


def seeds_of(made: Path, real: Path | None = None) -> list[Seed]:
    """All seeds, always in the same order."""
    folders = [made, real] if real and real.is_dir() else [made]
    found = []
    for folder in folders:
        for place in sorted(folder.iterdir()):
            files = tuple(sorted(place.iterdir())) if place.is_dir() else (place,)
            found.append(Seed(place.name if folder is made else f"{folder.name}/{place.name}", files))
    return found


# --- Mutations ---

EXTREMES = (0, 1, -1, 2**31 - 1, -(2**31), 2**32 - 2, 2**16 - 1, 2**15 - 1, 2**14, 2**24, 2**30, 2**63 - 1)
BOXES = frozenset(b"moov trak mdia minf stbl edts udta dinf meta ilst moof traf mvex".split())
ORDERS = ("big", "little")

Field = tuple[int, int, str]  # offset, bytes, byte order


def fields(data: bytes) -> list[Field]:
    """Where a file keeps sizes and counts, as far as its kind is known."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        found = []
        for start, size in _png(data):
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
    return list(_boxes(data, 0, len(data)))


def _png(data: bytes) -> Iterator[tuple[int, int]]:
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield at, size
        at += 12 + size


def _boxes(data: bytes, start: int, end: int) -> Iterator[Field]:
    while start + 8 <= end:
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if not kind.isalnum() or size < 8:
            return
        yield start, 4, "big"
        if kind in BOXES:
            yield from _boxes(data, start + 8 + (4 if kind == b"meta" else 0), min(end, start + size))
        elif kind != b"mdat":
            yield from ((start + 8 + 4 * k, 4, "big") for k in range(min(size - 8, 120) // 4))
        start += size


def _place(data: bytes, rng: random.Random) -> int:
    """Anywhere, in the head, in the tail, or where the file keeps its sizes."""
    choice = rng.randrange(4)
    if choice == 0 and (known := fields(data)):
        return min(rng.choice(known)[0], len(data) - 1)
    low, high = {1: (0, 512), 2: (len(data) - 2048, len(data))}.get(choice, (0, len(data)))
    return rng.randrange(max(0, low), max(1, min(high, len(data))))


def _block(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + int(2 ** rng.uniform(0, 15)))


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return (data[:at] + new + data[at + len(new) :])[: len(data)]


def _flip(data: bytes, rng: random.Random, other: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(int(2 ** rng.uniform(0, 6))):
        out[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _noise(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _truncate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data[: _place(data, rng)]


def _tail(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data[: max(0, len(data) - int(2 ** rng.uniform(0, 10)))]


def _zero(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + bytes([rng.choice((0, 0, 255))]) * (end - start) + data[end:]


def _double(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start, end = _block(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _drop(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + data[end:]


def _swap(data: bytes, rng: random.Random, other: bytes) -> bytes:
    (a, b), (c, d) = sorted((_block(data, rng), _block(data, rng)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _number(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Extreme integers, one or two side by side, anywhere."""
    at, width, order = _place(data, rng), rng.choice((1, 2, 4, 8)), rng.choice(ORDERS)
    new = (rng.choice(EXTREMES) % 256**width).to_bytes(width, order)
    return _put(data, at, new * rng.choice((1, 1, 2)))


def _length(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Sizes and counts where they are known to be: extreme, or a little wrong."""
    known = fields(data)
    if not known:
        return _number(data, rng, other)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, width, order = rng.choice(known)
        now = int.from_bytes(data[at : at + width], order)
        value = rng.choice((rng.choice(EXTREMES), now + rng.choice((-8, -1, 1, 4, 8)), now * 2, now // 2, now << 8))
        data = _put(data, at, (value % 256**width).to_bytes(width, order))
    return data


def _digits(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Numbers in words, as heads of y4m and PPM have them."""
    found = [m for m in re.finditer(rb"\d+", data[:4096]) if m.end() - m.start() < 12]
    if not found:
        return _number(data, rng, other)
    which = rng.choice(found[: rng.choice((4, len(found)))])
    new = str(rng.choice((*EXTREMES, 10**30, 40000, 65536, 99999))).encode()
    return data[: which.start()] + new + data[which.end() :]


def _splice(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data[: _place(data, rng)] + other[_place(other, rng) :]


MUTATIONS: dict[str, Callable[[bytes, random.Random, bytes], bytes]] = {
    function.__name__[1:]: function
    for function in (
        *(_flip, _noise, _truncate, _tail, _zero, _double, _drop),
        *(_swap, _number, _length, _digits, _splice),
    )
}


def _checksums(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks put right, so that what is wrong in them is looked at."""
    for at, size in list(_png(data)):
        if at + 12 + size <= len(data):
            data = _put(data, at + 8 + size, struct.pack(">I", zlib.crc32(data[at + 4 : at + 8 + size])))
    return data


@dataclass(frozen=True)
class Case:
    """A damaged file, or folder of images, and the way in which it is read."""

    number: int
    seed: str
    mutation: str
    way: str  # auto, pyav, decord, deep, woven (deinterlaced), pipe
    files: dict[str, bytes]  # by name
    of_images: bool

    def write(self, folder: Path) -> Path:
        """Puts it into an empty folder; what is to be opened."""
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder if self.of_images else folder / next(iter(self.files))


def case_of(seeds: Sequence[Seed], seed: int, number: int) -> Case:
    """Mutation ``number``: a function of its arguments alone."""
    rng = random.Random(f"{seed}/{number}")
    groups = [
        [s for s in seeds if s.of_images],
        *([s for s in seeds if not s.of_images and ("/" in s.name) == real] for real in (0, 1)),
    ]
    group = rng.choices(groups, [2 if groups[0] else 0, 5, 3 if groups[2] else 0])[0]
    chosen, other = rng.choice(group), rng.choice(rng.choice([group, list(seeds)]))
    files = {file.name: file.read_bytes() for file in chosen.files}
    victim, donor = rng.choice(sorted(files)), rng.choice(other.files).read_bytes()
    names = rng.choices(list(MUTATIONS), k=rng.choice((1, 1, 1, 2)))
    for name in names:
        if files[victim]:
            files[victim] = MUTATIONS[name](files[victim], rng, donor)
    if victim.endswith(".png") and rng.random() < 0.7:
        files[victim] = _checksums(files[victim])
    ways = ("auto", "auto", "deep") if chosen.of_images else ("auto",) * 5 + ("pyav", "decord", "deep", "woven", "pipe")
    return Case(number, chosen.name, "+".join(names), rng.choice(ways), files, chosen.of_images)


# --- Reading, in a worker ---


@dataclass
class Outcome:
    """What came of a case. ``kind`` is ``frames``, ``cut`` (frames, then a sentence), ``error``, or one of FAILURES."""

    number: int
    kind: str
    words: str = ""
    frames: int = 0
    seconds: float = 0.0
    memory: int = 0
    kept: int = 0  # of the worker before it read this one, all in all
    differs: bool = False  # frames read at random are not those read in order
    given_up: bool = False  # a decoder gave nothing for TIMEOUT, which is said in a sentence


FAILURES = ("exception", "sentence", "crash", "hang", "memory")


def read(case: Case, path: Path) -> Outcome:
    """Reads it as a user would."""
    outcome = Outcome(case.number, "frames")
    said: list[str] = []
    try:
        for count, words in _read(case, path, outcome):
            outcome.frames = max(outcome.frames, count)
            said += [words] if words else []
        if said:
            outcome.kind = "cut" if outcome.frames else "error"
            outcome.words = said[0]
        outcome.given_up = any("timed out" in words for words in said)
        for words in said:
            if wrong := _no_sentence(words, "standard input" if case.way == "pipe" else str(path)):
                outcome.kind, outcome.words = "sentence", f"{wrong}: {words!r}"
    except Exception as error:
        outcome.kind, outcome.words = "exception", f"{type(error).__name__}: {error} at {_where(error)}"
    return outcome


def _read(case: Case, path: Path, outcome: Outcome) -> Iterator[tuple[int, str]]:
    """Counts of frames, and what errors say, as they come."""
    rng = random.Random(case.number)
    options: dict[str, Any] = {"deep": case.way == "deep", "deinterlace": case.way == "woven", "timeout": TIMEOUT}
    try:
        if case.way == "pipe":
            with path.open("rb") as file, open_pipe(file, **options) as pipe:
                yield from _in_order(pipe.frames(), pipe, [])
            return
        backend: Any = case.way if case.way in ("pyav", "decord") else "auto"
        with open_video(path, backend, **options) as reader:
            sums: list[int] = []
            yield from _in_order(reader.frames(), reader, sums)
            for _ in range(3):
                some = 3 if reader.size[0] * reader.size[1] < PIXELS // 4 else 1
                wanted = [rng.randrange(min(len(reader), 2 * len(sums) + 4)) for _ in range(some)]
                try:
                    frames = reader.read(wanted)
                except VideoError as error:
                    yield 0, str(error)
                    continue
                if tuple(frames.shape) != (some, *reader.size, 3):
                    raise TypeError(f"frames of {tuple(frames.shape)} where {reader.size} was said")
                now = [zlib.crc32(frame.numpy()) for frame in frames]
                outcome.differs |= any(i < len(sums) and sums[i] != crc for i, crc in zip(wanted, now, strict=True))
    except VideoError as error:
        yield 0, str(error)


def _in_order(frames: Iterable[Any], reader: Any, sums: list[int]) -> Iterator[tuple[int, str]]:
    most = max(2, min(FRAMES, PIXELS // (reader.size[0] * reader.size[1])))
    try:
        for frame in islice(frames, most):
            if tuple(frame.shape) != (*reader.size, 3):
                raise TypeError(f"a frame of {tuple(frame.shape)} where {reader.size} was said")
            sums.append(zlib.crc32(frame.numpy()))
    except VideoError as error:
        yield len(sums), str(error)
    yield len(sums), ""


def _no_sentence(words: str, name: str) -> str:
    """What is wrong with the words of an error; empty if nothing is."""
    if name not in words:
        return "does not name the file"
    said = words.replace(name, "")
    return "is not one line of words" if not said.isprintable() or not 10 < len(said) < 300 else ""


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    place = ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        place = f"{file.parent.name}/{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _resident(pid: int | str = "self", what: str = "VmRSS") -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split(f"{what}:")[1].split()[0]) * 1024
    return 0


def serve(pipe: Connection, seeds: list[Seed], seed: int, log: Path) -> None:
    """A worker: reads the cases whose numbers come, until nothing more does."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)  # where libraries complain, and crashes are told
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)  # one for each worker
    with contextlib.suppress(EOFError):
        while True:
            case = pipe.recv()
            case = case if isinstance(case, Case) else case_of(seeds, seed, case)
            with tempfile.TemporaryDirectory(dir=log.parent) as folder:  # which the parent removes if this dies
                path = case.write(Path(folder))
                give_freed_memory_back()
                before, start = _resident(), time.monotonic()
                with contextlib.suppress(OSError):
                    Path("/proc/self/clear_refs").write_text("5")
                outcome = read(case, path)
                outcome.seconds, outcome.memory = time.monotonic() - start, _resident(what="VmHWM") - before
                outcome.kept = before
            if outcome.memory > MEMORY and outcome.kind not in FAILURES:
                outcome.kind, outcome.words = "memory", f"grew by {outcome.memory >> 20} MB; {outcome.words}"
            pipe.send(outcome)


# --- The parent ---


class _Worker:
    def __init__(self, seeds: list[Seed], seed: int, log: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.log = log
        self.process = context.Process(target=serve, args=(far, seeds, seed, log), daemon=True)
        self.process.start()
        far.close()
        self.number: int | None = None
        self.done = 0

    def give(self, job: int | Case) -> None:
        self.number = job if isinstance(job, int) else job.number
        self.since = time.monotonic()
        self.before = _resident(self.process.pid or 0) if self.done else IMPORTED
        with contextlib.suppress(OSError):  # it may have died of the last one, which is seen on reading
            self.pipe.send(job)

    def taken(self) -> Outcome | None:
        """What came of its job; None while it is at it."""
        assert self.number is not None
        spent = time.monotonic() - self.since
        if self.pipe.poll():
            try:
                outcome = self.pipe.recv()
            except (EOFError, OSError):
                self.process.join()
                code = self.process.exitcode or 0
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                told = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
                return Outcome(self.number, "crash", f"{name}: {' | '.join(told[:12])}", seconds=spent)
            self.done += 1
            return outcome
        grown = _resident(self.process.pid or 0) - self.before
        if grown > MEMORY:
            return Outcome(self.number, "memory", "was ended as it grew on", seconds=spent, memory=grown)
        if spent > LIMIT + (0 if self.done else 60):  # the first file of a worker also waits for its imports
            return Outcome(self.number, "hang", "was ended", seconds=spent)
        return None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(
    seeds: list[Seed], seed: int, jobs: Iterable[int | Case], workers: int = 1, life: int = LIFE
) -> Iterator[Outcome]:
    """What comes of each case, as it comes. Nothing that a case does ends this."""
    jobs, crew = iter(jobs), list[_Worker]()
    with tempfile.TemporaryDirectory() as logs:

        def hire(job: int | Case) -> None:
            crew.append(worker := _Worker(seeds, seed, Path(logs) / f"{time.monotonic_ns()}"))
            worker.give(job)

        try:
            for job in islice(jobs, workers):
                hire(job)
            while crew:
                wait([worker.pipe for worker in crew], timeout=0.1)
                for worker in list(crew):
                    if (outcome := worker.taken()) is None:
                        continue
                    yield outcome
                    spent = worker.done >= life or outcome.kind in FAILURES or outcome.given_up
                    job = next(jobs, None)
                    if job is not None and not spent:
                        worker.give(job)
                        continue
                    crew.remove(worker)
                    worker.end()
                    if job is not None:
                        hire(job)
        finally:
            for worker in crew:
                worker.end()


def summary(outcomes: Sequence[tuple[Case, Outcome]]) -> dict[str, Any]:
    """Counts of outcomes, in all, by seed file, mutation and way, and the failures."""
    by: dict[str, dict[str, Counter[str]]] = {"seed": {}, "mutation": {}, "way": {}}
    for case, outcome in outcomes:
        for name in by:
            for value in getattr(case, name).split("+"):
                by[name].setdefault(value, Counter())[outcome.kind] += 1
    return {
        "count": len(outcomes),
        "outcomes": dict(Counter(outcome.kind for _, outcome in outcomes)),
        "given_up": sum(outcome.given_up for _, outcome in outcomes),
        "differ_at_random": [case.number for case, outcome in outcomes if outcome.differs],
        "most_memory": max((outcome.memory for _, outcome in outcomes), default=0),
        "most_kept": max((outcome.kept for _, outcome in outcomes), default=0),
        "most_seconds": max((outcome.seconds for _, outcome in outcomes), default=0.0),
        **{f"by_{name}": {key: dict(by[name][key]) for key in sorted(by[name])} for name in by},
        "failures": [_told(case, outcome) for case, outcome in outcomes if outcome.kind in FAILURES],
        "slowest": [_told(*pair) for pair in sorted(outcomes, key=lambda pair: -pair[1].seconds)[:10]],
        "largest": [_told(*pair) for pair in sorted(outcomes, key=lambda pair: -pair[1].memory)[:10]],
    }


def _told(case: Case, outcome: Outcome) -> dict[str, Any]:
    return {"seed": case.seed, "mutation": case.mutation, "way": case.way, **asdict(outcome)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Damages videos and images and reads them."
    )
    parser.add_argument("--count", type=int, default=200, help="how many mutations")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--only", type=int, nargs="*", help="these numbers alone, each in a worker of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--real", type=Path, default=REAL, help="folder of real files to damage")
    parser.add_argument("--findings", type=Path, help="where files that fail are kept")
    parser.add_argument("--json", type=Path, help="where counts and failures are written")
    given = parser.parse_args()
    numbers = given.only or range(given.first, given.first + given.count)
    outcomes: list[tuple[Case, Outcome]] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        make_seeds(Path(made) / "seeds")
        seeds = seeds_of(Path(made) / "seeds", given.real)
        for outcome in run(seeds, given.seed, numbers, given.workers, 1 if given.only else LIFE):
            case = case_of(seeds, given.seed, outcome.number)
            outcomes.append((replace(case, files={}), outcome))
            failed = outcome.kind in FAILURES
            if failed or given.only:
                print(f"{case.number} {case.seed} {case.mutation} {case.way}: {outcome.kind}, {outcome.words}")
                print(f"    {outcome.frames} frames, {outcome.seconds:.1f} s, {outcome.memory >> 20} MB", flush=True)
            if given.findings and (failed or given.only):
                place = given.findings / f"{given.seed}-{case.number}"
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                case.write(place)
            if len(outcomes) % 100 == 0:
                print(f"{len(outcomes)} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    outcomes.sort(key=lambda pair: pair[0].number)
    told = summary(outcomes)
    if given.json:
        given.json.write_text(json.dumps(told, indent=1) + "\n")
    print(f"{told['count']} files in {time.monotonic() - start:.0f} s: {told['outcomes']}, given up {told['given_up']}")
    print(f"at most {told['most_memory'] >> 20} MB and {told['most_seconds']:.1f} s; ", end="")
    print(f"other frames at random than in order: {len(told['differ_at_random'])}")
    for name, counts in told["by_mutation"].items():
        print(f"    {name:9} {counts}")
    return 1 if told["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
