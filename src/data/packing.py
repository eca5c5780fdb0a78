"""Packing of frame folders into one lossless video per clip: fewer files, the same pixels, or reduced or averaged ones.

The tree is unchanged: the video ``train_sharp/000.mp4`` replaces the folder ``train_sharp/000``, and layouts find
either. A clip gets its final name after every frame has been read back and compared with its image; the data set gets
its final name when all clips are complete. Until then it is a hidden folder beside the target, and the same call
continues with the missing clips.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from src.atomic import atomic_write, file_lock, fsync
from src.data.integrity import check_clips
from src.data.open_shutter import open_shutter
from src.data.source_size import SourceSize
from src.data.splits import abbreviate
from src.data.worker_pool import exit_with_parent, worker_context
from src.errors import UserError, VideoError
from src.video import packed
from src.video.containers import make_write_error
from src.video.discovery import PACKED_SUFFIX, find_videos
from src.video.packed import RECORD
from src.video.reader import FrameReader, open_video
from src.video.writer import VideoWriter

GOP = 2  # distance of key frames; larger means smaller files and slower reads (experiments/speed/data.md)
SHORT = 8  # frames of the longest clip with a single key frame, since it is read whole

Work = Callable[[Path, Any], str]
Track = Callable[[Iterable[str], int], Iterable[str]]


class PackedSize(NamedTuple):
    """Size of a packed data set: clips, newly packed clips, and bytes of all clips."""

    clips: int
    new: int
    bytes: int


def pack(
    root: Path | str,
    target: Path | str,
    *,
    gop: int = GOP,
    processes: int = 1,
    size: SourceSize | None = None,
    interpolated: int = 0,
    track: Track = lambda done, total: done,
) -> PackedSize:
    """Pack every frame folder under ``root`` into a video of the same name under ``target``.

    With a ``size`` that reduces frames, or with interpolated ones, videos are packed, too. Otherwise videos, and always
    lists (``*.txt`` in ``root`` and its subfolders), are copied. Frames are packed as training reads them: RGB of 8
    bits. A clip that cannot be packed does not stop the others. Existing clips are kept, so the same call repairs a
    packed data set with missing clips.

    Args:
        root: the data set.
        target: a new folder, or a packed data set.
        gop: largest distance of key frames; clips of 8 frames and fewer have one.
        processes: clips at a time.
        size: size to which frames are reduced, so that training and evaluation need not reduce them.
        interpolated: frames interpolated after every frame and averaged with it; see
            :func:`src.data.open_shutter.open_shutter`.
        track: passes on the results as they finish, given their number; a progress bar.

    Raises:
        UserError: there is nothing to pack, ``target`` is something else, or clips could not be packed; the message
            lists them.
    """
    root, target = Path(os.path.expanduser(root)), Path(os.path.expanduser(target)).absolute()
    if gop < 1:
        raise UserError(f"gop must be 1 or more frames from one key frame to the next, got {gop}")
    inner, outer = root.resolve(), target.resolve()
    if outer == inner or inner in outer.parents or outer in inner.parents:
        raise UserError(f"{target} and {root} overlap: set pack=<folder> to a folder elsewhere")
    is_packed = (target / RECORD).is_file()
    if target.exists() and not is_packed and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is no packed data set: set pack=<folder> to a new folder")
    size = size or SourceSize()
    changed = bool(size) or interpolated > 0
    jobs = _list_jobs(root, all_clips=changed)
    clips = [destination for source, destination in jobs if _is_packed(source, changed)]
    if not clips:
        raise UserError(f"{root} holds no frame folders to pack; videos need no packing")
    staging = target if is_packed else target.with_name(f".{target.name}.packing")
    with _lock(staging, target):
        missing = [
            (source, staging / destination) for source, destination in jobs if not (staging / destination).exists()
        ]
        for folder in sorted({destination.parent for _, destination in missing}):
            folder.mkdir(parents=True, exist_ok=True)
        work = partial(_pack_or_copy, gop=gop, size=size, interpolated=interpolated)
        results = [*track(_map(work, missing, processes), len(missing))]
        if errors := [error for error in results if error]:
            raise UserError(
                f"{len(errors)} of {len(jobs)} files of {root} could not be packed: {abbreviate(errors)}. The others "
                f"are kept in {staging}: repair or remove these files and repeat the command"
            )
        copied = [destination.as_posix() for _, destination in jobs if destination not in clips]
        record = {"source": str(root.resolve()), "clips": len(clips), "copied": copied, "gop": gop, **size.describe()}
        if interpolated:
            record["interpolated"] = interpolated
        with atomic_write(staging / RECORD) as stream:
            stream.write(json.dumps(record, indent=1) + "\n")
    if staging != target:
        if target.is_dir():
            target.rmdir()  # it is empty
        os.replace(staging, target)
        fsync(target.parent)
    new = sum(destination.relative_to(staging) in clips for _, destination in missing)
    return PackedSize(len(clips), new, sum((target / destination).stat().st_size for destination in clips))


def find_damaged(root: Path | str, *, processes: int = 1, track: Track = lambda done, total: done) -> list[str]:
    """Read every frame of every clip under ``root``. Return an error message for each damaged or missing clip.

    Packed videos are verified by the checksums of their frames, a packed data set by its number of clips. Other files
    only have to be decodable.
    """
    root = Path(os.path.expanduser(root))
    clips, absent, sealed = find_videos(root), [], set()
    if (root / RECORD).is_file():
        try:
            record = json.loads((root / RECORD).read_text(encoding="utf-8"))
            copied, count = set(record["copied"]), int(record["clips"])
        except (ValueError, KeyError, TypeError):
            absent = [f"{root / RECORD} is damaged: remove it and pack the data set again"]
        else:
            sealed = {clip for clip in clips if clip.relative_to(root).as_posix() not in copied}
            if len(sealed) < count:
                absent = [f"{count - len(sealed)} of {count} clips are missing: pack them again"]
    unsealed = {
        clip: f"{clip} is damaged: its table of checksums is unreadable; remove the file and pack it again"
        for clip in sealed
        if packed.read_index(clip) is None
    }
    findings = check_clips([clip for clip in clips if clip not in unsealed], read=True, processes=processes)
    faults = track((finding.fault for finding in findings), len(clips) - len(unsealed))
    return [*absent, *sorted(filter(None, [*unsealed.values(), *faults]))]


# --- Jobs ---


def _is_packed(source: Path, changed: bool) -> bool:
    """Return True for clips that are packed, False for files that are copied; ``changed``: frames change."""
    return source.is_dir() or (changed and source.suffix != ".txt")


def _list_jobs(root: Path, *, all_clips: bool = False) -> list[tuple[Path, Path]]:
    """Return (source, destination relative to the packed data set) of each clip and list.

    Videos keep their names if they are copied; with ``all_clips`` they are packed.
    """
    jobs: dict[Path, Path] = {}
    lists = sorted({*root.glob("*.txt"), *root.glob("*/*.txt")})
    for source in [*find_videos(root), *(path for path in lists if not path.name.startswith("."))]:
        inner = Path(source.name) if source == root else source.relative_to(root)
        destination = inner.with_name(inner.name + PACKED_SUFFIX) if source.is_dir() else inner
        if all_clips and not source.is_dir() and source.suffix != ".txt":
            destination = inner.with_suffix(PACKED_SUFFIX)
        if destination in jobs:
            raise UserError(f"{jobs[destination]} and {source} would both be packed as {destination}: keep one of them")
        jobs[destination] = source
    return [(source, destination) for destination, source in jobs.items()]


@contextmanager
def _lock(staging: Path, target: Path) -> Iterator[None]:
    """Lock the data set against other commands, and remove the drafts of a killed one."""
    staging.mkdir(parents=True, exist_ok=True)
    lock = staging / ".held"
    with file_lock(lock, f"{target} is being packed by another command: wait for it, or end it"):
        for draft in [path for pattern in (".*.part*", ".*.draft*") for path in staging.rglob(pattern)]:
            draft.unlink(missing_ok=True)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _map(work: Work, jobs: Sequence[tuple[Path, Any]], processes: int) -> Iterator[str]:
    """Yield the result of ``work`` for each job, in order."""
    if processes <= 1 or len(jobs) < 2:
        yield from (work(*job) for job in jobs)
        return
    pool = ProcessPoolExecutor(min(processes, len(jobs)), worker_context(__name__), _start_worker)
    try:
        yield from pool.map(work, *zip(*jobs, strict=True))
    except BrokenProcessPool as error:
        raise UserError(
            "A packing process was killed, most likely because memory ran out: repeat the command with processes=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, after the current clips
    torch.set_num_threads(1)


# --- One clip ---


def _pack_or_copy(source: Path, destination: Path, *, gop: int, size: SourceSize, interpolated: int) -> str:
    """Pack or copy one clip. Return the error message, or an empty string."""
    draft = destination.with_name(f".{destination.stem}.draft{destination.suffix}")
    try:
        if _is_packed(source, bool(size) or interpolated > 0):
            pack_clip(source, draft, gop=gop, size=size, interpolated=interpolated)
        else:
            shutil.copyfile(source, draft)
            fsync(draft)
        os.replace(draft, destination)
        fsync(destination.parent)
    except UserError as error:
        return str(error)
    except OSError as error:
        return str(make_write_error(destination, error))
    finally:
        draft.unlink(missing_ok=True)
    return ""


def pack_clip(
    source: Path, destination: Path, *, gop: int = GOP, size: SourceSize | None = None, interpolated: int = 0
) -> None:
    """Pack a clip into the video ``destination``, and compare every frame with what was packed.

    Frames are first reduced to ``size``, and averaged with ``interpolated`` ones after each.

    Raises:
        VideoError: an image cannot be read or differs in size, the disk is full, or a frame read back differs. The file
            at ``destination`` is then unusable.
    """
    size = size or SourceSize()

    def read(images: FrameReader) -> Iterator[Tensor]:
        return open_shutter((size.reduce(frame[None], source)[0] for frame in images.frames()), interpolated)

    with open_video(source) as images:
        gop = len(images) if len(images) <= SHORT else gop
        checksums: list[int] = []
        # Any other preset uses arithmetic coding, three to four times slower to decode.
        options: dict[str, Any] = {"codec": "lossless", "preset": "ultrafast", "gop": gop, "signal": images.signal}
        with VideoWriter(destination, images.fps, **options) as writer:
            for frame in read(images):
                writer.write(frame)
                checksums.append(packed.compute_checksum(frame.numpy()))
            writer.metadata["comment"] = packed.format_tag(checksums)
        if packed.read_index(destination) is None:
            raise VideoError(f"{source} was packed into {destination}, but its table of checksums is unreadable")
        with open_video(destination) as video:
            for number, (before, after) in enumerate(zip(checksums, video.frames(), strict=True)):
                if packed.compute_checksum(after.numpy()) != before:
                    raise VideoError(f"frame {number} of {source} differs in {destination} after packing")
