"""Detection of damaged files before training.

Each file is read in an expendable process (:mod:`src.data.worker_pool`), by the readers of training.
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
from src.video.discovery import is_animated_webp
from src.video.probe import VideoIndex, probe
from src.video.reader import open_video

TIME_LIMIT = 60  # seconds without output before a decoder is abandoned
LARGE = 1 << 25  # pixels of a frame, about those of 8K
TRANSFERS = {16: "PQ", 18: "HLG"}  # of HDR, by ITU-T H.273


@dataclass(frozen=True)
class Finding:
    """The result for one clip.

    Args:
        path: the file or folder.
        fault: error message about the damage; empty for an intact clip.
        frames: number of frames; 0 if unknown.
        readable: number of readable frames; of a video, those before the first damage.
        skipped: ``True`` if ``data.skip_damaged`` trains without the clip. Otherwise the fault is invisible to readers,
            and training gets wrong or missing frames; or it kills the reading process.
        notes: remarks on harmless properties.
    """

    path: Path
    fault: str = ""
    frames: int = 0
    readable: int = 0
    skipped: bool = True
    notes: tuple[str, ...] = ()


def check_clips(
    paths: Sequence[Path], *, read: bool, processes: int, time_limit: float = TIME_LIMIT
) -> Iterator[Finding]:
    """Yield a finding for each clip, as they finish; a damaged clip does not stop the others.

    Args:
        paths: video files and folders of frames.
        read: decode every frame; otherwise only open the clips.
        processes: clips at a time.
        time_limit: seconds without output before a decoder is abandoned.
    """
    work = partial(check_clip, read=read, time_limit=time_limit)
    return map_isolated(work, paths, processes, on_loss=_report_loss, time_limit=2 * time_limit)


def _report_loss(path: Path, reason: str) -> Finding:
    return Finding(path, f"{path} cannot be read: the process that read it {reason}", skipped=False)


def check_clip(path: Path, read: bool, time_limit: float = TIME_LIMIT) -> Finding:
    """Return the finding for one clip, in this process."""
    try:
        if not path.exists():
            raise VideoError(f"{path} does not exist")
        has_images = path.is_dir() or is_animated_webp(path)
        return _check_images(path, read) if has_images else _check_file(path, read, time_limit)
    except UserError as error:
        return Finding(path, str(error))
    except Exception as error:  # decoders raise any type
        return Finding(path, f"{path} cannot be read: {describe_error(error)}")


# --- Folders of frames, and files whose frames are images ---


def _check_images(path: Path, read: bool) -> Finding:
    with open_video(path, deep=True) as reader:
        notes = (*reader.notes, *_note_size(reader.size))
        if reader.signal.depth > 8:
            notes += (f"{reader.signal.depth} bits per channel",)
        damaged = {}
        for number in range(len(reader) if read else 0):
            try:
                reader.read([number])
            except VideoError as error:
                damaged[number] = str(error)
        frames = len(reader)
    more = f", and {len(damaged) - 1} more of its frames are damaged" if len(damaged) > 1 else ""
    return Finding(path, next(iter(damaged.values()), "") + more, frames, frames - len(damaged), notes=notes)


# --- Video files ---


def _check_file(path: Path, read: bool, time_limit: float) -> Finding:
    watchdog = Watchdog(path, time_limit)
    index = watchdog.run(lambda: packed.read_index(path) or probe(path, watchdog.reset))
    if index.checksums:  # checksums of all frames
        with open_video(path, timeout=time_limit) as reader:
            for _frame in reader.frames(0, None if read else 1):
                pass
        return Finding(path, frames=index.count, readable=index.count)
    fault, readable, visible = "", index.count, False
    if read:
        fault, readable, visible = watchdog.run(lambda: _decode_all(path, index, watchdog.reset))
        if not visible:
            with open_video(path, timeout=time_limit) as reader:  # random access may use another decoder
                reader.read(sorted({0, index.count // 2, index.count - 1}))
    container, stream = watchdog.run(lambda: open_stream(path, index.stream))
    with container:
        cut, notes = _detect_cut(container, stream, index, path.stat().st_size), _note_properties(index)
    if cut:
        fault = f"{fault}; it {cut}" if fault else f"{path} {cut}"
    return Finding(path, fault, index.count, readable, visible, notes)


def _decode_all(path: Path, index: VideoIndex, reset: Callable[[], None]) -> tuple[str, int, bool]:
    """Return an error message, the number of frames before the damage, and ``True`` if readers notice it."""
    numbers = {mark: number for number, mark in enumerate(index.timestamps)}
    reached, concealed = 0, list[int]()
    container, stream = open_stream(path, index.stream)
    with container:
        try:
            for frame in decode(container, stream):
                reset()
                check_frame_size(path, reached, frame, index.coded_size)
                number = numbers.get(cast(int, frame.pts), -1) if numbers else reached
                if number > reached:
                    break
                if number == reached:
                    reached += 1
                    if frame.is_corrupt:
                        concealed.append(number)
            reason = f"frame {reached} is missing"
        except av.FFmpegError as error:
            reason = describe_error(error)
        except VideoError as error:
            return str(error), reached, True
    if reached < index.count:
        return f"{path} breaks at frame {reached} of {index.count}: {reason}", reached, True
    if concealed:
        frames = f"{len(concealed)} frames" if len(concealed) > 1 else "a frame"
        fault = f"{path} has {frames} with errors that the decoder conceals, from frame {concealed[0]} on"
        return fault, concealed[0], False
    return "", reached, False


def _detect_cut(container: Any, stream: Any, index: VideoIndex, size: int) -> str:
    """Compare the length in the container's header with its content. Return the end of a message, or nothing."""
    kind = container.format.name
    if kind.startswith("mov,"):
        table = list(stream.index_entries)
        beyond = sum(entry.pos + entry.size > size for entry in table)
        return f"is cut off: {beyond} of its {len(table)} frames lie beyond the end of the file" if beyond else ""
    if kind.startswith("matroska,"):
        spacing = max((b - a for a, b in pairwise(index.timestamps)), default=0)
        if spacing and index.last_duration > 2 * spacing:
            expected, actual = (
                float((index.timestamps[-1] + ticks) * index.time_base) for ticks in (index.last_duration, spacing)
            )
            return f"is cut off: its header lists {expected:.2f} s, but its frames end at {actual:.2f} s"
        return ""
    if stream.frames > index.count:
        return f"is cut off, or its header is wrong: it lists {stream.frames} frames, but has {index.count}"
    return ""


