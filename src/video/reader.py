"""Frames out of video files and folders of images: always as they are shown, always the same ones.

Three hands do the reading. PyAV reads everything, and what it decodes from the first frame on is by definition
right. decord is quicker at random access, but returns other frames, silently, wherever an edit list, an open GOP
or a hidden frame makes packets and frames differ; it is used only on files that have none of these. Pillow reads
folders of images. A file is probed once, by its packets, which costs about as much as copying it; decoders are
opened by the process that first reads, so a reader may be pickled or forked before and after.

Shapes: a frame is uint8 ``(H, W, 3)``, RGB, turned and mirrored as the file asks; frames are uint8 ``(T, H, W, 3)``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import struct
import threading
import time
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, cast

import av
import numpy as np
import torch
from av.video.frame import PictureType
from PIL import Image, ImageOps

from src.errors import VideoError

Backend = Literal["auto", "decord", "pyav", "frames"]
T = TypeVar("T")

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".264", ".265", ".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m2ts", ".m2v",
    ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Codecs of which one packet, where it has a time of its own and is not hidden, is one frame shown. Of any other
# codec (fields in packets of their own, skipped frames, packed B-frames) only decoding tells how many there are.
PACKET_IS_FRAME = frozenset({
    "av1", "dnxhd", "ffv1", "ffvhuff", "h264", "hevc", "huffyuv", "libdav1d", "mjpeg", "mpeg4", "png", "prores", "vp8",
    "vp9",
})
# fmt: on
DEFAULT_FPS = Fraction(25)  # of frame folders and of streams that carry no times
NEAR = 12  # decoding so many frames costs less than a seek, which starts again from a key frame
UPRIGHT = (1, 0, 0, 1)

log = logging.getLogger(__name__)


def open_video(
    path: str | Path, backend: Backend = "auto", timeout: float = 60, fps: Fraction | None = None
) -> FrameReader:
    """Open a video file or a folder of images.

    Args:
        path: the file, or the folder whose images, in natural order of their names, are the frames.
        backend: who reads. ``auto`` takes decord where it is known to return the right frames, else PyAV.
        timeout: seconds after which a decoder that gives nothing is given up.
        fps: the frame rate of a source that has none of its own (25 unless told).

    Raises:
        VideoError: there is nothing to read, or ``backend`` cannot read it exactly.
    """
    path = Path(path)
    if not path.exists():
        raise VideoError(f"{path} does not exist")
    if path.is_dir() != (backend == "frames") and backend != "auto":
        raise VideoError(f"{path} is {'a folder' if path.is_dir() else 'a file'}, which {backend} does not read")
    rate = Fraction(fps) if fps else DEFAULT_FPS
    return FolderReader(path, rate) if path.is_dir() else FileReader(path, backend, timeout, rate)


def find_videos(root: str | Path) -> list[Path]:
    """The clips in and under ``root``, in natural order: video files, and folders of two or more images.

    A folder of frames is one clip and is not looked into; ``root`` itself may be a clip. Hidden names are skipped.
    """
    root = Path(root)
    if is_video(root):
        return [root]
    if not root.is_dir():
        return []
    found: list[Path] = []
    pending, seen = [root], {root.resolve()}  # links are followed, but none twice
    while pending:
        for entry in pending.pop().iterdir():
            if entry.name.startswith("."):
                continue
            if is_video(entry):
                found.append(entry)
            elif entry.is_dir() and (real := entry.resolve()) not in seen:
                seen.add(real)
                pending.append(entry)
    return sorted(found, key=lambda path: _natural(str(path)))


def is_video(path: str | Path) -> bool:
    """Whether ``path`` is, going by names, a video file or a folder of frames (two images or more, no videos)."""
    path = Path(path)
    if path.is_dir():
        suffixes = [entry.suffix.lower() for entry in path.iterdir() if not entry.name.startswith(".")]
        return sum(suffix in IMAGE_SUFFIXES for suffix in suffixes) > 1 and VIDEO_SUFFIXES.isdisjoint(suffixes)
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


class FrameReader(ABC):
    """Frames of one clip by number. Not to be read from several threads at once.

    Attributes:
        path: where the clip lies.
        fps: frames a second; the mean where the spacing varies.
        size: ``(height, width)`` of a frame as returned.
        times: when each frame is shown, in seconds, exact.
        aspect: width of a pixel as shown over its height; frames are returned with the pixels they are stored with.
        interlaced: whether frames are woven of two fields.
        backend: who reads at random: ``decord``, ``pyav`` or ``frames``.
    """

    path: Path
    fps: Fraction
    size: tuple[int, int]
    times: tuple[Fraction, ...]
    aspect: Fraction = Fraction(1)
    interlaced: bool = False
    backend: str

    def __len__(self) -> int:
        return len(self.times)

    @property
    def name(self) -> str:
        """What to call the clip: the name of the folder, or of the file without its suffix."""
        return self.path.name if self.path.is_dir() else self.path.stem

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """The frames ``indices``, in any order, repeats allowed: uint8 ``(T, H, W, 3)``.

        Raises:
            IndexError: an index outside ``0 <= i < len(self)``.
            VideoError: a frame cannot be decoded; the message names the last that could.
        """
        outside = [i for i in indices if not 0 <= i < len(self)]
        if outside:
            raise IndexError(f"{self.path} has frames 0 to {len(self) - 1}, not {outside[0]}")
        if not len(indices):
            return torch.empty((0, *self.size, 3), dtype=torch.uint8)
        frames = self._fetch(sorted(set(indices)))
        return torch.from_numpy(np.stack([frames[i] for i in indices]))

    @abstractmethod
    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """Frames ``start`` to ``stop`` (excluded) one after another, uint8 ``(H, W, 3)``, holding one at a time.

        Raises:
            VideoError: on reaching a frame that cannot be decoded, after all that precede it.
        """

    @abstractmethod
    def _fetch(self, ascending: Sequence[int]) -> dict[int, np.ndarray]: ...

    def close(self) -> None:  # noqa: B027 - a folder holds nothing open
        """Let go of decoders; a later read opens them again."""

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class FolderReader(FrameReader):
    """Images of one folder. Sixteen bits become eight, grey becomes RGB, transparency is dropped."""

    backend = "frames"

    def __init__(self, path: Path, fps: Fraction) -> None:
        files = [entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
        self.files = sorted((file for file in files if file.name[0] != "."), key=lambda file: _natural(file.name))
        if not self.files:
            raise VideoError(f"{path} holds no images to take as frames")
        kinds = sorted({file.suffix.lower().replace("jpeg", "jpg") for file in self.files})
        if len(kinds) > 1:  # two versions of every frame, or a poster among them: nobody can tell
            raise VideoError(f"{path} holds {' and '.join(kinds)} images, keep only those that are the frames")
        self.path, self.fps = path, fps
        self.times = tuple(Fraction(i) / fps for i in range(len(self.files)))
        self.size = _load(self.files[0]).shape[:2]

    def _image(self, index: int) -> np.ndarray:
        pixels = _load(self.files[index])
        if pixels.shape[:2] != self.size:
            raise VideoError(f"{self.files[index]} is {_by(pixels.shape)}, but the first frame is {_by(self.size)}")
        return pixels

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        for index in range(len(self))[start:stop]:
            yield torch.from_numpy(self._image(index))

    def _fetch(self, ascending: Sequence[int]) -> dict[int, np.ndarray]:
        return {index: self._image(index) for index in ascending}


class FileReader(FrameReader):
    """A video file, read through PyAV and, at random and where it is right, through decord."""

    def __init__(self, path: Path, backend: Backend, timeout: float, fps: Fraction) -> None:
        self.path, self._timeout = path, timeout
        watch = _Watch(path, timeout)
        self._index = index = watch(lambda: _probe(path, watch))
        if backend == "decord" and index.objection:
            raise VideoError(f"{path} cannot be read exactly by decord, as it {index.objection}; use pyav or auto")
        able = not index.objection and importlib.util.find_spec("decord") is not None
        if backend == "decord" and not able:
            raise VideoError(f"{path} cannot be read by decord, which is not installed; use pyav or auto")
        self.backend = "decord" if backend != "pyav" and able else "pyav"
        self._insisted = backend == "decord"
        self.times, self.fps = _times(index, fps)
        sideways, (height, width) = bool(index.turn[1]), index.stored
        self.size = (width, height) if sideways else (height, width)
        self.aspect = 1 / index.aspect if sideways else index.aspect
        self.interlaced = index.interlaced
        self.forget()

    def forget(self) -> None:
        """Let go of decoders without closing them."""
        self._decoder: _Decoder | None = None
        self._decord: Any = None
        _Fork.holders.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoder": None, "_decord": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self.forget()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        watch = _Watch(self.path, self._timeout)
        decoder = _Decoder(self.path, self._index, watch)
        try:
            for index in range(len(self))[start:stop]:
                yield torch.from_numpy(watch(partial(decoder.fetch, index)))
        finally:
            decoder.close()

    def _fetch(self, ascending: Sequence[int]) -> dict[int, np.ndarray]:
        if self.backend == "decord" and not _Fork.decord_barred:
            try:
                return _Watch(self.path, self._timeout)(lambda: self._by_decord(ascending))
            except Exception as error:  # decord raises whatever it likes
                self._decord = None
                if self._insisted:
                    raise VideoError(f"{self.path} cannot be read by decord: {_words(error)}") from error
                log.warning("decord fails on %s, PyAV reads on: %s", self.path, _words(error))
                self.backend = "pyav"
        if self._decoder is None or self._decoder.watch.lost:
            self._decoder = _Decoder(self.path, self._index, _Watch(self.path, self._timeout))
        decoder = self._decoder
        return decoder.watch(lambda: {index: decoder.fetch(index) for index in ascending})

    def _by_decord(self, ascending: Sequence[int]) -> dict[int, np.ndarray]:
        if self._decord is None:
            _Fork.decord_used = True
            import decord  # after torch, and only where it is used: it brings an FFmpeg and threads of its own

            decord.logging.set_level(decord.logging.QUIET)
            # One thread in a loader's worker, which has siblings; two elsewhere (with more, some streams fail).
            threads = 1 if torch.utils.data.get_worker_info() else 2
            self._decord = decord.VideoReader(os.path.abspath(self.path), num_threads=threads)
            if len(self._decord) != len(self):
                raise VideoError(f"decord finds {len(self._decord)} frames, {len(self)} are shown")
        return dict(zip(ascending, self._decord.get_batch(list(ascending)).asnumpy(), strict=True))


class _Fork:
    """What a forked process must leave alone.

    It has its parent's decoders without their threads: to free them crashes or hangs, and what decord keeps locked
    stays locked. So it opens its own, and only through PyAV if the parent used decord.
    """

    holders: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()
    inherited: ClassVar[list[dict[str, Any]]] = []  # kept, so that nothing frees them
    decord_used = decord_barred = False

    @classmethod
    def begun(cls) -> None:
        """To be called first thing in the new process."""
        cls.decord_barred |= cls.decord_used
        for holder in list(cls.holders):
            cls.inherited.append(dict(holder.__dict__))
            holder.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Fork.begun)


class _Watch:
    """Does work in a thread of its own and gives it up when nothing has come of it for too long."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.timeout, self.lost = path, timeout, False
        self.beat()

    def beat(self) -> None:
        """Say that work goes on: a packet or a frame has come."""
        self._last = time.monotonic()

    def __call__(self, work: Callable[[], T]) -> T:
        outcome: list[T] = []
        failure: list[BaseException] = []
        done = threading.Event()

        def run() -> None:
            try:
                outcome.append(work())
            except BaseException as error:
                failure.append(error)
            finally:
                done.set()

        self.beat()
        threading.Thread(target=run, daemon=True, name=f"decoding {self.path.name}").start()
        while not done.wait(max(0.0, self._last + self.timeout - time.monotonic())):
            if time.monotonic() - self._last >= self.timeout:
                self.lost = True  # the thread may still be inside the decoder, which nobody must touch again
                raise VideoError(f"{self.path} was given up: its decoder has given nothing for {self.timeout:g} s")
        if failure and isinstance(failure[0], av.FFmpegError):
            raise VideoError(f"{self.path} cannot be read as video: {_words(failure[0])}") from failure[0]
        if failure:
            raise failure[0]
        return outcome[0]


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    key: bool
    shown: bool
    changes: bool  # brings new parameters for the decoder


