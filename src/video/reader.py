"""Read frames of video files and of folders of images: deterministic, and upright.

PyAV reads every file; its frames, decoded from the start, are the reference. decord is faster at random access and is
used for the files that it reads exactly, except packed videos (src/video/packed.py): it would read a whole file to
open it, while PyAV needs only the index. Pillow reads animated WebP, and with FFmpeg folders of images
(src/video/images.py). A file is probed once (src/video/probe.py).
Decoders are opened by the process that reads first, so that a reader may be pickled or forked at any time.

Shapes: a frame is ``(H, W, 3)``, RGB, rotated and flipped for display; frames are ``(T, H, W, 3)``. Pixel values
are uint8; with ``deep=True``, those of sources above 8 bits are uint16 with ``signal.depth`` bits. With ``alpha=True``,
frames of sources with an alpha channel are ``(H, W, 4)``, RGBA.
"""

from __future__ import annotations

import importlib.util
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from src.errors import VideoError
from src.video import packed
from src.video.colorspace import RGB, Signal, to_tensor
from src.video.decode_timeout import Watchdog
from src.video.decoding import check_pixel_limit, describe_error, format_size, wrap_decoder_errors
from src.video.deinterlace import Deinterlacer
from src.video.discovery import FILM_SUFFIXES, is_animated_webp, is_image_pattern, list_images
from src.video.fork_safety import ForkGuard
from src.video.frame_decoder import DecordDecoder, FrameDecoder
from src.video.images import check_alpha, decode_image, load_image
from src.video.probe import VideoIndex, probe
from src.video.spatial import SpatialLayout

Backend = Literal["auto", "decord", "pyav", "frames"]

DEFAULT_FPS = Fraction(25)  # of folders of images, and of streams without timestamps
DEFAULT_DURATION = 100  # ms, of a WebP frame without one: browsers show it for as long, and FFmpeg those of GIF
SRGB = Signal(8, matrix=RGB, range=2, primaries=1, transfer=13)

log = logging.getLogger(__name__)


def open_video(
    path: str | Path,
    backend: Backend = "auto",
    timeout: float = 60,
    fps: Fraction | None = None,
    *,
    deep: bool = False,
    deinterlace: bool = False,
    stream: int | None = None,
    alpha: bool = False,
) -> FrameReader:
    """Open a video file or a folder of images.

    Args:
        path: a file, a folder of images in natural order of their names, or a glob pattern (``shot/left_*.png``).
        backend: the decoder. ``auto`` uses decord for files that it reads exactly, otherwise PyAV.
        timeout: seconds without progress after which a decoder is abandoned.
        fps: frame rate of sources without one of their own (default 25).
        deep: return sources above 8 bits as uint16; by default, everything is converted to uint8.
        deinterlace: convert interlaced video to progressive frames, same number and times. Random access is then
            slow, because each frame needs its neighbours.
        stream: index of the video stream in its container; by default the main one: the default, largest, longest.
        alpha: return the alpha channel of sources that have one.

    Raises:
        VideoError: the source does not exist or is empty, it has no such stream, or ``backend`` cannot read it exactly.
    """
    path = Path(path)
    is_sequence = path.is_dir() or is_image_pattern(path) or (path.is_file() and path.suffix.lower() in FILM_SUFFIXES)
    if not path.exists() and not is_sequence:
        raise VideoError(f"{path} does not exist")
    if is_sequence != (backend == "frames") and backend != "auto":
        raise VideoError(f"{backend} cannot read {path}: it is a {'folder' if is_sequence else 'file'}; use auto")
    rate = Fraction(fps) if fps else DEFAULT_FPS
    if stream is not None and (is_sequence or is_animated_webp(path)):
        raise VideoError(f"{path} is not a container of several streams: leave stream={stream} out")
    if is_sequence:
        return FolderReader(path, rate, deep, alpha)
    if is_animated_webp(path) and backend == "auto":
        return WebPReader(path, alpha)
    return FileReader(path, backend, timeout, rate, deep, deinterlace, stream, alpha)


