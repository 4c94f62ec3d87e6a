"""One-run audits of real compiled steps: honest ones stay below their claim, planted bugs do not.

Which detector finds which bug: noise too weak by a factor, or divided once more: the audit, and nothing else here.
A layer that is not clipped: the compiler's own check against PyTorch, and, without it, the audit. Wrong sampling, an
ignored mask, a divisor from the data: direct tests (test_planted.py).
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from privlib import trusted
from privlib.compiler import DPSGD, SGD, VerificationError, compile_training
from privlib.privacy import Accountant, AuditError, effective_noise_multiplier
from privlib.privacy import audit_bounds as bounds
from privlib.privacy.audit import EmpiricalEpsilon, one_run
from privlib.privacy.canaries import OneHotCanaries, SummedLinear
from privlib.suite import record, stats
from privlib.trusted import TrainingStep
from tests.privacy import planted
from tests.privacy.conftest import Examples

CLAIM, DELTA, STEPS, SEEDS = 4.0, 1e-5, 10, 20
INPUTS = CLASSES = 128
ORDINARY, BATCH = 16, 256
FEATURES = INPUTS + ORDINARY
# Fixed here so that noise of half the deviation is refuted even three standard deviations below what is expected.
GUESSES = 800


def ordinary_examples(inputs: int = INPUTS) -> Examples:
    """What the model is trained on beside the canaries, zero where they are."""
    random = np.random.default_rng(0)
    images = np.zeros((512, inputs + ORDINARY), np.float32)
    images[:, inputs:] = random.standard_normal((512, ORDINARY))
    return Examples(images, images[:, inputs:].argmax(1))


def compiled(layers: int = 2, inputs: int = INPUTS, classes: int = CLASSES, batch: int = BATCH) -> TrainingStep:
    """A step whose manifest claims CLAIM for STEPS steps, with noise from a fixed key."""
    torch.manual_seed(0)
    step = compile_training(
        SummedLinear(inputs + ORDINARY, classes, layers),
        batch,
        input_shape=(inputs + ORDINARY,),
        optimizer=SGD(5.0),
        privacy=DPSGD(sigma(), 1.0, inputs * classes / 2 + 512),
    )
    step.use_test_key(bytes(32))
    return step


def sigma() -> float:
    """The multiplier for which the Gaussian mechanism has CLAIM after STEPS steps, by its closed form."""
    low, high = 0.1, 100.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        spends = bounds.epsilon_of_mu(math.sqrt(STEPS) / middle, DELTA)
        low, high = (middle, high) if spends > CLAIM else (low, middle)
    return high


@pytest.fixture(scope="module")
def canaries() -> OneHotCanaries:
    return OneHotCanaries(INPUTS, CLASSES, ORDINARY)


@pytest.fixture(scope="module")
def honest() -> TrainingStep:
    return compiled()


def audited(step: TrainingStep, canaries: OneHotCanaries, seed: int = 0) -> EmpiricalEpsilon:
    return one_run(step, canaries, steps=STEPS, delta=DELTA, guesses=GUESSES, others=ordinary_examples(), seed=seed)


def test_an_honest_step_is_below_its_claim_and_near_it(honest: TrainingStep, canaries: OneHotCanaries) -> None:
    claimed = Accountant().compose(effective_noise_multiplier(honest), 1.0, STEPS).epsilon(DELTA)
    assert CLAIM < claimed < 1.02 * CLAIM  # rounding is paid for
    runs = [audited(honest, canaries, seed) for seed in range(3)]
    for found in runs:
        assert (found.canaries, found.steps, found.confidence) == (INPUTS * CLASSES, STEPS, 0.9975)
        assert found.claimed == claimed and found.claimed.neighbouring == "add_or_remove_one"
        assert not found.refutes and "does not refute the claim" in str(found)
        assert 0.25 * claimed < found.any_mechanism < found.epsilon < found.independent < claimed
    assert np.mean([found.epsilon for found in runs]) > 0.5 * claimed
    assert np.mean([found.independent for found in runs]) > 0.8 * claimed


def test_noise_of_half_the_deviation_is_caught(canaries: OneHotCanaries) -> None:
    with planted.noise_divided_by(2):
        step = compiled()
    found = audited(step, canaries)
    assert found.refutes and found.claimed < 1.02 * CLAIM
    assert "refutes the claim" in str(found)


def test_noise_added_after_averaging_with_the_wrong_factor_is_caught(canaries: OneHotCanaries) -> None:
    physical_batches = INPUTS * CLASSES / 2 // BATCH
    with planted.noise_divided_by(physical_batches):
        step = compiled()
    found = audited(step, canaries)
    assert found.refutes and found.independent > 3 * CLAIM


def test_a_layer_that_is_not_clipped_is_caught_twice(canaries: OneHotCanaries) -> None:
    with planted.last_layer_unclipped():
        with pytest.raises(VerificationError, match="gradient sum of layers.1.weight differs"):
            compiled()
        with planted.without_verification():
            step = compiled()
    found = audited(step, canaries)
    assert found.refutes and found.independent > 2 * CLAIM


def test_alignments_are_along_the_canaries_gradients(honest: TrainingStep, canaries: OneHotCanaries) -> None:
    """The reference is each canary's own gradient by PyTorch's autograd, normed over both layers."""
    before = honest.parameters()
    model = SummedLinear(FEATURES, CLASSES, 2)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in before.items()})
    random = np.random.default_rng(1)
    after = {n: (w - 1e-3 * random.standard_normal(w.shape)).astype(np.float32) for n, w in before.items()}
    found = canaries.alignments(before, after)
    for index in (0, 1, CLASSES + 5, len(found) - 1):
        model.zero_grad()
        logits = model(torch.from_numpy(canaries.images[index : index + 1]))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(canaries.labels[index : index + 1])).backward()
        gradient = {n: p.grad.double().numpy() for n, p in model.named_parameters() if p.grad is not None}
        norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
        moved = {n: before[n].astype(float) - after[n] for n in before}
        assert norm > 1.0  # it will be clipped
        expected = sum((gradient[n] * moved[n]).sum() for n in moved) / norm
        assert found[index] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_what_an_audit_cannot_read_is_refused(artifact: Path) -> None:
    few = OneHotCanaries(3, 3, 2)
    moving = trusted.load(artifact)
    assert isinstance(moving, TrainingStep)
    with pytest.raises(AuditError, match="without momentum"):
        one_run(moving, few)
    privacy = DPSGD(noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=8)
    silent = compile_training(SummedLinear(5, 3), 4, input_shape=(5,), optimizer=SGD(1.0), privacy=privacy)
    with pytest.raises(AuditError, match="no noise"):
        one_run(silent, few)


def test_numbers_that_do_not_fit_are_refused(honest: TrainingStep) -> None:
    few, before = OneHotCanaries(3, 3, 2), honest.steps
    for wrong in ({"guesses": 3}, {"guesses": 10}, {"steps": 0}, {"delta": 0.0}, {"confidence": 1.0}):
        with pytest.raises(AuditError):
            one_run(honest, few, **wrong)
    assert honest.steps == before
    with pytest.raises(AuditError):
        OneHotCanaries(3, 1)


@pytest.mark.soak
def test_twenty_honest_runs_stay_below_the_claim() -> None:
    """65,536 canaries and the 20 seeds: each run at 99.75%, all together at 95%."""
    inputs = classes = 256
    step, canaries = compiled(1, inputs, classes), OneHotCanaries(inputs, classes, ORDINARY)
    others = ordinary_examples(inputs)
    runs = [one_run(step, canaries, steps=STEPS, delta=DELTA, others=others, seed=seed) for seed in range(SEEDS)]
    claimed = runs[0].claimed
    record.metric("audit/claimed/epsilon", float(claimed), "", nature="deterministic")
    for name in ("epsilon", "any_mechanism", "independent"):
        found = [float(getattr(run, name)) for run in runs]
        print(f"{name}: mean {np.mean(found):.3f}, from {min(found):.3f} to {max(found):.3f}, of {claimed:.3f}")
        record.metric(
            f"audit/{name}/epsilon", stats.median(found), "", nature="random", higher_is_better=True, n=SEEDS,
            interval=stats.median_interval(found),
        )  # fmt: skip
        assert max(found) < claimed
    assert min(run.epsilon for run in runs) > 0.5 * claimed
    assert np.mean([run.independent for run in runs]) > 0.7 * claimed
