"""What actions cost, under the bars: the same units on both chains."""

from privlib.sterling.chain import Account
from privlib.sterling.contracts.quotes import registry_quote

from .scene import Scene

REGISTRATION_BAR, LIFE_CYCLE_BAR = 100_000, 600_000


def test_registering_a_quote_costs_under_a_hundred_thousand(on_both: Scene) -> None:
    session = Account("another session")
    made = registry_quote(on_both.session_quote(session))
    receipt = on_both.market.attestation.transact("register", made, session, sender=on_both.executor)
    assert 2 * 6_900 < receipt.gas_used < REGISTRATION_BAR


def test_a_jobs_whole_life_costs_under_six_hundred_thousand(on_both: Scene) -> None:
    """From the request to the last withdrawal, nobody having been in the market before."""
    scene = on_both
    terms = scene.terms([scene.datasets[0]])
    receipts = [scene.request(terms), *scene.grant(terms), scene.complete(terms, [1])]
    for who in (scene.providers[0], scene.executor):
        receipts.append(scene.market.escrow.transact("withdraw", who, sender=who))
    assert sum(each.gas_used for each in receipts) < LIFE_CYCLE_BAR
