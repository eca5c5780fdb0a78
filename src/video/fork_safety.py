"""Keep decoders usable across ``fork``.

A forked child inherits its parent's decoders without their threads: freeing them crashes or hangs, and locks that
decord held stay locked. The child keeps the inherited ones alive, unused, and opens its own, with PyAV only if the
parent used decord.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, ClassVar, Protocol


class DecoderOwner(Protocol):
    """An object that owns decoders."""

    def drop_decoders(self) -> None:
        """Forget the decoders without closing them (after a fork: the parent owns them)."""


class ForkGuard:
    """The decoders of this process and those inherited from its parent.

    Attributes:
        decord_used: this process has opened a file with decord.
        decord_barred: the parent process had, so this one must not.
    """

    owners: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()
    inherited: ClassVar[list[dict[str, Any]]] = []  # referenced so that they are never freed
    decord_used = decord_barred = False

    @classmethod
    def register(cls, owner: DecoderOwner) -> None:
        """Drop the decoders of ``owner`` in forked children."""
        cls.owners.add(owner)

    @classmethod
    def after_fork(cls) -> None:
        """Drop inherited decoders; runs first in a forked child."""
        cls.decord_barred |= cls.decord_used
        for owner in list(cls.owners):
            cls.inherited.append(dict(owner.__dict__))
            owner.drop_decoders()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ForkGuard.after_fork)
