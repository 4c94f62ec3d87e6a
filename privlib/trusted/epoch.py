"""One epoch of DP-SGD as it runs inside: the whole dataset in memory, samples drawn here, nothing told to the host.

Every update runs the same number of physical batches, filled up with rows that count for nothing, so that neither time
nor work follows the sample's size. A Poisson sample that does not fit is cut to a uniform subset: that is truncated
Poisson sampling, and the event says so, with the bound, for the accountant (Ganesh 2024, arXiv 2406.17298, appendix;
dp-accounting's TruncatedSubsampledGaussianDpEvent).
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from privlib.trusted.training import TrainingError, TrainingStep

MAXIMUM_STEPS = 1_000_000
_FULL = 1 << 64


@dataclass(frozen=True)
class EpochRequest:
    """steps: updates; sample_rate: each example's chance to be in one; physical_batches: run in each update;
    learning_rate: None for the artifact's."""

    steps: int
    sample_rate: float
    physical_batches: int
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if type(self.steps) is not int or not 1 <= self.steps <= MAXIMUM_STEPS:
            raise TrainingError(f"steps must be a whole number from 1 to {MAXIMUM_STEPS}, got {self.steps!r}")
        if type(self.physical_batches) is not int or not 1 <= self.physical_batches <= 2**20:
            raise TrainingError(f"physical_batches must be a whole number from 1, got {self.physical_batches!r}")
        if type(self.sample_rate) is not float or not 0 < self.sample_rate <= 1:
            raise TrainingError(f"sample_rate must be over 0 and at most 1, got {self.sample_rate!r}")
        rate = self.learning_rate
        if rate is not None and (type(rate) is not float or not 0 <= rate < math.inf):
            raise TrainingError(f"learning_rate must be a finite number from 0, got {rate!r}")


def run_epoch(step: TrainingStep, images: np.ndarray, labels: np.ndarray, request: EpochRequest) -> dict[str, Any]:
    """Train; returns the event to be accounted, which depends on nothing but the request and the artifact.

    images float32 (N, *input_shape), labels int64 (N,). Raises TrainingError before the first update where the step's
    noise does not come from the operating system's randomness.
    """
    privacy = step.privacy
    if privacy is not None and privacy["noise_multiplier"] > 0 and not step.private:
        raise TrainingError("the noise has a key that somebody knows; nothing trained with it may leave an enclave")
    capacity = request.physical_batches * step.batch_size
    for rows, mask in samples(len(images), request, capacity):
        step.accumulate(images[rows], labels[rows], mask)
        step.update(request.learning_rate)
    return {
        "mechanism": "Gaussian, truncated Poisson sampling" if step.private else "none",
        "steps": request.steps,
        "sample_rate": request.sample_rate,
        "maximum_batch": capacity,
        "noise_multiplier": privacy["noise_multiplier"] if privacy else 0.0,
        "max_grad_norm": privacy["max_grad_norm"] if privacy else None,
        "expected_batch_size": privacy["expected_batch_size"] if privacy else None,
        "neighbours": "one example added or removed",
    }


def samples(count: int, request: EpochRequest, capacity: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each update rows int64 (capacity,) of `count` examples, and which of them count, bool (capacity,).

    Every example is in with probability ⌊q·2⁶⁴⌋/2⁶⁴, drawn from the operating system's randomness.
    """
    for _ in range(request.steps):
        below = min(math.floor(request.sample_rate * _FULL), _FULL)
        drawn = np.arange(count) if below == _FULL else np.flatnonzero(_uniform(count) < np.uint64(below))
        if len(drawn) > capacity:
            drawn = drawn[np.argsort(_uniform(len(drawn)), kind="stable")[:capacity]]
        rows, mask = np.zeros(capacity, np.int64), np.zeros(capacity, bool)
        rows[: len(drawn)], mask[: len(drawn)] = drawn, True
        yield rows, mask


def _uniform(count: int) -> np.ndarray:
    return np.frombuffer(os.urandom(8 * count), np.uint64)
