"""The training loop: what is charged, what is kept, and when it stops."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privlib import trusted
from privlib.compiler import DPSGD, SGD, compile_training
from privlib.privacy import (
    Accountant,
    AccountingError,
    CheckpointError,
    LedgerError,
    PoissonSampler,
    PrivacyLedger,
    RandomAllocationSampler,
    TrainingRun,
    effective_noise_multiplier,
    train,
)
from privlib.privacy.checkpoint import Checkpoint
from privlib.privacy.evaluation import accuracy_on
from privlib.privacy.schedules import cosine
from privlib.progress import silent
from privlib.trusted import TrainingStep
from tests.privacy.conftest import BATCH, Examples, examples, linear

DATA = examples()
KEY = bytes(32)


@pytest.fixture
def step(artifact: Path) -> TrainingStep:
    loaded = trusted.load(artifact)
    assert isinstance(loaded, TrainingStep)
    return loaded


def poisson(rate: float = 0.2, key: bytes | None = None) -> PoissonSampler:
    return PoissonSampler(len(DATA.labels), rate, BATCH, test_key=key)


def ledger_at(folder: Path, epsilon: float | None = None) -> PrivacyLedger:
    return PrivacyLedger(folder / "ledger", epsilon, accountant="rdp")


def run(step: TrainingStep, folder: Path, steps: int, **options: Any) -> TrainingRun:
    sampler = options.pop("sampler", None) or poisson()
    with ledger_at(folder, options.pop("epsilon", None)) as ledger:
        return train(step, DATA, sampler, ledger, steps=steps, progress=silent, **options)


def test_a_run_is_charged_step_by_step(step: TrainingStep, tmp_path: Path) -> None:
    done = run(step, tmp_path, 7)
    assert (done.steps, done.charged, done.stopped, done.private) == (7, 7, "finished", True)
    noise = effective_noise_multiplier(step)
    assert 0.999 < noise < 1.0
    assert done.epsilon == Accountant("rdp").compose(noise, 0.2, 7).epsilon(1e-5)
    assert [each.step for each in done.history] == [7]
    np.testing.assert_array_equal(done.parameters["weight"], step.parameters()["weight"])


def test_the_charge_is_on_disk_before_the_sample_is_drawn(step: TrainingStep, tmp_path: Path) -> None:
    drawn: list[int] = []

    class Watched(PoissonSampler):
        def draw(self) -> Any:
            drawn.append((tmp_path / "ledger").read_text().count('"steps":1'))
            return super().draw()

    run(step, tmp_path, 3, sampler=Watched(len(DATA.labels), 0.2, BATCH))
    assert drawn == [1, 2, 3]


def test_empty_samples_are_steps_with_noise(step: TrainingStep, tmp_path: Path) -> None:
    """Case 05."""
    before = step.parameters()["weight"]
    done = run(step, tmp_path, 4, sampler=poisson(0.0))
    assert done.steps == done.charged == 4
    assert (done.parameters["weight"] != before).all()


def test_it_stops_at_the_budget(step: TrainingStep, tmp_path: Path) -> None:
    with ledger_at(tmp_path, 6.0) as ledger:
        room = ledger.room(poisson().event(effective_noise_multiplier(step), 1))
    assert room > 2
    done = run(step, tmp_path, 10_000, epsilon=6.0)
    assert done.stopped == "budget" and done.steps == done.charged == room and done.epsilon <= 6.0


def test_a_resumed_run_is_the_run(step: TrainingStep, artifact: Path, tmp_path: Path) -> None:
    """With test keys: six steps at once, or four, and two by a fresh process' worth of state."""

    class Replayed(PoissonSampler):
        """Draws go on where the other run's had come."""

        def __init__(self, skip: int) -> None:
            super().__init__(len(DATA.labels), 0.2, BATCH, test_key=KEY)
            self._draws = skip

    step.use_test_key(KEY)
    rate = cosine(1.0, 6, warmup=2)
    whole = run(step, tmp_path / "a", 6, sampler=Replayed(0), ema=0.5, learning_rate=rate)
    halves = [trusted.load(artifact), trusted.load(artifact)]
    found = []
    for half, (steps, skip) in zip(halves, ((4, 0), (6, 4)), strict=True):
        assert isinstance(half, TrainingStep)
        half.use_test_key(KEY)
        found.append(
            run(
                half,
                tmp_path / "b",
                steps,
                sampler=Replayed(skip),
                ema=0.5,
                learning_rate=rate,
                checkpoint=tmp_path / "b" / "checkpoint",
            )
        )
    assert not whole.private and found[1].charged == 6
    for group in ("parameters", "averaged"):
        for name, value in getattr(whole, group).items():
            np.testing.assert_array_equal(getattr(found[1], group)[name], value)


