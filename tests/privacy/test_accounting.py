"""ε against published values (the source is named beside each) and against closed forms."""

import math
import pickle

import numpy as np
import pytest
from scipy import optimize, stats

from privlib.privacy import Accountant, AccountingError, CalibrationError, Event, calibrate_noise
from privlib.privacy.accounting import accounted


def gaussian_delta(sensitivity: float, sigma: float, eps: float) -> float:
    """Balle & Wang 2018, arXiv 1805.06530, theorem 8."""
    mu = sensitivity / sigma
    return float(stats.norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * stats.norm.cdf(-mu / 2 - eps / mu))


def exact_gaussian(sensitivity: float, sigma: float, delta: float) -> float:
    if gaussian_delta(sensitivity, sigma, 0) <= delta:
        return 0.0
    return float(optimize.brentq(lambda eps: gaussian_delta(sensitivity, sigma, eps) - delta, 0, 100))


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "expected", "tolerance"),
    [
        (1.3, 150 / 60000, 6000, 1e-5, 0.7242234026109595, 1e-6),  # TF Privacy, compute_dp_sgd_privacy_test.py
        (1.0, 1e-3, 30000, 1e-7, 1.4154988495444842, 1e-6),  # the same
        (0.7, 0.01, 120, 1e-5, 3.2392676, 1e-6),  # the same
        (1.5, 0.04, int(90 / 0.04), 1e-5, 7.32911117143, 1e-3),  # Opacus, accountants_test.py, with other orders
    ],
)
def test_renyi_reference_values(
    noise: float, rate: float, steps: int, delta: float, expected: float, tolerance: float
) -> None:
    found = Accountant("rdp").compose(noise, rate, steps).epsilon(delta)
    assert found == pytest.approx(expected, rel=tolerance)
    assert (found.accountant, found.neighbouring, found.delta, found.fallback) == (
        "rdp",
        "add_or_remove_one",
        delta,
        None,
    )


def test_loss_distribution_reference_value_of_tf_privacy() -> None:
    assert Accountant().compose(0.7, 0.01, 120).epsilon(1e-5) == pytest.approx(2.4612381, rel=1e-6)


