"""One epoch of DP-SGD as it runs inside: the whole dataset in memory, samples drawn here, nothing told to the host.

Every update runs the same number of physical batches, filled up with rows that count for nothing, so that neither time
nor work follows the sample's size. A Poisson sample that does not fit is cut to a uniform subset: that is truncated
Poisson sampling, and the event says so, with the bound, for the accountant (Ganesh 2024, arXiv 2406.17298, appendix;
dp-accounting's TruncatedSubsampledGaussianDpEvent).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from privlib.errors import PrivlibError
from privlib.trusted.events import Event
from privlib.trusted.examples import Examples
from privlib.trusted.sampling import PoissonSampler
from privlib.trusted.sensitivity import effective_noise_multiplier
from privlib.trusted.training import TrainingError, TrainingStep

MAXIMUM_STEPS = 1_000_000
MAXIMUM_DATASETS = 256
_HEXADECIMAL = frozenset("0123456789abcdef")


class CancelledError(PrivlibError):
    """Training was told to stop: the charge stands, and nothing was released."""


@dataclass(frozen=True)
class TrainRequest:
    """datasets: SHA-256 of the ciphertexts, hexadecimal; steps: updates; sample_rate: each example's chance to be in
    one; physical_batches: of the artifact's size, run in each update whatever was drawn; learning_rate: None for the
    artifact's. Raises TrainingError."""

    datasets: tuple[str, ...]
    steps: int
    sample_rate: float
    physical_batches: int
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        names = self.datasets
        if not isinstance(names, tuple) or not 1 <= len(names) <= MAXIMUM_DATASETS or len(set(names)) != len(names):
            raise TrainingError(f"datasets must be from 1 to {MAXIMUM_DATASETS} different digests, got {names!r:.80}")
        if any(not isinstance(each, str) or len(each) != 64 or not set(each) <= _HEXADECIMAL for each in names):
            raise TrainingError("datasets are named by the SHA-256 of their ciphertext, 64 hexadecimal digits")
        if type(self.steps) is not int or not 1 <= self.steps <= MAXIMUM_STEPS:
            raise TrainingError(f"steps must be a whole number from 1 to {MAXIMUM_STEPS}, got {self.steps!r}")
        if type(self.physical_batches) is not int or not 1 <= self.physical_batches <= 2**20:
            raise TrainingError(f"physical_batches must be a whole number from 1, got {self.physical_batches!r}")
        if type(self.sample_rate) is not float or not 0 < self.sample_rate <= 1:
            raise TrainingError(f"sample_rate must be over 0 and at most 1, got {self.sample_rate!r}")
        rate = self.learning_rate
        if rate is not None and (type(rate) is not float or not 0 <= rate < math.inf):
            raise TrainingError(f"learning_rate must be a finite number from 0, got {rate!r}")


def sampler(step: TrainingStep, examples: Examples, request: TrainRequest) -> PoissonSampler:
    """What draws the epoch's samples."""
    return PoissonSampler(len(examples), request.sample_rate, step.batch_size, request.physical_batches)


def event(step: TrainingStep, examples: Examples, request: TrainRequest) -> Event:
    """What the epoch costs each of its datasets; it depends on nothing but the artifact, the request and how many
    examples there are.

    Raises TrainingError where the step's noise does not come from the operating system's randomness.
    """
    noise = effective_noise_multiplier(step)
    if noise > 0 and not step.private:
        raise TrainingError("the noise has a key that somebody knows; nothing trained with it may leave an enclave")
    return sampler(step, examples, request).event(noise, request.steps)


def run_epoch(
    step: TrainingStep, examples: Examples, request: TrainRequest, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Train, once `event` has been charged. Raises CancelledError after an update, when `cancelled` says so."""
    draws = sampler(step, examples, request)
    for done in range(request.steps):
        if cancelled():
            raise CancelledError(
                f"cancelled after {done} of {request.steps} updates; all of them stay charged, nothing was released"
            )
        for batch in draws.draw():
            step.accumulate(*examples.take(batch.indices), batch.mask)
        step.update(request.learning_rate)
