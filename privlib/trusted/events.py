"""What a training run is charged for: releases of Gaussian noise on sums over samples, as plain values.

An event says how the sample was drawn and how strong the noise was, in the terms an accountant needs, and nothing that
depends on the data. `noise_multiplier` is the noise's standard deviation over the sum's sensitivity to one example
added or removed (C plus what rounding adds, see `privlib.privacy.proof`).

sampling            a step's sample                                           fields
------------------  --------------------------------------------------------  ----------------------------------
full                every example                                             –
poisson             each example with probability sample_rate, independently  sample_rate
truncated_poisson   the same; of a larger sample a random largest_batch       sample_rate, dataset_size, largest_batch
random_allocation   each example in exactly `selections` random steps of      steps_per_epoch, selections
                    every epoch of steps_per_epoch steps, independently
fixed_size          a random subset of largest_batch of dataset_size          dataset_size, largest_batch
shuffled            each epoch a random order is cut into batches of one size steps_per_epoch
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from privlib.errors import PrivlibError

NEIGHBOURING = ("add_or_remove_one", "replace_one")
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "full": (),
    "poisson": ("sample_rate",),
    "truncated_poisson": ("sample_rate", "dataset_size", "largest_batch"),
    "random_allocation": ("steps_per_epoch", "selections"),
    "fixed_size": ("dataset_size", "largest_batch"),
    "shuffled": ("steps_per_epoch",),
}
SAMPLINGS = tuple(_FIELDS)
_MOST = 2**53  # whole numbers up to here are exact as floats


class EventError(PrivlibError, ValueError):
    """The numbers of an event describe no mechanism."""


@dataclass(frozen=True)
class Event:
    """`steps` noisy sums of one kind. noise_multiplier ≥ 0 (0: no privacy, ε is infinite); steps ≥ 0; the other fields
    as the table in `privlib.trusted.events` says. Random allocation and shuffling are charged in whole epochs.

    Raises EventError for a number out of range, a field that is missing, or one that the sampling does not have.
    """

    sampling: str
    noise_multiplier: float
    steps: int
    neighbouring: str = "add_or_remove_one"
    sample_rate: float | None = None
    dataset_size: int | None = None
    largest_batch: int | None = None
    steps_per_epoch: int | None = None
    selections: int | None = None

    def __post_init__(self) -> None:
        if self.sampling not in _FIELDS:
            raise EventError(f"sampling is one of {', '.join(SAMPLINGS)}, got {self.sampling!r}")
        if self.neighbouring not in NEIGHBOURING:
            raise EventError(f"neighbouring is one of {', '.join(NEIGHBOURING)}, got {self.neighbouring!r}")
        if not (_is_real(self.noise_multiplier) and 0 <= self.noise_multiplier < math.inf):
            raise EventError(f"noise_multiplier must be finite and not negative, got {self.noise_multiplier}")
        _whole("steps", self.steps, 0)
        for name in ("sample_rate", "dataset_size", "largest_batch", "steps_per_epoch", "selections"):
            value = getattr(self, name)
            if (value is not None) != (name in _FIELDS[self.sampling]):
                verb = "needs" if value is None else "has no"
                raise EventError(f"{self.sampling} sampling {verb} {name}")
            if value is not None and name != "sample_rate":
                _whole(name, value, 1)
        if self.sample_rate is not None and not (_is_real(self.sample_rate) and 0 <= self.sample_rate <= 1):
            raise EventError(f"sample_rate is a probability, got {self.sample_rate}")
        if self.selections is not None and self.selections > (self.steps_per_epoch or 0):
            raise EventError(f"{self.selections} selections do not fit {self.steps_per_epoch} steps an epoch")
        if self.steps % self.charge_unit:
            raise EventError(
                f"{self.sampling} sampling is charged in whole epochs of {self.charge_unit} steps, got {self.steps}"
            )

    @property
    def charge_unit(self) -> int:
        """How many steps can only be charged together: an epoch where the sample of a step depends on the others."""
        return self.steps_per_epoch or 1

    @property
    def kind(self) -> "Event":
        """The same mechanism, no steps: what can be added up."""
        return replace(self, steps=0)

    def times(self, steps: int) -> "Event":
        """The same mechanism for another number of steps."""
        return replace(self, steps=steps)

    def to_json(self) -> dict[str, Any]:
        """Only what is set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @staticmethod
    def from_json(value: Any) -> "Event":
        """EventError for anything but what `to_json` gives."""
        if not isinstance(value, dict) or not set(value) <= {field.name for field in fields(Event)}:
            raise EventError(f"not an event: {value!r}")
        try:
            return Event(**value)
        except TypeError as error:
            raise EventError(f"not an event: {value!r} ({error})") from None


def merged(events: Iterable[Event]) -> list[Event]:
    """One event a kind, with all its steps, in order of first appearance; kinds without steps are left out."""
    totals: dict[Event, int] = {}
    for event in events:
        totals[event.kind] = totals.get(event.kind, 0) + event.steps
    return [kind.times(steps) for kind, steps in totals.items() if steps]


def neighbouring_of(events: Iterable[Event]) -> str | None:
    """The relation of all of them (None where there are none). EventError where they differ."""
    found = {event.neighbouring for event in events}
    if len(found) > 1:
        raise EventError("events for different neighbouring relations do not add up to one ε; keep one ledger for each")
    return found.pop() if found else None


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
        raise EventError(f"{name} must be a whole number from {least} on, got {value!r}")
