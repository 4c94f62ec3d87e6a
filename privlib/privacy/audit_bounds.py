"""From guesses about canaries to a lower bound on ε, at a stated confidence: the statistics of one-run auditing.

m canaries were each included with probability ½, independently. After the run the auditor guesses for `guesses` of them
whether they were in, abstains on the rest, and `correct` guesses are right. The number of guesses must be fixed before
the scores are seen. Three bounds, each with a weaker claim than the one before and so a tighter value:

any mechanism   Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846), theorem 5.2: refutes (ε, δ)-DP of anything.
Gaussian curve  Mahloujifar, Melis & Chaudhuri 2025 (arXiv 2410.22235), algorithm 3 with abstentions: refutes that the
                trade-off curve is a Gaussian mechanism's, the curve that full-batch DP-SGD claims. Canaries may still
                leak together. That is why even endless canaries do not bring it to the true ε: with confidence 1 − α, a
                mechanism may for all canaries at once leak what its curve allows one canary with probability α.
independent     Nasr et al. 2023 (arXiv 2302.07956), with canaries in place of runs: the same curve, and given the
                inclusions the canaries' scores are independent. So it is where noise is independent in each coordinate
                and the canaries' gradients are orthogonal; where it is not, this bound can be too high.

Gaussian curves are written as μ-GDP (Dong, Roth & Su 2022, arXiv 1905.02383): as hard to tell apart as N(0, 1) and
N(μ, 1); n full-batch steps with noise multiplier σ have μ = √n / σ.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, log_ndtr, ndtr, ndtri
from scipy.stats import beta, binom

from privlib.privacy.errors import AuditError

_MOST_EPSILON, _MOST_MU, _RESOLUTION = 200.0, 40.0, 1e-6
_CANDIDATES = 24  # numbers of guesses that `planned_guesses` compares


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The most that P[at least `correct` right guesses] can be under (ε, δ)-DP (Steinke et al., theorem 5.2):

    β + 2mδ · maxᵢ (P[W ≥ correct − i] − β) / i, with β = P[W ≥ correct] and W ~ Binomial(guesses, e^ε / (1 + e^ε)).
    """
    _check(canaries, guesses, correct)
    rate = expit(epsilon)
    tail = binom.sf(correct - 1, guesses, rate)
    slips = np.arange(1, correct + 1)
    worst = ((binom.sf(correct - slips - 1, guesses, rate) - tail) / slips).max(initial=0.0)
    return float(min(1.0, tail + 2 * canaries * delta * worst))


def epsilon_of_any_mechanism(canaries: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    """The largest ε such that (ε, δ)-DP is refuted; 0 where nothing is."""

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, correct, epsilon, delta) <= 1 - confidence

    _check(canaries, guesses, correct, confidence)
    return _largest(refuted, _MOST_EPSILON)


def refutes_gaussian(canaries: int, guesses: int, correct: int, mu: float, confidence: float) -> bool:
    """Whether so many right guesses have probability below 1 − confidence for every μ-GDP mechanism.

    Let r_c and h_c be the mean over canaries of P[guess right, at least c right] and P[guess wrong, at least c right].
    Flipping one inclusion turns a right guess into a wrong one, so h_{c−1} ≥ Φ(Φ⁻¹(r_c) − μ); and the mass between
    c + 1 and c splits c : (guesses − c) between them. Started from probability 1 − confidence of exactly `correct`, the
    two grow as c falls; where they pass guesses / canaries, there is more than all probability.
    """
    right = (1 - confidence) * correct / canaries
    wrong = (1 - confidence) * (guesses - correct) / canaries
    for c in range(correct - 1, -1, -1):
        least = float(ndtr(ndtri(right) - mu))
        if least <= wrong:  # from here on nothing grows
            break
        right = min(1.0, right + c / (guesses - c) * (least - wrong))
        wrong = least
        if right + wrong > guesses / canaries:
            return True
    return False


