"""The private training loop: charge, sample, accumulate, update; killed at any moment it goes on from its checkpoint.

Steps are charged to the ledger ahead, in blocks (`charge_every` steps; whole epochs where a sampler needs it), and a
block is on disk before its first sample is drawn. A checkpoint holds what was released up to a step, and where the
ledger stood. After a crash the steps since the checkpoint are done anew, with new samples and new noise, and charged
anew, because what the lost ones released may have been seen; what is left of a block that was charged is given up. To
reuse them instead, noise would have to be repeatable, and a key on disk that undoes the noise is worse than a step's ε.

So always: updates made ≤ steps charged, and steps in the checkpoint ≤ updates made. Nothing lowers the ledger: an older
checkpoint is a waste, not a refund, and a ledger older than the checkpoint is refused.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from privlib.data import preprocess
from privlib.privacy.accounting import Epsilon
from privlib.privacy.augmentation import flips_and_crops
from privlib.privacy.checkpoint import Checkpoint, Measurement
from privlib.privacy.errors import AccountingError
from privlib.privacy.evaluation import Evaluation
from privlib.privacy.ledger import PrivacyLedger
from privlib.privacy.schedules import Schedule, constant
from privlib.privacy.sensitivity import effective_noise_multiplier
from privlib.progress import ConsoleProgress, NotedProgress
from privlib.trusted.sampling import PhysicalBatch, Sampler
from privlib.trusted.training import StepResult, TrainingStep

Augment = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""(images float32 (B, …), K, generator) → (B, K, …), each example by itself."""


