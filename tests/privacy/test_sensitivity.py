"""What the accountant is told against what the compiled step does."""

import math
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from privlib import trusted
from privlib.compiler import DPSGD, SGD, compile_training
from privlib.privacy import AccountingError, effective_noise_multiplier
from privlib.trusted import TrainingStep
from privlib.trusted.sampling import PhysicalBatch
from tests.privacy.conftest import BATCH, FEATURES, examples, linear


def test_rounding_lowers_the_multiplier(artifact: Path) -> None:
    step = trusted.load(artifact)
    assert isinstance(step, TrainingStep) and step.privacy is not None
    coordinates, grid = FEATURES * 3 + 3, step.privacy["grid_step"]
    assert step.coordinates == coordinates
    sensitivity = 1.0 + 2 * BATCH**2 * 2**-24 + 2 * math.sqrt(coordinates) * grid
    assert effective_noise_multiplier(step) == pytest.approx(1.0 / sensitivity, rel=1e-12)
    assert sensitivity > 1


def test_without_noise_there_is_no_multiplier() -> None:
    plain = compile_training(linear(), BATCH, input_shape=(FEATURES,), optimizer=SGD(0.1))
    with pytest.raises(AccountingError, match="plain step has no noise"):
        effective_noise_multiplier(plain)


def test_removing_one_from_a_shuffled_draw_changes_two_physical_batches_at_most() -> None:
    """The pairing of neighbouring draws: the last element takes the place of the one that goes."""
    order = np.random.default_rng(0).permutation(45)
    for place in range(45):
        without = order.copy()
        without[place] = without[-1]
        batches = PhysicalBatch.cut(order, 8, 6), PhysicalBatch.cut(without[:-1], 8, 6)
        different = [
            not (np.array_equal(a.indices, b.indices) and np.array_equal(a.mask, b.mask))
            for a, b in zip(*batches, strict=True)
        ]
        assert sum(different) <= 2


@pytest.mark.parametrize("clipping", ["flat", "normalize"])
def test_one_example_moves_the_sum_on_the_grid_by_no_more_than_was_claimed(clipping: str) -> None:
    model = nn.Linear(FEATURES, 3)
    step = compile_training(
        model, BATCH, input_shape=(FEATURES,), optimizer=SGD(0.1), privacy=DPSGD(1.0, 0.5, 12, clipping=clipping)
    )
    claimed = 0.5 / effective_noise_multiplier(step)
    data, random = examples(40), np.random.default_rng(1)
    for scale in (1e-2, 1.0, 1e4):
        images = (data.images * scale * np.exp(random.standard_normal((40, 1)))).astype(np.float32)
        whole = step.clipped_gradient_sum(images, data.labels)
        for place in (0, 11, 39):
            images_without, labels_without, mask = images.copy(), data.labels.copy(), np.ones(40, bool)
            images_without[place], labels_without[place], mask[-1] = images[-1], data.labels[-1], False
            without = step.clipped_gradient_sum(images_without, labels_without, mask)
            moved = math.sqrt(sum(float(((whole[name] - without[name]) ** 2).sum()) for name in whole))
            assert moved <= claimed
            if clipping == "normalize":
                assert moved > 0.49


def test_gradients_too_short_for_their_norm_are_not_scaled_up() -> None:
    """Squares of 1e-22 underflow in float32; scaled by such a norm, a gradient would pass the bound, and by far where
    most elements' squares are lost."""
    model = nn.Linear(64, 3, bias=False)
    step = compile_training(
        model, BATCH, input_shape=(64,), optimizer=SGD(0.1), privacy=DPSGD(0.0, 1.0, 8, clipping="normalize")
    )
    for size in 10.0 ** np.arange(-30.0, 1.0):
        image = np.full((1, 64), size, np.float32)
        image[0, 0] *= 4
        found = step.clipped_gradient_sum(image, np.zeros(1, np.int64))["weight"]
        norm = float(np.linalg.norm(found))
        assert norm == 0 or 0.999 < norm <= 1
        assert (norm == 0) == (size < 1e-12), size
