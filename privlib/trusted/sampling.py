"""Which examples take part in a step: true Poisson sampling, and random allocation, under static shapes.

A draw is a list of physical batches, each of the compiled batch size: indices, and a mask whose False rows count for
nothing. Empty draws are steps like any other (noise alone). Nothing here derives a rate, a divisor or a number of
batches from the data: they are public constants.

The drawn examples are put in a random order before they are cut into batches. Take one example out of a random order
and the last into its place, and the order of the others is uniformly random again: so draws of neighbouring datasets
can be paired such that at most two physical batches differ, by one row each. That bounds what float32 and grid
rounding add to the sensitivity, however many batches a step has (`privlib.privacy.proof`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.events import Event
from privlib.trusted.randomness import KEY_BYTES, Stream


class SamplingError(PrivlibError, ValueError):
    """No sampler can be made of these numbers."""


@dataclass(frozen=True)
class PhysicalBatch:
    """indices int64 (B,) into the dataset (0 where the mask is False); mask bool (B,)."""

    indices: np.ndarray
    mask: np.ndarray

    @staticmethod
    def cut(chosen: np.ndarray, size: int, count: int | None = None) -> "list[PhysicalBatch]":
        """Indices in random order as batches of `size`; exactly `count` where it is given, and what does not fit is
        left out."""
        count = -(-len(chosen) // size) if count is None else count
        kept = chosen[: count * size]
        indices, mask = np.zeros(count * size, np.int64), np.zeros(count * size, bool)
        indices[: len(kept)], mask[: len(kept)] = kept, True
        shape = (count, size)
        return [PhysicalBatch(*both) for both in zip(indices.reshape(shape), mask.reshape(shape), strict=True)]


class Sampler(Protocol):
    """What training asks of a sampler."""

    dataset_size: int
    physical_batch_size: int

    @property
    def private(self) -> bool:
        """False where a test key stands in for the operating system's randomness."""

    @property
    def charge_unit(self) -> int:
        """Steps that are charged together (1, or an epoch)."""

    def draw(self) -> list[PhysicalBatch]:
        """The next step's sample; fresh randomness every time."""

    def restart(self) -> None:
        """Begin a new charge unit with the next draw."""

    def event(self, noise_multiplier: float, steps: int) -> Event:
        """What `steps` draws (a multiple of charge_unit) cost with noise of that multiplier."""


class PoissonSampler:
    """Every example takes part in a step with probability sample_rate, independently of all else.

    dataset_size: rows of the dataset; sample_rate: a public constant, as is the step's expected batch size (usually
    sample_rate · the public nominal size of the dataset). physical_batches: that many batches in every step, whatever
    the draw, so that a step's shape shows nothing; of a larger sample a random part is taken, which the event accounts
    for. None: as many as the draw needs, none for an empty one. test_key: 32 bytes, for tests alone.

    Raises SamplingError.
    """

    charge_unit = 1

    def __init__(
        self,
        dataset_size: int,
        sample_rate: float,
        physical_batch_size: int,
        physical_batches: int | None = None,
        test_key: bytes | None = None,
    ) -> None:
        if not 0 <= sample_rate <= 1:
            raise SamplingError(f"sample_rate is a probability, got {sample_rate}")
        if physical_batches is not None and physical_batches < 1:
            raise SamplingError(f"physical_batches must be 1 or more, got {physical_batches}")
        _check(dataset_size, physical_batch_size, test_key)
        self.dataset_size, self.sample_rate = dataset_size, float(sample_rate)
        self.physical_batch_size, self.physical_batches = physical_batch_size, physical_batches
        self._key, self._draws = test_key, 0

    @property
    def private(self) -> bool:
        return self._key is None

    def draw(self) -> list[PhysicalBatch]:
        """The next step's sample."""
        stream = Stream(self._key, self._draws)
        self._draws += 1
        chosen = stream.shuffled(stream.chosen(self.sample_rate, self.dataset_size))
        return PhysicalBatch.cut(chosen, self.physical_batch_size, self.physical_batches)

    def restart(self) -> None:
        """Nothing to do: draws do not depend on each other."""

    def event(self, noise_multiplier: float, steps: int) -> Event:
        """`steps` draws: Poisson, full where sample_rate is 1, truncated where the batches are bounded (there with one
        more example than this dataset has, for the larger of two neighbours)."""
        if self.physical_batches is not None:
            return Event(
                "truncated_poisson",
                noise_multiplier,
                steps,
                sample_rate=self.sample_rate,
                dataset_size=self.dataset_size + 1,
                largest_batch=self.physical_batches * self.physical_batch_size,
            )
        if self.sample_rate == 1:
            return Event("full", noise_multiplier, steps)
        return Event("poisson", noise_multiplier, steps, sample_rate=self.sample_rate)


class RandomAllocationSampler:
    """Every example takes part in exactly `selections` of the steps_per_epoch steps of an epoch, chosen at random,
    independently of the other examples (Feldman & Shenfeld 2026, arXiv 2602.17284).

    An epoch is charged as a whole; `restart` gives up the rest of one. test_key: 32 bytes, for tests alone. Raises
    SamplingError.
    """

    def __init__(
        self,
        dataset_size: int,
        steps_per_epoch: int,
        physical_batch_size: int,
        selections: int = 1,
        test_key: bytes | None = None,
    ) -> None:
        if not 1 <= selections <= steps_per_epoch:
            raise SamplingError(f"selections must lie between 1 and steps_per_epoch, got {selections}")
        _check(dataset_size, physical_batch_size, test_key)
        self.dataset_size, self.physical_batch_size = dataset_size, physical_batch_size
        self.steps_per_epoch, self.selections = steps_per_epoch, selections
        self._key, self._epochs = test_key, 0
        self._epoch: Iterator[list[PhysicalBatch]] = iter(())

    @property
    def private(self) -> bool:
        return self._key is None

    @property
    def charge_unit(self) -> int:
        return self.steps_per_epoch

    def draw(self) -> list[PhysicalBatch]:
        """The next step's sample; after an epoch's last step a new epoch begins."""
        drawn = next(self._epoch, None)
        if drawn is None:
            self._epoch = self._begin_epoch()
            drawn = next(self._epoch)
        return drawn

    def restart(self) -> None:
        self._epoch = iter(())

    def _begin_epoch(self) -> Iterator[list[PhysicalBatch]]:
        stream = Stream(self._key, self._epochs)
        self._epochs += 1
        steps = stream.subsets(self.selections, self.steps_per_epoch, self.dataset_size)
        for step in range(self.steps_per_epoch):
            chosen = np.flatnonzero((steps == step).any(1))
            yield PhysicalBatch.cut(stream.shuffled(chosen), self.physical_batch_size)

    def event(self, noise_multiplier: float, steps: int) -> Event:
        """`steps` draws, whole epochs."""
        return Event(
            "random_allocation",
            noise_multiplier,
            steps,
            steps_per_epoch=self.steps_per_epoch,
            selections=self.selections,
        )


def _check(dataset_size: int, physical_batch_size: int, test_key: bytes | None) -> None:
    if dataset_size < 1 or physical_batch_size < 1:
        raise SamplingError(
            f"dataset_size and physical_batch_size must be 1 or more, got {dataset_size} and {physical_batch_size}"
        )
    if test_key is not None and len(test_key) != KEY_BYTES:
        raise SamplingError(f"a key has {KEY_BYTES} bytes, got {len(test_key)}")
