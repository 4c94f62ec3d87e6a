"""One epoch inside: a constant amount of work, whoever was drawn, and an event that says what was done."""

from typing import Any, cast

import numpy as np
import pytest

from privlib.trusted.epoch import CancelledError, TrainRequest, event, run_epoch
from privlib.trusted.events import Event
from privlib.trusted.examples import Examples
from privlib.trusted.training import TrainingError, TrainingStep

NAMES = ("0" * 64, "1" * 64)


def asked(steps: int = 5, sample_rate: float = 0.3, batches: int = 3, rate: float | None = None) -> TrainRequest:
    return TrainRequest(NAMES[:1], steps, sample_rate, batches, rate)


def examples(count: int = 20) -> Examples:
    """Each example's image holds its label, so that what was taken can be told."""
    labels = np.arange(count, dtype=np.int64)
    return Examples([(np.stack([labels, labels], 1).astype(np.float32), labels)])


class Recorder:
    """Takes a TrainingStep's place and writes down what it is asked for."""

    dtype, coordinates = "float32", 100

    def __init__(self, noise_multiplier: float = 1.0, private: bool = True) -> None:
        self.batch_size, self.private = 4, private
        facts = {"max_grad_norm": 1.0, "expected_batch_size": 4, "grid_step": 2.0**-30}
        self.privacy = {"noise_multiplier": noise_multiplier, **facts}
        self.calls: list[tuple[Any, ...]] = []
        self.drawn: list[list[int]] = [[]]

    def accumulate(self, images: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> None:
        assert (images[:, 0] == labels).all()
        self.calls.append(("accumulate", images.shape, labels.shape, mask.shape))
        self.drawn[-1] += labels[mask].tolist()

    def update(self, learning_rate: float | None) -> None:
        self.calls.append(("update", learning_rate))
        self.drawn.append([])


def test_the_work_does_not_depend_on_what_was_drawn() -> None:
    """Empty updates included: noise is added and charged, and nothing is skipped."""
    seen = set()
    for rate in (1e-9, 0.3, 1.0):
        recorder = Recorder()
        run_epoch(cast(TrainingStep, recorder), examples(), asked(5, rate, rate=0.5))
        seen.add(tuple(recorder.calls))
    batch = ("accumulate", (4, 2), (4,), (4,))
    assert seen == {(batch, batch, batch, ("update", 0.5)) * 5}


def test_every_update_draws_anew_and_no_example_twice() -> None:
    recorder = Recorder()
    run_epoch(cast(TrainingStep, recorder), examples(), asked(200, 0.3))
    drawn = recorder.drawn[:-1]
    assert len(drawn) == 200 and all(len(set(each)) == len(each) <= 12 for each in drawn)
    sizes = [len(each) for each in drawn]
    assert np.mean(sizes) == pytest.approx(6, abs=0.8) and len(set(sizes)) > 4


def test_examples_of_several_parts_are_numbered_through() -> None:
    parts = [(np.full((n, 2), n, np.float32), np.arange(n, dtype=np.int64)) for n in (3, 1, 4)]
    several = Examples(parts)
    images, labels = several.take(np.array([0, 7, 3, 2, 4]))
    assert len(several) == 8
    assert images[:, 0].tolist() == [3, 4, 1, 3, 4] and labels.tolist() == [0, 3, 0, 2, 0]


def test_the_event_says_what_an_accountant_needs() -> None:
    """Truncated Poisson sampling for one neighbour more, with the noise that rounding leaves."""
    found = event(cast(TrainingStep, Recorder()), examples(), asked())
    assert 0.99999 < found.noise_multiplier < 1
    assert found == Event(
        "truncated_poisson", found.noise_multiplier, 5, sample_rate=0.3, dataset_size=21, largest_batch=12
    )
    assert event(cast(TrainingStep, Recorder(0.0)), examples(), asked()).noise_multiplier == 0


def test_noise_with_a_known_key_is_never_charged_for() -> None:
    with pytest.raises(TrainingError, match="key that somebody knows"):
        event(cast(TrainingStep, Recorder(private=False)), examples(), asked())


def test_a_cancelled_epoch_ends_after_an_update() -> None:
    recorder, answers = Recorder(), iter([False, False, True])
    with pytest.raises(CancelledError, match="after 2 of 5 updates; all of them stay charged"):
        run_epoch(cast(TrainingStep, recorder), examples(), asked(), lambda: next(answers))
    assert [each[0] for each in recorder.calls] == (["accumulate"] * 3 + ["update"]) * 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0, 0.5, 1), "steps"), ((True, 0.5, 1), "steps"), ((1.0, 0.5, 1), "steps"), ((1, 0.0, 1), "sample_rate"),
     ((1, 1, 1), "sample_rate"), ((1, float("nan"), 1), "sample_rate"), ((1, 0.5, 0), "physical_batches"),
     ((1, 0.5, 1, float("inf")), "learning_rate"), ((1, 0.5, 1, 1), "learning_rate")],
)  # fmt: skip
def test_senseless_requests_are_refused(arguments: tuple[Any, ...], named: str) -> None:
    with pytest.raises(TrainingError, match=named):
        TrainRequest(NAMES, *arguments)


@pytest.mark.parametrize("names", [(), ("0" * 64,) * 2, ("0" * 63,), ("G" * 64,), [NAMES[0]], (1,), ("A" * 64,)])
def test_senseless_names_are_refused(names: Any) -> None:
    with pytest.raises(TrainingError, match="datasets"):
        TrainRequest(names, 1, 0.5, 1)
