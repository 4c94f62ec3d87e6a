"""The appraisal: its sensitivity by counting, its noise by moments, its values against Shapley's definition."""

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest

from privlib.trusted import appraisal, renyi
from privlib.trusted.appraisal import (
    STEP,
    AppraisalError,
    appraisal_event,
    feature_count,
    noisy_statistics,
    shapley,
    utility,
    weights_of,
)

SHAPE, CLASSES = (3, 32, 32), 10


def images(count: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((count, *SHAPE))).astype(np.float32)


def exact(data: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return noisy_statistics(data, labels, CLASSES, 0.0)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e20, 3e38])
def test_one_example_moves_the_sum_by_no_more_than_is_charged_for(scale: float) -> None:
    """Whatever is in it: added to any data, in any class."""
    rng, data, labels = np.random.default_rng(1), images(20), np.arange(20, dtype=np.int64) % 10
    bound = 5.0 / appraisal_event(5.0, feature_count(SHAPE)).noise_multiplier
    assert 1 < bound < 1 + 1e-4
    for _ in range(20):
        with np.errstate(over="ignore"):
            one = (scale * rng.standard_normal((1, *SHAPE))).astype(np.float32)
        label = rng.integers(0, 10, 1)
        more = exact(np.concatenate([data, one]), np.concatenate([labels, label]))
        assert np.linalg.norm(more - exact(data, labels)) <= bound


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_example_counts_for_nothing(bad: float) -> None:
    data, labels = images(5), np.arange(5, dtype=np.int64)
    data[2, 1, 3, 4] = bad
    kept = np.array([0, 1, 3, 4])
    np.testing.assert_array_equal(exact(data, labels), exact(data[kept], labels[kept]))


def test_the_sum_is_its_definition() -> None:
    data, labels = images(30, 3), np.arange(30, dtype=np.int64) % 10
    fields = data.reshape(30, 3, 8, 4, 8, 4).mean((3, 5), dtype=np.float64).reshape(30, -1)
    rows = np.concatenate([fields, np.ones((30, 1))], 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.array([rows[labels == each].sum(0) for each in range(CLASSES)])
    assert np.abs(exact(data, labels) - expected).max() <= 3 * STEP  # three examples a class, half a step each, twice


def test_the_noise_is_gaussian_on_the_grid() -> None:
    """Mean, deviation and tails of 40,000 draws, each to five standard errors."""
    nothing, labels = np.zeros((0, *SHAPE), np.float32), np.zeros(0, np.int64)
    draws = np.concatenate([noisy_statistics(nothing, labels, 100, 3.0).ravel() for _ in range(2)])[:38_000]
    n = len(draws)
    assert abs(draws.mean()) < 5 * 3 / math.sqrt(n)
    assert abs(draws.std() / 3 - 1) < 5 / math.sqrt(2 * n)
    for sigmas, share in ((1, 0.317311), (2, 0.0455003), (3, 0.0026998)):
        assert abs((abs(draws) > 3 * sigmas).mean() - share) < 5 * math.sqrt(share / n)
    np.testing.assert_array_equal(draws / STEP, np.rint(draws / STEP))
    assert len(np.unique(draws)) > 0.99 * n


def test_the_charge_is_the_gaussian_mechanism_s() -> None:
    event = appraisal_event(4.0, feature_count(SHAPE))
    assert event.sampling == "full" and event.steps == 1 and 3.999 < event.noise_multiplier < 4.0
    sigma = event.noise_multiplier
    assert renyi.rdp([event])[10] == pytest.approx(renyi.ORDERS[10] / (2 * sigma**2), rel=1e-6)


def by_definition(value: object, players: int) -> np.ndarray:
    """The average over all orders of what each adds to those before it."""
    total = np.zeros(players)
    orders = list(permutations(range(players)))
    for order in orders:
        for place, player in enumerate(order):
            before = tuple(sorted(order[:place]))
            total[player] += value(tuple(sorted((*before, player)))) - value(before)  # type: ignore[operator]
    return total / len(orders)


def game(seed: int, players: int) -> object:
    rng = np.random.default_rng(seed)
    table: dict[tuple[int, ...], float] = {(): 0.0}

    def value(members: Sequence[int]) -> float:
        return table.setdefault(tuple(members), float(rng.random()))

    return value


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_few_players_get_shapley_s_value(players: int) -> None:
    value = game(players, players)
    np.testing.assert_allclose(shapley(value, players), by_definition(value, players), atol=1e-12)  # type: ignore[arg-type]


def test_many_players_get_it_by_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within five standard errors, and exactly efficient: the values add up to the whole."""
    value = game(7, 5)
    expected = by_definition(value, 5)
    monkeypatch.setattr(appraisal, "EXACT_UP_TO", 0)
    found = shapley(value, 5, permutations=4000)  # type: ignore[arg-type]
    assert found.sum() == pytest.approx(value(tuple(range(5))) - value(()))  # type: ignore[operator]
    assert np.abs(found - expected).max() < 5 / math.sqrt(4000)  # each gain lies within -1 … 1


def test_nobody_is_no_game() -> None:
    with pytest.raises(AppraisalError):
        shapley(lambda members: 0.0, 0)


def test_good_data_are_worth_more_than_junk() -> None:
    """Three providers: classes that can be told apart, the same with less data, and noise with random labels."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((CLASSES, *SHAPE))
    centres = centres.reshape(CLASSES, 3, 8, 4, 8, 4).mean((3, 5)).repeat(4, 2).repeat(4, 3) * 4

    def provider(count: int, junk: bool) -> np.ndarray:
        labels = rng.integers(0, CLASSES, count)
        data = rng.standard_normal((count, *SHAPE)) + (0 if junk else centres[labels])
        return noisy_statistics(data.astype(np.float32), labels, CLASSES, 0.3)  # little, since the data are few

    statistics = [provider(600, False), provider(300, False), provider(600, True)]
    values = shapley(lambda members: utility(members, statistics), 3)
    assert values[0] > values[2] and values[1] > values[2]
    assert utility((0, 1, 2), statistics) <= 1 and utility((), statistics) == pytest.approx(1 / CLASSES)


def test_weights_are_whole_and_one_of_them_is_positive() -> None:
    assert weights_of(np.array([0.3, 0.1, -0.2])) == [750_000, 250_000, 0]
    assert weights_of(np.zeros(3)) == weights_of(np.array([-1.0, -2.0, -0.1])) == [1, 1, 1]
