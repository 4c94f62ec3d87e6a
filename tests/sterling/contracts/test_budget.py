"""Curves in fixed point: never below the accountants, exact on chain, one budget whoever asks."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant, compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.sterling.chain import EmbeddedChain, ReorganisedError, RevertedError
from privlib.sterling.contracts import budget
from privlib.sterling.contracts.budget import INFINITE, UNITS_PER_NAT, cap_words, curve_words, lanes, words
from privlib.sterling.contracts.market import code
from privlib.sterling.contracts.terms import JobState
from privlib.sterling.errors import PolicyError
from privlib.sterling.verify.cost import ORDERS, privacy_cost
from privlib.trusted import renyi
from privlib.trusted.events import Event

from .scene import DELTA, EPSILON, JOB, Scene

LANES = st.lists(st.integers(0, INFINITE), min_size=16, max_size=16)


def poisson(sigma: float, q: float, steps: int) -> Event:
    return Event("poisson", sigma, steps, sample_rate=q)


@pytest.mark.parametrize(
    ("sigma", "q", "steps"), [(1.0, 0.005, 500), (0.6, 0.02, 1), (4.0, 0.3, 1000), (10.0, 1e-4, 9)]
)
def test_a_charge_is_never_below_the_enclaves_bound_nor_dp_accounting(sigma: float, q: float, steps: int) -> None:
    charged = np.array(lanes(curve_words([poisson(sigma, q, steps)])), object)
    accountant = RdpAccountant(list(ORDERS), NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), steps)
    for order, units, reference in zip(ORDERS, charged, accountant._rdp, strict=True):
        assert units >= reference * UNITS_PER_NAT, order
        if order in renyi.ORDERS:
            bound = renyi.rdp([poisson(sigma, q, steps)])[list(renyi.ORDERS).index(order)]
            assert bound * UNITS_PER_NAT <= units <= bound * UNITS_PER_NAT + 1, order
        else:
            assert units <= reference * UNITS_PER_NAT * 1.05, "the chord is not far above the curve"


def test_a_charge_is_never_below_what_the_verdict_says() -> None:
    cost = privacy_cost(1.0, 0.005, 500, 1e-5)
    charged = lanes(curve_words(JOB))
    assert all(units >= value * UNITS_PER_NAT for units, value in zip(charged, cost.rdp, strict=True))


def test_infinite_and_huge_divergences_take_the_highest_value() -> None:
    assert set(lanes(curve_words([poisson(0.0, 0.1, 1)]))) == {INFINITE}
    assert budget.fixed_point([1e11] * 16) == (INFINITE,) * 16


@pytest.mark.parametrize("wrong", [[-1.0] * 16, [math.nan] * 16, [1.0] * 15])
def test_a_curve_that_is_none_is_refused(wrong: list[float]) -> None:
    with pytest.raises(PolicyError, match="16 divergences"):
        budget.fixed_point(wrong)


@given(values=st.lists(st.floats(0, 1e9), min_size=16, max_size=16))
def test_rounding_is_up_by_less_than_a_unit(values: list[float]) -> None:
    for units, value in zip(budget.fixed_point(values), values, strict=True):
        assert 0 <= units - Fraction(value) * UNITS_PER_NAT < 1


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-6), (1, 1e-5), (3, 1e-5), (8, 1e-5), (50, 1e-9)])
def test_a_total_within_any_cap_is_within_epsilon_at_a_sixteenth_of_delta(epsilon: float, delta: float) -> None:
    """Converted back by dp-accounting, with the rounding of both directions."""
    for order, cap in zip(ORDERS, lanes(cap_words(epsilon, delta)), strict=True):
        if cap:
            found, _ = compute_epsilon([order], [cap / UNITS_PER_NAT], delta / len(ORDERS))
            assert found <= epsilon
            assert found > epsilon - 1e-6, "the cap is not needlessly low"


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 0.1), (-1, 0.1), (math.inf, 0.1), (1, 0), (1, 1), (1, math.nan)])
def test_a_budget_out_of_range_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(PolicyError, match="epsilon > 0"):
        cap_words(epsilon, delta)


@given(values=LANES)
def test_lanes_survive_packing(values: list[int]) -> None:
    assert list(lanes(words(values))) == values


@settings(max_examples=40, deadline=None)
@given(first=LANES, second=LANES, caps=LANES)
def test_the_ledger_adds_as_integers_do_and_forgets_nothing(
    first: list[int], second: list[int], caps: list[int]
) -> None:
    chain = EmbeddedChain()
    owner = chain.account("owner")
    ledger = chain.deploy(code("BudgetLedger"), sender=owner)
    ledger.transact("bind", owner, owner, sender=owner)
    ledger.transact("open", 1, words(caps), sender=owner)

    def fits(total: Sequence[int]) -> bool:
        return any(a <= cap and a < INFINITE for a, cap in zip(total, caps, strict=True))

    total = [0] * 16
    for curve in (first, second):
        after = [min(INFINITE, a + b) for a, b in zip(total, curve, strict=True)]
        assert ledger.call("admits", 1, words(curve)) == fits(after)
        try:
            ledger.transact("charge", 1, words(curve), sender=owner)
            assert fits(after)
            total = after
        except RevertedError as error:
            assert error.reason == "ledger: budget exhausted" and not fits(after)
        assert list(lanes(ledger.call("total", 1))) == total
    if all(a >= b for a, b in zip(total, second, strict=True)) and total != first:
        ledger.transact("take_back", 1, words(second), sender=owner)
        kept = [a if a == INFINITE else a - b for a, b in zip(total, second, strict=True)]
        assert list(lanes(ledger.call("total", 1))) == kept


def test_colluding_consumers_and_months_share_one_budget(scene: Scene) -> None:
    """Whoever asks and whenever: admitted together are as many jobs as one consumer alone would have got."""
    events = [poisson(1.0, 0.005, 2000)]
    expected = budget.jobs_admitted(events, EPSILON, DELTA)
    assert expected >= 2
    dataset = scene.offer(0)
    admitted = 0
    for number in range(expected + 2):
        scene.consumer = scene.stranger if number % 2 else scene.admin
        scene.chain.advance(5 * 86_400)
        scene.session = type(scene.session)(f"session {number}")
        scene.evidence = scene.attest(scene.session)
        terms = scene.terms([dataset], curve=curve_words(events), bonus=0)
        scene.request(terms)
        try:
            scene.grant(terms)
            admitted += 1
        except RevertedError as error:
            assert error.reason == "ledger: budget exhausted"
    assert admitted == expected
    assert budget.spent_epsilon(scene.total(dataset), DELTA) <= EPSILON


def test_renyi_on_chain_admits_far_more_jobs_than_adding_up_epsilons() -> None:
    on_chain = budget.jobs_admitted(JOB, EPSILON, DELTA)
    naive = budget.jobs_admitted_naively(JOB, EPSILON, DELTA)
    assert naive >= 1 and on_chain > 3 * naive
    assert naive * renyi.epsilon(JOB, DELTA / naive) <= EPSILON < (naive + 1) * renyi.epsilon(JOB, DELTA / (naive + 1))


def test_spent_epsilon_is_zero_before_any_job_and_infinite_where_nothing_is_known() -> None:
    assert budget.spent_epsilon((0, 0, 0, 0), DELTA) == 0
    assert budget.spent_epsilon(words([INFINITE] * 16), DELTA) == math.inf


def test_only_those_named_act_on_the_ledger(scene: Scene) -> None:
    ledger, curve = scene.market.ledger, words([1] * 16)
    for who in (scene.admin, scene.providers[0], scene.stranger):
        for call, reason in (
            (("open", 9, curve), "not the registry"),
            (("charge", 1, curve), "not the escrow"),
            (("take_back", 1, curve), "not the escrow"),
        ):
            with pytest.raises(RevertedError, match=reason):
                ledger.transact(*call, sender=who)
    with pytest.raises(RevertedError, match="already bound"):
        ledger.transact("bind", scene.admin, scene.admin, sender=scene.admin)
    with pytest.raises(RevertedError, match="not the deployer"):
        ledger.transact("bind", scene.stranger, scene.stranger, sender=scene.stranger)


def test_an_approval_whose_charge_is_refused_grants_nothing(on_both: Scene) -> None:
    """Debit and grant are one transaction: without the first there is no trace of the second."""
    scene, escrow = on_both, on_both.market.escrow
    small = scene.offer(1, epsilon=0.01)
    terms = scene.terms([scene.datasets[0], small])
    scene.request(terms)
    scene.approve(terms, 0)
    with pytest.raises(RevertedError, match="ledger: budget exhausted"):
        scene.approve(terms, 1)
    assert scene.state(terms) == JobState.REQUESTED and escrow.call("approvals", scene.job(terms)) == 0b01
    assert escrow.events("Granted") == [] and not any(scene.total(small))
    with pytest.raises(RevertedError, match="not granted"):
        scene.complete(terms)
    escrow.transact("fail", terms, sender=scene.consumer)
    assert not any(scene.total(scene.datasets[0]))


def test_a_reorganised_grant_takes_its_charges_with_it(on_both: Scene) -> None:
    """And what follows from a grant that is not final is therefore nobody's to release."""
    scene = on_both
    terms = scene.terms([scene.datasets[0]])
    scene.request(terms)
    scene.chain.mine(scene.chain.confirmations)
    (granted,) = scene.grant(terms)
    assert any(scene.total(scene.datasets[0]))
    assert scene.market.escrow.call("state", scene.job(terms), at="final") == JobState.REQUESTED
    scene.chain.reorganise(1)
    assert scene.state(terms) == JobState.REQUESTED and not any(scene.total(scene.datasets[0]))
    with pytest.raises(ReorganisedError):
        scene.chain.finalise(granted)
