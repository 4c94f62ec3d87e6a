"""One epoch inside: the sampling's law, a constant amount of work, and an event that says what was done."""

from typing import Any, cast

import numpy as np
import pytest

from privlib.trusted.epoch import EpochRequest, run_epoch, samples
from privlib.trusted.training import TrainingError, TrainingStep


def drawn(count: int, request: EpochRequest, capacity: int) -> np.ndarray:
    """Bool (steps, count): which example is in which update."""
    found = np.zeros((request.steps, count), bool)
    for step, (rows, mask) in enumerate(samples(count, request, capacity)):
        assert rows.shape == mask.shape == (capacity,) and rows.dtype == np.int64 and mask.dtype == bool
        assert len(set(rows[mask])) == mask.sum()
        found[step, rows[mask]] = True
    return found


def test_every_example_is_in_with_the_asked_chance_and_independently() -> None:
    steps, count, rate = 4000, 60, 0.1
    found = drawn(count, EpochRequest(steps, rate, 1), count)
    assert found.mean() == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / found.size))
    each = found.mean(0)
    assert np.abs(each - rate).max() < 5 * np.sqrt(rate * (1 - rate) / steps)
    # Sizes are binomial: a shuffled batch would have one size, a cut one fewer large ones.
    sizes = found.sum(1)
    assert sizes.var() == pytest.approx(count * rate * (1 - rate), rel=0.15)
    correlation = np.corrcoef(found.T.astype(float))
    assert np.abs(correlation[~np.eye(count, dtype=bool)]).max() < 5.5 / np.sqrt(steps)


def test_a_sample_that_does_not_fit_is_cut_to_a_uniform_subset() -> None:
    found = drawn(50, EpochRequest(3000, 0.5, 1), 10)
    assert (found.sum(1) == 10).all()
    each = found.mean(0)
    assert np.abs(each - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 3000)


def test_everybody_and_nobody_are_possible() -> None:
    assert drawn(7, EpochRequest(3, 1.0, 1), 8).all()
    assert not drawn(7, EpochRequest(50, 1e-12, 1), 8).any()


class Recorder:
    """Takes a TrainingStep's place and writes down what it is asked for."""

    def __init__(self, noise_multiplier: float = 1.0, private: bool = True) -> None:
        self.batch_size, self.private = 4, private
        self.privacy = {"noise_multiplier": noise_multiplier, "max_grad_norm": 1.0, "expected_batch_size": 4}
        self.calls: list[tuple[Any, ...]] = []

    def accumulate(self, images: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> None:
        self.calls.append(("accumulate", images.shape, labels.shape, mask.shape))

    def update(self, learning_rate: float | None) -> None:
        self.calls.append(("update", learning_rate))


def test_the_work_does_not_depend_on_what_was_drawn() -> None:
    """Empty updates included: noise is added and charged, and nothing is skipped."""
    images, labels = np.zeros((20, 2), np.float32), np.zeros(20, np.int64)
    seen = set()
    for rate in (1e-9, 0.3, 1.0):
        recorder = Recorder()
        run_epoch(cast(TrainingStep, recorder), images, labels, EpochRequest(5, rate, 3, 0.5))
        seen.add(tuple(recorder.calls))
    assert seen == {(("accumulate", (12, 2), (12,), (12,)), ("update", 0.5)) * 5}


def test_noise_with_a_known_key_never_trains() -> None:
    recorder = Recorder(private=False)
    with pytest.raises(TrainingError, match="key that somebody knows"):
        run_epoch(cast(TrainingStep, recorder), np.zeros((4, 2)), np.zeros(4), EpochRequest(1, 0.5, 1))
    assert not recorder.calls


def test_training_without_noise_says_so() -> None:
    recorder = Recorder(noise_multiplier=0.0, private=False)
    event = run_epoch(cast(TrainingStep, recorder), np.zeros((4, 2)), np.zeros(4), EpochRequest(1, 0.5, 1))
    assert event["mechanism"] == "none" and event["noise_multiplier"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0, 0.5, 1), "steps"), ((True, 0.5, 1), "steps"), ((1.0, 0.5, 1), "steps"), ((1, 0.0, 1), "sample_rate"),
     ((1, 1, 1), "sample_rate"), ((1, float("nan"), 1), "sample_rate"), ((1, 0.5, 0), "physical_batches"),
     ((1, 0.5, 1, float("inf")), "learning_rate"), ((1, 0.5, 1, 1), "learning_rate")],
)  # fmt: skip
def test_senseless_requests_are_refused(arguments: tuple[Any, ...], named: str) -> None:
    with pytest.raises(TrainingError, match=named):
        EpochRequest(*arguments)