def test_an_older_checkpoint_refunds_nothing(step: TrainingStep, artifact: Path, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoint"
    run(step, tmp_path, 4, checkpoint=kept)
    older = kept.read_bytes()
    run(step, tmp_path, 9, checkpoint=kept)
    kept.write_bytes(older)
    again = trusted.load(artifact)
    assert isinstance(again, TrainingStep)
    done = run(again, tmp_path, 6, checkpoint=kept)
    assert done.steps == 6 and done.charged == 9 + 2


def test_an_older_ledger_is_refused(step: TrainingStep, tmp_path: Path) -> None:
    run(step, tmp_path, 2, checkpoint=tmp_path / "checkpoint")
    older = (tmp_path / "ledger").read_bytes()
    run(step, tmp_path, 4, checkpoint=tmp_path / "checkpoint")
    (tmp_path / "ledger").write_bytes(older)
    with pytest.raises(LedgerError, match="older copy"):
        run(step, tmp_path, 6, checkpoint=tmp_path / "checkpoint")


def test_blocks_are_charged_ahead(step: TrainingStep, tmp_path: Path) -> None:
    done = run(step, tmp_path, 10, charge_every=4)
    assert done.steps == done.charged == 10
    assert (tmp_path / "ledger").read_text().count('"event"') == 3  # 4, 4, 2


def test_epochs_are_charged_whole(step: TrainingStep, tmp_path: Path) -> None:
    sampler = RandomAllocationSampler(len(DATA.labels), 5, BATCH)
    event = sampler.event(effective_noise_multiplier(step), 5)
    with trusted_ledger(tmp_path) as ledger:
        done = train(step, DATA, sampler, ledger, steps=7, progress=silent)
        assert done.steps == 7 and ledger.events == [event.times(10)]


def trusted_ledger(folder: Path) -> PrivacyLedger:
    """With the enclave's bound, which costs no time for random allocation."""

    class Bounded(PrivacyLedger):
        def bound(self, events: Any, delta: float) -> Any:
            from privlib.privacy.accounting import Epsilon
            from privlib.trusted import renyi

            return Epsilon(renyi.epsilon(events, delta), delta, "add_or_remove_one", "rdp")

    return Bounded(folder / "ledger")


def test_it_learns_and_measures(tmp_path: Path) -> None:
    """Little noise beside many examples: accuracy rises; the average of the parameters is what is measured."""
    data, model = examples(600, 1), linear()
    step = compile_training(
        model, 64, input_shape=(7,), optimizer=SGD(1.0), privacy=DPSGD(1.0, 1.0, expected_batch_size=300)
    )
    held_out = examples(500, 2)
    evaluate, seen = accuracy_on(linear(), held_out.images, held_out.labels), []

    def watched(parameters: Mapping[str, np.ndarray]) -> float:
        seen.append({name: value.copy() for name, value in parameters.items()})
        return evaluate(parameters)

    with ledger_at(tmp_path) as ledger:
        done = train(
            step, data, PoissonSampler(600, 0.5, 64), ledger, steps=40, ema=0.8, evaluate=watched, evaluate_every=20,
            progress=silent,
        )  # fmt: skip
    assert [each.step for each in done.history] == [20, 40] == [20, done.steps]
    assert done.history[1].accuracy is not None and done.history[1].accuracy > 0.85 > evaluate(linear_parameters())
    assert done.history[0].epsilon < done.history[1].epsilon == done.epsilon
    np.testing.assert_array_equal(seen[-1]["weight"], done.averaged["weight"])
    assert done.images_per_second > 0


def linear_parameters() -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in linear().state_dict().items()}


