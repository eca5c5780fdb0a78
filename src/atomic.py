"""Files that outlive a process that is cut off, and what one process has to itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from src.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


@contextmanager
def file_lock(file: Path, otherwise: str) -> Iterator[TextIO]:
    """``file``, made if it is not there and open for appending, which no other process can have at the same time.

    A process that ends in any way holds it no more.

    Raises:
        UserError: another process has it; ``otherwise`` is the sentence.
    """
    with file.open("a", encoding="utf-8") as stream:
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(otherwise) from error
        except OSError as error:  # a file system without locks
            log.debug("%s is not locked: %s", file, error)
        yield stream


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A stream whose content becomes that of ``path`` at the end, on the disk; before that, and if anything fails,
    what was there stays as it was.

    Args:
        path: the file; its folder is made.
        mode: ``w`` for text (UTF-8, lines as they are given) or ``wb`` for bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with draft.open(mode, **text) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
        fsync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Waits until a file or folder is on the disk, where the system can tell."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # folders cannot be opened everywhere
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir():
            raise
        log.debug("%s was not synced: %s", path, error)
    finally:
        os.close(handle)
