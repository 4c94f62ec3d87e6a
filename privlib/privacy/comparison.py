"""Samplers that are here to be compared with, not to be recommended: what many training loops do. They are accounted as
what they are, for replacing one example, without the amplification that Poisson sampling would give them."""

from collections.abc import Iterator

import numpy as np

from privlib.trusted.events import Event
from privlib.trusted.randomness import Stream
from privlib.trusted.sampling import PhysicalBatch, SamplingError


class FixedSizeSampler:
    """A uniformly random subset of sample_size examples in every step, independent of the others.

    Accounted with Rényi DP for sampling without replacement under replace_one (Wang, Balle & Kasiviswanathan 2019,
    arXiv 1808.00087). Raises SamplingError.
    """

    charge_unit = 1
    private = True

    def __init__(self, dataset_size: int, sample_size: int, physical_batch_size: int) -> None:
        if not 1 <= sample_size <= dataset_size or physical_batch_size < 1:
            raise SamplingError(f"a sample of {sample_size} cannot be taken from {dataset_size} examples in batches")
        self.dataset_size, self.sample_size, self.physical_batch_size = dataset_size, sample_size, physical_batch_size

    def draw(self) -> list[PhysicalBatch]:
        everyone = Stream().shuffled(np.arange(self.dataset_size))
        return PhysicalBatch.cut(everyone[: self.sample_size], self.physical_batch_size)

    def restart(self) -> None:
        """Nothing to do: draws do not depend on each other."""

    def event(self, noise_multiplier: float, steps: int) -> Event:
        """`steps` draws under replace_one."""
        return Event(
            "fixed_size",
            noise_multiplier,
            steps,
            "replace_one",
            dataset_size=self.dataset_size,
            largest_batch=self.sample_size,
        )


class ShuffledSampler:
    """Every epoch all examples in a new random order, cut into steps_per_epoch batches of equal size (±1).

    Accounted under replace_one without amplification: given the order, replacing an example changes one batch of an
    epoch. Taking it for Poisson sampling overstates the privacy several times (Chua et al. 2024, arXiv 2403.17673;
    Lebeda et al. 2024, 2405.20769). Under add_or_remove_one one example less shifts every later batch: refused.
    """

    private = True

    def __init__(self, dataset_size: int, steps_per_epoch: int, physical_batch_size: int) -> None:
        if not 1 <= steps_per_epoch <= dataset_size or physical_batch_size < 1:
            raise SamplingError(f"{dataset_size} examples cannot be cut into {steps_per_epoch} batches")
        self.dataset_size, self.physical_batch_size = dataset_size, physical_batch_size
        self.charge_unit = self.steps_per_epoch = steps_per_epoch
        self._epoch: Iterator[np.ndarray] = iter(())

    def draw(self) -> list[PhysicalBatch]:
        batch = next(self._epoch, None)
        if batch is None:
            order = Stream().shuffled(np.arange(self.dataset_size))
            self._epoch = iter(np.array_split(order, self.steps_per_epoch))
            batch = next(self._epoch)
        return PhysicalBatch.cut(batch, self.physical_batch_size)

    def restart(self) -> None:
        self._epoch = iter(())

    def event(self, noise_multiplier: float, steps: int) -> Event:
        """`steps` draws, whole epochs, under replace_one."""
        return Event("shuffled", noise_multiplier, steps, "replace_one", steps_per_epoch=self.steps_per_epoch)