def test_notes_say_how_it_goes(step: TrainingStep, tmp_path: Path) -> None:
    said: list[tuple[str, int, int | None, str]] = []
    with ledger_at(tmp_path) as ledger:
        train(
            step, DATA, poisson(), ledger, steps=3, evaluate=lambda _: 0.5, evaluate_every=1,
            progress=lambda *all: said.append(all),
        )  # fmt: skip
    assert [(what, done, total) for what, done, total, _ in said] == [("train privately", n, 3) for n in (1, 2, 3)]
    note = said[1][3]
    assert note.startswith("loss ") and "accuracy 50.0%" in note and "ε " in note and "images/s" in note


def test_views_are_made_for_augmentations(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def views(images: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
        seen.append((*images.shape, count))
        return np.repeat(images[:, None], count, 1) + random.standard_normal((len(images), count, 7), dtype=np.float32)

    privacy = DPSGD(1.0, 1.0, 12, augmentations=3)
    step = compile_training(linear(), BATCH, input_shape=(7,), optimizer=SGD(0.1), privacy=privacy)
    assert run(step, tmp_path, 2, augment=views).steps == 2
    assert seen and set(seen) == {(BATCH, 7, 3)}


def test_what_does_not_fit_together_is_refused(step: TrainingStep, tmp_path: Path) -> None:
    plain = compile_training(linear(), BATCH, input_shape=(7,), optimizer=SGD(0.1))
    with pytest.raises(AccountingError, match="adds no noise"):
        run(plain, tmp_path, 1)
    with pytest.raises(AccountingError, match="the sampler is for 59"):
        run(step, tmp_path, 1, sampler=PoissonSampler(59, 0.1, BATCH))
    with pytest.raises(AccountingError, match="compiled for 8"):
        run(step, tmp_path, 1, sampler=PoissonSampler(60, 0.1, 4))
    for options in ({"charge_every": 0}, {"checkpoint_every": 0}, {"ema": 1.0}, {"steps": -1}):
        steps = options.pop("steps", 1)
        with pytest.raises(AccountingError, match="are needed"):
            run(step, tmp_path, int(steps), **options)


def test_damaged_checkpoints_are_refused(step: TrainingStep, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoint"
    run(step, tmp_path, 2, checkpoint=kept)
    whole = kept.read_bytes()
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        kept.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="not a whole checkpoint"):
            Checkpoint.load(kept)
    middle = bytearray(whole)
    place = whole.index(step.parameters()["weight"].tobytes()[:16])
    middle[place] ^= 1
    kept.write_bytes(middle)
    with pytest.raises(CheckpointError):
        Checkpoint.load(kept)


def test_a_checkpoint_holds_no_loss(step: TrainingStep, tmp_path: Path) -> None:
    """Losses of the training sample are not noised: they stay out of what is written."""
    run(step, tmp_path, 2, checkpoint=tmp_path / "checkpoint")
    with np.load(tmp_path / "checkpoint") as file:
        assert b"loss" not in file["facts"].tobytes()
        assert {key.split("/")[0] for key in file.files} == {"facts", "parameters", "momentum"}
    assert "loss" not in {field.name for field in dataclasses.fields(TrainingRun)}


def test_uint8_images_are_preprocessed(tmp_path: Path) -> None:
    from torch import nn

    random = np.random.default_rng(0)
    data = Examples(random.integers(0, 256, (20, 32, 32, 3), np.uint8), random.integers(0, 3, 20).astype(np.uint8))
    model = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(12, 3))
    step = compile_training(model, 4, optimizer=SGD(0.1), privacy=DPSGD(1.0, 1.0, 10))
    with ledger_at(tmp_path) as ledger:
        assert train(step, data, PoissonSampler(20, 0.5, 4), ledger, steps=2, progress=silent).steps == 2
