"""The bounds against independent simulations of mechanisms that just have the privacy in question, and against
jax_privacy's."""

import importlib
import math
from importlib.util import find_spec

import dp_accounting
import numpy as np
import pytest
from scipy.special import expit

from privlib.privacy import Accountant, AuditError
from privlib.privacy import audit_bounds as bounds

CONFIDENCE = 0.9  # in simulations, where the failures allowed must be frequent enough to be counted
RUNS = 4000

# (canaries, guesses, right ones, 1 − confidence, δ) → ε of any mechanism, ε of a Gaussian curve.
# Source: jax_privacy 2.0.0, CanaryScoreAuditor.epsilon_one_run and .epsilon_one_run_fdp at an explicit threshold;
# `jax_privacy_values` below makes them.
REFERENCE = {
    (1000, 100, 98, 0.05, 1e-5): (2.7109631340457816, 4.227872933597753),
    (1000, 200, 180, 0.0025, 1e-5): (1.535816507779687, 2.0761202733657456),
    (4096, 402, 351, 0.0025, 1e-5): (1.444682197498178, 1.8138011853108755),
    (16384, 324, 312, 0.0025, 1e-5): (0.4896179695802035, 2.757236927876059),
    (1000, 1000, 640, 0.05, 1e-6): (0.4651856310891684, 1.0196280172391583),
    (500, 50, 50, 0.01, 1e-3): (0.0, 2.4171701918629407),
}


def found(canaries: int, guesses: int, correct: int, significance: float, delta: float) -> tuple[float, float]:
    mu = bounds.mu_of_gaussian(canaries, guesses, correct, 1 - significance)
    anything = bounds.epsilon_of_any_mechanism(canaries, guesses, correct, delta, 1 - significance)
    return anything, bounds.epsilon_of_mu(mu, delta)


