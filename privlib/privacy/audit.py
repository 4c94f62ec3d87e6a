"""One-run auditing: a lower bound on what a compiled step really leaks, to hold against the ε that is claimed for it.

Canaries are included with probability ½ each; the run is a real one (`privlib.privacy.train`: sampler, ledger, compiled
accumulation and update), on the full batch, where the claim is the tightest: neighbours by adding or removing one
example. The auditor sees what the mechanism releases, the parameters after every step, and nothing else: white-box,
but no gradients. A canary's score is the sum over steps of the noised update's length along its gradient. The highest
scores are guessed to be in, the lowest to be out, on the others the auditor abstains.

What it finds: too little noise, by whatever factor and wherever it was lost, and examples that count for more than the
clipping norm. What it cannot find: noise that is too strong, and leaks that need more examples or other inputs to show.
A bound below the claim is no proof of privacy; one above it, at confidence 99.75%, is a bug.
"""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from privlib.privacy import audit_bounds as bounds
from privlib.privacy.accounting import Epsilon, accounted
from privlib.privacy.canaries import Canaries
from privlib.privacy.errors import AuditError
from privlib.privacy.ledger import PrivacyLedger
from privlib.privacy.loop import LabelledImages, train
from privlib.privacy.sensitivity import effective_noise_multiplier
from privlib.progress import silent
from privlib.trusted.sampling import PoissonSampler
from privlib.trusted.training import TrainingStep


@dataclass(frozen=True)
class EmpiricalEpsilon:
    """What one run showed, at `delta` and with probability `confidence` each.

    epsilon: lower bound for a mechanism with a Gaussian trade-off curve; any_mechanism: for any at all; independent:
    if the canaries' scores are independent (`privlib.privacy.audit_bounds` says more on the three). claimed: ε of the
    run's ledger. `epsilon` is from `guesses` guesses about `canaries` canaries, of which `correct` were right, after
    `steps` steps; any_mechanism from a number that suits it better.
    """

    epsilon: float
    any_mechanism: float
    independent: float
    claimed: Epsilon
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int
    steps: int

    @property
    def refutes(self) -> bool:
        """Whether the claim is refuted: the run leaked more than it."""
        return self.epsilon > self.claimed

    def __str__(self) -> str:
        verdict = "refutes" if self.refutes else "does not refute"
        return (
            f"ε ≥ {self.epsilon:.2f} at δ = {self.delta:g} with {self.confidence:.2%} confidence "
            f"({self.correct} of {self.guesses} guesses right) {verdict} the claim {self.claimed}"
        )


def one_run(
    step: TrainingStep,
    canaries: Canaries,
    *,
    steps: int = 10,
    delta: float = 1e-5,
    confidence: float = 0.9975,
    guesses: int | None = None,
    others: LabelledImages | None = None,
    seed: int | None = None,
) -> EmpiricalEpsilon:
    """Train `step` for `steps` steps on a random half of the canaries, and on `others`, and guess which half.

    step: private, without momentum, weight decay or augmentations, so that parameters show the noised average as it
    is; it goes on from the parameters it has. guesses: how many, fixed beforehand and even; None takes, for each
    bound, the number that suits what is claimed. seed: of the inclusion; None for the operating system's.

    Raises AuditError for another step, one without noise, or numbers that do not fit; AccountingError for a plain step.
    """
    count = len(canaries.labels)
    if not (steps >= 1 and 0 < delta < 1 and 0 < confidence < 1 and count >= 2):
        raise AuditError("steps ≥ 1, 0 < delta < 1, 0 < confidence < 1 and at least two canaries are needed")
    if guesses is not None and (guesses % 2 or not 2 <= guesses <= count):
        raise AuditError(f"guesses must be an even number from 2 to {count}, got {guesses}")
    privacy, rate = _facts(step)
    mu = math.sqrt(steps) / effective_noise_multiplier(step)

    def of_gaussian(guesses: int, correct: int) -> float:
        return bounds.mu_of_gaussian(count, guesses, correct, confidence)

    def of_any(guesses: int, correct: int) -> float:
        return bounds.epsilon_of_any_mechanism(count, guesses, correct, delta, confidence)

    planned = [guesses or bounds.planned_guesses(count, mu, bound) for bound in (of_gaussian, of_any)]
    included = np.random.default_rng(seed).random(count) < 0.5
    scores, claimed = _scores(step, canaries, _Examples.of(canaries, included, others), steps, rate, delta)
    right = [_right_guesses(scores, included, each) for each in planned]
    unit = privacy["max_grad_norm"] * rate / privacy["expected_batch_size"]
    passed, members = scores > steps * canaries.middle * unit, int(included.sum())
    independent = bounds.mu_of_independent(
        int((passed & included).sum()), members, int((passed & ~included).sum()), count - members, confidence
    )
    return EmpiricalEpsilon(
        epsilon=bounds.epsilon_of_mu(of_gaussian(planned[0], right[0]), delta),
        any_mechanism=of_any(planned[1], right[1]),
        independent=bounds.epsilon_of_mu(independent, delta),
        claimed=claimed,
        delta=delta,
        confidence=confidence,
        canaries=count,
        guesses=planned[0],
        correct=right[0],
        steps=steps,
    )


