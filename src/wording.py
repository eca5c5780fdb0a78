"""Numbers with nouns, for sentences that users read."""

from __future__ import annotations


def number_of(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 frame`` or ``2 frames``; ``plural`` is for nouns that do not take an s."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