class LabelledImages(Protocol):
    """images (N, …): uint8 as `load_cifar10` gives them, or float32 as the step takes them; labels (N,)."""

    @property
    def images(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray: ...


@dataclass(frozen=True)
class TrainingRun:
    """What training ended with.

    steps: updates contained in the parameters; charged: steps that the ledger has been charged for, of all its runs;
    epsilon: what they cost; stopped: "finished", or "budget" where the ledger had no room for more; private: False
    where a test key was used; parameters, averaged: by name, as the step's `parameters()` (averaged is empty without
    EMA); history: measurements; images_per_second: expected batch size × updates a second, this session's.
    """

    steps: int
    charged: int
    epsilon: Epsilon
    stopped: str
    private: bool
    parameters: dict[str, np.ndarray]
    averaged: dict[str, np.ndarray]
    history: list[Measurement]
    images_per_second: float


def train(
    step: TrainingStep,
    data: LabelledImages,
    sampler: Sampler,
    ledger: PrivacyLedger,
    *,
    steps: int,
    learning_rate: float | Schedule | None = None,
    augment: Augment = flips_and_crops,
    ema: float | None = None,
    evaluate: Evaluation | None = None,
    evaluate_every: int = 0,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 50,
    charge_every: int = 1,
    progress: NotedProgress | None = None,
) -> TrainingRun:
    """Train until `steps` updates were made in all, or the ledger's budget has no room for the next.

    learning_rate: a number, a function of the updates made (`privlib.privacy.schedules`), or None for the step's own.
    augment makes the views where the step was compiled with augmentations > 1. ema: decay of an exponential moving
    average of the parameters, with a warm-up min(ema, (1 + t) / (10 + t)); `evaluate` then gets the average. It is
    called every evaluate_every updates (0: at the end alone). checkpoint: a file to go on from where it exists, written
    every checkpoint_every updates and at the end. charge_every: steps charged ahead at once; after a crash the rest of
    them is lost.

    The progress note shows the loss on the training sample: it is not noised, and for eyes that may see the data.

    Raises AccountingError for a step without noise or arguments that do not fit together; LedgerError for a ledger that
    is not the checkpoint's or older; CheckpointError.
    """
    _check(step, data, sampler, steps, checkpoint_every, charge_every, ema)
    run = _Run(step, data, sampler, ledger, augment, ema)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        run.go_on_from(Checkpoint.load(path))
    if learning_rate is None:
        learning_rate = float(step.optimizer["learning_rate"])
    rate = learning_rate if callable(learning_rate) else constant(learning_rate)
    show, meter, stopped = progress or ConsoleProgress(), _Meter(step, ledger, step.steps), "finished"
    while step.steps < steps:
        if not run.charge(min(charge_every, steps - step.steps)):
            stopped = "budget"
            break
        result = run.one_step(rate(step.steps))
        if evaluate is not None and evaluate_every and step.steps % evaluate_every == 0 and step.steps < steps:
            run.measure(evaluate)
        if path is not None and step.steps % checkpoint_every == 0 and step.steps < steps:
            run.checkpoint().save(path)
        show("train privately", step.steps, steps, meter.note(result, run.history))
    if not run.history or run.history[-1].step != step.steps:
        run.measure(evaluate)
    final = run.checkpoint()
    if path is not None:
        final.save(path)
    if stopped == "budget":
        show("train privately", step.steps, step.steps, f"stopped: the budget is spent, {ledger.epsilon()}")
    return TrainingRun(
        steps=step.steps,
        charged=ledger.steps,
        epsilon=ledger.epsilon(),
        stopped=stopped,
        private=step.private and sampler.private,
        parameters=final.parameters,
        averaged=final.averaged,
        history=final.history,
        images_per_second=meter.images_per_second(step.steps),
    )


def _check(
    step: TrainingStep,
    data: LabelledImages,
    sampler: Sampler,
    steps: int,
    checkpoint_every: int,
    charge_every: int,
    ema: float | None,
) -> None:
    if step.privacy is None or not step.privacy["noise_multiplier"] > 0:
        raise AccountingError("the step adds no noise; compile it with privacy=DPSGD(noise_multiplier > 0, …)")
    if sampler.dataset_size != len(data.labels) or len(data.images) != len(data.labels):
        raise AccountingError(f"the sampler is for {sampler.dataset_size} examples, the data has {len(data.labels)}")
    if sampler.physical_batch_size != step.batch_size:
        raise AccountingError(
            f"the sampler makes batches of {sampler.physical_batch_size}, the step is compiled for {step.batch_size}"
        )
    if steps < 0 or checkpoint_every < 1 or charge_every < 1 or not (ema is None or 0 <= ema < 1):
        raise AccountingError("steps ≥ 0, checkpoint_every ≥ 1, charge_every ≥ 1 and 0 ≤ ema < 1 are needed")


class _Run:
    """The state of a training run beside the step's own."""

    def __init__(
        self,
        step: TrainingStep,
        data: LabelledImages,
        sampler: Sampler,
        ledger: PrivacyLedger,
        augment: Augment,
        ema: float | None,
    ) -> None:
        self.step, self.data, self.sampler, self.ledger, self.augment, self.ema = (
            step, data, sampler, ledger, augment, ema,
        )  # fmt: skip
        self.random = np.random.default_rng()
        self.noise_multiplier = effective_noise_multiplier(step)
        self.averaged = step.parameters() if ema is not None else {}
        self.history: list[Measurement] = []
        self.ahead = 0  # steps charged and not yet begun
        sampler.restart()

    def go_on_from(self, found: Checkpoint) -> None:
        self.ledger.require(found.ledger)
        self.step.resume(found.parameters, found.momentum, found.steps)
        if self.ema is not None:
            self.averaged = found.averaged or found.parameters
        self.history = list(found.history)

    def charge(self, wanted: int) -> bool:
        """Whether the next step is paid for; charges a block where it is not yet."""
        if not self.ahead:
            unit = self.sampler.charge_unit
            event = self.sampler.event(self.noise_multiplier, -(-wanted // unit) * unit)
            event = event.times(min(event.steps, self.ledger.room(event)))
            self.ledger.charge(event)
            self.ahead = event.steps
        return self.ahead > 0

    def one_step(self, learning_rate: float) -> StepResult:
        self.ahead -= 1  # before the draw: what fails half-way was begun
        for batch in self.sampler.draw():
            self.step.accumulate(*self.rows(batch), batch.mask)
        result = self.step.update(learning_rate)
        if self.ema is not None:
            decay = min(self.ema, (1 + result.step) / (10 + result.step))
            for name, value in self.step.parameters().items():
                self.averaged[name] = (decay * self.averaged[name] + (1 - decay) * value).astype(value.dtype)
        return result

    def rows(self, batch: PhysicalBatch) -> tuple[np.ndarray, np.ndarray]:
        images = self.data.images[batch.indices]
        prepared = preprocess(images) if images.dtype == np.uint8 else images
        if self.step.augmentations > 1:
            prepared = self.augment(prepared, self.step.augmentations, self.random)
        return prepared, self.data.labels[batch.indices].astype(np.int64)

    def measure(self, evaluate: Evaluation | None) -> None:
        parameters: Mapping[str, np.ndarray] = self.averaged or self.step.parameters()
        accuracy = None if evaluate is None else evaluate(parameters)
        self.history.append(Measurement(self.step.steps, float(self.ledger.epsilon()), accuracy))

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.step.steps,
            self.step.parameters(),
            self.step.momentum(),
            dict(self.averaged),
            self.ledger.position,
            self.ledger.steps,
            list(self.history),
        )


class _Meter:
    """The note beside the progress bar; ε is computed anew only when that costs less than a twentieth of the time."""

    def __init__(self, step: TrainingStep, ledger: PrivacyLedger, steps_before: int) -> None:
        assert step.privacy is not None
        self.expected, self.ledger, self.before = float(step.privacy["expected_batch_size"]), ledger, steps_before
        self.started = time.monotonic()
        self.epsilon, self.next = math.nan, self.started

    def images_per_second(self, steps: int) -> float:
        return self.expected * (steps - self.before) / max(time.monotonic() - self.started, 1e-9)

    def note(self, result: StepResult, history: list[Measurement]) -> str:
        now = time.monotonic()
        if now >= self.next:
            self.epsilon = float(self.ledger.epsilon())
            took = time.monotonic() - now
            self.next = now + 20 * took + 1
        parts = [f"loss {result.mean_loss:.3f}", f"ε {self.epsilon:.2f}"]
        if history and history[-1].accuracy is not None:
            parts.insert(1, f"accuracy {history[-1].accuracy:.1%}")
        return ", ".join([*parts, f"{self.images_per_second(result.step):.0f} images/s"])