def mu_of_gaussian(canaries: int, guesses: int, correct: int, confidence: float) -> float:
    """The largest μ such that μ-GDP is refuted; 0 where nothing is."""
    _check(canaries, guesses, correct, confidence)
    return _largest(lambda mu: refutes_gaussian(canaries, guesses, correct, mu, confidence), _MOST_MU)


def mu_of_independent(true_positives: int, members: int, false_positives: int, others: int, confidence: float) -> float:
    """A lower bound on μ from how often a threshold, fixed beforehand, was passed by members and by the others, if
    their scores are independent: Φ⁻¹(rate of true positives) − Φ⁻¹(of false ones), each rate at its Clopper–Pearson
    limit for half of 1 − confidence; 0 where that is negative or a group is empty."""
    if not (0 <= true_positives <= members and 0 <= false_positives <= others and 0 < confidence < 1):
        raise AuditError("0 ≤ true_positives ≤ members, 0 ≤ false_positives ≤ others and 0 < confidence < 1 are needed")
    if not true_positives or false_positives == others:
        return 0.0
    half = (1 - confidence) / 2
    least = beta.ppf(half, true_positives, members - true_positives + 1)
    most = beta.ppf(1 - half, false_positives + 1, others - false_positives)
    return max(0.0, float(ndtri(least) - ndtri(most)))


def epsilon_of_mu(mu: float, delta: float) -> float:
    """ε of μ-GDP at δ: Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2) = δ (Dong et al., corollary 2.13)."""
    if not (mu >= 0 and 0 < delta < 1):
        raise AuditError(f"mu ≥ 0 and 0 < delta < 1 are needed, got {mu}, {delta}")
    if mu == 0:
        return 0.0

    def gap(epsilon: float) -> float:
        first, second = -epsilon / mu + mu / 2, -epsilon / mu - mu / 2
        return float(ndtr(first) - math.exp(epsilon + log_ndtr(second))) - delta

    high = mu * (mu / 2 - float(ndtri(delta)))  # there Φ(−ε/μ + μ/2) alone is δ
    return 0.0 if gap(0.0) <= 0 else float(brentq(gap, 0.0, high, xtol=1e-9))


def planned_guesses(canaries: int, mu: float, bound: Callable[[int, int], float]) -> int:
    """The number of guesses, an even one, for which μ-GDP with independent noise is expected to give the best
    bound(guesses, correct). It depends on what is claimed alone, so that it is fixed before the scores are seen.

    Raises AuditError where there are fewer than two canaries, or μ is not positive.
    """
    if canaries < 2 or not 0 < mu < math.inf:
        raise AuditError(f"two canaries and a positive mu are needed, got {canaries}, {mu}")
    sizes = np.unique(np.geomspace(2, canaries, _CANDIDATES).astype(int) // 2 * 2).tolist()
    return int(max(sizes, key=lambda guesses: bound(guesses, int(guesses * _precision(guesses / 2 / canaries, mu)))))


def _precision(share: float, mu: float) -> float:
    """How many of the `share` highest scores (at most half of them all) belong to members, whose scores lie μ higher
    and are half of all."""

    def gap(threshold: float) -> float:
        return float(ndtr(-threshold) + ndtr(mu - threshold)) / 2 - share

    threshold = brentq(gap, -_MOST_MU, 2 * _MOST_MU)
    return float(ndtr(mu - threshold)) / 2 / share


def _largest(refuted: Callable[[float], bool], most: float) -> float:
    """The largest value that is refuted, to 1e-6; smaller ones are refuted too."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high < most and refuted(high):
        low, high = high, 2 * high
    while high - low > _RESOLUTION:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _check(canaries: int, guesses: int, correct: int, confidence: float = 0.5) -> None:
    if not (0 <= correct <= guesses <= canaries and canaries > 0 and 0 < confidence < 1):
        raise AuditError(
            "0 ≤ correct ≤ guesses ≤ canaries and 0 < confidence < 1 are needed, "
            f"got {correct}, {guesses}, {canaries}, {confidence}"
        )
