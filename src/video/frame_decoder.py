"""Random access to the frames of a video file: by PyAV, exact for every file, and by decord, faster on some."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from src.errors import VideoError
from src.video import packed
from src.video.colorspace import Signal, to_rgb, to_rgba
from src.video.decode_timeout import Watchdog
from src.video.decoding import (
    MissingFrameError,
    check_frame_size,
    crop_and_orient,
    decode,
    describe_error,
    open_stream,
)
from src.video.fork_safety import ForkGuard
from src.video.probe import VideoIndex

SEEK_COST = 12  # frames: decoding this many is cheaper than a seek, which restarts from a key frame


class FrameDecoder:
    """Decodes frames by number with PyAV: onwards if the frame is near, otherwise from a key frame.

    Args:
        path: the file.
        index: its index.
        signal: depth and alpha of the frames returned.
        watchdog: reset for each frame.
    """

    def __init__(self, path: Path, index: VideoIndex, signal: Signal, watchdog: Watchdog) -> None:
        self.path, self.index, self.signal, self.watchdog = path, index, signal, watchdog
        self._numbers = {pts: number for number, pts in enumerate(index.timestamps)}
        self._reformatter = VideoReformatter()
        self.drop_decoders()
        ForkGuard.register(self)

    def drop_decoders(self) -> None:
        """Forget the open file without closing it (after a fork: the parent owns it); a later call opens it again."""
        self._container: Any = None
        self._frames: Iterator[av.VideoFrame] = iter(())

    def read(self, number: int) -> np.ndarray:
        """Return frame ``number`` as RGB or RGBA, ``(H, W, 3 or 4)``, upright."""
        return self.convert(self.decode(number), number)

    def decode(self, number: int) -> av.VideoFrame:
        """Return frame ``number`` as decoded.

        Raises:
            VideoError: the frame cannot be decoded.
        """
        if self._container is None:
            self._rewind()
        timestamps, keyframes = self.index.timestamps, self.index.keyframes
        key = bisect_right(keyframes, timestamps[number]) - 1 if timestamps else 0  # the last one up to the frame
        cost = 0 if self.index.checksums else SEEK_COST  # in a packed video, seeking is free
        is_near = key <= 0 or bisect_left(timestamps, keyframes[key]) <= self._next + cost
        can_continue = self._next <= number and is_near
        keys = [key, key - 1, 0]  # if a seek fails, try an earlier key frame, finally the start of the file
        while True:
            try:
                if can_continue:
                    return self._decode_until(number)
                key = keys.pop(0)
                self._seek(self.index.seek_targets[key], timestamps[number]) if key > 0 else self._rewind()
                return self._decode_until(number)
            except (MissingFrameError, av.FFmpegError) as error:
                if self._sequential:  # no other way is left
                    self.close()
                    position = f"frame {self._next} of {self.index.count}"
                    message = f"{self.path} breaks at {position}: {describe_error(error)}"
                    raise VideoError(message, readable=self._next) from error
                can_continue = False

    def _rewind(self) -> None:
        self.close()
        is_packed = bool(self.index.checksums)
        self._container, stream = open_stream(self.path, self.index.stream, skip_analysis=is_packed)
        self._frames = decode(self._container, stream)
        self._next = 0  # the next frame, if none is missing
        self._sequential = True  # decoded from the first frame, without a seek

    def _seek(self, seek_target: int, timestamp: int) -> None:
        stream = self._container.streams[self.index.stream]
        self._next, self._sequential = 0, False
        self._container.seek(seek_target, stream=stream)
        self._frames = decode(self._container, stream, timestamp)

    def _decode_until(self, number: int) -> av.VideoFrame:
        for frame in self._frames:
            self.watchdog.reset()
            current = self._numbers.get(cast(int, frame.pts), -1) if self._numbers else self._next
            if current > number:
                raise MissingFrameError(f"frame {number} is missing")
            self._next = max(self._next, current + 1)
            if current == number:
                return frame
        raise MissingFrameError("the stream ends there")

    def convert(self, frame: av.VideoFrame, number: int) -> np.ndarray:
        """Convert decoded frame ``number`` to RGB or RGBA, cropped and upright, ``(H, W, 3 or 4)``.

        Raises:
            VideoError: its size differs from the others, or its checksum is wrong.
        """
        check_frame_size(self.path, number, frame, self.index.coded_size)
        convert = to_rgba if self.signal.alpha else to_rgb
        samples = convert(frame, self.signal.depth, self._reformatter)
        pixels = crop_and_orient(samples, self.index.cropping, self.index.orientation)
        if self.index.checksums:
            packed.verify_frame(self.path, self.index.checksums, number, pixels)
        return pixels

    def close(self) -> None:
        """Close the file, unless an abandoned thread may still be decoding it."""
        if self._container is not None and not self.watchdog.expired:
            self._container.close()
        self.drop_decoders()


class DecordDecoder:
    """Decodes frames by number with decord: 8 bits, and only files without a ``decord_objection``.

    Raises:
        VideoError: decord counts other frames than the index.
    """

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self._path, self._checksums = path, index.checksums
        ForkGuard.decord_used = True
        import decord  # after torch, and only if used: it brings an FFmpeg and threads of its own

        decord.logging.set_level(decord.logging.QUIET)
        # One thread in a DataLoader worker, which has siblings. Some streams fail with more than two.
        threads = 1 if torch.utils.data.get_worker_info() else 2
        self._reader = decord.VideoReader(os.path.abspath(path), num_threads=threads)
        if len(self._reader) != index.count:
            raise VideoError(f"decord counts {len(self._reader)} frames, the index {index.count}")

    def read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """Return frames as RGB, ``(H, W, 3)``, by number."""
        frames = dict(zip(numbers, self._reader.get_batch(list(numbers)).asnumpy(), strict=True))
        if self._checksums:
            for number, pixels in frames.items():
                packed.verify_frame(self._path, self._checksums, number, pixels)
        return frames
