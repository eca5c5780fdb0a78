"""A time limit on decoders, some of which hang on damaged files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import av

from src.errors import VideoError
from src.video.probe import in_words

T = TypeVar("T")


class Stuck(VideoError):  # noqa: N818 - what the decoder is
    """A decoder that was given up; its thread, and what memory that has, are lost to the process."""


class Watch:
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
                raise Stuck(f"{self.path} was given up: its decoder has given nothing for {self.timeout:g} s")
        if failure and isinstance(failure[0], av.FFmpegError):
            raise VideoError(f"{self.path} cannot be read as video: {in_words(failure[0])}") from failure[0]
        if failure:
            raise failure[0]
        return outcome[0]
