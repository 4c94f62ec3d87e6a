"""Rényi curves in fixed point, rounded against the consumer, and the budget caps that follow from (ε, δ).

A curve is a Rényi divergence at `ORDERS` in units of 10⁻⁹ nats, sixteen lanes of 64 bits in four words, as curves.vy
adds them. What a job is charged is never below the bound of `privlib.trusted.renyi`, which is never below
dp-accounting's.

A budget (ε, δ) is a cap at each order: the divergence that Canonne, Kamath & Steinke 2020 (2004.00010, proposition 12)
converts to ε at δ / 16, rounded down. It holds as long as one order is within its cap; a sixteenth of δ each, because
consumers who adapt to earlier results also choose which order that is.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from privlib.sterling.errors import PolicyError
from privlib.sterling.verify.cost import ORDERS
from privlib.trusted import renyi
from privlib.trusted.events import Event

UNITS_PER_NAT = 10**9
INFINITE = 2**64 - 1
_LANES = 4
_UP = 1 + 1e-12


def curve(events: Sequence[Event]) -> np.ndarray:
    """The Rényi divergence at ORDERS, float64 (16,), of all events together; at least `renyi.rdp`'s.

    Raises EventError as that does. Where ORDERS has an order that it lacks, the value between: (α − 1) · D_α is convex
    in α (a log moment), so the chord over its neighbours is an upper bound.
    """
    known = renyi.ORDERS - 1
    moments = known * renyi.rdp(events)
    wanted = np.array(ORDERS, float) - 1
    with np.errstate(invalid="ignore"):
        found = np.interp(wanted, known, moments) / wanted
    return np.where(np.isnan(found), math.inf, np.where(np.isin(wanted, known), found, found * _UP))


def fixed_point(divergences: Sequence[float] | np.ndarray) -> tuple[int, ...]:
    """Units of each divergence, rounded up, exactly; INFINITE for what does not fit a lane.

    Raises PolicyError for a negative or undefined one, or another number of them.
    """
    values = [float(each) for each in divergences]
    if len(values) != len(ORDERS) or not all(each >= 0 for each in values):
        raise PolicyError(f"a curve has {len(ORDERS)} divergences from 0 on, got {values}")
    return tuple(
        min(INFINITE, math.ceil(Fraction(each) * UNITS_PER_NAT)) if each < math.inf else INFINITE for each in values
    )


def words(lanes: Sequence[int]) -> tuple[int, ...]:
    """Lanes packed for the contracts: four words of four."""
    packed = [0] * (len(lanes) // _LANES)
    for index, lane in enumerate(lanes):
        packed[index // _LANES] |= lane << (64 * (index % _LANES))
    return tuple(packed)


def lanes(packed: Sequence[int]) -> tuple[int, ...]:
    """The lanes of packed words."""
    return tuple((word >> (64 * lane)) & INFINITE for word in packed for lane in range(_LANES))


def curve_words(events: Sequence[Event]) -> tuple[int, ...]:
    """What a job of these events is charged, as the contracts take it. Raises as `curve` does."""
    return words(fixed_point(curve(events)))


def cap_words(epsilon: float, delta: float) -> tuple[int, ...]:
    """The caps of a budget, as the contracts take them. Raises PolicyError for ε ≤ 0 or δ outside (0, 1)."""
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise PolicyError(f"a budget has epsilon > 0 and 0 < delta < 1, got {epsilon} and {delta}")
    orders = np.array(ORDERS, float)
    caps = epsilon - np.log1p(-1 / orders) + np.log(delta / len(ORDERS) * orders) / (orders - 1)
    caps -= 1e-12 * (epsilon + np.abs(caps) + 1)  # more than what the arithmetic loses
    units = [math.floor(Fraction(float(each)) * UNITS_PER_NAT) if each > 0 else 0 for each in caps]
    return words([min(each, INFINITE - 1) for each in units])


def spent_epsilon(packed: Sequence[int], delta: float) -> float:
    """ε at δ of a dataset's total on chain, by the caps' own rule (infinite where no order says anything)."""
    orders, total = np.array(ORDERS, float), np.array(lanes(packed), float)
    if not total.any():
        return 0.0
    total = np.where(total == float(INFINITE), math.inf, total / UNITS_PER_NAT)
    found = total + np.log1p(-1 / orders) - np.log(delta / len(ORDERS) * orders) / (orders - 1)
    return max(0.0, float(found.min()))


def jobs_admitted(events: Sequence[Event], epsilon: float, delta: float) -> int:
    """How many equal jobs the ledger on chain admits before its budget is exhausted (by its own integers)."""
    charge, caps = fixed_point(curve(events)), lanes(cap_words(epsilon, delta))
    return max(cap // each if each else 0 for each, cap in zip(charge, caps, strict=True) if each != INFINITE)


def jobs_admitted_naively(events: Sequence[Event], epsilon: float, delta: float) -> int:
    """The same where each job's ε at δ / jobs is added up (basic composition, with the split of δ that admits most)."""

    def fits(jobs: int) -> bool:
        return jobs * renyi.epsilon(events, delta / jobs) <= epsilon

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
