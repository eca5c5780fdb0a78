"""Learning-rate schedules and freezing: pure functions of the optimiser step, so that a resumed run is the same run."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated

from annotated_types import Ge


def cosine_restarts(
    step: int,
    steps: int,
    *,
    restarts: Annotated[int, Ge(1)] = 4,
    periods: Sequence[float] | None = None,
    lowest: float = 2.5e-4,
    warmup: int = 0,
) -> float:
    """Cosine annealing with several periods within ``steps`` (warm restarts, SGDR).

    Args:
        step: optimiser steps so far.
        steps: optimiser steps in all.
        restarts: number of cosine periods of the same length.
        periods: their relative lengths instead, such as ``[1, 2, 3, 3, 3]``, which together take all steps.
        lowest: end of each period, as a fraction of the initial rate.
        warmup: steps of the linear rise to the initial rate at the very beginning, multiplied with the cosine.

    Returns:
        The factor on the initial learning rate, in (0, 1].

    Raises:
        ValueError: a period is not positive.
    """
    if periods is None:
        period = max(1, math.ceil(steps / restarts))
        phase = (step % period) / period
    else:
        phase = _phase(step, steps, periods)
    rise = min(1.0, (step + 1) / (warmup + 1))
    return rise * (lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * phase)))


def _phase(step: int, steps: int, periods: Sequence[float]) -> float:
    """Return the part of the current period that has passed at ``step``, in [0, 1)."""
    if not periods or min(periods) <= 0:
        raise ValueError(f"the lengths of periods must be positive, got {[*periods]}")
    ends = [round(steps * length / sum(periods)) for length in accumulate(periods)]
    number = bisect_right(ends[:-1], step)  # behind the last step, the last period goes on
    begin = ends[number - 1] if number else 0
    length = max(1, ends[number] - begin)
    return (step - begin) % length / length


def step_decay(step: int, steps: int, *, parts: int, factor: float, start: float = 0.0) -> float:
    """Multiply the initial rate by ``factor`` after each of ``parts`` equal parts of the steps.

    The parts begin after the fraction ``start`` of all steps; the rate is constant before.
    """
    begin = int(start * steps)
    return factor ** max(0, (step - begin) * parts // max(1, steps - begin))


def milestones(step: int, steps: int, *, after: Sequence[float], factor: float = 0.1) -> float:
    """Multiply the initial rate by ``factor`` at each of the fractions ``after`` of all steps."""
    return factor ** sum(step >= share * steps for share in after)


def constant(step: int, steps: int, *, value: float = 1.0) -> float:
    """Return ``value`` at every step."""
    return value


def frozen_until_step(step: int, steps: int, *, start: int) -> float:
    """Return 0 (frozen) before step ``start``, then 1."""
    return float(step >= start)


def frozen_until(step: int, steps: int, *, share: float) -> float:
    """Return 0 (frozen) for the fraction ``share`` of all steps, then 1."""
    return float(step >= share * steps)
