"""What a dataset has paid: a list of events, each charged before anything it pays for is computed.

One record a line, canonical JSON after its SHA-256, each covering the record before it:

    <sha256 of (sha256 of the line before ‖ JSON), hex> {"event": {…}}

The first record is {"ledger": 1, "budget": {…} or null, "id": random}. Where the lines lie is a subclass's matter: in a
file (`privlib.trusted.ledger_file`), or sealed by an enclave (`privlib.trusted.sealed_ledger`). Either way `charge`
returns only once the line is where no crash can lose it; a step whose charge has not returned must not run.

A line that was torn by a crash is counted by the next one, {"torn": …, "counted": […]}; anything else that does not fit
the chain is damage: refused, not repaired.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from privlib.errors import PrivlibError
from privlib.trusted import renyi
from privlib.trusted.bounded_json import read_json
from privlib.trusted.events import Event, EventError, merged, neighbouring_of
from privlib.trusted.renyi import BoundError

FORMAT = 1
_MOST_STEPS = 10**9


class LedgerError(PrivlibError):
    """The ledger is damaged, in use, older than it should be, or not the one that was asked for."""


class BudgetError(PrivlibError):
    """The charge would pass the budget; nothing was charged."""


@dataclass(frozen=True)
class Budget:
    """ε at δ that the ledger's events together may reach."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 1):
            raise EventError(f"a budget has epsilon > 0 and 0 < delta < 1, got {self.epsilon} and {self.delta}")


@dataclass(frozen=True)
class Position:
    """How far a ledger had come: its id, its number of lines, and the last one's SHA-256."""

    ledger: str
    lines: int
    sha256: str


class Ledger(ABC):
    """An account that is open for charging, whatever keeps its lines.

    Its ε is the bound of `privlib.trusted.renyi`; a subclass may have a tighter one.
    """

    def __init__(self, name: str, found: "Contents") -> None:
        """name: of the ledger, in errors."""
        self._name = name
        self.id, self.budget, self._hashes, self._charged = found.id, found.budget, found.hashes, found.events
        self._room: dict[Event, int] = {}

    @abstractmethod
    def _write(self, line: bytes) -> None:
        """Put a line behind the others, so that no crash loses it. Raises PrivlibError."""

    def bound(self, events: Sequence[Event], delta: float) -> float:
        """ε of events at δ, by which the budget is kept."""
        return renyi.epsilon(events, delta)

    def epsilon(self, delta: float | None = None) -> float:
        """What all events so far cost, at the budget's δ unless another is given."""
        if delta is None:
            if self.budget is None:
                raise LedgerError(f"{self._name} has no budget, so no δ of its own; give delta")
            delta = self.budget.delta
        return self.bound(self.events, delta)

    @property
    def events(self) -> list[Event]:
        """What was charged, one event a kind."""
        return merged(self._charged)

    @property
    def steps(self) -> int:
        """Steps charged, of all kinds."""
        return sum(event.steps for event in self._charged)

    @property
    def position(self) -> Position:
        """Where the ledger stands, for `require`."""
        return Position(self.id, len(self._hashes), self._hashes[-1])

    def require(self, earlier: Position) -> None:
        """Raise LedgerError unless this is that ledger, then or later: an old or shortened copy would hide spending."""
        known = self._hashes[earlier.lines - 1] if 0 < earlier.lines <= len(self._hashes) else None
        if earlier.ledger != self.id or known != earlier.sha256:
            raise LedgerError(
                f"{self._name} is not the ledger of the checkpoint, or an older copy of it: spending would be "
                "forgotten. Put back the newest ledger, or begin anew with a new budget"
            )

    def room(self, event: Event) -> int:
        """How many steps of that kind (whole charge units) the budget still has room for."""
        kind, unit = event.kind, event.charge_unit
        if self.budget is None:
            return _MOST_STEPS // unit * unit
        if kind not in self._room:
            most, budget, events = _MOST_STEPS // unit, self.budget, self.events

            def fits(bound: Callable[[Sequence[Event], float], float], count: int) -> bool:
                return bound([*events, kind.times(count * unit)], budget.delta) <= budget.epsilon

            try:  # a bound that costs little, to begin with
                near = _largest(lambda count: fits(renyi.epsilon, count), most)
            except BoundError:
                near = 0
            self._room[kind] = unit * _largest(lambda count: fits(self.bound, count), most, near)
        return self._room[kind]

    def charge(self, event: Event) -> None:
        """Write the event, durably. Only then may its steps run.

        Raises BudgetError, and charges nothing, where the budget has no room; EventError where the event's
        neighbouring relation is not that of the others; LedgerError, or what keeps the lines raises.
        """
        neighbouring_of([*self._charged, event])
        if not event.steps:
            return
        room = self.room(event)
        if event.steps > room:
            assert self.budget is not None
            raise BudgetError(
                f"{event.steps} more steps would pass ε = {self.budget.epsilon} at δ = {self.budget.delta}; "
                f"there is room for {room}: stop here, or begin with a larger budget"
            )
        self._append({"event": event.to_json()})
        self._charged.append(event)
        self._room = {kind: left - event.steps for kind, left in self._room.items() if kind == event.kind}

    def _append(self, record: Any) -> None:
        line, digest = line_of(record, self._hashes[-1])
        self._write(line)
        self._hashes.append(digest)


