"""Errors that the user can mend."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can mend: one sentence about the fault, its place and the remedy.

    ``src.run`` prints the sentence and exits with code 2, without a traceback unless ``debug=true``.
    """


class CodeError(UserError):
    """An error in the code of an object that a configuration describes; its cause shows file and line.

    ``src.run`` prints the frames of the cause below the sentence.
    """


class CheckpointError(UserError):
    """An unsuitable checkpoint; the message lists the keys concerned."""


class VideoError(UserError):
    """A video or frame folder that cannot be read or written; the message names the file.

    Args:
        sentence: the message.
        readable: number of frames before the damage.
    """

    def __init__(self, sentence: str, readable: int = 0) -> None:
        super().__init__(sentence)
        self.readable = readable