def _right_guesses(scores: np.ndarray, included: np.ndarray, guesses: int) -> int:
    """How many are right when the highest half of the guesses says in, the lowest out."""
    order, half = np.argsort(scores), guesses // 2
    return int(included[order[-half:]].sum() + (~included[order[:half]]).sum())


@dataclass(frozen=True)
class _Examples:
    images: np.ndarray
    labels: np.ndarray

    @staticmethod
    def of(canaries: Canaries, included: np.ndarray, others: LabelledImages | None) -> "_Examples":
        images, labels = canaries.images[included], canaries.labels[included]
        if others is not None:
            images, labels = np.concatenate([images, others.images]), np.concatenate([labels, others.labels])
        if not len(labels):
            raise AuditError("no canary was drawn and there are no others; use more canaries")
        return _Examples(images, labels)


def _facts(step: TrainingStep) -> tuple[Mapping[str, float], float]:
    """What is claimed of the step, and its learning rate."""
    optimizer, rate = step.optimizer, float(step.optimizer["learning_rate"])
    if optimizer["momentum"] or optimizer["weight_decay"] or step.augmentations != 1 or not rate > 0:
        raise AuditError(
            "an audit reads the noised average off the parameters; compile the step with SGD(learning_rate > 0) "
            "without momentum and weight decay, and without augmentations"
        )
    if not effective_noise_multiplier(step) > 0 or step.privacy is None:
        raise AuditError("the step adds no noise, so there is no finite ε to refute")
    return step.privacy, rate


def _scores(
    step: TrainingStep, canaries: Canaries, data: LabelledImages, steps: int, rate: float, delta: float
) -> tuple[np.ndarray, Epsilon]:
    """Each canary's summed alignment with the updates of a run on `data`, and what the run's ledger says it cost."""
    scores = np.zeros(len(canaries.labels))
    before: Mapping[str, np.ndarray] = step.parameters()

    def observe(after: Mapping[str, np.ndarray]) -> float:
        nonlocal before
        scores[:] += canaries.alignments(before, after)
        before = after
        return math.nan  # an accuracy is not asked for

    sampler = PoissonSampler(len(data.labels), 1.0, step.batch_size)
    with tempfile.TemporaryDirectory() as folder, PrivacyLedger(Path(folder) / "ledger", accountant="rdp") as ledger:
        train(
            step,
            data,
            sampler,
            ledger,
            steps=step.steps + steps,
            learning_rate=rate,
            evaluate=observe,
            evaluate_every=1,
            progress=silent,
        )
        return scores, accounted(ledger.events, delta)
