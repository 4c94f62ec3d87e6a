"""An upper bound on ε from NumPy alone, for inside the enclave: Rényi differential privacy (Mironov 2017, 1702.07476).

Never below dp-accounting's RDP accountant, whose formulas and orders these are, rounded up:

- Gaussian of multiplier σ at order α: α / (2σ²). Sampled with probability q (Mironov, Talwar & Zhang 2019, 1908.10530,
  equation 6; both directions), at whole orders:

      (α − 1) · D_α = log Σ_k (α over k) (1 − q)^(α−k) q^k exp(k(k − 1) / 2σ²)

  and between them their section 3.3.
- Replacing one example moves a sum by twice the bound: σ is halved. Samples: "full" and "shuffled" alone, see below.
- Truncated Poisson: the Poisson bound, and the probability of any truncation, at most `overflow_probability` a step,
  goes into δ: a mechanism within total variation p of an (ε, δ) one is (ε, δ + (1 + e^ε) p) private.
- Shuffled: no amplification. Given the order of an epoch, an example replaced changes one batch of it.
- Random allocation: Gaussian at multiplier σ/√selections each epoch, as if an attacker knew the steps (the sampling is
  independent of the data, so convexity allows it): sound, and loose; `privlib.privacy` has the tight account.
- Anything else is refused.

From order α to ε: Canonne, Kamath & Steinke 2020 (2004.00010, proposition 12).
"""

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from privlib.trusted.events import Event, EventError, merged, neighbouring_of

ORDERS = np.array([*(1 + np.arange(1, 100) / 10), *range(11, 64), 128, 256, 512, 1024], float)
_TERMS = 1000
_UP, _LOST = 1 + 1e-9, 1e-12  # more than what the arithmetic loses of a divergence, and of a log moment


class BoundError(EventError):
    """There is no sound bound here for such events."""


def rdp(events: Iterable[Event]) -> np.ndarray:
    """Rényi divergence at ORDERS, float64, of all events together (infinite where there is no noise).

    Raises BoundError for a sampling that has no bound here under its neighbouring relation.
    """
    total = np.zeros(len(ORDERS))
    for event in merged(events):
        total += event.steps * (_one_step(event) + _LOST / (ORDERS - 1))
    return total * _UP


def epsilon(events: Iterable[Event], delta: float) -> float:
    """The smallest ε for which the bound gives (ε, delta), 0 ≤ delta ≤ 1; infinite where there is none.

    Raises EventError for another delta, or events of different neighbouring relations; BoundError as `rdp` does.
    """
    if not 0 <= delta <= 1:
        raise EventError(f"delta must lie between 0 and 1, got {delta}")
    events = [event for event in merged(events) if event.sample_rate != 0]
    neighbouring_of(events)
    divergences = rdp(events)
    if not events or delta == 1:
        return 0.0
    missed = sum(event.steps * overflow_probability(event) for event in events)
    found = _convert(divergences, delta)
    while missed > 0 and found < math.inf:  # ε rises until delta − (1 + e^ε) · missed suffices for it
        left = delta - (1 + math.exp(min(found, 700.0))) * missed
        higher = _convert(divergences, left) if left > 0 else math.inf
        if higher <= found * (1 + 1e-12):
            break
        found = higher * (1 + 1e-12)
    return found


def overflow_probability(event: Event) -> float:
    """At most this is the probability that a step's sample is truncated (0 where samples are not): Chernoff's
    exp(−N · KL(m/N ‖ q)) for more than largest_batch = m − 1 of N = dataset_size draws."""
    if event.sampling != "truncated_poisson":
        return 0.0
    assert event.sample_rate is not None and event.dataset_size is not None and event.largest_batch is not None
    q, size = event.sample_rate, event.dataset_size
    share = (event.largest_batch + 1) / size
    if q == 0 or share > 1:
        return 0.0
    if share <= q:
        return 1.0
    divergence = share * math.log(share / q) + ((1 - share) * math.log((1 - share) / (1 - q)) if share < 1 else 0)
    return min(1.0, math.exp(-size * divergence) * _UP)