class FrameReader(ABC):
    """Frames of one clip by number. Not thread-safe.

    Attributes:
        path: the source.
        fps: frames per second; the mean if the spacing varies.
        size: ``(height, width)`` of the frames returned.
        times: presentation time of each frame, in seconds, exact.
        end: end of the last frame, in seconds.
        signal: colour description; its ``depth`` and ``alpha`` are those of the frames returned.
        has_alpha: the source has an alpha channel, whether it is returned or not.
        aspect: pixel aspect ratio, width over height; frames are returned without resampling.
        interlaced: frames of the source hold two fields each.
        backend: the decoder for random access: ``decord``, ``pyav``, ``frames`` or ``webp``.
        stream: index of the video stream in its container; None for images.
        notes: predicates about the source that its user needs to know: several streams, cropping.
        layout: spatial layout of the frames (360 degrees, 3D); None: flat.
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
    has_alpha: bool = False
    stream: int | None = None
    notes: tuple[str, ...] = ()
    layout: SpatialLayout | None = None

    def __len__(self) -> int:
        return len(self.times)

    @property
    def name(self) -> str:
        """Name of the clip: that of the folder, or of the file without its suffix."""
        if self.path.is_file():
            return self.path.stem
        return (self.path.parent if is_image_pattern(self.path) else self.path).name

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the frames ``indices``, in any order, with repeats: ``(T, H, W, 3)``.

        Raises:
            IndexError: an index outside ``0 <= i < len(self)``.
            VideoError: a frame cannot be decoded; the message names the first such frame.
        """
        outside = [i for i in indices if not 0 <= i < len(self)]
        if outside:
            raise IndexError(f"{self.path} has frames 0 to {len(self) - 1}, not {outside[0]}")
        if not len(indices):
            channels, dtype = 3 + self.signal.alpha, torch.uint8 if self.signal.depth == 8 else torch.uint16
            return torch.empty((0, *self.size, channels), dtype=dtype)
        frames = self._read_frames(sorted(set(indices)))
        return torch.from_numpy(np.stack([frames[i] for i in indices]))

    @abstractmethod
    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """Yield frames ``start`` to ``stop`` (exclusive), ``(H, W, 3)``, one in memory at a time.

        Raises:
            VideoError: on reaching a frame that cannot be decoded, after all frames before it.
        """

    def tensors(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """Yield the same frames as network input: (3 or 4, H, W) float32, RGB or RGBA in [0, 1]."""
        return (to_tensor(frame, self.signal.depth) for frame in self.frames(start, stop))

    @abstractmethod
    def _read_frames(self, ascending: Sequence[int]) -> dict[int, np.ndarray]: ...

    def close(self) -> None:  # noqa: B027 - a folder holds nothing open
        """Close the decoders; a later read opens them again."""

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class FolderReader(FrameReader):
    """Images of a folder, or those that match a glob pattern, or a single one of film.

    Greyscale becomes RGB, and more than 8 bits become 8 unless ``deep``. Alpha is dropped unless requested; images
    without it are then opaque.
    """

    backend = "frames"

    def __init__(self, path: Path, fps: Fraction, deep: bool = False, alpha: bool = False) -> None:
        self.files = list_images(path)
        if not self.files:
            raise VideoError(f"{path} has no images")
        suffixes = sorted({file.suffix.lower().replace("jpeg", "jpg").replace("tiff", "tif") for file in self.files})
        if len(suffixes) > 1:  # two versions of each frame, or a poster beside them
            raise VideoError(f"{path} has {' and '.join(suffixes)} images; keep only those that are frames")
        self.path, self.fps = path, fps
        self.times = tuple(Fraction(i) / fps for i in range(len(self.files)))
        self.end = len(self.files) / fps
        first = decode_image(self.files[0])
        self.size = (first.pixels.shape[0], first.pixels.shape[1])
        self.notes = (first.note,) if first.note else ()
        self._first_has_alpha = first.has_alpha
        depth = first.depth if deep else 8
        self.signal = replace(SRGB, depth=depth, alpha=alpha and self.has_alpha, chroma=first.chroma)

    @cached_property
    def has_alpha(self) -> bool:  # type: ignore[override]
        return self._first_has_alpha or any(map(check_alpha, self.files[1:]))

    def _load(self, index: int) -> np.ndarray:
        pixels = load_image(self.files[index], self.signal.depth, self.signal.alpha)
        if pixels.shape[:2] != self.size:
            size, first_size = format_size(pixels.shape), format_size(self.size)
            raise VideoError(f"{self.files[index]} is {size}, but the first frame is {first_size}")
        return pixels

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        for index in range(len(self))[start:stop]:
            yield torch.from_numpy(self._load(index))

    def _read_frames(self, ascending: Sequence[int]) -> dict[int, np.ndarray]:
        return {index: self._load(index) for index in ascending}


class WebPReader(FrameReader):
    """An animated WebP, decoded by Pillow, since FFmpeg cannot. Alpha is dropped unless requested."""

    backend = "webp"

    def __init__(self, path: Path, alpha: bool = False) -> None:
        self.path, self._image, self._mode = path, None, "RGB"
        durations = []  # of each frame, in milliseconds
        with self._open() as image, wrap_decoder_errors(path):
            check_pixel_limit(path, (image.height, image.width))
            self.size, self.has_alpha = (image.height, image.width), image.mode == "RGBA"
            for number in range(image.n_frames):
                self._decode(image, number)
                durations.append(image.info["duration"] or DEFAULT_DURATION)
        *starts, end = (Fraction(time, 1000) for time in accumulate(durations, initial=0))
        self.times, self.end = tuple(starts), end
        self.fps = (len(starts) - 1) / starts[-1] if len(starts) > 1 else 1 / end
        self.signal = replace(SRGB, alpha=alpha and self.has_alpha)
        self._mode = "RGBA" if self.signal.alpha else "RGB"

    def _open(self) -> Any:
        with wrap_decoder_errors(self.path):
            return Image.open(self.path)

    def _decode(self, image: Any, number: int) -> np.ndarray:
        try:
            image.seek(number)  # backwards, it decodes from the first frame on
            return np.array(image.convert(self._mode))
        except Exception as error:  # Pillow raises exceptions of any type
            message = f"{self.path} breaks at frame {number} of {image.n_frames}: {describe_error(error)}"
            raise VideoError(message, readable=number) from error

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        with self._open() as image:
            for number in range(len(self))[start:stop]:
                yield torch.from_numpy(self._decode(image, number))

    def _read_frames(self, ascending: Sequence[int]) -> dict[int, np.ndarray]:
        self._image = self._image or self._open()
        return {index: self._decode(self._image, index) for index in ascending}

    def close(self) -> None:
        if self._image is not None:
            self._image.close()
        self._image = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_image": None}


class FileReader(FrameReader):
    """A video file, read with PyAV; random access uses decord for files that it reads exactly."""

    def __init__(
        self,
        path: Path,
        backend: Backend,
        timeout: float,
        fps: Fraction,
        deep: bool = False,
        deinterlace: bool = False,
        stream: int | None = None,
        alpha: bool = False,
    ) -> None:
        self.path, self._timeout = path, timeout
        watchdog = Watchdog(path, timeout)

        def index_file() -> VideoIndex:
            return (None if stream else packed.read_index(path)) or probe(path, watchdog.reset, stream)

        self._index = index = watchdog.run(index_file)
        self.stream, self.notes, self.layout = index.stream, index.notes, index.layout
        if backend == "decord" and index.decord_objection:
            raise VideoError(f"decord cannot read {path} exactly because it {index.decord_objection}; use pyav or auto")
        has_decord = importlib.util.find_spec("decord") is not None
        if backend == "decord" and not has_decord:
            raise VideoError(f"decord cannot read {path}: it is not installed; use pyav or auto")
        prefer_decord = backend == "auto" and has_decord and not (index.decord_objection or index.checksums)
        self.backend = "decord" if backend == "decord" or prefer_decord else "pyav"
        self._fall_back = backend != "decord"
        self.times, self.fps, self.end = index.compute_timing(fps)
        self.has_alpha = index.signal.alpha
        depth = index.signal.depth if deep else 8
        self.signal = replace(index.signal, depth=depth, alpha=alpha and self.has_alpha)
        self._deinterlace = deinterlace and index.interlaced
        self.size = index.size
        self.aspect = 1 / index.aspect if index.orientation[1] else index.aspect
        self.interlaced = index.interlaced
        self.drop_decoders()

    def drop_decoders(self) -> None:
        """Forget the decoders without closing them (after a fork: the parent owns them)."""
        self._decoder: FrameDecoder | None = None
        self._decord: DecordDecoder | None = None
        ForkGuard.register(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoder": None, "_decord": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.drop_decoders()

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self.drop_decoders()

    def _make_decoder(self) -> FrameDecoder:
        return FrameDecoder(self.path, self._index, self.signal, Watchdog(self.path, self._timeout))

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        decoder = self._make_decoder()
        numbers = range(len(self))[start:stop]
        try:
            if self._deinterlace:
                yield from self._deinterlaced_frames(decoder, numbers)
                return
            for number in numbers:
                yield torch.from_numpy(decoder.watchdog.run(partial(decoder.read, number)))
        finally:
            decoder.close()

    def _deinterlaced_frames(self, decoder: FrameDecoder, numbers: range) -> Iterator[torch.Tensor]:
        number = max(0, numbers.start - 1)  # a frame needs its neighbours
        stop, deinterlacer = min(numbers.stop + 1, len(self)), None
        for index in range(number, stop):
            frame = decoder.watchdog.run(partial(decoder.decode, index))
            with wrap_decoder_errors(self.path):
                deinterlacer = deinterlacer or Deinterlacer(frame, self._index.frames_flagged)
                fields = (frame, None) if index == stop - 1 else (frame,)
                ready = [progressive for field in fields for progressive in deinterlacer.push(field)]
            for progressive in ready:
                if number in numbers:
                    yield torch.from_numpy(decoder.watchdog.run(partial(decoder.convert, progressive, number)))
                number += 1

    def _read_frames(self, ascending: Sequence[int]) -> dict[int, np.ndarray]:
        if self._deinterlace:
            return {index: next(self.frames(index, index + 1)).numpy() for index in ascending}
        if self.backend == "decord" and not ForkGuard.decord_barred:
            try:
                return Watchdog(self.path, self._timeout).run(lambda: self._read_with_decord(ascending))
            except VideoError as error:
                self._decord, cause = None, describe_error(error.__cause__ or error)
                if not self._fall_back:
                    raise VideoError(f"decord cannot read {self.path}: {cause}") from error
                log.warning("decord cannot read %s, continuing with PyAV: %s", self.path, cause)
                self.backend = "pyav"
        if self._decoder is None or self._decoder.watchdog.expired:
            self._decoder = self._make_decoder()
        decoder = self._decoder
        return decoder.watchdog.run(lambda: {index: decoder.read(index) for index in ascending})

    def _read_with_decord(self, ascending: Sequence[int]) -> dict[int, np.ndarray]:
        if self._decord is None:
            self._decord = DecordDecoder(self.path, self._index)
        return self._decord.read(ascending)
