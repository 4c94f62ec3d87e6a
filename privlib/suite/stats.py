"""Medians with distribution-free 95% intervals: timings are skewed, so nothing is assumed about their shape."""

import math
from collections.abc import Sequence
from statistics import NormalDist, stdev
from typing import NamedTuple


class Interval(NamedTuple):
    """Bounds of a confidence interval, the level reached and how it was made."""

    low: float
    high: float
    level: float
    method: str


def median(values: Sequence[float]) -> float:
    """Middle value, the mean of the two middle ones for an even count."""
    if not values:
        raise ValueError("the median of no values is undefined; pass at least one")
    ordered = sorted(values)
    half = len(ordered) // 2
    return float(ordered[half]) if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def median_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Interval of the median from order statistics (David & Nagaraja, Order Statistics, 3rd ed., section 7.1).

    The median lies between the k-th smallest and the k-th largest of n independent values with probability
    1 - 2·P[Binomial(n, 1/2) < k]. The largest k that still reaches `level` is taken. Fewer than 6 values cannot reach
    0.95: then the interval is their range, and `level` in the result is the (lower) level that the range has.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} value(s) say nothing about their spread; pass at least two")
    ordered = sorted(float(value) for value in values)
    n = len(ordered)
    tail, k, reached = 0.0, 1, 1 - 2 * 0.5**n
    for rank in range(1, n // 2 + 1):
        tail += math.comb(n, rank - 1) * 0.5**n
        if 1 - 2 * tail < level:
            break
        k, reached = rank, 1 - 2 * tail
    return Interval(ordered[k - 1], ordered[n - k], reached, f"order statistics of {n} values")


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of a mean, for the few repetitions that a training run can afford."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} value(s) say nothing about their spread; pass at least two")
    from scipy import stats

    n = len(values)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * stdev(values) / math.sqrt(n)
    mean = math.fsum(values) / n
    return Interval(mean - half, mean + half, level, f"Student's t of {n} values")


def proportion_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion (Wilson 1927), for accuracies and hit rates."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n} is not a proportion; pass 0 <= successes <= n with n >= 1")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate, scale = successes / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half), level, f"Wilson score of {n} trials")