@dataclass(frozen=True)
class _Index:
    """What probing learns of a file: its video stream, and when which frames of it are shown."""

    stream: int
    count: int
    marks: tuple[int, ...]  # when frames are shown, ascending, in units of base; empty where the stream has no times
    keys: tuple[int, ...]  # when key frames are shown, ascending; empty where there is no seeking
    goals: tuple[int, ...]  # what to seek to get to each
    base: Fraction
    rates: tuple[Fraction, ...]  # as declared, the likeliest first
    stored: tuple[int, int]  # height and width before turning
    turn: tuple[int, int, int, int]
    aspect: Fraction
    interlaced: bool
    objection: str  # why decord may not read it; empty where it may


def _probe(path: Path, watch: _Watch) -> _Index:
    """Index a file by its packets, or by decoding it where packets do not tell.

    Raises:
        VideoError: no video in it, or nothing that can be decoded.
    """
    with _open(path) as container:
        stream, packets = _packets(container, watch, path)
        context, kind, chosen = stream.codec_context, container.format.name, stream.index
        codec, reordered = context.name, context.has_b_frames
        interlaced, base = context.field_order > 1, Fraction(stream.time_base)
        rates = tuple(Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate)
        aspect = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
    shown = [packet.pts for packet in packets if packet.shown]
    marks = sorted({pts for pts in shown if pts is not None})
    keyed = sorted((p for p in packets if p.key and p.pts is not None), key=lambda packet: packet.pts or 0)
    keys = [cast(int, packet.pts) for packet in keyed]
    # Transport and programme streams are searched by when frames are decoded.
    goals = [p.dts if kind.startswith("mpeg") and p.dts is not None else cast(int, p.pts) for p in keyed]
    ahead = _keys_of_open_groups(packets)
    whole = kind.startswith(("mov,", "matroska,"))  # such containers keep both fields of a frame in one packet
    countable = (
        codec in PACKET_IS_FRAME
        and len(marks) == len(shown)
        and packets[0].key
        and packets[0].pts not in ahead
        and (whole or not interlaced)
        and (kind != "avi" or not reordered)  # which tells when frames are decoded, not when shown
    )
    if not countable:
        log.info("%s is decoded to count its frames", path)
    with _open(path) as container:
        stream = _stream(container, chosen)
        first, found = _survey(container, stream, watch, path, whole=not countable)
        alone = len(keys) < 2 or _stands_alone(container, stream, keys[1], goals[1])
    count = len(shown) if countable else len(found)
    if not countable:
        marks = sorted({mark for mark in found if mark is not None})
        marks = marks if marks == found else []

    turn, pixels = _turn(first), first.format.name
    interlaced = interlaced or bool(first.interlaced_frame)
    objections = {
        f"is coded as {codec}": codec not in ("h264", "hevc", "mpeg4"),
        f"stores its pixels as {pixels}": pixels not in ("yuv420p", "yuvj420p", "gbrp"),
        "is interlaced": interlaced,
        "has key frames that cannot be decoded alone": not alone,
        "is turned or mirrored": turn != UPRIGHT,
        "has an edit list": not all(packet.shown for packet in packets),
        "has open groups of pictures": bool(ahead),
        "changes its parameters on the way": any(packet.changes for packet in packets[1:]),
        "lies in a container other than MP4, MOV and Matroska": not whole,
        "tells its frames only on decoding": not countable,
    }
    objection = next((words for words, holds in objections.items() if holds), "")
    stored = (first.height, first.width)
    if not (marks and alone):
        keys, goals = [], []
    return _Index(
        chosen, count, tuple(marks), tuple(keys), tuple(goals), base, rates, stored, turn, aspect, interlaced, objection
    )


