"""Numbers and names drawn for a clip: a fixed value, or a range or weights to draw from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from src.errors import UserError

Range = float | Sequence[float]  # a number, or the bounds of a uniform distribution
Weights = str | Mapping[str, float]  # a name, or relative frequencies of names


def bounds(value: Range) -> tuple[float, float]:
    """Return the smallest and the largest number of a range."""
    return (value, value) if isinstance(value, int | float) else (value[0], value[-1])


def checked_range(name: str, value: Range, least: float, most: float, *, whole: bool = False) -> Range:
    """Return the range, as a tuple if it is one.

    Raises:
        UserError: it is not one number or an ascending pair within [least, most], or not of integers where ``whole``.
    """
    numbers = (value, value) if isinstance(value, int | float) else tuple(value)
    fits = len(numbers) == 2 and least <= numbers[0] <= numbers[1] <= most
    if not fits or (whole and any(number % 1 for number in numbers)):
        kind = "whole number" if whole else "number"
        raise UserError(
            f"{name} must be a {kind} from {least:g} to {most:g}, or an ascending pair, got {format_range(value)}"
        )
    return value if isinstance(value, int | float) else numbers


def checked_weights(name: str, value: Weights, names: Sequence[str]) -> Weights:
    """Return the weights.

    Raises:
        UserError: a name is unknown, a weight negative, or no weight positive.
    """
    weights = {value: 1.0} if isinstance(value, str) else value
    if (
        not set(weights) <= set(names)
        or not all(weight >= 0 for weight in weights.values())
        or not any(weights.values())
    ):
        raise UserError(f"{name} must be one of {', '.join(names)}, or weights of some of them, got {value}")
    return value


def draw_number(value: Range, rng: np.random.Generator) -> float:
    """Draw uniformly; a single number draws nothing."""
    low, high = bounds(value)
    return low if low == high else float(rng.uniform(low, high))


def draw_integer(value: Range, rng: np.random.Generator) -> int:
    """Draw an integer, both bounds included; a single number draws nothing."""
    low, high = bounds(value)
    return int(low) if low == high else int(rng.integers(int(low), int(high) + 1))


def draw_name(value: Weights, rng: np.random.Generator) -> str:
    """Draw a name by its weight; a single one draws nothing."""
    if isinstance(value, str):
        return value
    names = [name for name, weight in value.items() if weight > 0]
    if len(names) == 1:
        return names[0]
    weights = np.array([value[name] for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def format_range(value: Range) -> str:
    """Format as ``1`` or ``0.5..2``."""
    return f"{value:g}" if isinstance(value, int | float) else "..".join(f"{number:g}" for number in value)


def format_weights(value: Weights) -> str:
    """Format as ``bicubic`` or ``bicubic:0.9|area:0.1``."""
    return value if isinstance(value, str) else "|".join(f"{name}:{weight:g}" for name, weight in value.items())
