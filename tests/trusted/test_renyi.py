"""The enclave's bound against dp-accounting: never below it, and close."""

import math

import numpy as np
import pytest
from scipy import stats

from privlib.privacy import Accountant
from privlib.trusted import renyi
from privlib.trusted.events import Event, EventError

REFERENCES = [  # noise multiplier, sample rate, steps, δ; see tests/privacy/test_accounting.py
    (1.3, 150 / 60000, 6000, 1e-5),
    (1.0, 1e-3, 30000, 1e-7),
    (1.5, 0.04, 2250, 1e-5),
    (0.7, 0.01, 120, 1e-5),
    (0.3, 0.01, 1000, 1e-5),
    (100.0, 0.01, 1000, 1e-5),
    (37.31, 1.0, 100, 1e-5),
    (4.0, 1.0, 1, 1e-5),
    (10.0, 1.0, 1, 0.05),
    (0.05, 0.01, 1000, 1e-5),
]


def event(noise: float, rate: float, steps: int) -> Event:
    return Event("full", noise, steps) if rate == 1 else Event("poisson", noise, steps, sample_rate=rate)


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), REFERENCES)
def test_it_is_never_below_dp_accounting_and_hardly_above(noise: float, rate: float, steps: int, delta: float) -> None:
    reference = Accountant("rdp").compose(noise, rate, steps).epsilon(delta)
    assert reference <= renyi.epsilon([event(noise, rate, steps)], delta) <= reference * (1 + 1e-6)


def test_every_order_is_at_least_dp_accountings() -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    for noise, rate, steps, _ in REFERENCES:
        reference = RdpAccountant(renyi.ORDERS).compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps).rdp
        assert (renyi.rdp([event(noise, rate, steps)]) >= reference * (1 - 1e-12)).all()


@pytest.mark.parametrize("count", [15, pytest.param(600, marks=pytest.mark.soak)])
def test_it_is_never_below_for_random_settings(count: int) -> None:
    random = np.random.default_rng(5)
    for _ in range(count):
        noise, rate = 10 ** random.uniform(-0.5, 1.5), 10 ** random.uniform(-4, -0.01)
        steps, delta = int(10 ** random.uniform(0, 4)), 10 ** random.uniform(-9, -1)
        reference = Accountant("rdp").compose(noise, rate, steps).epsilon(delta)
        assert renyi.epsilon([event(noise, rate, steps)], delta) >= reference


def test_edges() -> None:
    assert renyi.epsilon([], 1e-5) == 0
    assert renyi.epsilon([event(1.0, 0.0, 10)], 1e-5) == 0
    assert renyi.epsilon([event(0.0, 0.5, 1)], 1e-5) == math.inf
    assert renyi.epsilon([event(1.0, 0.5, 1)], 0) == math.inf
    assert renyi.epsilon([event(1.0, 0.5, 1)], 1) == 0
    for delta in (-1e-9, 1.1, math.nan):
        with pytest.raises(EventError, match="delta must lie"):
            renyi.epsilon([event(1.0, 0.5, 1)], delta)


def test_replacing_is_accounted_as_twice_the_sensitivity() -> None:
    """σ = 4, order α: α/32 for adding, α/8 for replacing (case 13)."""
    for relation, divisor in (("add_or_remove_one", 32), ("replace_one", 8)):
        found = renyi.rdp([Event("full", 4.0, 1, relation)])
        np.testing.assert_allclose(found, renyi.ORDERS / divisor, rtol=1e-6)


@pytest.mark.parametrize(
    "unknown",
    [
        Event("poisson", 1.0, 1, "replace_one", sample_rate=0.1),
        Event("fixed_size", 1.0, 1, "replace_one", dataset_size=10, largest_batch=1),
        Event("shuffled", 1.0, 10, steps_per_epoch=10),
    ],
)
def test_what_has_no_bound_is_refused(unknown: Event) -> None:
    with pytest.raises(renyi.BoundError, match="no bound is known"):
        renyi.epsilon([unknown], 1e-5)


def test_relations_do_not_mix() -> None:
    with pytest.raises(EventError, match="one ledger for each"):
        renyi.epsilon([Event("full", 1.0, 1), Event("full", 1.0, 1, "replace_one")], 1e-5)


@pytest.mark.parametrize("largest", [100, 120, 150, 300])
def test_the_overflow_bound_is_above_the_binomial_tail(largest: int) -> None:
    bounded = Event("truncated_poisson", 1.0, 1, sample_rate=0.01, dataset_size=10_000, largest_batch=largest)
    assert stats.binom.sf(largest, 10_000, 0.01) <= renyi.overflow_probability(bounded)
    if largest == 300:
        assert renyi.overflow_probability(bounded) < 1e-40


def test_truncation_goes_into_delta() -> None:
    def bounded(largest: int, steps: int = 100) -> float:
        event = Event("truncated_poisson", 1.0, steps, sample_rate=0.01, dataset_size=10_001, largest_batch=largest)
        return renyi.epsilon([event], 1e-5)

    poisson = renyi.epsilon([event(1.0, 0.01, 100)], 1e-5)
    assert poisson <= bounded(300) <= poisson * (1 + 1e-9)
    assert poisson * 1.001 < bounded(168) < math.inf
    assert bounded(110) == math.inf
    missed = 100 * renyi.overflow_probability(
        Event("truncated_poisson", 1.0, 1, sample_rate=0.01, dataset_size=10_001, largest_batch=168)
    )
    # what remains of δ is enough for the ε that is claimed
    left = 1e-5 - (1 + math.exp(bounded(168))) * missed
    assert renyi.epsilon([event(1.0, 0.01, 100)], left) <= bounded(168) * (1 + 1e-9)


def test_epochs_without_amplification_are_gaussians() -> None:
    gaussian = renyi.epsilon([event(2.0, 1.0, 6)], 1e-5)
    allocated = Event("random_allocation", 2.0, 60, steps_per_epoch=20, selections=2)
    assert renyi.epsilon([allocated], 1e-5) == pytest.approx(gaussian, rel=1e-6)
    shuffled = Event("shuffled", 4.0, 120, "replace_one", steps_per_epoch=20)
    assert renyi.epsilon([shuffled], 1e-5) == pytest.approx(gaussian, rel=1e-6)