def _packets(container: Any, watch: _Watch, path: Path) -> tuple[Any, list[_Packet]]:
    """The first video stream that is not empty, and its packets in the order of the file."""
    cover = av.stream.Disposition.attached_pic  # a picture beside the sound, not a video
    streams = [s for s in container.streams.video if s.codec_context and not s.disposition & cover]
    packets: dict[int, list[_Packet]] = {stream.index: [] for stream in streams}
    if not streams:
        raise VideoError(f"{path} has no video stream that can be read")
    try:
        for packet in container.demux(streams):
            watch.beat()
            if packet.size:
                shown = not packet.is_discard and not _hidden(packet)
                changes = packet.has_sidedata("new_extradata")
                packets[packet.stream_index].append(_Packet(packet.pts, packet.dts, packet.is_keyframe, shown, changes))
    except av.FFmpegError as error:
        log.warning("%s is damaged, only what precedes that is read: %s", path, _words(error))
    filled = [stream for stream in streams if packets[stream.index]]
    if not filled:
        raise VideoError(f"{path} holds no frames, its video stream is empty")
    return filled[0], packets[filled[0].index]


def _keys_of_open_groups(packets: Sequence[_Packet]) -> set[int]:
    """Times of the key frames before which frames are shown that follow them in the file."""
    found, key = set(), None
    for packet in packets:
        if packet.key:
            key = packet.pts
        elif key is not None and packet.pts is not None and packet.pts < key:
            found.add(key)
    return found


