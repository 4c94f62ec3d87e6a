"""The user's ledger: the tight ε, and a budget in its terms. The file itself: tests/trusted/test_ledger.py."""

from pathlib import Path

import pytest

from privlib.privacy import Accountant, BudgetError, Event, LedgerError, PrivacyLedger
from privlib.trusted import renyi
from privlib.trusted.ledger_file import EventLedger

STEP = Event("poisson", 1.0, 1, sample_rate=0.01)


def test_interrupted_runs_cost_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    """Case 19: 300 updates at σ = 1.0, then 200 at 1.5."""
    with PrivacyLedger(tmp_path / "ledger") as ledger:
        for _ in range(3):
            ledger.charge(STEP.times(100))
    with PrivacyLedger(tmp_path / "ledger") as ledger:
        ledger.charge(Event("poisson", 1.5, 200, sample_rate=0.01))
        whole = Accountant().compose(1.0, 0.01, 300).compose(1.5, 0.01, 200).epsilon(1e-5)
        found = ledger.epsilon()
        assert found == whole and ledger.steps == 500
        assert (found.accountant, found.neighbouring, found.delta) == ("pld", "add_or_remove_one", 1e-5)


def test_the_budget_is_the_accountants(tmp_path: Path) -> None:
    with PrivacyLedger(tmp_path / "ledger", epsilon=1.0) as ledger:
        room = ledger.room(STEP)
        assert Accountant().compose(1.0, 0.01, room).epsilon(1e-5) <= 1
        assert Accountant().compose(1.0, 0.01, room + 1).epsilon(1e-5) > 1
        ledger.charge(STEP.times(room))
        with pytest.raises(BudgetError, match="room for 0"):
            ledger.charge(STEP)
        assert ledger.epsilon() <= 1
    with pytest.raises(LedgerError, match="keeps its budget"):
        PrivacyLedger(tmp_path / "ledger", epsilon=1.5)
    # the enclave's bound on the same file is looser, and so refuses
    with EventLedger(tmp_path / "ledger") as ledger_inside:
        assert ledger_inside.epsilon() > 1 and ledger_inside.room(STEP) == 0
        assert ledger_inside.epsilon() == renyi.epsilon(ledger_inside.events, 1e-5)


def test_a_ledger_for_replacing_one_example(tmp_path: Path) -> None:
    with PrivacyLedger(tmp_path / "ledger", epsilon=3.0) as ledger:
        ledger.charge(Event("full", 4.0, 1, "replace_one"))
        assert ledger.epsilon().neighbouring == "replace_one"
        assert ledger.epsilon() == pytest.approx(1.993, abs=1e-3)
