"""Paired statistics of two methods that were scored on the same clips.

Shapes: S seeds (trainings) of a method, N clips.
"""

from __future__ import annotations

import math

import numpy as np

EXACT_UP_TO = 200  # pairs; beyond, the rank sum is practically normal
CHUNK = 2**22  # numbers in memory at once


def bootstrap_interval(
    first: np.ndarray, second: np.ndarray, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of the mean difference of two methods.

    Each resample draws clips with replacement, the same for both methods, and the seeds of each method.

    Args:
        first, second: scores, (S, N) each; S may differ.
        resamples: number of resamples.
        seed: random seed; the same seed gives the same interval.
        level: share of the resamples within the interval.
    """
    clips = first.shape[1]
    rng = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    step = max(1, CHUNK // clips)
    for begin in range(0, resamples, step):
        count = min(step, resamples - begin)
        difference = _draw_seeds(first, count, rng) - _draw_seeds(second, count, rng)  # (count, N)
        chosen = rng.integers(clips, size=(count, clips))
        means.append(np.take_along_axis(difference, chosen, axis=1).mean(axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def _draw_seeds(scores: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` means over seeds that are drawn with replacement, (count, N)."""
    seeds = len(scores)
    weights = rng.multinomial(seeds, [1 / seeds] * seeds, size=count) / seeds
    return weights @ scores


def wilcoxon(differences: np.ndarray) -> float:
    """Compute the two-sided p-value of Wilcoxon's signed-rank test, exact up to ``EXACT_UP_TO`` pairs.

    Zeros are left out (Wilcoxon, 1945), and equal absolute values share their mean rank.

    Args:
        differences: (N,).

    Returns:
        The p-value; 1 if all differences are zero.
    """
    values = differences[differences != 0]
    if not len(values):
        return 1.0
    size = np.abs(values)
    below, equal = size[:, None] > size, size[:, None] == size
    doubled = 2 * below.sum(1) + equal.sum(1) + 1  # twice the mean ranks: whole numbers
    positive, total = int(doubled[values > 0].sum()), int(doubled.sum())
    extreme = min(positive, total - positive)
    if len(values) > EXACT_UP_TO:
        deviation = math.sqrt(float((doubled.astype(float) ** 2).sum()) / 4)
        return math.erfc((total / 2 - extreme) / deviation / math.sqrt(2))
    chances = np.zeros(total + 1)  # of each sum of positive ranks, if signs are random
    chances[0] = 1.0
    for rank in doubled:
        chances[rank:] = chances[rank:] + chances[:-rank]
        chances /= 2
    return min(1.0, 2 * float(chances[: extreme + 1].sum()))