def jax_privacy_values(m: int, guesses: int, correct: int, significance: float, delta: float) -> tuple[float, float]:
    auditing = importlib.import_module("jax_privacy.auditing")
    rest = m - guesses  # below the threshold; put so that neither group is empty
    members = np.r_[np.ones(correct), np.zeros(rest // 2)]
    others = np.r_[np.ones(guesses - correct), np.zeros(rest - rest // 2)]
    auditor, at = auditing.CanaryScoreAuditor(members, others), auditing.Explicit(0.5)
    return (
        auditor.epsilon_one_run(significance, delta, threshold_strategy=at),
        auditor.epsilon_one_run_fdp(significance, delta, threshold_strategy=at),
    )


@pytest.mark.parametrize("case", REFERENCE)
def test_bounds_are_those_of_jax_privacy(case: tuple[int, int, int, float, float]) -> None:
    """To 1e-5: both stop searching at 1e-6, jax_privacy in ε, this in μ."""
    assert found(*case) == pytest.approx(REFERENCE[case], abs=1e-5)


@pytest.mark.skipif(find_spec("jax_privacy") is None, reason="jax_privacy is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", REFERENCE)
def test_reference_values_are_what_jax_privacy_gives(case: tuple[int, int, int, float, float]) -> None:
    assert jax_privacy_values(*case) == pytest.approx(REFERENCE[case], abs=1e-5)


@pytest.mark.parametrize("delta", [0.0, 0.02])
@pytest.mark.parametrize("together", [False, True])
def test_p_values_cover_randomised_response(delta: float, together: bool) -> None:
    """Each inclusion is told by randomised response with ε, and with probability δ in clear, for every canary by itself
    or for all at once: (ε, δ)-DP. Exactly as often as the p-value says, for δ = 0; never more often."""
    random, epsilon, canaries = np.random.default_rng(3), 1.0, 40
    told = random.random((RUNS, canaries)) < expit(epsilon)
    told |= random.random((RUNS, 1 if together else canaries)) < delta
    right = told.sum(1)
    for correct in range(canaries // 2, canaries + 1):
        rate, limit = (right >= correct).mean(), bounds.p_value(canaries, canaries, correct, epsilon, delta)
        slack = 4 * math.sqrt(max(limit * (1 - limit), 1e-4) / RUNS)
        assert rate <= limit + slack
        if not delta:
            assert rate >= limit - slack


def wrongly_refuted(right: np.ndarray, canaries: int, guesses: int, mu: float) -> float:
    """How often the bound exceeds μ."""
    values, counts = np.unique(right, return_counts=True)
    refuted = [bounds.refutes_gaussian(canaries, guesses, int(value), mu, CONFIDENCE) for value in values]
    return float(counts[refuted].sum() / counts.sum())


def test_a_gaussian_mechanism_is_not_refuted() -> None:
    random, mu, canaries, guesses = np.random.default_rng(4), 1.0, 400, 40
    included = random.random((RUNS // 4, canaries)) < 0.5
    order = np.argsort(random.standard_normal(included.shape) + mu * included, axis=1)
    ranked = np.take_along_axis(included, order, 1)
    right = ranked[:, -guesses // 2 :].sum(1) + (~ranked[:, : guesses // 2]).sum(1)
    assert wrongly_refuted(right, canaries, guesses, mu) <= 1 - CONFIDENCE
    assert wrongly_refuted(right, canaries, guesses, mu / 4) > 0.9


def test_canaries_that_leak_together_are_covered() -> None:
    """The worst that μ-GDP allows: one draw decides for all canaries how well they are told. A Gaussian observation is
    randomised response with the log-odds |μx|, x ~ N(μ/2, 1), so sharing |x| leaves each canary's curve as it is. The
    bound is met almost exactly: little less than μ is refuted as often as it may be. The one that takes scores for
    independent fails far more often than it says."""
    random, mu, canaries = np.random.default_rng(5), 1.0, 1000
    odds = mu * np.abs(random.normal(mu / 2, 1, RUNS))
    right = random.binomial(canaries, expit(odds))
    limit, slack = 1 - CONFIDENCE, 4 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / RUNS)
    assert wrongly_refuted(right, canaries, canaries, mu) <= limit + slack
    assert wrongly_refuted(right, canaries, canaries, 0.8 * mu) > limit / 2
    halves = [(int(each) // 2, canaries // 2) for each in right]
    independent = [bounds.mu_of_independent(tp, n, n - tp, n, CONFIDENCE) for tp, n in halves]
    assert np.mean(np.array(independent) > mu) > 2 * limit


def test_the_independent_bound_holds_as_often_as_it_says() -> None:
    random, mu, count = np.random.default_rng(6), 1.0, 300
    rates = 0.5 * (1 + math.erf(mu / 2 / math.sqrt(2)))
    passed = random.binomial(count, [rates, 1 - rates], (RUNS, 2))
    pairs, times = np.unique(passed, axis=0, return_counts=True)
    found = np.array([bounds.mu_of_independent(int(t), count, int(f), count, CONFIDENCE) for t, f in pairs])
    assert times[found > mu].sum() / RUNS <= 1 - CONFIDENCE
    assert (found * times).sum() / RUNS > 0.7 * mu


@pytest.mark.parametrize(("mu", "delta"), [(0.1, 1e-5), (0.925, 1e-5), (1.666, 1e-6), (3.0, 1e-3), (12.0, 1e-5)])
def test_epsilon_of_mu_is_the_gaussian_mechanism_s(mu: float, delta: float) -> None:
    assert bounds.epsilon_of_mu(mu, delta) == pytest.approx(dp_accounting.get_epsilon_gaussian(1 / mu, delta), rel=1e-6)


def test_epsilon_of_mu_is_what_full_batch_steps_cost() -> None:
    steps, sigma = 10, 3.4
    claimed = Accountant().compose(sigma, 1.0, steps).epsilon(1e-5)
    assert bounds.epsilon_of_mu(math.sqrt(steps) / sigma, 1e-5) == pytest.approx(claimed, abs=1e-3)
    assert bounds.epsilon_of_mu(0.0, 1e-5) == 0.0 and bounds.epsilon_of_mu(1e-9, 1e-5) == 0.0


def test_more_right_guesses_show_more() -> None:
    for bound in (
        lambda right: bounds.mu_of_gaussian(1000, 100, right, 0.95),
        lambda right: bounds.epsilon_of_any_mechanism(1000, 100, right, 1e-6, 0.95),
        lambda right: bounds.mu_of_independent(right, 100, 100 - right, 100, 0.95),
    ):
        values = [bound(right) for right in range(0, 101, 10)]
        assert values == sorted(values) and values[5] == 0.0 and values[-1] > 1


def test_planned_guesses_are_near_the_best() -> None:
    """Compared with what simulated runs give for every number of guesses."""
    random, mu, canaries = np.random.default_rng(7), 1.0, 2000

    def bound(guesses: int, correct: int) -> float:
        return bounds.mu_of_gaussian(canaries, guesses, correct, 0.95)

    included = random.random((40, canaries)) < 0.5
    order = np.argsort(random.standard_normal(included.shape) + mu * included, axis=1)
    ranked = np.take_along_axis(included, order, 1)

    def mean(guesses: int) -> float:
        half = guesses // 2
        right = ranked[:, -half:].sum(1) + (~ranked[:, :half]).sum(1)
        return float(np.mean([bound(guesses, int(each)) for each in right]))

    planned = bounds.planned_guesses(canaries, mu, bound)
    assert planned % 2 == 0
    assert mean(planned) > 0.9 * max(mean(guesses) for guesses in (20, 60, 120, 200, 400, 800, 2000))


@pytest.mark.parametrize("numbers", [(0, 0, 0), (10, 11, 5), (10, 5, 6), (10, 5, -1)])
def test_counts_that_cannot_be_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(AuditError):
        bounds.p_value(*numbers, 1.0, 1e-5)
    with pytest.raises(AuditError):
        bounds.mu_of_gaussian(*numbers, 0.95)


def test_other_nonsense_is_refused() -> None:
    with pytest.raises(AuditError):
        bounds.mu_of_gaussian(10, 5, 5, 1.0)
    with pytest.raises(AuditError):
        bounds.mu_of_independent(3, 2, 0, 2, 0.95)
    with pytest.raises(AuditError):
        bounds.epsilon_of_mu(math.nan, 1e-5)
    with pytest.raises(AuditError):
        bounds.planned_guesses(1, 1.0, lambda guesses, correct: 0.0)
    assert bounds.mu_of_independent(0, 0, 0, 0, 0.95) == 0.0
