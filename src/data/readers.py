"""Readers of a data set's frames, original and precomputed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from src.data.degradation import Degradation, unify_depth
from src.data.splits import Clip, abbreviate, open_clip
from src.errors import UserError, VideoError
from src.geometry import Geometry
from src.video.decode_timeout import DecodeTimeoutError
from src.video.reader import FrameReader


class Readers:
    """A cache of video readers. Each video is probed once; the last few keep their decoder with hundreds of frames.

    Open readers stay in their process: a pickled copy is empty.
    """

    def __init__(self, limit: int = 3) -> None:
        self.limit = limit
        self._readers: dict[Path, FrameReader] = {}
        self._stuck: dict[Path, str] = {}  # a decoder that hung once is not tried again in this process
        self._recent: list[Path] = []  # may have open decoders; the most recent is last

    def __call__(self, path: Path) -> FrameReader:
        if path in self._stuck:
            raise VideoError(self._stuck[path])
        if path not in self._readers:
            with self._remember_stuck(path):
                self._readers[path] = open_clip(path)
        if path in self._recent:
            self._recent.remove(path)
        self._recent.append(path)
        while len(self._recent) > self.limit:
            self._readers[self._recent.pop(0)].close()
        return self._readers[path]

    def read(self, path: Path, frames: Sequence[int]) -> Tensor:
        """Read frames by number: (T, H, W, C), as :func:`src.data.degradation.unify_depth` returns them.

        Raises:
            VideoError: a frame cannot be decoded, or the clip is too short.
        """
        reader = self(path)
        if max(frames) >= len(reader):
            raise VideoError(f"{path} is incomplete: it has {len(reader)} frames, and frame {max(frames)} is needed")
        with self._remember_stuck(path):
            return unify_depth(reader.read(frames), reader.signal.depth)

    @contextmanager
    def _remember_stuck(self, path: Path) -> Iterator[None]:
        try:
            yield
        except DecodeTimeoutError as error:
            self._stuck[path] = str(error)
            raise

    def close(self) -> None:
        for path in self._recent:
            self._readers[path].close()
        self._recent.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "_readers": {}, "_stuck": {}, "_recent": []}


def without_precomputed(clip: Clip, geometry: Geometry) -> Clip:
    """Remove precomputed frames if the network restores exposures: theirs do not last until the next frame.

    Given inputs remain, since nothing can replace them.
    """
    return replace(clip, precomputed={}) if geometry.exposures and not clip.is_paired else clip


def find_precomputed(
    clip: Clip, size: tuple[int, int], degradation: Degradation, readers: Readers
) -> tuple[Path, Degradation] | None:
    """Return a clip's folder of precomputed degraded frames, and the degradation still to apply to them.

    ``size`` is that of the clip's file. Of several folders, return the one with the fewest steps left; ``None`` if none
    has the corruptions of the degradation, or if the source frames are smaller than the file's, of which the folders
    were made.

    Raises:
        UserError: frames are not as large as the degradation makes them.
    """
    if clip.precomputed and clip.source_size.reduced(*size, clip.path) != size:
        return None
    matches = []
    for corruptions, path in clip.precomputed.items():
        if path.exists():
            height, width = readers(path).size
            factor = max(1, round(size[0] / height))
            rest = degradation.remaining_after(corruptions, factor)
            if rest is None:
                continue
            if (height, width) != (size[0] // factor, size[1] // factor):
                raise UserError(
                    f"{path} has frames of {width}x{height}, but those of {clip.path} are {size[1]}x{size[0]}: replace "
                    f"them by frames of {size[1] // factor}x{size[0] // factor}, or remove them"
                )
            matches.append((len(rest.steps), path, rest))
    return min(matches, key=lambda match: match[0])[1:] if matches else None


def locate_inputs(clips: Sequence[Clip], geometry: Geometry, degradation: Degradation) -> Path | None:
    """Return the folder that the inputs of clips are read from, or ``None`` if they are made from the source frames.

    Raises:
        UserError: some clips lack the precomputed frames that others have.
    """
    clips = [without_precomputed(clip, geometry) for clip in clips]
    having = next((clip for clip in clips if any(path.exists() for path in clip.precomputed.values())), None)
    if having is None:
        return None
    readers = Readers()
    found = find_precomputed(having, readers(having.path).size, degradation, readers)
    readers.close()
    if found is None:
        return None
    key = next(corruptions for corruptions, path in having.precomputed.items() if path == found[0])
    folders = {clip.name: clip.precomputed.get(key) for clip in clips}
    if lacking := [name for name, folder in folders.items() if folder is None or not folder.exists()]:
        raise UserError(
            f"{len(lacking)} of {len(clips)} clips have no {' '.join(key)} frames, unlike {found[0]}: "
            f"{abbreviate(lacking)}; add theirs, or remove all of them to have inputs made from the source frames"
        )
    return Path(os.path.commonpath([folder.parent for folder in folders.values() if folder]))
