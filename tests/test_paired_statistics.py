"""Paired statistics: reference values of scipy 1.17, and intervals that cover what they promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from src.metrics.paired import bootstrap_interval, wilcoxon

DARWIN = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], dtype=float)  # maize, in eighths


def test_wilcoxon_is_that_of_scipy():
    assert wilcoxon(DARWIN) == pytest.approx(0.041259765625, abs=1e-12)
    assert wilcoxon(-DARWIN) == wilcoxon(DARWIN)
    many = np.random.default_rng(0).normal(0.1, 1, 500)
    assert wilcoxon(many) == pytest.approx(0.09351902896311265, abs=1e-12)  # method="approx"


def test_wilcoxon_with_ties_and_zeros_counts_every_choice_of_signs():
    ranks = np.array([2, 2, 4.5, 2, 6, 4.5])  # of 1 1 2 -1 3 2, without the zero
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product([0, 1], repeat=6)]
    assert wilcoxon(np.array([1, 1, 2, -1, 3, 0, 2.0])) == pytest.approx(2 * np.mean(np.array(sums) <= 2))
    assert wilcoxon(np.zeros(4)) == 1
    assert wilcoxon(np.full(5, 0.3)) == pytest.approx(2 / 2**5)  # the least that five clips can reach


def test_the_interval_is_that_of_the_normal_distribution_for_many_clips():
    differences = np.random.default_rng(1).normal(0.5, 2, 400)
    second = np.full((1, 400), 30.0)
    low, high = bootstrap_interval(second + differences, second)
    error = differences.std() / np.sqrt(400)
    assert low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)
    assert bootstrap_interval(second + differences, second) == (low, high)
    assert bootstrap_interval(second + differences, second, seed=1) != (low, high)


def test_what_clips_have_in_common_does_not_widen_the_interval_but_seeds_do():
    clips = np.array([[20.0, 30.0, 40.0, 25.0, 35.0, 28.0]])
    assert bootstrap_interval(clips + 0.5, clips) == (pytest.approx(0.5), pytest.approx(0.5))
    low, high = bootstrap_interval(np.concatenate([clips + 0.1, clips + 0.9]), clips)
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.9))


def test_the_chance_of_the_extreme_itself_counts():
    assert wilcoxon(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 2**5)
    assert wilcoxon(np.array([-1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 * 2 / 2**5)
    assert wilcoxon(np.array([1.0])) == 1.0
