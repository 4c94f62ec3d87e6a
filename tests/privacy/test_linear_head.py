"""The private head: its noise from the closed form, its step as written, and that it learns."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, pld

from privlib.privacy import linear_head
from privlib.privacy.linear_head import HeadError, HeadSettings
from privlib.trusted.runtime import aligned_empty


@pytest.mark.parametrize(("epsilon", "multiplier"), [(1, 37.31), (3, 13.91), (8, 6.00)])
def test_noise_of_a_hundred_steps_is_the_published_one(epsilon: float, multiplier: float) -> None:
    found = linear_head.full_batch_guarantee(epsilon, 1e-5, HeadSettings(1.0, steps=100))
    assert found.noise_multiplier == pytest.approx(multiplier, abs=0.005)
    assert found.epsilon == pytest.approx(epsilon, rel=1e-6) and found.epsilon <= epsilon * (1 + 1e-6)


def test_two_accountants_agree_on_the_guarantee() -> None:
    found = linear_head.full_batch_guarantee(3, 1e-5, HeadSettings(1.0, steps=80))
    again = linear_head.loss_distribution_epsilon(found)
    assert found.epsilon - 1e-3 <= again <= found.epsilon + 0.02


def test_less_noise_costs_more_than_was_asked_for() -> None:
    found = linear_head.full_batch_guarantee(1, 1e-5, HeadSettings(1.0, steps=80))
    accountant = pld.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(GaussianDpEvent(0.98 * found.noise_multiplier), 80)
    assert accountant.get_epsilon(1e-5) > 1.01


@pytest.mark.parametrize(("epsilon", "delta", "steps"), [(0, 1e-5, 8), (math.inf, 1e-5, 8), (1, 0, 8), (1, 1, 8),
                                                         (1, 1e-5, 0), (math.nan, 1e-5, 8)])  # fmt: skip
def test_impossible_guarantees_are_refused(epsilon: float, delta: float, steps: int) -> None:
    with pytest.raises(HeadError, match="ε must be"):
        linear_head.full_batch_guarantee(epsilon, delta, HeadSettings(1.0, steps=steps))


def problem(count: int, features: int = 1056) -> tuple[np.ndarray, np.ndarray]:
    """Ten separable classes; rows of unit length, long enough for the product with few outputs."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, count)
    rows = 0.02 * random.standard_normal((count, features)) + np.eye(10, features)[labels]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def test_a_step_sums_clipped_gradients_of_all_rows() -> None:
    rows, labels = problem(270)
    settings = HeadSettings(1.0, steps=5)
    guarantee = linear_head.full_batch_guarantee(8, 1e-5, settings)
    step = linear_head.compile_head(rows.shape[1], len(rows), guarantee, settings)
    found = step.clipped_gradient_sum(rows, labels.astype(np.int64))["weight"]
    residual = np.full((len(rows), 10), 0.1) - np.eye(10)[labels]  # softmax of zero weights
    norms = np.linalg.norm(residual, axis=1) * np.linalg.norm(rows, axis=1)
    bound = settings.max_grad_norm / (1 + step.clipping_margin)
    expected = (np.minimum(1, bound / norms)[:, None] * residual).T @ rows
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    assert step.strategies == {"weight": "goodfellow"}


def test_where_rows_lie_makes_no_difference() -> None:
    """Aligned rows are read where they lie; others, and read-only ones, are copied."""
    rows, labels = problem(250)
    guarantee = linear_head.full_batch_guarantee(8, 1e-5, HeadSettings(1.0))
    step = linear_head.compile_head(rows.shape[1], 250, guarantee, HeadSettings(1.0))
    aligned, shifted = aligned_empty(rows.shape, "float32"), aligned_empty((251, rows.shape[1] + 1), "float32")
    aligned[:], moved = rows, shifted.reshape(-1)[1 : 1 + rows.size].reshape(rows.shape)
    moved[:] = rows
    frozen = aligned.copy()
    frozen.flags.writeable = False
    first, *others = (
        step.clipped_gradient_sum(each, labels.astype(np.int64))["weight"] for each in (aligned, moved, frozen)
    )
    assert aligned.ctypes.data % 128 == 0 != moved.ctypes.data % 128
    for other in others:
        np.testing.assert_array_equal(first, other)
    np.testing.assert_array_equal(aligned, rows)


def test_private_heads_learn_and_each_has_its_own_noise() -> None:
    rows, labels = problem(520)
    settings = HeadSettings(20.0, steps=12)
    guarantee = linear_head.full_batch_guarantee(100.0, 1e-5, settings)
    one, two = linear_head.train_heads(rows, labels, guarantee, settings, 2)
    assert one.shape == (10, rows.shape[1]) and not np.array_equal(one, two)
    assert min(linear_head.accuracy(each, rows, labels) for each in (one, two)) > 0.9


def test_at_a_small_budget_noise_drowns_a_small_set() -> None:
    rows, labels = problem(270)
    settings = HeadSettings(20.0, steps=12)
    (head,) = linear_head.train_heads(rows, labels, linear_head.full_batch_guarantee(0.1, 1e-5, settings), settings, 1)
    assert linear_head.accuracy(head, rows, labels) < 0.6


def test_rows_without_their_labels_are_refused() -> None:
    settings = HeadSettings(1.0)
    guarantee = linear_head.full_batch_guarantee(1, 1e-5, settings)
    for rows, labels in ((np.zeros((3, 4), np.float32), np.zeros(2)), (np.zeros((0, 4), np.float32), np.zeros(0))):
        with pytest.raises(HeadError, match="needed"):
            next(linear_head.train_heads(rows, labels, guarantee, settings, 1))


def test_accuracy_counts_the_largest_logit() -> None:
    weights = np.eye(10, 12, dtype=np.float32)
    rows = np.eye(10, 12, dtype=np.float32)
    assert linear_head.accuracy(weights, rows, np.array([*range(9), 0])) == 0.9
