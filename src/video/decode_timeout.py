"""A time limit for decoders: some of them hang on damaged files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from src.errors import VideoError
from src.video.decoding import wrap_decoder_errors

T = TypeVar("T")


class DecodeTimeoutError(VideoError):
    """A decoder made no progress in time. Its thread keeps running, and the process cannot reclaim its memory."""


class Watchdog:
    """Runs decoding work in a thread and abandons it after ``timeout`` seconds without progress.

    Attributes:
        expired: the thread was abandoned and may still be inside the decoder, so nothing may touch that decoder again.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.timeout, self.expired = path, timeout, False
        self.reset()

    def reset(self) -> None:
        """Restart the countdown; called for each packet and frame."""
        self._last_progress = time.monotonic()

    def run(self, work: Callable[[], T]) -> T:
        """Return the result of ``work``, or raise its error.

        Raises:
            DecodeTimeoutError: no :meth:`reset` for ``timeout`` seconds.
            VideoError: the decoder failed, whatever it raised.
        """
        results: list[T] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def target() -> None:
            try:
                with wrap_decoder_errors(self.path):
                    results.append(work())
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()

        self.reset()
        threading.Thread(target=target, daemon=True, name=f"decoding {self.path.name}").start()
        while not done.wait(max(0.0, self._last_progress + self.timeout - time.monotonic())):
            if time.monotonic() - self._last_progress >= self.timeout:
                self.expired = True
                raise DecodeTimeoutError(f"{self.path} timed out: its decoder made no progress for {self.timeout:g} s")
        if errors:
            raise errors[0]
        return results[0]