def test_loss_distribution_lies_just_below_opacus_prv() -> None:
    """Opacus' figure is an upper bound by another method: 6.777395712150674, accountants_test.py."""
    found = Accountant().compose(1.5, 0.04, int(90 // 0.04)).epsilon(1e-5)
    assert 6.777395712150674 - 0.02 <= found <= 6.777395712150674


def test_composition_in_pieces_is_composition() -> None:
    """Case 19: micro-batches are not steps, and pieces with other noise between them add up in any order."""
    pieces = Accountant().compose(1.0, 0.01, 100).compose(1.5, 0.01, 200).compose(1.0, 0.01, 200)
    whole = Accountant().compose(1.5, 0.01, 200).compose(1.0, 0.01, 300)
    assert pieces.epsilon(1e-5) == pytest.approx(whole.epsilon(1e-5), rel=1e-9)
    assert sum(event.steps for event in pieces.events) == 500


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_large_deltas(accountant: str) -> None:
    """Case 11: total variation of σ = 10 is 0.0399."""
    one = Accountant(accountant).compose(10, 1, 1)
    assert one.epsilon(1) == 0 and one.epsilon(0) == math.inf
    for delta in (-1e-9, math.nan, 1.5):
        with pytest.raises(AccountingError, match="delta must lie between"):
            one.epsilon(delta)
    if accountant == "pld":
        assert one.epsilon(0.05) == 0
        assert (
            one.epsilon(0.03) == pytest.approx(exact_gaussian(1, 10, 0.03), abs=1e-4) == pytest.approx(0.0224, abs=1e-4)
        )


def test_replacing_an_example_moves_the_sum_twice_as_far() -> None:
    """Case 13: the relation is kept with every ε, and both accountants agree on what it means."""
    add = Accountant().compose(4, 1, 1).epsilon(1e-5)
    replace = Accountant(neighbouring="replace_one").compose(4, 1, 1).epsilon(1e-5)
    assert add == pytest.approx(exact_gaussian(1, 4, 1e-5), abs=1e-3) == pytest.approx(0.926, abs=1e-3)
    assert replace == pytest.approx(exact_gaussian(2, 4, 1e-5), abs=1e-3) == pytest.approx(1.993, abs=1e-3)
    assert (add.neighbouring, replace.neighbouring) == ("add_or_remove_one", "replace_one")
    halved = Accountant("rdp").compose(2, 1, 1).epsilon(1e-5)
    assert Accountant("rdp", "replace_one").compose(4, 1, 1).epsilon(1e-5) == halved > replace


def test_relations_do_not_mix() -> None:
    with pytest.raises(AccountingError, match="make another"):
        Accountant().compose_events([Event("full", 1.0, 1, "replace_one")])


def test_small_noise_and_high_epsilon() -> None:
    """Case 15: finite or infinite, never NaN, falling with σ; what fell back says so."""
    found = [Accountant().compose(sigma, 0.01, 1000).epsilon(1e-5) for sigma in (0.05, 0.3, 1.0, 100.0)]
    assert all(math.isfinite(each) for each in found) and found == sorted(found, reverse=True)
    assert found[0].accountant == "rdp" and "rdp instead of pld" in str(found[0].fallback)
    assert [each.accountant for each in found[1:]] == ["pld"] * 3
    assert Accountant().compose(0, 0.01, 1).epsilon(1e-5) == math.inf
    assert Accountant().compose(0, 0, 1).epsilon(1e-5) == 0
    assert Accountant().epsilon(1e-5) == 0
    assert Accountant().compose(1, 1, 1).epsilon(1e-5) == pytest.approx(exact_gaussian(1, 1, 1e-5), abs=1e-3)


@pytest.mark.parametrize(("eps", "sigma"), [(1, 37.31), (3, 13.91), (8, 6.00)])
def test_full_batches_match_the_closed_form(eps: float, sigma: float) -> None:
    """100 steps over the whole set; σ from the analytic Gaussian mechanism."""
    assert calibrate_noise(eps, 1e-5, 1.0, 100) == pytest.approx(sigma, abs=0.01)


def test_calibration_matches_opacus() -> None:
    """get_noise_multiplier's tests: 1.416 by RDP, 1.3477 by PRV, both ± 0.01."""
    steps = int(90 / 0.04)
    assert calibrate_noise(8, 1e-5, 0.04, steps, accountant="rdp") == pytest.approx(1.416, abs=0.01)
    assert calibrate_noise(8, 1e-5, 0.04, steps) == pytest.approx(1.3477, abs=0.01)


def test_calibration_never_overshoots() -> None:
    """Case 17."""
    sigma = calibrate_noise(1, 1e-5, 0.02, 500, tolerance=0.01)
    assert Accountant().compose(sigma, 0.02, 500).epsilon(1e-5) <= 1
    assert Accountant().compose(sigma - 0.01, 0.02, 500).epsilon(1e-5) > 1


def test_high_targets_are_calibrated_too() -> None:
    """Case 15."""
    sigma = calibrate_noise(1000, 1e-5, 0.01, 1000)
    assert 0 < sigma < 0.3 and Accountant().compose(sigma, 0.01, 1000).epsilon(1e-5) <= 1000


def test_unreachable_targets_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no noise multiplier"):
        calibrate_noise(1e-9, 1e-5, 1.0, 10**6, accountant="rdp")
    for eps, delta in ((0, 1e-5), (-1, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (1, 0), (1, 1)):
        with pytest.raises(CalibrationError):
            calibrate_noise(eps, delta, 0.01, 10)


def test_truncation_costs_little_where_it_is_rare_and_much_where_it_is_not() -> None:
    def bounded(largest: int) -> float:
        event = Event("truncated_poisson", 1.0, 100, sample_rate=0.01, dataset_size=10_001, largest_batch=largest)
        return accounted([event], 1e-5)

    poisson = Accountant().compose(1.0, 0.01, 100).epsilon(1e-5)
    assert bounded(200) == pytest.approx(poisson, rel=1e-6)
    assert bounded(90) > poisson * 1.1


def test_shuffling_gives_no_amplification() -> None:
    """Ten epochs of 100 shuffled batches: ten Gaussians; taken for Poisson they would look far better."""
    shuffled = accounted([Event("shuffled", 4.0, 1000, "replace_one", steps_per_epoch=100)], 1e-5)
    assert shuffled == pytest.approx(exact_gaussian(2, 4 / math.sqrt(10), 1e-5), rel=1e-3)
    assert shuffled > 4 * Accountant().compose(4.0, 0.01, 1000).epsilon(1e-5)


def test_an_epsilon_is_a_float_that_explains_itself() -> None:
    found = Accountant().compose(1.0, 0.01, 10).epsilon(1e-5)
    assert "δ = 1e-05 (pld, add or remove one)" in str(found)
    copied = pickle.loads(pickle.dumps(found))
    assert copied == found and copied.accountant == "pld" and copied.neighbouring == found.neighbouring


def test_order_by_order_divergences_match_dp_accounting() -> None:
    """dp_accounting, rdp_privacy_accountant_test.py: σ 2.5, q 0.01, 50 steps."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    reference = [6.70579741e-4, 1.08548710e-3, 2.18075656e-3, 0.0238460375, 167.416308]
    found = RdpAccountant([1.5, 2.5, 5, 50, 100]).compose(PoissonSampledDpEvent(0.01, GaussianDpEvent(2.5)), 50).rdp
    np.testing.assert_allclose(found, reference, rtol=1e-6)
