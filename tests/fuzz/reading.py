"""Cases, and the worker processes that read them.

A worker's memory for a file is the growth of its resident set: the peak (VmHWM, reset for each file) over the value
before (VmRSS), after malloc has returned its free memory.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import random
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from src.errors import VideoError
from src.ops.allocator import give_freed_memory_back
from src.video.pipe import open_pipe
from src.video.reader import open_video
from tests.fuzz.mutations import MUTATIONS, repair_checksums
from tests.fuzz.seeds import Seed

MEMORY_LIMIT = 2 << 30  # bytes of growth of a worker for one file
DECODER_TIMEOUT = 10.0  # seconds without progress after which the reader abandons a decoder
MAX_FRAMES, MAX_PIXELS = 200, 40_000_000  # read in order per file

FAILURES = ("exception", "sentence", "crash", "hang", "memory")


@dataclass(frozen=True)
class Case:
    """A damaged file or folder of images, and the mode of reading it."""

    number: int
    seed: str
    mutation: str
    mode: str  # auto, pyav, decord, deep, alpha, deinterlace, pipe
    files: dict[str, bytes]  # by name
    is_folder: bool

    def write(self, folder: Path) -> Path:
        """Write the files to an empty folder and return the path to open."""
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder if self.is_folder else folder / next(iter(self.files))


def make_case(seeds: Sequence[Seed], seed: int, number: int) -> Case:
    """Make mutation ``number``: a function of the arguments alone."""
    rng = random.Random(f"{seed}/{number}")
    groups = [
        [s for s in seeds if s.is_folder],
        *([s for s in seeds if not s.is_folder and ("/" in s.name) == real] for real in (0, 1)),
    ]
    group = rng.choices(groups, [2 if groups[0] else 0, 5, 3 if groups[2] else 0])[0]
    chosen, other = rng.choice(group), rng.choice(rng.choice([group, list(seeds)]))
    files = {file.name: file.read_bytes() for file in chosen.files}
    victim, donor = rng.choice(sorted(files)), rng.choice(other.files).read_bytes()
    names = rng.choices(list(MUTATIONS), k=rng.choice((1, 1, 1, 2)))
    for name in names:
        if files[victim]:
            files[victim] = MUTATIONS[name](files[victim], rng, donor)
    if victim.endswith(".png") and rng.random() < 0.7:
        files[victim] = repair_checksums(files[victim])
    video_modes = ("auto",) * 5 + ("pyav", "decord", "deep", "alpha", "deinterlace", "pipe")
    mode = rng.choice(("auto", "auto", "deep", "alpha") if chosen.is_folder else video_modes)
    return Case(number, chosen.name, "+".join(names), mode, files, chosen.is_folder)


@dataclass
class Outcome:
    """The result of a case.

    Attributes:
        number: of the case.
        kind: ``frames``, ``cut`` (frames, then an error), ``error``, or one of FAILURES.
        message: the first error.
        frames: frames read in order.
        seconds: time to read the file.
        memory: growth of the worker, in bytes.
        baseline: memory of the worker before, in bytes.
        random_differs: random access returned other frames than reading in order.
        timed_out: a decoder made no progress for DECODER_TIMEOUT and was reported.
    """

    number: int
    kind: str
    message: str = ""
    frames: int = 0
    seconds: float = 0.0
    memory: int = 0
    baseline: int = 0
    random_differs: bool = False
    timed_out: bool = False


def read_case(case: Case, path: Path) -> Outcome:
    """Read a case as a user would: in order, and at random."""
    outcome = Outcome(case.number, "frames")
    messages: list[str] = []
    try:
        for count, message in _read_frames(case, path, outcome):
            outcome.frames = max(outcome.frames, count)
            messages += [message] if message else []
        if messages:
            outcome.kind = "cut" if outcome.frames else "error"
            outcome.message = messages[0]
        outcome.timed_out = any("timed out" in message for message in messages)
        for message in messages:
            if flaw := _find_flaw(message, "standard input" if case.mode == "pipe" else str(path)):
                outcome.kind, outcome.message = "sentence", f"{flaw}: {message!r}"
    except Exception as error:
        location = _format_location(error)
        outcome.kind, outcome.message = "exception", f"{type(error).__name__}: {error} at {location}"
    return outcome


def _read_frames(case: Case, path: Path, outcome: Outcome) -> Iterator[tuple[int, str]]:
    """Yield counts of frames and error messages."""
    rng = random.Random(case.number)
    options: dict[str, Any] = {
        "deep": case.mode == "deep",
        "deinterlace": case.mode == "deinterlace",
        "timeout": DECODER_TIMEOUT,
    }
    try:
        if case.mode == "pipe":
            with path.open("rb") as file, open_pipe(file, **options) as pipe:
                yield from _read_in_order(pipe.frames(), pipe, [])
            return
        backend: Any = case.mode if case.mode in ("pyav", "decord") else "auto"
        with open_video(path, backend, **options, alpha=case.mode == "alpha") as reader:
            checksums: list[int] = []
            yield from _read_in_order(reader.frames(), reader, checksums)
            for _ in range(3):
                count = 3 if reader.size[0] * reader.size[1] < MAX_PIXELS // 4 else 1
                indices = [rng.randrange(min(len(reader), 2 * len(checksums) + 4)) for _ in range(count)]
                try:
                    frames = reader.read(indices)
                except VideoError as error:
                    yield 0, str(error)
                    continue
                if tuple(frames.shape) != (count, *reader.size, 3 + reader.signal.alpha):
                    raise TypeError(f"frames of {tuple(frames.shape)} from a reader of size {reader.size}")
                pairs = zip(indices, (zlib.crc32(frame.numpy()) for frame in frames), strict=True)
                outcome.random_differs |= any(i < len(checksums) and checksums[i] != crc for i, crc in pairs)
    except VideoError as error:
        yield 0, str(error)


def _read_in_order(frames: Iterable[Any], reader: Any, checksums: list[int]) -> Iterator[tuple[int, str]]:
    limit = max(2, min(MAX_FRAMES, MAX_PIXELS // (reader.size[0] * reader.size[1])))
    try:
        for frame in islice(frames, limit):
            if tuple(frame.shape) != (*reader.size, 3 + reader.signal.alpha):
                raise TypeError(f"a frame of {tuple(frame.shape)} from a reader of size {reader.size}")
            checksums.append(zlib.crc32(frame.numpy()))
    except VideoError as error:
        yield len(checksums), str(error)
    yield len(checksums), ""


def _find_flaw(message: str, name: str) -> str:
    """Return the reason why an error message is not one sentence that names the file; empty if it is."""
    if name not in message:
        return "does not name the file"
    rest = message.replace(name, "")
    return "is not one line of words" if not rest.isprintable() or not 10 < len(rest) < 300 else ""


def _format_location(error: BaseException) -> str:
    trace = error.__traceback__
    location = ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        location = f"{file.parent.name}/{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return location


def read_memory(pid: int | str = "self", field: str = "VmRSS") -> int:
    """Read a field of /proc/<pid>/status in bytes; 0 if it is not available."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split(f"{field}:")[1].split()[0]) * 1024
    return 0


def run_worker(pipe: Connection, seeds: list[Seed], seed: int, log: Path) -> None:
    """Receive cases or their numbers, read them, and send the outcomes, until the pipe is closed."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)  # messages of libraries, and crash reports
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError):
        while True:
            case = pipe.recv()
            case = case if isinstance(case, Case) else make_case(seeds, seed, case)
            with tempfile.TemporaryDirectory(dir=log.parent) as folder:  # the parent deletes it if this process dies
                path = case.write(Path(folder))
                give_freed_memory_back()
                baseline, start = read_memory(), time.monotonic()
                with contextlib.suppress(OSError):
                    Path("/proc/self/clear_refs").write_text("5")
                outcome = read_case(case, path)
                outcome.seconds, outcome.memory = time.monotonic() - start, read_memory(field="VmHWM") - baseline
                outcome.baseline = baseline
            if outcome.memory > MEMORY_LIMIT and outcome.kind not in FAILURES:
                outcome.kind, outcome.message = "memory", f"grew by {outcome.memory >> 20} MB; {outcome.message}"
            pipe.send(outcome)