def _one_step(event: Event) -> np.ndarray:
    replaced = event.neighbouring == "replace_one"
    sigma = event.noise_multiplier / 2 if replaced else event.noise_multiplier
    if event.sampling == "full":
        return _gaussian(sigma)
    if event.sampling == "shuffled" and replaced:
        return _gaussian(sigma) / event.charge_unit
    if event.sampling == "random_allocation" and event.selections is not None:
        return _gaussian(sigma) * event.selections / event.charge_unit
    if event.sampling in ("poisson", "truncated_poisson") and not replaced and event.sample_rate is not None:
        return _sampled_gaussian(sigma, event.sample_rate)
    raise BoundError(
        f"no bound is known here for {event.sampling} sampling under {event.neighbouring}; use Poisson sampling under "
        "add_or_remove_one, or privlib.privacy's accountants"
    )


def _gaussian(sigma: float) -> np.ndarray:
    return ORDERS / (2 * sigma**2) if sigma > 1e-150 else np.full(len(ORDERS), math.inf)


@lru_cache(maxsize=64)
def _sampled_gaussian(sigma: float, q: float) -> np.ndarray:
    if q == 0:
        return np.zeros(len(ORDERS))
    if q == 1 or sigma <= 1e-150:
        return _gaussian(sigma)
    moments = [_log_moment(sigma, q, a) if a == int(a) else _log_moment_between(sigma, q, a) for a in ORDERS]
    return np.maximum(moments, 0) / (ORDERS - 1)


def _log_moment(sigma: float, q: float, order: float) -> float:
    """(α − 1) · D_α at a whole order."""
    k = np.arange(order + 1)
    terms = _log_binomials(order, len(k)) + k * math.log(q) + (order - k) * math.log1p(-q)
    return float(np.logaddexp.reduce(terms + k * (k - 1) / (2 * sigma**2)))


def _log_moment_between(sigma: float, q: float, order: float) -> float:
    """At least (α − 1) · D_α at any order: section 3.3's series with all signs taken as positive; infinite where it
    has not converged."""
    i, z = np.arange(_TERMS, dtype=float), sigma**2 * math.log(1 / q - 1) + 0.5
    j, binomials = order - i, _log_binomials(order, _TERMS)
    terms = np.empty((2, _TERMS))
    for row, (power, rest, tail) in enumerate(((i, j, i - z), (j, i, z - j))):
        terms[row] = binomials + power * math.log(q) + rest * math.log1p(-q) + (power**2 - power) / (2 * sigma**2)
        terms[row] += np.array([_log_half_erfc(x) for x in tail / (math.sqrt(2) * sigma)])
    total = float(np.logaddexp.reduce(terms, axis=None))
    return total if (terms[:, -1] <= terms[:, -2]).all() and terms[:, -1].max() < total - 30 else math.inf


def _log_binomials(order: float, count: int) -> np.ndarray:
    """log |(order over k)|, k = 0 … count − 1."""
    k = np.arange(count - 1, dtype=float)
    return np.concatenate([[0.0], np.cumsum(np.log(np.abs(order - k)) - np.log(k + 1))])


def _log_half_erfc(x: float) -> float:
    """log(erfc(x) / 2); where that is tiny, an upper bound, right to 1 / (2x²)."""
    return math.log(math.erfc(x) / 2) if x < 20 else -(x**2) - math.log(2 * x * math.sqrt(math.pi))


def _convert(divergences: np.ndarray, delta: float) -> float:
    if delta <= 0:
        return math.inf
    with np.errstate(invalid="ignore", over="ignore"):
        bounds = divergences + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
        # δ ≤ √(1 − exp(−KL)) at ε = 0 (Bretagnolle & Huber)
        bounds = np.where(delta**2 + np.expm1(-divergences) > 0, 0.0, bounds)
    return max(0.0, float(bounds.min()))
