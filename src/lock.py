"""What one process has to itself, where the system and the file system can hold it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from src.errors import Problem

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


@contextmanager
def locked(file: Path, otherwise: str) -> Iterator[TextIO]:
    """``file``, made if it is not there and open for appending, which no other process can have at the same time.

    A process that ends in any way holds it no more.

    Raises:
        Problem: another process has it; ``otherwise`` is the sentence.
    """
    with file.open("a", encoding="utf-8") as stream:
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Problem(otherwise) from error
        except OSError as error:  # a file system without locks
            log.debug("%s is not locked: %s", file, error)
        yield stream
