"""Random allocation's ε against simulation, and against Poisson sampling."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp

from privlib.privacy import Accountant, Event, calibrate_event, calibrate_noise
from privlib.privacy.accounting import accounted
from privlib.trusted import renyi


def simulated_delta(noise: float, steps: int, eps: float, draws: int) -> tuple[float, float]:
    """δ at ε of one epoch with one selection, by simulation of the likelihood ratio (of removal, the larger direction),
    and its standard error."""
    x = np.random.default_rng(0).standard_normal((draws, steps)) * noise
    x[:, 0] += 1
    loss = logsumexp((2 * x - 1) / (2 * noise**2), axis=1) - math.log(steps)
    excess = np.maximum(0, 1 - np.exp(eps - loss))
    return float(excess.mean()), float(excess.std() / math.sqrt(draws))


def test_the_upper_bound_is_just_above_simulation() -> None:
    delta = 1e-3
    found = accounted([Event("random_allocation", 1.0, 20, steps_per_epoch=20, selections=1)], delta)
    below, error = simulated_delta(1.0, 20, found, 400_000)
    above, _ = simulated_delta(1.0, 20, found * 0.93, 400_000)
    assert below - 3 * error <= delta < above
    assert found.accountant == "pld" and found.fallback is None


def test_it_costs_less_than_poisson_sampling() -> None:
    """σ = 1, each example in one of 20 steps, two epochs, against Poisson with q = 1/20 (2602.17284)."""
    allocated = accounted([Event("random_allocation", 1.0, 40, steps_per_epoch=20, selections=1)], 1e-5)
    poisson = Accountant().compose(1.0, 1 / 20, 40).epsilon(1e-5)
    assert 0.7 * poisson < allocated < poisson
    assert allocated < renyi.epsilon([Event("random_allocation", 1.0, 40, steps_per_epoch=20, selections=1)], 1e-5)


def test_one_step_an_epoch_is_the_gaussian() -> None:
    allocated = accounted([Event("random_allocation", 2.0, 1, steps_per_epoch=1, selections=1)], 1e-5)
    assert allocated == pytest.approx(Accountant().compose(2.0, 1, 1).epsilon(1e-5), abs=0.02)


def test_with_other_kinds_the_parts_are_added_and_it_says_so() -> None:
    allocation = Event("random_allocation", 4.0, 1, steps_per_epoch=1, selections=1)
    gaussian = Event("full", 4.0, 1)
    both = accounted([allocation, gaussian], 1e-5)
    assert both == pytest.approx(sum(accounted([each], 5e-6) for each in (allocation, gaussian)))
    assert "2 parts" in str(both.fallback)


@pytest.mark.soak  # several accounts of random allocation, each some seconds
def test_it_needs_less_noise_for_a_target() -> None:
    event = Event("random_allocation", 1.0, 10, steps_per_epoch=10, selections=1)
    noise = calibrate_event(3.0, 1e-5, event, tolerance=0.02)
    assert accounted([Event("random_allocation", noise, 10, steps_per_epoch=10, selections=1)], 1e-5) <= 3.0
    assert noise < 0.97 * calibrate_noise(3.0, 1e-5, 1 / 10, 10)