def _survey(container: Any, stream: Any, watch: _Watch, path: Path, whole: bool) -> tuple[av.VideoFrame, list[Any]]:
    """The first frame and, of the ``whole`` file, when decoding says that each frame is shown."""
    first: av.VideoFrame | None = None
    found: list[int | None] = []
    try:
        for frame in _decoded(container, stream):
            watch.beat()
            first = first or frame
            if (frame.height, frame.width) != (first.height, first.width):
                raise _changed(path, len(found), frame, (first.height, first.width))
            found.append(frame.pts)
            if not whole:
                break
    except av.FFmpegError as error:
        if not found:
            raise
        log.warning("%s is damaged, only its first %d frames are read: %s", path, len(found), _words(error))
    if first is None:
        raise VideoError(f"{path} holds no frames that can be decoded")
    return first, found


def _stands_alone(container: Any, stream: Any, key: int, goal: int) -> bool:
    """Whether seeking ``goal`` comes to the key frame at ``key`` and it is decoded without those before it."""
    try:
        container.seek(goal, stream=stream)
        return next(_decoded(container, stream, key)) is not None
    except (_Missed, StopIteration, av.FFmpegError):
        return False


class _Missed(Exception):  # noqa: N818 - a turn of events, not an error
    """A frame did not come where it was looked for."""