def _note_properties(index: VideoIndex) -> tuple[str, ...]:
    a, b, c, d = index.orientation
    rotated, mirrored = index.orientation != UPRIGHT, a * d - b * c < 0
    gaps = [after - before for before, after in pairwise(index.timestamps)]
    uneven = bool(gaps) and max(gaps) - min(gaps) > 2 and max(gaps) > 1.25 * min(gaps)
    shortest, longest = (1000 * float(gap * index.time_base) for gap in (min(gaps, default=0), max(gaps, default=0)))
    properties = {
        f"{'mirrored' if mirrored else 'rotated'}, read upright": rotated,
        f"variable frame rate, {shortest:.0f} to {longest:.0f} ms per frame, read as constant": uneven,
        f"HDR ({TRANSFERS.get(index.signal.transfer)}), read without tone mapping": index.signal.transfer in TRANSFERS,
        f"{index.signal.depth} bits per channel, read as 8": index.signal.depth > 8,
        "interlaced, read without deinterlacing": index.interlaced,
        f"anamorphic pixels of {_format_ratio(index.aspect)}, read as stored": index.aspect != 1,
    }
    notes = (note for note, applies in properties.items() if applies)
    return (*notes, *index.notes, *_note_size(index.coded_size))


def _format_ratio(aspect: Fraction) -> str:
    return f"{aspect.numerator}:{aspect.denominator}"


def _note_size(size: tuple[int, int]) -> tuple[str, ...]:
    pixels = size[0] * size[1]
    return (f"frames of {format_size(size)}, {3 * pixels / 2**20:.0f} MiB each",) if pixels >= LARGE else ()
