"""Report an error of a command on standard error: one message, and for an error in code its place below.

``debug=true`` or the environment variable ``ZEITLUPE_DEBUG=1`` adds the traceback of every error.
"""

from __future__ import annotations

import errno
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from src.config.composition import NUMBER_AS_CHOICE, explain
from src.errors import CodeError, UserError

SOURCE = Path(__file__).resolve().parents[1]
MACHINERY = (SOURCE / "run.py", SOURCE / "config", SOURCE / "tasks")  # code that turns a configuration into calls
LIBRARIES = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "purelib", "platlib")]


def report_error(error: BaseException, arguments: Sequence[str], *, debug: bool = False) -> bool:
    """Print an error that the user can mend.

    Args:
        error: the error, possibly wrapped by Hydra.
        arguments: arguments of the command line.
        debug: print the traceback, too. The command line and the environment can demand it as well.

    Returns:
        False if the error is none of the user's: nothing is printed.
    """
    user_error = find_user_error(error, arguments)
    if user_error is None:
        return False
    if debug or wants_traceback(arguments):
        traceback.print_exception(error)
        print(user_error, file=sys.stderr)
        return True
    print(user_error, file=sys.stderr)
    if place := locate_in_code(user_error):
        print(place, file=sys.stderr)
    return True


def wants_traceback(arguments: Sequence[str]) -> bool:
    """Return True if the command line or the environment demands tracebacks."""
    typed = any(argument.lstrip("+").lower() == "debug=true" for argument in arguments)
    return typed or os.environ.get("ZEITLUPE_DEBUG", "").lower() in ("1", "true")


def find_user_error(error: BaseException, arguments: Sequence[str]) -> UserError | None:
    """Return the error that the user can mend behind an error, None for other errors."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if cause is not None:
        return cause
    by_hydra = isinstance(error, HydraException | OmegaConfBaseException) or NUMBER_AS_CHOICE in str(error)
    if by_hydra and isinstance(error, Exception):
        overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
        user_error = UserError(explain(error, overrides))
        user_error.__cause__ = error
        return user_error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        disk = f"The disk of {error.filename}" if error.filename else "The disk"
        return UserError(f"{disk} is full: make room, and repeat the command, a training with resume=true.")
    return None


def locate_in_code(user_error: UserError) -> str:
    """Return the part of a traceback that lies in the code of a network, a loss or another object, indented.

    Returns:
        The frames and the error; empty if the configuration alone is at fault, or if code rejects it by a ``raise``.
    """
    error = user_error.__cause__
    if isinstance(error, InstantiationException):
        error = error.__cause__
        frames = _list_code_frames(error.__traceback__) if error else []
        if not frames or (traceback.extract_tb(error.__traceback__)[-1].line or "").startswith("raise"):  # type: ignore[union-attr]
            return ""
    elif not isinstance(user_error, CodeError) or error is None:
        return ""
    else:
        frames = _list_code_frames(error.__traceback__)
    if error is None or not frames:
        return ""
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(error), "debug=true shows all frames.\n"]
    return "\n".join(f"  {line}" for line in "".join(lines).rstrip("\n").split("\n"))


def _list_code_frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """List the frames outside of libraries that follow the last one of this suite's own machinery."""
    frames = [frame for frame in traceback.extract_tb(trace) if not _lies_in(frame.filename, LIBRARIES)]
    machinery = [index for index, frame in enumerate(frames) if _lies_in(frame.filename, MACHINERY)]
    return frames[machinery[-1] + 1 :] if machinery else frames


def _lies_in(file: str, places: Sequence[Path]) -> bool:
    path = Path(file).resolve()
    return file.startswith("<") or any(place == path or place in path.parents for place in places)
