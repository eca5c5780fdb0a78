"""What a person can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: one sentence that says what is wrong, where, and what to do.

    ``src.run`` prints the sentence and exits with code 2; it never shows a traceback for it.
    """


class CheckpointError(UserError):
    """A checkpoint that is not what it was taken for; the message lists the keys concerned."""


class VideoError(UserError):
    """A video or frame folder that cannot be read or written; the message names the file.

    Args:
        sentence: what is wrong.
        readable: how many frames there are before that, where a video breaks off.
    """

    def __init__(self, sentence: str, readable: int = 0) -> None:
        super().__init__(sentence)
        self.readable = readable
