"""Crash-safe files: exclusive locks, atomic writes, and fsync."""

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
def file_lock(path: Path, message: str) -> Iterator[TextIO]:
    """Open ``path`` for appending, creating it if absent, and hold an exclusive lock on it.

    The lock is released when the process ends, however it ends.

    Raises:
        UserError: another process holds the lock; the error is ``message``.
    """
    with path.open("a", encoding="utf-8") as stream:
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(message) from error
        except OSError as error:  # a file system without locks
            log.debug("%s is not locked: %s", path, error)
        yield stream


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a stream that replaces ``path`` on exit, flushed to disk; on an error, ``path`` is unchanged.

    Args:
        path: the file; its folder is created.
        mode: ``w`` for text (UTF-8, line ends unchanged) or ``wb`` for bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    text_options: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with draft.open(mode, **text_options) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
        fsync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Flush a file or folder to disk, if the system supports it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # some systems cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir():
            raise
        log.debug("%s was not synced: %s", path, error)
    finally:
        os.close(descriptor)