class _Decoder:
    """An open file from which frames come by number: forwards where that is near, else from a key frame on."""

    def __init__(self, path: Path, index: _Index, watch: _Watch) -> None:
        self.path, self.index, self.watch = path, index, watch
        self._number = {mark: number for number, mark in enumerate(index.marks)}
        self._convert = av.video.reformatter.VideoReformatter()
        self.forget()
        _Fork.holders.add(self)

    def forget(self) -> None:
        """Let go of the file without closing it; :meth:`fetch` opens it again."""
        self._container: Any = None
        self._frames: Iterator[av.VideoFrame] = iter(())

    def fetch(self, number: int) -> np.ndarray:
        """Frame ``number``, uint8 ``(H, W, 3)``."""
        if self._container is None:
            self._begin()
        marks, keys = self.index.marks, self.index.keys
        key = bisect_right(keys, marks[number]) - 1 if marks else 0  # the last one shown no later than the frame
        near = bisect_left(marks, keys[key]) <= self._next + NEAR if key > 0 else True
        onward = self._next <= number and near
        goals = [key, key - 1, 0]  # a seek that goes wrong is made up for by an earlier one, at last by none
        while True:
            try:
                if onward:
                    return self._onward(number)
                goal = goals.pop(0)
                self._seek(self.index.goals[goal], marks[number]) if goal > 0 else self._begin()
                return self._onward(number)
            except (_Missed, av.FFmpegError) as error:
                if self._unbroken:  # it fails for good
                    self.close()
                    reached = f"frame {self._next} of {self.index.count}"
                    raise VideoError(f"{self.path} breaks at {reached}: {_words(error)}") from error
                onward = False

    def _begin(self) -> None:
        self.close()
        self._container = _open(self.path)
        self._frames = _decoded(self._container, _stream(self._container, self.index.stream))
        self._next = 0  # the frame that comes next, if none is missing
        self._unbroken = True  # all frames were decoded from the first on

    def _seek(self, goal: int, wanted: int) -> None:
        stream = self._container.streams[self.index.stream]
        self._next, self._unbroken = 0, False
        self._container.seek(goal, stream=stream)
        self._frames = _decoded(self._container, stream, wanted)

    def _onward(self, number: int) -> np.ndarray:
        for frame in self._frames:
            self.watch.beat()
            current = self._number.get(cast(int, frame.pts), -1) if self._number else self._next
            if current > number:
                raise _Missed(f"frame {number} is missing")
            self._next = max(self._next, current + 1)
            if current == number:
                return self._picture(frame, number)
        raise _Missed("the stream ends there")

    def _picture(self, frame: av.VideoFrame, number: int) -> np.ndarray:
        if (frame.height, frame.width) != self.index.stored:
            raise _changed(self.path, number, frame, self.index.stored)
        pixels = self._convert.reformat(frame, format="rgb24", threads=1).to_ndarray()  # (H, W, 3)
        a, b, c, d = self.index.turn
        if b:
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[:: b or d, :: c or a])

    def close(self) -> None:
        if self._container is not None and not self.watch.lost:  # a decoder that hangs is still in it
            self._container.close()
        self.forget()


def _open(path: Path) -> Any:
    return av.open(os.path.abspath(path))  # a relative a:b.mp4 would be asked of a protocol called a


