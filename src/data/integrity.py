"""What is the matter with the files of a data set, found before a training stumbles over it.

Each is read in a process that may die of it (:mod:`src.data.worker_pool`), through the readers that training uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av

from src.data.worker_pool import map_isolated
from src.errors import UserError, VideoError
from src.video import packed
from src.video.decode_timeout import Watchdog
from src.video.decoding import UPRIGHT, check_frame_size, decode, describe_error, format_size, open_stream
from src.video.discovery import list_images
from src.video.images import is_deep
from src.video.probe import VideoIndex, probe
from src.video.reader import open_video

PATIENCE = 60  # seconds after which a decoder that gives nothing is given up
LARGE = 1 << 25  # pixels of a frame, about those of 8K
TRANSFERS = {16: "PQ", 18: "HLG"}  # of HDR, by ITU-T H.273


@dataclass(frozen=True)
class Finding:
    """What was found out about a clip.

    Args:
        path: the file or folder.
        fault: a sentence on what is damaged; empty where nothing is.
        frames: that it shows; 0 where nobody knows.
        readable: that can be read; of a video from the first on.
        skipped: ``data.skip_damaged`` trains without it. Else readers pass over the fault, so that a training is given
            pictures that are wrong, or fewer; or it ends the process that reads.
        notes: what is as it may be, and worth to be known.
    """

    path: Path
    fault: str = ""
    frames: int = 0
    readable: int = 0
    skipped: bool = True
    notes: tuple[str, ...] = ()


def check_clips(paths: Sequence[Path], *, read: bool, processes: int, patience: float = PATIENCE) -> Iterator[Finding]:
    """What is found out about each clip, as it comes; a bad one does not stop the others.

    Args:
        paths: video files and folders of frames.
        read: decode every frame; else clips are only opened.
        processes: so many clips at a time.
        patience: seconds after which a decoder that gives nothing is given up.
    """
    work = partial(examine, read=read, patience=patience)
    return map_isolated(work, paths, processes, lost=_lost, patience=2 * patience)


def _lost(path: Path, how: str) -> Finding:
    return Finding(path, f"{path} cannot be read by any process: the one that did {how}", skipped=False)


def examine(path: Path, read: bool, patience: float = PATIENCE) -> Finding:
    """What is found out about one clip, in this process."""
    try:
        if not path.exists():
            raise VideoError(f"{path} does not exist")
        return _folder(path, read) if path.is_dir() else _file(path, read, patience)
    except UserError as problem:
        return Finding(path, str(problem))
    except Exception as error:  # decoders raise whatever they like
        return Finding(path, f"{path} cannot be read: {describe_error(error)}")


# --- Folders of frames ---


def _folder(path: Path, read: bool) -> Finding:
    with open_video(path) as reader:
        notes = _large(reader.size) + (
            ("more than 8 bits a channel, read as 8",) if is_deep(list_images(path)[0]) else ()
        )
        bad = {}
        for number in range(len(reader) if read else 0):
            try:
                reader.read([number])
            except VideoError as error:
                bad[number] = str(error)
        frames = len(reader)
    more = f", and {len(bad) - 1} more of its frames are damaged" if len(bad) > 1 else ""
    return Finding(path, next(iter(bad.values()), "") + more, frames, frames - len(bad), notes=notes)


# --- Video files ---


def _file(path: Path, read: bool, patience: float) -> Finding:
    watchdog = Watchdog(path, patience)
    index = watchdog.run(lambda: packed.read_index(path) or probe(path, watchdog.reset))
    if index.checksums:  # it tells all of itself by its checksums
        with open_video(path, timeout=patience) as reader:
            for _frame in reader.frames(0, None if read else 1):
                pass
        return Finding(path, frames=index.count, readable=index.count)
    fault, readable, noticed = "", index.count, False
    if read:
        fault, readable, noticed = watchdog.run(lambda: _decoded(path, index, watchdog.reset))
        if not noticed:
            with open_video(path, timeout=patience) as reader:  # at random another decoder may read it
                reader.read(sorted({0, index.count // 2, index.count - 1}))
    container, stream = watchdog.run(lambda: open_stream(path, index.stream))
    with container:
        lacks, notes = _promises(container, stream, index, path.stat().st_size), _notes(index)
    if lacks:
        fault = f"{fault}; it {lacks}" if fault else f"{path} {lacks}"
    return Finding(path, fault, index.count, readable, noticed, notes)


def _decoded(path: Path, index: VideoIndex, beat: Callable[[], None]) -> tuple[str, int, bool]:
    """A sentence on what is damaged, the frames before it, and whether readers notice it."""
    numbers = {mark: number for number, mark in enumerate(index.timestamps)}
    reached, patched = 0, list[int]()
    container, stream = open_stream(path, index.stream)
    with container:
        try:
            for frame in decode(container, stream):
                beat()
                check_frame_size(path, reached, frame, index.coded_size)
                number = numbers.get(cast(int, frame.pts), -1) if numbers else reached
                if number > reached:
                    break
                if number == reached:
                    reached += 1
                    if frame.is_corrupt:
                        patched.append(number)
            why = f"frame {reached} is missing"
        except av.FFmpegError as error:
            why = describe_error(error)
        except VideoError as error:
            return str(error), reached, True
    if reached < index.count:
        return f"{path} breaks at frame {reached} of {index.count}: {why}", reached, True
    if patched:
        where = f"{len(patched)} frames" if len(patched) > 1 else "a frame"
        fault = f"{path} has {where} that the decoder had to make up in part, from frame {patched[0]} on"
        return fault, patched[0], False
    return "", reached, False


def _promises(container: Any, stream: Any, index: VideoIndex, size: int) -> str:
    """What a container says that it holds, and does not."""
    kind = container.format.name
    if kind.startswith("mov,"):
        table = list(stream.index_entries)
        behind = sum(entry.pos + entry.size > size for entry in table)
        return f"is cut off: {behind} of the {len(table)} frames that it lists lie behind its end" if behind else ""
    if kind.startswith("matroska,"):
        spacing = max((b - a for a, b in pairwise(index.timestamps)), default=0)
        if spacing and index.last_duration > 2 * spacing:
            said, there = (
                float((index.timestamps[-1] + ticks) * index.time_base) for ticks in (index.last_duration, spacing)
            )
            return f"is cut off: it says that it lasts {said:.2f} s, and its frames end at {there:.2f} s"
        return ""
    if stream.frames > index.count:
        return f"says that it has {stream.frames} frames, and has {index.count}: it is cut off, or says too many"
    return ""


def _notes(index: VideoIndex) -> tuple[str, ...]:
    a, b, c, d = index.orientation
    turned, mirrored = index.orientation != UPRIGHT, a * d - b * c < 0
    gaps = [after - before for before, after in pairwise(index.timestamps)]
    uneven = bool(gaps) and max(gaps) - min(gaps) > 2 and max(gaps) > 1.25 * min(gaps)
    shortest, longest = (1000 * float(gap * index.time_base) for gap in (min(gaps, default=0), max(gaps, default=0)))
    found = {
        f"{'mirrored' if mirrored else 'turned'}, read upright": turned,
        f"variable frame rate, {shortest:.0f} to {longest:.0f} ms a frame, read as if it were even": uneven,
        f"HDR ({TRANSFERS.get(index.signal.transfer)}), read without tone mapping": index.signal.transfer in TRANSFERS,
        f"{index.signal.depth} bits a channel, read as 8": index.signal.depth > 8,
        "interlaced, read as frames of two fields": index.interlaced,
        f"pixels of {_ratio(index.aspect)} (anamorphic), read as they are stored": index.aspect != 1,
    }
    return (*(words for words, holds in found.items() if holds), *_large(index.coded_size))


def _ratio(aspect: Fraction) -> str:
    return f"{aspect.numerator}:{aspect.denominator}"


def _large(size: tuple[int, int]) -> tuple[str, ...]:
    pixels = size[0] * size[1]
    return (f"frames of {format_size(size)}, {3 * pixels / 2**20:.0f} MiB each",) if pixels >= LARGE else ()
