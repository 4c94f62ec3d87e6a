"""Bugs that need no statistics over a run: each has a direct check, which our sampler or step passes and a planted one
does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privlib.privacy import PoissonSampler
from privlib.privacy.comparison import FixedSizeSampler, ShuffledSampler
from privlib.trusted import TrainingStep
from privlib.trusted import artifact as format
from privlib.trusted.sampling import Sampler
from tests.privacy import planted
from tests.privacy.conftest import BATCH, FEATURES, examples

DATA = examples(24)
COUNT, RATE, DRAWS = 60, 0.2, 600
MASK = np.arange(24) % 3 > 0
KEY = bytes(range(32))


def draws_are_poisson(sampler: Sampler) -> bool:
    """Whether each of COUNT examples takes part with RATE, independently of the others and of the last draw: the mean
    and the variance of the samples' sizes, and how many examples return at once, within 5 standard deviations."""
    present = np.zeros((DRAWS, COUNT), bool)
    for row in present:
        for batch in sampler.draw():
            row[batch.indices[batch.mask]] = True
    sizes, variance = present.sum(1), COUNT * RATE * (1 - RATE)
    returning = (present[1:] & present[:-1]).sum()
    pairs = (DRAWS - 1) * COUNT
    deviations = [
        (sizes.mean() - COUNT * RATE) / np.sqrt(variance / DRAWS),
        (((sizes - COUNT * RATE) ** 2).mean() / variance - 1) / np.sqrt(2 / DRAWS),
        (returning - pairs * RATE**2) / np.sqrt(pairs * RATE**2 * (1 - RATE**2)),
    ]
    return bool(np.abs(deviations).max() < 5)


def mask_counts(step: TrainingStep) -> bool:
    """Whether rows whose mask is False leave the update as it is without them."""
    step.use_test_key(KEY)
    start = step.parameters()
    updates = []
    for rows, mask in ((slice(None), MASK), (MASK, None)):
        step.resume(start, step.momentum(), 0)
        step.step(DATA.images[rows], DATA.labels[rows], mask)
        updates.append(step.parameters())
    return all(np.allclose(updates[0][name], updates[1][name], atol=1e-5) for name in start)


def divisor_is_public(step: TrainingStep) -> bool:
    """Whether, the noise being the same, updates with 0, 8 and 24 examples differ by their sums over the one expected
    batch size."""
    step.use_test_key(KEY)
    assert step.privacy is not None
    start, unit = step.parameters(), step.optimizer["learning_rate"] / step.privacy["expected_batch_size"]

    def moved(count: int) -> dict[str, np.ndarray]:
        step.resume(start, step.momentum(), 0)
        step.step(DATA.images[:count], DATA.labels[:count])
        return step.parameters()

    noise = moved(0)
    return all(
        np.allclose((noise[name] - moved(count)[name]) / unit, total, atol=1e-4)
        for count in (8, 24)
        for name, total in _sums(step, start, count).items()
    )


def _sums(step: TrainingStep, start: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    step.resume(start, step.momentum(), 0)
    return step.clipped_gradient_sum(DATA.images[:count], DATA.labels[:count])


def loaded(kind: type[TrainingStep], path: Path) -> TrainingStep:
    return kind(format.read(path))


def test_our_sampler_is_poisson() -> None:
    assert draws_are_poisson(PoissonSampler(COUNT, RATE, BATCH, test_key=KEY))


@pytest.mark.parametrize(
    "sampler",
    [
        FixedSizeSampler(COUNT, int(COUNT * RATE), BATCH),
        ShuffledSampler(COUNT, int(1 / RATE), BATCH),
        PoissonSampler(COUNT, RATE * 1.2, BATCH, test_key=KEY),
    ],
    ids=["fixed size", "shuffled", "another rate"],
)
def test_other_samplers_are_told_from_poisson(sampler: Any) -> None:
    assert not draws_are_poisson(sampler)


def test_our_step_heeds_the_mask(artifact: Path) -> None:
    assert mask_counts(loaded(TrainingStep, artifact))


def test_an_ignored_mask_is_caught(artifact: Path) -> None:
    assert not mask_counts(loaded(planted.IgnoresMask, artifact))


def test_our_step_divides_by_the_public_constant(artifact: Path) -> None:
    assert divisor_is_public(loaded(TrainingStep, artifact))


def test_a_divisor_taken_from_the_data_is_caught(artifact: Path) -> None:
    assert DATA.images.shape == (24, FEATURES)
    assert not divisor_is_public(loaded(planted.DividesByCount, artifact))
