"""Frames out of video files and folders of images: always as they are shown, always the same ones.

Three hands do the reading. PyAV reads everything, and what it decodes from the first frame on is by definition
right. decord is quicker at random access, and is used only on files that it reads exactly; of packed videos
(src/video/packed.py) it would read the whole file to open it, where PyAV needs the table alone. Pillow reads folders of
images. A file is probed once (src/video/probe.py); decoders are opened by the process that first reads, so a reader
may be pickled or forked before and after.

Shapes: a frame is ``(H, W, 3)``, RGB, turned and mirrored as the file asks; frames are ``(T, H, W, 3)``. They are
uint8, or, of a deep reader, uint16 with values of as many bits as ``signal.depth`` says.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import av
import numpy as np
import torch

from src.errors import VideoError
from src.video import packed
from src.video.colorspace import RGB, Signal, to_rgb, to_tensor
from src.video.decode_timeout import Watch
from src.video.deinterlace import Deinterlacer
from src.video.discovery import images, is_pattern
from src.video.images import is_deep, load, load_deep
from src.video.probe import Index, Missed, check_size, decoded, dimensions, in_words, open_stream, probe

Backend = Literal["auto", "decord", "pyav", "frames"]

DEFAULT_FPS = Fraction(25)  # of frame folders and of streams that carry no times
NEAR = 12  # decoding so many frames costs less than a seek, which starts again from a key frame

log = logging.getLogger(__name__)


def open_video(
    path: str | Path,
    backend: Backend = "auto",
    timeout: float = 60,
    fps: Fraction | None = None,
    *,
    deep: bool = False,
    deinterlace: bool = False,
) -> FrameReader:
    """Open a video file or a folder of images.

    Args:
        path: the file, or the folder whose images, in natural order of their names, are the frames, or a pattern of
            their names (``shot/left_*.png``).
        backend: who reads. ``auto`` takes decord where it is known to return the right frames, else PyAV.
        timeout: seconds after which a decoder that gives nothing is given up.
        fps: the frame rate of a source that has none of its own (25 unless told).
        deep: more than 8 bits come as uint16; else all comes as uint8.
        deinterlace: interlaced video comes as frames of one time each, as many and at the same times; to read these
            at random is slow, as each needs its neighbours.

    Raises:
        VideoError: there is nothing to read, or ``backend`` cannot read it exactly.
    """
    path = Path(path)
    of_images = path.is_dir() or is_pattern(path)
    if not path.exists() and not of_images:
        raise VideoError(f"{path} does not exist")
    if of_images != (backend == "frames") and backend != "auto":
        raise VideoError(f"{path} is {'a folder' if of_images else 'a file'}, which {backend} does not read")
    rate = Fraction(fps) if fps else DEFAULT_FPS
    if of_images:
        return FolderReader(path, rate, deep)
    return FileReader(path, backend, timeout, rate, deep, deinterlace)


class FrameReader(ABC):
    """Frames of one clip by number. Not to be read from several threads at once.

    Attributes:
        path: where the clip lies.
        fps: frames a second; the mean where the spacing varies.
        size: ``(height, width)`` of a frame as returned.
        times: when each frame is shown, in seconds, exact.
        end: when the last frame ends, in seconds.
        signal: what the samples mean; its ``depth`` is that of the frames returned.
        aspect: width of a pixel as shown over its height; frames are returned with the pixels they are stored with.
        interlaced: whether frames are woven of two fields.
        backend: who reads at random: ``decord``, ``pyav`` or ``frames``.
    """

    path: Path
    fps: Fraction
    size: tuple[int, int]
    times: tuple[Fraction, ...]
    end: Fraction
    signal: Signal
    aspect: Fraction = Fraction(1)
    interlaced: bool = False
    backend: str

    def __len__(self) -> int:
        return len(self.times)

    @property
    def name(self) -> str:
        """What to call the clip: the name of the folder, or of the file without its suffix."""
        if self.path.is_file():
            return self.path.stem
        return (self.path.parent if is_pattern(self.path) else self.path).name

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """The frames ``indices``, in any order, repeats allowed: ``(T, H, W, 3)``.

        Raises:
            IndexError: an index outside ``0 <= i < len(self)``.
            VideoError: a frame cannot be decoded; the message names the last that could.
        """
        outside = [i for i in indices if not 0 <= i < len(self)]
        if outside:
            raise IndexError(f"{self.path} has frames 0 to {len(self) - 1}, not {outside[0]}")
        if not len(indices):
            return torch.empty((0, *self.size, 3), dtype=torch.uint8 if self.signal.depth == 8 else torch.uint16)
        frames = self._fetch(sorted(set(indices)))
        return torch.from_numpy(np.stack([frames[i] for i in indices]))

    @abstractmethod
    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """Frames ``start`` to ``stop`` (excluded) one after another, ``(H, W, 3)``, holding one at a time.

        Raises:
            VideoError: on reaching a frame that cannot be decoded, after all that precede it.
        """

    def tensors(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """What :meth:`frames` gives, as networks take it: (3, H, W) float32, RGB in [0, 1]."""
        return (to_tensor(frame, self.signal.depth) for frame in self.frames(start, stop))

    @abstractmethod
    def _fetch(self, ascending: Sequence[int]) -> dict[int, np.ndarray]: ...

    def close(self) -> None:  # noqa: B027 - a folder holds nothing open
        """Let go of decoders; a later read opens them again."""

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class FolderReader(FrameReader):
    """Images of one folder, or those of it that match a pattern.

    Grey becomes RGB, transparency is dropped, 16 bits become 8 unless ``deep``.
    """

    backend = "frames"

    def __init__(self, path: Path, fps: Fraction, deep: bool = False) -> None:
        self.files = images(path)
        if not self.files:
            raise VideoError(f"{path} holds no images to take as frames")
        kinds = sorted({file.suffix.lower().replace("jpeg", "jpg") for file in self.files})
        if len(kinds) > 1:  # two versions of every frame, or a poster among them: nobody can tell
            raise VideoError(f"{path} holds {' and '.join(kinds)} images, keep only those that are the frames")
        self.path, self.fps = path, fps
        self.times = tuple(Fraction(i) / fps for i in range(len(self.files)))
        self.end = len(self.files) / fps
        depth = 16 if deep and is_deep(self.files[0]) else 8
        self.signal = Signal(depth, matrix=RGB, range=2, primaries=1, transfer=13)  # sRGB, as images are
        self.size = load(self.files[0]).shape[:2]

    def _image(self, index: int) -> np.ndarray:
        pixels = load(self.files[index]) if self.signal.depth == 8 else load_deep(self.files[index])
        if pixels.shape[:2] != self.size:
            now, first = dimensions(pixels.shape), dimensions(self.size)
            raise VideoError(f"{self.files[index]} is {now}, but the first frame is {first}")
        return pixels

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        for index in range(len(self))[start:stop]:
            yield torch.from_numpy(self._image(index))

    def _fetch(self, ascending: Sequence[int]) -> dict[int, np.ndarray]:
        return {index: self._image(index) for index in ascending}


class FileReader(FrameReader):
    """A video file, read through PyAV and, at random and where it is right, through decord."""

    def __init__(
        self,
        path: Path,
        backend: Backend,
        timeout: float,
        fps: Fraction,
        deep: bool = False,
        deinterlace: bool = False,
    ) -> None:
        self.path, self._timeout = path, timeout
        watch = Watch(path, timeout)
        self._index = index = watch(lambda: packed.index(path) or probe(path, watch.beat))
        if backend == "decord" and index.objection:
            raise VideoError(f"{path} cannot be read exactly by decord, as it {index.objection}; use pyav or auto")
        able = not index.objection and importlib.util.find_spec("decord") is not None
        if backend == "decord" and not able:
            raise VideoError(f"{path} cannot be read by decord, which is not installed; use pyav or auto")
        self.backend = "decord" if able and (backend == "decord" or (backend == "auto" and not index.sums)) else "pyav"
        self._insisted = backend == "decord"
        self.times, self.fps, self.end = index.timing(fps)
        self.signal = index.signal if deep else replace(index.signal, depth=8)
        self._unweave = deinterlace and index.interlaced
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
        watch = Watch(self.path, self._timeout)
        decoder = _Decoder(self.path, self._index, self.signal.depth, watch)
        wanted = range(len(self))[start:stop]
        try:
            if self._unweave:
                yield from self._unwoven(decoder, wanted)
                return
            for index in wanted:
                yield torch.from_numpy(watch(partial(decoder.fetch, index)))
        finally:
            decoder.close()

    def _unwoven(self, decoder: _Decoder, wanted: range) -> Iterator[torch.Tensor]:
        number = max(0, wanted.start - 1)  # a frame needs its neighbours
        last, sieve = min(wanted.stop + 1, len(self)), None
        for index in range(number, last):
            frame = decoder.watch(partial(decoder.frame, index))
            sieve = sieve or Deinterlacer(frame, self._index.flagged)
            for given in (frame, None)[: 2 if index == last - 1 else 1]:
                for clear in sieve(given):
                    if number in wanted:
                        yield torch.from_numpy(decoder.picture(clear, number))
                    number += 1

    def _fetch(self, ascending: Sequence[int]) -> dict[int, np.ndarray]:
        if self._unweave:
            return {index: next(self.frames(index, index + 1)).numpy() for index in ascending}
        if self.backend == "decord" and not _Fork.decord_barred:
            try:
                return Watch(self.path, self._timeout)(lambda: self._by_decord(ascending))
            except Exception as error:  # decord raises whatever it likes
                self._decord = None
                if self._insisted:
                    raise VideoError(f"{self.path} cannot be read by decord: {in_words(error)}") from error
                log.warning("decord fails on %s, PyAV reads on: %s", self.path, in_words(error))
                self.backend = "pyav"
        if self._decoder is None or self._decoder.watch.lost:
            watch = Watch(self.path, self._timeout)
            self._decoder = _Decoder(self.path, self._index, self.signal.depth, watch)
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
        found = dict(zip(ascending, self._decord.get_batch(list(ascending)).asnumpy(), strict=True))
        if self._index.sums:
            for number, pixels in found.items():
                packed.check(self.path, self._index.sums, number, pixels)
        return found


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


class _Decoder:
    """An open file from which frames come by number: forwards where that is near, else from a key frame on."""

    def __init__(self, path: Path, index: Index, depth: int, watch: Watch) -> None:
        self.path, self.index, self.depth, self.watch = path, index, depth, watch
        self._number = {mark: number for number, mark in enumerate(index.marks)}
        self._convert = av.video.reformatter.VideoReformatter()
        self.forget()
        _Fork.holders.add(self)

    def forget(self) -> None:
        """Let go of the file without closing it; :meth:`fetch` opens it again."""
        self._container: Any = None
        self._frames: Iterator[av.VideoFrame] = iter(())

    def fetch(self, number: int) -> np.ndarray:
        """Frame ``number``, ``(H, W, 3)``, of ``depth`` bits."""
        return self.picture(self.frame(number), number)

    def frame(self, number: int) -> av.VideoFrame:
        """Frame ``number`` as decoded."""
        if self._container is None:
            self._begin()
        marks, keys = self.index.marks, self.index.keys
        key = bisect_right(keys, marks[number]) - 1 if marks else 0  # the last one shown no later than the frame
        ahead = 0 if self.index.sums else NEAR  # in a packed video a seek costs nothing, and decoding as much as ever
        near = bisect_left(marks, keys[key]) <= self._next + ahead if key > 0 else True
        onward = self._next <= number and near
        goals = [key, key - 1, 0]  # a seek that goes wrong is made up for by an earlier one, at last by none
        while True:
            try:
                if onward:
                    return self._onward(number)
                goal = goals.pop(0)
                self._seek(self.index.goals[goal], marks[number]) if goal > 0 else self._begin()
                return self._onward(number)
            except (Missed, av.FFmpegError) as error:
                if self._unbroken:  # it fails for good
                    self.close()
                    reached = f"frame {self._next} of {self.index.count}"
                    sentence = f"{self.path} breaks at {reached}: {in_words(error)}"
                    raise VideoError(sentence, readable=self._next) from error
                onward = False

    def _begin(self) -> None:
        self.close()
        self._container, stream = open_stream(self.path, self.index.stream, known=bool(self.index.sums))
        self._frames = decoded(self._container, stream)
        self._next = 0  # the frame that comes next, if none is missing
        self._unbroken = True  # all frames were decoded from the first on

    def _seek(self, goal: int, wanted: int) -> None:
        stream = self._container.streams[self.index.stream]
        self._next, self._unbroken = 0, False
        self._container.seek(goal, stream=stream)
        self._frames = decoded(self._container, stream, wanted)

    def _onward(self, number: int) -> av.VideoFrame:
        for frame in self._frames:
            self.watch.beat()
            current = self._number.get(cast(int, frame.pts), -1) if self._number else self._next
            if current > number:
                raise Missed(f"frame {number} is missing")
            self._next = max(self._next, current + 1)
            if current == number:
                return frame
        raise Missed("the stream ends there")

    def picture(self, frame: av.VideoFrame, number: int) -> np.ndarray:
        """A decoded frame as it is shown, ``(H, W, 3)``."""
        check_size(self.path, number, frame, self.index.stored)
        pixels = turned(to_rgb(frame, self.depth, self._convert), self.index.turn)
        if self.index.sums:
            packed.check(self.path, self.index.sums, number, pixels)
        return pixels

    def close(self) -> None:
        if self._container is not None and not self.watch.lost:  # a decoder that hangs is still in it
            self._container.close()
        self.forget()


def turned(pixels: np.ndarray, turn: tuple[int, int, int, int]) -> np.ndarray:
    """``pixels`` as shown, given the signs of a display matrix."""
    a, b, c, d = turn
    if b:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: b or d, :: c or a])
