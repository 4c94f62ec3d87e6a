"""Medians, intervals of medians and of proportions, against SciPy and by simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from privlib.suite import stats


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40))
def test_median_is_numpys(values: list[float]) -> None:
    assert stats.median(values) == pytest.approx(float(np.median(values)), rel=1e-12, abs=1e-6)


@pytest.mark.parametrize("n", [6, 7, 20, 25, 101])
def test_interval_ranks_are_the_narrowest_that_reach_the_level(n: int) -> None:
    interval = stats.median_interval(range(1, n + 1))
    k = int(interval.low)
    assert interval.high == n + 1 - k
    assert interval.level == pytest.approx(1 - 2 * scipy.stats.binom.cdf(k - 1, n, 0.5))
    assert interval.level >= 0.95 > 1 - 2 * scipy.stats.binom.cdf(k, n, 0.5)


def test_interval_covers_the_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    # Exponential: skewed as timings are. The true median is ln 2.
    intervals = [stats.median_interval(list(row)) for row in generator.exponential(size=(2000, 9))]
    covered = np.mean([interval.low <= np.log(2) <= interval.high for interval in intervals])
    assert covered == pytest.approx(intervals[0].level, abs=0.02)


def test_interval_of_few_values_says_what_level_its_range_has() -> None:
    interval = stats.median_interval([3.0, 1.0, 2.0])
    assert (interval.low, interval.high, interval.level) == (1.0, 3.0, 0.75)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_interval_of_one_value_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        stats.median_interval(values)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (722, 1000), (1, 3)])
def test_proportion_interval_is_scipys_wilson(successes: int, n: int) -> None:
    expected = scipy.stats.binomtest(successes, n).proportion_ci(0.95, "wilson")
    found = stats.proportion_interval(successes, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_impossible_proportion_is_refused() -> None:
    with pytest.raises(ValueError, match="11 of 10"):
        stats.proportion_interval(11, 10)


def test_mean_interval_is_students() -> None:
    """t = 2.776 for five values (any table)."""
    interval = stats.mean_interval([70.0, 71.0, 72.0, 73.0, 74.0])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert (interval.low, interval.high) == pytest.approx((72 - half, 72 + half))
    with pytest.raises(ValueError, match="at least two"):
        stats.mean_interval([1.0])
