"""Suggest the nearest of the known names for a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 30  # names that a message lists at most


def closest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the one of ``names`` that resembles ``name`` most; None if none does."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)), None)


def end_with_suggestion(name: str, names: Iterable[str]) -> str:
    """End a message about an unknown name with the nearest known one, or with all of them if they are few."""
    names = sorted(names)
    if match := closest(name, names):
        return f": did you mean {match}?"
    return f": choose one of {', '.join(names)}." if 0 < len(names) < LISTED else "."