def _stream(container: Any, index: int) -> Any:
    """A stream to be decoded without frame threads.

    These make damaged streams decode differently from run to run, and to stop in the middle of them has been seen
    to hang.
    """
    stream = container.streams[index]
    stream.thread_type = "SLICE"
    return stream


def _decoded(container: Any, stream: Any, wanted: int | None = None) -> Iterator[av.VideoFrame]:
    """Frames from where ``container`` stands; after a seek for ``wanted``, from the first key frame that comes.

    Raises:
        _Missed: that key frame lies behind ``wanted``, or leans on frames before it (gradual refresh).
    """
    key: int | None = None
    for packet in _until_damaged(container.demux(stream)):
        if wanted is not None and key is None and packet.size:
            if not packet.is_keyframe:
                continue
            if packet.pts is None or packet.pts > wanted:
                raise _Missed("a seek went too far")
            key = packet.pts
        for frame in packet.decode():
            if wanted is not None and frame.pts is not None and key is not None:
                if frame.pts < key:
                    continue  # predicted from what the seek left out
                # A pair of fields may be one of each kind, and goes by the second.
                if frame.pts > key or not (frame.pict_type == PictureType.I or frame.interlaced_frame):
                    raise _Missed("a key frame cannot be decoded alone")
                wanted = None
            yield frame


def _until_damaged(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """``packets``, the last of which is empty and makes a decoder give what it holds back, even if the file is cut."""
    last: av.Packet | None = None
    try:
        for last in packets:
            yield last
    except av.FFmpegError:
        if last is not None and last.size:
            end = av.Packet()
            end.stream = last.stream
            yield end


def _hidden(packet: av.Packet) -> bool:
    """Whether a VP8 or VP9 packet only holds a frame that others are predicted from (``show_frame`` of its header)."""
    name = packet.stream.codec_context.name
    if name not in ("vp8", "vp9"):
        return False
    data = memoryview(packet)
    head, tail = data[0], data[len(data) - 1]
    if name == "vp8":
        return not head & 0x10
    if tail & 0xE0 == 0xC0:  # a superframe, which ends in the frame shown
        return False
    shift = 1 if head & 0x30 == 0x30 else 0  # profile 3 has one more bit before the flags
    return not (head << shift) & 0x0A  # neither show_existing_frame nor show_frame


def _turn(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Signs of the display matrix: 16.16 numbers a b u c d v x y w, with x' = a x + c y and y' = b x + d y.

    A turn that is not by quarters is taken for the nearest that is.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(cast(Any, data)))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return 0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0
    return -1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1


def _times(index: _Index, default: Fraction) -> tuple[tuple[Fraction, ...], Fraction]:
    """When the frames are shown, and their rate: a declared one that fits all of them to the tick, else the mean."""
    if not index.marks:
        rate = next(iter(index.rates), default)
        return tuple(i / rate for i in range(index.count)), rate
    times, first = tuple(mark * index.base for mark in index.marks), index.marks[0]
    for rate in index.rates:
        ticks = rate * index.base  # in frames: p / q of one
        p, q = ticks.numerator, ticks.denominator
        if all(abs((mark - first) * p - i * q) <= p for i, mark in enumerate(index.marks)):
            return times, rate
    if len(times) > 1:
        return times, (len(times) - 1) / (times[-1] - times[0])
    return times, next(iter(index.rates), default)


def _load(file: Path) -> np.ndarray:
    """An image as uint8 RGB ``(H, W, 3)``."""
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                values = np.asarray(upright).astype(np.float64)
                return np.repeat(np.rint(values / 257).astype(np.uint8)[..., None], 3, axis=2)
            if upright.mode in ("I", "F"):  # what is white in these, nobody says
                raise VideoError(f"{file} holds {upright.mode} values of 32 bits, save it with 8 or 16 bits a channel")
            return np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{file} cannot be read as an image: {_words(error)}") from error


def _changed(path: Path, number: int, frame: av.VideoFrame, size: tuple[int, int]) -> VideoError:
    now = _by((frame.height, frame.width))
    return VideoError(f"{path} changes from {_by(size)} to {now} at frame {number}; cut it there and read the parts")


def _by(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"


def _words(error: BaseException | None) -> str:
    """An error in one line, without the time and the source line that decord adds."""
    if isinstance(error, av.FFmpegError):
        return error.strerror or type(error).__name__
    lines = re.sub(r"\[[\d:]+\] \S+: ", "", str(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
