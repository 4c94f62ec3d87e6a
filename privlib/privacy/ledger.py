"""The ledger as users meet it: `privlib.trusted.ledger_file`, with ε from the tight accountant."""

from collections.abc import Sequence
from pathlib import Path

from privlib.privacy.accounting import Epsilon, accounted
from privlib.trusted.events import Event
from privlib.trusted.ledger import Budget
from privlib.trusted.ledger_file import EventLedger


class PrivacyLedger(EventLedger):
    """Opens or begins the ledger at `path`; see `privlib.trusted.ledger_file` for the file and what is refused.

    epsilon and delta: the budget of a new ledger; without epsilon there is no limit (delta is then what `epsilon()`
    is asked at). accountant: "pld" or "rdp". An existing ledger keeps its budget.
    """

    def __init__(
        self, path: Path | str, epsilon: float | None = None, delta: float = 1e-5, accountant: str = "pld"
    ) -> None:
        self._accountant, self._delta = accountant, delta
        super().__init__(path, None if epsilon is None else Budget(epsilon, delta))

    def bound(self, events: Sequence[Event], delta: float) -> Epsilon:
        return accounted(events, delta, self._accountant)

    def epsilon(self, delta: float | None = None) -> Epsilon:
        """What all events so far cost: at the budget's δ, or at that given here or when the ledger was opened."""
        if delta is None:
            delta = self.budget.delta if self.budget else self._delta
        return self.bound(self.events, delta)
