"""Data sets of folders of frames, packed into a lossless video for each clip: as many files as clips, the same pixels.

The tree stays as it is: where the folder ``train_sharp/000`` was, the video ``train_sharp/000.mp4`` is, and layouts
find either. A clip has its name only when every frame of it, read back, has been compared with the image that it was
packed from; the data set has its name only when all clips are there. Until then it lies beside, hidden, and the same
call goes on with what is missing.
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

from src.atomic import atomic_write, file_lock, fsync
from src.data.integrity import check_clips
from src.data.splits import abbreviate
from src.data.worker_pool import context, follow
from src.errors import UserError, VideoError
from src.video import packed
from src.video.containers import make_write_error
from src.video.discovery import PACKED_SUFFIX, find_videos
from src.video.reader import open_video
from src.video.writer import VideoWriter

GOP = 2  # frames from key frame to key frame; more is smaller and costs more of each read (experiments/speed/data.md)
SHORT = 8  # frames of a clip that is one group, as it is read whole
RECORD = "packed.json"  # marks a packed data set

Work = Callable[[Path, Any], str]
Tell = Callable[[Iterable[str], int], Iterable[str]]


class Packed(NamedTuple):
    """What there is in a packed data set: clips, those of them that were packed now, and bytes of all files."""

    clips: int
    new: int
    bytes: int


def pack(
    root: Path | str,
    target: Path | str,
    *,
    gop: int = GOP,
    processes: int = 1,
    watch: Tell = lambda done, total: done,
) -> Packed:
    """Packs every folder of frames in and under ``root`` into a video of the same name in and under ``target``.

    Videos and lists (``*.txt`` in ``root`` and the folders in it) are copied. Frames are packed as training reads them:
    RGB of 8 bits. A clip that cannot be packed does not stop the others. A clip that is there already is left alone, so
    that a packed data set in which one is missing is mended by the same call.

    Args:
        root: the data set.
        target: a folder that is not there yet, or one that was packed before.
        gop: frames from one key frame to the next at most; clips of 8 frames and fewer have one.
        processes: so many clips at a time.
        watch: is given the outcomes as they come and their number, and gives them back; a progress bar.

    Raises:
        UserError: there is nothing to pack, ``target`` is something else, or clips could not be packed; the sentence
            names them.
    """
    root, target = Path(root).expanduser(), Path(target).expanduser().absolute()
    if gop < 1:
        raise UserError(f"gop counts the frames from one key frame to the next, got {gop}")
    inside = target.resolve()
    if inside == root.resolve() or root.resolve() in inside.parents or inside in root.resolve().parents:
        raise UserError(f"{target} and {root} lie in each other: name a folder elsewhere to pack into")
    made = (target / RECORD).is_file()
    if target.exists() and not made and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there and was not packed before: name a new folder to pack into")
    jobs = _jobs(root)
    if not any(source.is_dir() for source, _ in jobs):
        raise UserError(f"{root} holds no folders of frames, which are what is packed: videos are read as they are")
    place = target if made else target.with_name(f".{target.name}.packing")
    with _held(place, target):
        missing = [(source, place / goal) for source, goal in jobs if not (place / goal).exists()]
        for folder in sorted({goal.parent for _, goal in missing}):
            folder.mkdir(parents=True, exist_ok=True)
        said = [*watch(_each(partial(_one, gop=gop), missing, processes), len(missing))]
        if bad := [sentence for sentence in said if sentence]:
            raise UserError(
                f"{len(bad)} of {len(jobs)} files of {root} could not be packed: {abbreviate(bad)}. The others are "
                f"kept in {place}: repair or remove these files and repeat the command"
            )
        clips = [goal for source, goal in jobs if source.is_dir()]
        copied = [goal.as_posix() for source, goal in jobs if not source.is_dir()]
        record = {"source": str(root.resolve()), "clips": len(clips), "copied": copied, "gop": gop}
        with atomic_write(place / RECORD) as stream:
            stream.write(json.dumps(record, indent=1) + "\n")
    if place != target:
        if target.is_dir():
            target.rmdir()  # it is empty
        os.replace(place, target)
        fsync(target.parent)
    new = sum(source.is_dir() for source, _ in missing)
    return Packed(len(clips), new, sum((target / goal).stat().st_size for goal in clips))


def damaged(root: Path | str, *, processes: int = 1, watch: Tell = lambda done, total: done) -> list[str]:
    """Reads every frame of every clip in and under ``root``; a sentence for each clip that cannot be read whole.

    Frames of packed videos have to be what was packed, and a packed data set has to have all of them; of other files
    only that they can be decoded is known.
    """
    root = Path(root).expanduser()
    clips, bad = find_videos(root), []
    if (root / RECORD).is_file():
        record = json.loads((root / RECORD).read_text(encoding="utf-8"))
        sealed = {clip for clip in clips if clip.relative_to(root).as_posix() not in record["copied"]}
        if len(sealed) < record["clips"]:
            bad = [f"{record['clips'] - len(sealed)} of {record['clips']} clips are not there, pack them again"]
    else:
        sealed = set()
    torn = {
        clip: f"{clip} is damaged: what was packed with its frames is lost; remove the file and pack it again"
        for clip in sealed
        if packed.read_index(clip) is None
    }
    found = check_clips([clip for clip in clips if clip not in torn], read=True, processes=processes)
    said = watch((finding.fault for finding in found), len(clips) - len(torn))
    return [*bad, *sorted(filter(None, [*torn.values(), *said]))]


# --- What is to be done ---


def _jobs(root: Path) -> list[tuple[Path, Path]]:
    """What is packed or copied, and where to, relative to the packed data set."""
    jobs: dict[Path, Path] = {}
    lists = sorted({*root.glob("*.txt"), *root.glob("*/*.txt")})
    for source in [*find_videos(root), *(path for path in lists if not path.name.startswith("."))]:
        inner = Path(source.name) if source == root else source.relative_to(root)
        goal = inner.with_name(inner.name + PACKED_SUFFIX) if source.is_dir() else inner
        if goal in jobs:
            raise UserError(f"{jobs[goal]} and {source} would both be packed as {goal}: keep one of them")
        jobs[goal] = source
    return [(source, goal) for goal, source in jobs.items()]


@contextmanager
def _held(place: Path, target: Path) -> Iterator[None]:
    """Keeps others from packing the same, and clears away what one that was killed has left unfinished."""
    place.mkdir(parents=True, exist_ok=True)
    lock = place / ".held"
    with file_lock(lock, f"{target} is being packed by another command: wait for it, or end it"):
        for draft in [path for pattern in (".*.part*", ".*.draft*") for path in place.rglob(pattern)]:
            draft.unlink(missing_ok=True)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _each(work: Work, jobs: Sequence[tuple[Path, Any]], processes: int) -> Iterator[str]:
    """What ``work`` says to each job, in their order."""
    if processes <= 1 or len(jobs) < 2:
        yield from (work(*job) for job in jobs)
        return
    pool = ProcessPoolExecutor(min(processes, len(jobs)), context(__name__), _begin)
    try:
        yield from pool.map(work, *zip(*jobs, strict=True))
    except BrokenProcessPool as error:
        raise UserError(
            "a process that packs was killed, mostly because memory ran out: the same command goes on, with processes=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    follow()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the command, which lets a clip be finished
    torch.set_num_threads(1)


# --- One clip ---


def _one(source: Path, goal: Path, *, gop: int) -> str:
    """Packs or copies one; what went wrong, or nothing."""
    draft = goal.with_name(f".{goal.stem}.draft{goal.suffix}")
    try:
        if source.is_dir():
            pack_clip(source, draft, gop=gop)
        else:
            shutil.copyfile(source, draft)
            fsync(draft)
        os.replace(draft, goal)
        fsync(goal.parent)
    except UserError as problem:
        return str(problem)
    except OSError as error:
        return str(make_write_error(goal, error))
    finally:
        draft.unlink(missing_ok=True)
    return ""


def pack_clip(source: Path, goal: Path, *, gop: int = GOP) -> None:
    """Packs one folder of frames into the video ``goal`` and compares every frame of it with its image.

    Raises:
        VideoError: an image cannot be read or differs in size, the disk is full, or a frame does not come back as it
            was. What is at ``goal`` is then not to be used.
    """
    with open_video(source) as images:
        gop = len(images) if len(images) <= SHORT else gop
        sums: list[int] = []
        # Any other preset codes arithmetically, which takes three to four times as long to decode.
        options: dict[str, Any] = {"codec": "lossless", "preset": "ultrafast", "gop": gop, "signal": images.signal}
        with VideoWriter(goal, images.fps, **options) as writer:
            for frame in images.frames():
                writer.write(frame)
                sums.append(packed.compute_checksum(frame.numpy()))
            writer.metadata["comment"] = packed.format_tag(sums)
        if packed.read_index(goal) is None:
            raise VideoError(f"{source} was packed into {goal}, which cannot be read by its table")
        with open_video(goal) as video:
            for number, (before, after) in enumerate(zip(images.frames(), video.frames(), strict=True)):
                if not torch.equal(before, after):
                    raise VideoError(f"frame {number} of {source} does not come back as it was from {goal}")
