"""How far a privacy budget goes: equal jobs, charged to the contract on chain until it refuses, beside adding up ε."""

from collections.abc import Sequence
from dataclasses import dataclass

from privlib.sterling.chain import Chain, RevertedError
from privlib.sterling.contracts.budget import cap_words, curve_words, jobs_admitted_naively, spent_epsilon
from privlib.sterling.contracts.market import code
from privlib.trusted import renyi
from privlib.trusted.events import Event

MOST_JOBS = 10_000
"""Where it ends for jobs that cost nothing."""


@dataclass(frozen=True)
class Exhaustion:
    """ε at `delta` after 1, 2, … jobs: on_chain, as far as the ledger let them in; added_up, the same number of jobs
    with each job's own ε summed. admitted_naively: how many jobs the sum alone would have let in."""

    epsilon: float
    delta: float
    on_chain: tuple[float, ...]
    added_up: tuple[float, ...]
    admitted_naively: int

    @property
    def admitted(self) -> int:
        """Jobs that the ledger on chain let in."""
        return len(self.on_chain)


def exhaust(chain: Chain, events: Sequence[Event], epsilon: float, delta: float) -> Exhaustion:
    """Charge equal jobs of `events` to a new ledger contract with the budget (epsilon, delta) until it refuses one.

    Its registry and escrow are one account here; in a market they are contracts. Raises PolicyError for no budget.
    """
    account = chain.account("ledger alone")
    ledger = chain.deploy(code("BudgetLedger"), sender=account)
    ledger.transact("bind", account.address, account.address, sender=account)
    ledger.transact("open", 1, cap_words(epsilon, delta), sender=account)
    charge = curve_words(events)
    spent: list[float] = []
    while len(spent) < MOST_JOBS:
        try:
            ledger.transact("charge", 1, charge, sender=account)
        except RevertedError:
            break
        spent.append(spent_epsilon(ledger.call("total", 1), delta))
    summed = [jobs * renyi.epsilon(events, delta / jobs) for jobs in range(1, len(spent) + 1)]
    naive = jobs_admitted_naively(events, epsilon, delta)
    return Exhaustion(epsilon, delta, tuple(spent), tuple(summed), naive)
