"""ε of events, on dp-accounting: privacy loss distributions (PLD; Doroshenko et al. 2022, arXiv 2207.04380) unless
Rényi DP is asked for. Every ε says at which δ, for which neighbouring relation, and which accountant gave it."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, reduce
from typing import Any, Self

import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS, compute_epsilon
from scipy import optimize

from privlib.privacy import allocation
from privlib.privacy.errors import AccountingError, CalibrationError
from privlib.trusted.events import Event, merged, neighbouring_of

ACCOUNTANTS = ("pld", "rdp")
_RELATIONS = {
    "add_or_remove_one": NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace_one": NeighboringRelation.REPLACE_ONE,
}
_FINEST = 1e-4  # spacing of privacy losses, dp-accounting's default
_LOSSES = 1e5  # coarser where ε passes 10: that many steps to ε, or convolutions take minutes
_MOST_NOISE = 1e6
_LARGEST_LOSS = 1e4  # an ε beyond this protects nobody, and its distribution would be coarse: the RDP bound will do


class Epsilon(float):
    """ε as a float, with what it means: `delta`, `neighbouring` ("add_or_remove_one" or "replace_one"), `accountant`
    ("pld" or "rdp"), and `fallback`: why another accountant than the one asked for gave it, or None."""

    delta: float
    neighbouring: str
    accountant: str
    fallback: str | None

    def __new__(
        cls, value: float, delta: float, neighbouring: str, accountant: str, fallback: str | None = None
    ) -> Self:
        self = super().__new__(cls, value)
        self.delta, self.neighbouring, self.accountant, self.fallback = delta, neighbouring, accountant, fallback
        return self

    def __str__(self) -> str:
        named = f"{self.accountant}, {self.neighbouring.replace('_', ' ')}"
        note = f"; {self.fallback}" if self.fallback else ""
        return f"ε = {float(self):.4g} at δ = {self.delta:g} ({named}{note})"

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (float(self), self.delta, self.neighbouring, self.accountant, self.fallback)


class Accountant:
    """Adds up what a training run costs.

    accountant: "pld" or "rdp". neighbouring: "add_or_remove_one" or "replace_one". noise multipliers are the noise's
    standard deviation over the sensitivity to one example added or removed; for a compiled step that is
    `privlib.privacy.effective_noise_multiplier(step)`, under either relation. Raises AccountingError.
    """

    def __init__(self, accountant: str = "pld", neighbouring: str = "add_or_remove_one") -> None:
        if accountant not in ACCOUNTANTS or neighbouring not in _RELATIONS:
            raise AccountingError(
                f"accountant is one of {', '.join(ACCOUNTANTS)}, neighbouring one of {', '.join(_RELATIONS)}; "
                f"got {accountant!r}, {neighbouring!r}"
            )
        self.accountant, self.neighbouring = accountant, neighbouring
        self._events: list[Event] = []

    @property
    def events(self) -> list[Event]:
        """What was composed, one event a kind."""
        return merged(self._events)

    def compose(self, noise_multiplier: float, sample_rate: float, steps: int) -> Self:
        """`steps` steps of Gaussian noise on a Poisson sample (on all examples where sample_rate is 1)."""
        rate = None if sample_rate == 1 else sample_rate
        return self.compose_events(
            [Event("full" if rate is None else "poisson", noise_multiplier, steps, self.neighbouring, rate)]
        )

    def compose_events(self, events: Iterable[Event]) -> Self:
        """Events of any sampling. AccountingError for one of another neighbouring relation."""
        events = list(events)
        if neighbouring_of(events) not in (None, self.neighbouring):
            raise AccountingError(f"this accountant is for {self.neighbouring}; make another for these events")
        self._events += events
        return self

    def epsilon(self, delta: float) -> Epsilon:
        """The smallest ε at δ that the accountant proves; 0 ≤ delta ≤ 1. Infinite without noise."""
        return accounted(self.events, delta, self.accountant, self.neighbouring)


def accounted(
    events: Sequence[Event], delta: float, accountant: str = "pld", neighbouring: str = "add_or_remove_one"
) -> Epsilon:
    """What `events` cost together, in any order and chosen adaptively.

    neighbouring is for an empty list; events bring their own. A PLD whose losses pass 10⁴ is replaced by the RDP bound,
    which `fallback` then says. Raises AccountingError for a delta outside 0 … 1, and for a sampling without an analysis
    under that relation and accountant (`privlib.privacy.matrix` lists them).
    """
    if not 0 <= delta <= 1:
        raise AccountingError(f"delta must lie between 0 and 1, got {delta}")
    events = [event for event in merged(events) if event.sample_rate != 0]
    neighbouring = neighbouring_of(events) or neighbouring
    if not events or delta == 1:
        return Epsilon(0.0, delta, neighbouring, accountant)
    if delta == 0 or any(event.noise_multiplier == 0 for event in events):
        return Epsilon(math.inf, delta, neighbouring, accountant)
    if accountant == "rdp":
        return Epsilon(_rdp(events, delta, neighbouring), delta, neighbouring, "rdp")
    if all(_has_rdp(event) for event in events):
        rough = _rdp(events, delta, neighbouring)
        if rough > _LARGEST_LOSS:
            reason = f"privacy losses pass {_LARGEST_LOSS:g}, so rdp instead of pld"
            return Epsilon(rough, delta, neighbouring, "rdp", reason)
        return Epsilon(_pld(events, delta, max(_FINEST, rough / _LOSSES)), delta, neighbouring, "pld")
    allocated = [[event] for event in events if event.sampling == "random_allocation"]
    others = [event for event in events if event.sampling != "random_allocation"]
    groups = [*allocated, others] if others else allocated
    total = sum(_pld(group, delta / len(groups), _FINEST) for group in groups)
    fallback = f"ε of {len(groups)} parts at δ/{len(groups)}, added up: their grids differ" if len(groups) > 1 else None
    return Epsilon(total, delta, neighbouring, "pld", fallback)


def calibrate_noise(
    epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    *,
    accountant: str = "pld",
    neighbouring: str = "add_or_remove_one",
    tolerance: float = 1e-3,
) -> float:
    """The smallest noise multiplier, to `tolerance`, whose ε at δ after `steps` Poisson samples is at most `epsilon`.

    It is the multiplier that the accountant sees; rounding makes a compiled step's a little smaller than its nominal
    one (`effective_noise_multiplier`). Raises CalibrationError for a target that is not positive or that no multiplier
    up to 10⁶ reaches.
    """
    rate = None if sample_rate == 1 else sample_rate
    event = Event("full" if rate is None else "poisson", 1.0, steps, neighbouring, rate)
    return calibrate_event(epsilon, delta, event, accountant=accountant, tolerance=tolerance)


def calibrate_event(
    epsilon: float, delta: float, event: Event, *, accountant: str = "pld", tolerance: float = 1e-3
) -> float:
    """`calibrate_noise` for the steps of any sampler: `event` is `sampler.event(1.0, steps)`, whose own multiplier does
    not matter."""
    if not (0 < epsilon < math.inf and 0 < delta < 1 and tolerance > 0):
        raise CalibrationError(
            f"a target has a finite epsilon > 0, 0 < delta < 1 and a tolerance > 0; got {epsilon}, {delta}, {tolerance}"
        )

    def gap(log_noise: float) -> float:
        """log ε − log target, close to a straight line; finite."""
        spent = accounted([replace(event, noise_multiplier=math.exp(log_noise))], delta, accountant)
        return math.log(min(max(spent, 1e-300), 1e300) / epsilon)

    high = 0.0
    while gap(high) > 0:
        high += math.log(2)
        if high > math.log(_MOST_NOISE):
            raise CalibrationError(
                f"no noise multiplier up to {_MOST_NOISE:g} reaches ε = {epsilon} at δ = {delta} with the {accountant} "
                "accountant; allow more, or take fewer steps or a smaller sample"
            )
    low = high - math.log(2)
    while gap(low) <= 0:
        high, low = low, low - math.log(2)
        if low < -math.log(_MOST_NOISE):
            return math.exp(high)
    found = math.exp(optimize.brentq(gap, low, high, xtol=tolerance / 4 / math.exp(high)))
    while gap(math.log(found)) > 0:  # the root is known to a quarter of the tolerance, from either side
        found += tolerance / 4
    return float(found)


def _has_rdp(event: Event) -> bool:
    try:
        _rdp_event(event)
    except AccountingError:
        return False
    return True


def _rdp(events: Sequence[Event], delta: float, neighbouring: str) -> float:
    if any(event.sampling == "truncated_poisson" for event in events):
        raise AccountingError("truncated Poisson sampling has no Rényi analysis here; use the pld accountant")
    total = sum(times * _divergences(one, neighbouring) for one, times in map(_rdp_event, events))
    return float(compute_epsilon(DEFAULT_RDP_ORDERS, total, delta)[0])


@lru_cache(maxsize=64)
def _divergences(event: dp_accounting.DpEvent, neighbouring: str) -> np.ndarray:
    """Rényi divergences of one event at DEFAULT_RDP_ORDERS."""
    with _quiet():
        return np.asarray(RdpAccountant(neighboring_relation=_RELATIONS[neighbouring]).compose(event).rdp)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that an order is left out because its series did not converge: the bound holds all the same
    and is by another order."""
    logger = logging.getLogger("absl")  # what dp-accounting logs to
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _rdp_event(event: Event) -> tuple[dp_accounting.DpEvent, int]:
    """dp-accounting's event, and how often.

    Its RDP takes the multiplier relative to the sensitivity, whatever the relation: replacing moves a sum by 2C.
    """
    replaced = event.neighbouring == "replace_one"
    gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier / (2 if replaced else 1))
    if event.sampling == "full":
        return gaussian, event.steps
    if event.sampling == "poisson" and not replaced:
        return dp_accounting.PoissonSampledDpEvent(event.sample_rate, gaussian), event.steps
    if event.sampling == "fixed_size" and replaced:
        sampled = dp_accounting.SampledWithoutReplacementDpEvent(event.dataset_size, event.largest_batch, gaussian)
        return sampled, event.steps
    if event.sampling == "shuffled" and replaced:
        return gaussian, event.steps // event.charge_unit
    raise _unknown(event, "rdp")