@dataclass(frozen=True)
class Contents:
    """A ledger's bytes, understood. torn: last lines that were not written whole and not yet counted; unfinished: the
    last line has no end."""

    id: str
    budget: Budget | None
    hashes: list[str]
    events: list[Event]
    torn: list[bytes]
    unfinished: bool


def parse(name: object, data: bytes) -> Contents:
    """Check and read all of a ledger. Raises LedgerError naming the line that does not fit."""
    *lines, rest = data.split(b"\n")
    hashes: list[str] = []
    events: list[Event] = []
    torn: list[bytes] = []  # fit only where the next whole line counts them
    header: tuple[str, Budget | None] | None = None
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        try:
            record = _record(line, hashes[-1] if hashes else "")
            if record is None and header is not None:
                torn.append(line)
                continue
            if record is None:
                raise ValueError("it has not the form of a ledger")
            if torn and record.get("torn") != digest_of_torn(torn):
                raise ValueError("the line before is damaged")
            torn = []
            if header is None:
                header = _header(record)
            else:
                events += [Event.from_json(each) for each in record.get("counted", [record.get("event")])]
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"{name}, line {number}: damaged, or not a ledger ({error}); put back a copy") from error
        hashes.append(line[:64].decode())
    if header is None:
        raise LedgerError(f"{name} is empty, not a ledger; choose another path, or put back a copy")
    return Contents(*header, hashes, events, torn, bool(rest))


def first_line(budget: Budget | None) -> bytes:
    """What a new ledger begins with."""
    record = {"ledger": FORMAT, "budget": asdict(budget) if budget else None, "id": os.urandom(16).hex()}
    return line_of(record, "")[0]


def line_of(record: Any, before: str) -> tuple[bytes, str]:
    """A record's line, and its SHA-256 in hexadecimal. before: that of the line before it."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256((before + text).encode()).hexdigest()
    return f"{digest} {text}\n".encode(), digest


def digest_of_torn(torn: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\n".join(torn)).hexdigest()


def _header(record: dict[str, Any]) -> tuple[str, Budget | None]:
    if record["ledger"] != FORMAT:
        raise ValueError(f"format {record['ledger']!r}, this version reads {FORMAT}")
    return str(record["id"]), Budget(**record["budget"]) if record["budget"] else None


def _record(line: bytes, before: str) -> dict[str, Any] | None:
    """The record; None for a line that is no whole record; ValueError for a whole one that does not follow."""
    digest, _, text = line.partition(b" ")
    try:
        record = read_json(text)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    if hashlib.sha256(before.encode() + text).hexdigest().encode() != digest:
        raise ValueError("it does not follow from the line before")
    return record


def _largest(fits: Callable[[int], bool], most: int, near: int = 0) -> int:
    """The largest 0 ≤ n ≤ most that fits, where what fits is an interval from 0 on; `near` is a first guess."""
    low, high = (near, 2 * near) if near and fits(near) else (0, max(near, 1))
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
