"""Readers of a data set's frames, as recorded and as precomputed degraded copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from src.data.degradation import Degradation
from src.data.splits import Clip, open_clip
from src.errors import VideoError
from src.geometry import Geometry
from src.video.decode_timeout import DecodeTimeoutError
from src.video.reader import FrameReader


class Readers:
    """Readers of videos, each probed once; only the last few keep their decoder, which may hold hundreds of frames.

    What is open stays in its process: a copy sent to a worker starts empty.
    """

    def __init__(self, limit: int = 3) -> None:
        self.limit = limit
        self._known: dict[Path, FrameReader] = {}
        self._stuck: dict[Path, str] = {}  # what has cost the time limit once is not tried again by this process
        self._recent: list[Path] = []  # whose decoders may be open, the last used last

    def __call__(self, path: Path) -> FrameReader:
        if path in self._stuck:
            raise VideoError(self._stuck[path])
        if path not in self._known:
            with self._limited(path):
                self._known[path] = open_clip(path)
        if path in self._recent:
            self._recent.remove(path)
        self._recent.append(path)
        while len(self._recent) > self.limit:
            self._known[self._recent.pop(0)].close()
        return self._known[path]

    def read(self, path: Path, frames: Sequence[int]) -> Tensor:
        """The given frames, uint8 (T, H, W, C).

        Raises:
            VideoError: one of them cannot be decoded, or the clip has fewer.
        """
        reader = self(path)
        if max(frames) >= len(reader):
            raise VideoError(f"{path} has {len(reader)} frames, and frame {max(frames)} is needed: it is not whole")
        with self._limited(path):
            return reader.read(frames)

    @contextmanager
    def _limited(self, path: Path) -> Iterator[None]:
        try:
            yield
        except DecodeTimeoutError as error:
            self._stuck[path] = str(error)
            raise

    def close(self) -> None:
        for path in self._recent:
            self._known[path].close()
        self._recent.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "_known": {}, "_stuck": {}, "_recent": []}


def without_precomputed(clip: Clip, geometry: Geometry) -> Clip:
    """The clip without degraded frames that it brings, where they would have to be exposed until the next begins."""
    return replace(clip, precomputed={}) if geometry.exposures else clip


def precomputed(
    clip: Clip, size: tuple[int, int], degradation: Degradation, readers: Readers
) -> tuple[Path, Degradation] | None:
    """A folder of frames of a clip that are degraded already, and what is to be done yet to them.

    Of those that the data set brings the one with which least is left to do; ``None`` where none fits.
    """
    found = []
    for done, path in clip.precomputed.items():
        if path.exists():
            height, width = readers(path).size
            factor = max(1, size[0] // height)
            rest = degradation.after(done, factor)
            if rest is not None and (height, width) == (size[0] // factor, size[1] // factor):
                found.append((len(rest.steps), path, rest))
    return min(found, key=lambda entry: entry[0])[1:] if found else None