def _unknown(event: Event, accountant: str) -> AccountingError:
    return AccountingError(
        f"{event.sampling} sampling under {event.neighbouring} has no analysis by the {accountant} accountant here; "
        "privlib.privacy.matrix says which have one"
    )


def _pld(events: Sequence[Event], delta: float, spacing: float) -> float:
    spent = [one.self_compose(times) for one, times in (_loss_distribution(event, spacing) for event in events)]
    return float(reduce(lambda first, second: first.compose(second), spent).get_epsilon_for_delta(delta))


def _loss_distribution(event: Event, spacing: float) -> tuple[Any, int]:
    """A loss distribution, and how often it is composed with itself."""
    relation, replaced = _RELATIONS[event.neighbouring], event.neighbouring == "replace_one"
    if event.sampling == "full":  # Gaussians compose exactly
        return _gaussian(event.noise_multiplier / math.sqrt(event.steps), 1.0, relation, spacing), 1
    if event.sampling == "poisson":
        return _gaussian(event.noise_multiplier, event.sample_rate, relation, spacing), event.steps
    if event.sampling == "truncated_poisson" and not replaced:
        return _truncated(event.kind, spacing), event.steps
    if event.sampling == "random_allocation" and not replaced and event.selections is not None:
        epochs = event.steps // event.charge_unit
        return allocation.loss_distribution(event.noise_multiplier, event.charge_unit, event.selections, epochs), 1
    if event.sampling == "shuffled" and replaced:
        epochs = event.steps // event.charge_unit
        return _gaussian(event.noise_multiplier / math.sqrt(epochs), 1.0, relation, spacing), 1
    raise _unknown(event, "pld")


@lru_cache(maxsize=64)
def _gaussian(noise_multiplier: float, sample_rate: float, relation: NeighboringRelation, spacing: float) -> Any:
    return pld.from_gaussian_mechanism(
        noise_multiplier,
        value_discretization_interval=spacing,
        sampling_prob=sample_rate,
        neighboring_relation=relation,
    )


@lru_cache(maxsize=16)
def _truncated(event: Event, spacing: float) -> Any:
    return pld.from_truncated_subsampled_gaussian_mechanism(
        event.dataset_size,
        event.sample_rate,
        event.largest_batch,
        event.noise_multiplier,
        value_discretization_interval=spacing,
    )
