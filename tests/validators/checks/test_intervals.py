"""Intervals against scipy's, and the coverage they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from aurep.validators.checks.intervals import mcnemar, paired_drop, proportion


@pytest.mark.parametrize(("right", "count"), [(0, 5), (8, 10), (95, 100), (9_312, 10_000), (5, 5)])
def test_wilson(right: int, count: int) -> None:
    found = proportion(np.arange(count) < right)
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (3, 9), (40, 61), (400, 300)])
def test_mcnemar(lost: int, won: int) -> None:
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9)


def test_paired_intervals_cover_the_true_drop() -> None:
    """Networks that share most mistakes: the true drop, 2 points, lies inside about 95 times of 100."""
    rng = np.random.default_rng(0)
    lost, won, inside, width = 0.03, 0.01, 0, []
    for _ in range(1000):
        draw = rng.random(1000)
        reference = draw > 0.1
        network = np.where(draw < won, True, np.where(draw > 1 - lost, False, reference))
        drop = paired_drop(network, reference, "teacher's").interval
        inside += drop.low <= 2 <= drop.high
        width.append(drop.high - drop.low)
    assert 930 <= inside <= 980  # five standard deviations around 950 are 34
    assert np.mean(width) < 3  # of separate figures: 2 * 1.96 * sqrt(2 * 0.1 * 0.9 / 1000), 5.3 points


def test_a_drop_says_whether_it_is_noise() -> None:
    reference = np.ones(1000, bool)
    worse = reference.copy()
    worse[:30] = False
    assert "a real difference" in str(paired_drop(worse, reference, "teacher's"))
    assert "within noise" in str(paired_drop(reference[::-1], reference, "teacher's"))
