"""The life of a job: who may do what and when, and where the money goes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privlib.sterling.chain import Account, RevertedError, compile_vyper
from privlib.sterling.contracts.budget import lanes
from privlib.sterling.contracts.terms import Failure, JobState, Revocable, Terms, padded

from .scene import OUTPUT, PRICES, SEALED_KEY, Scene

Refused = Callable[[str], Any]


def refused(reason: str) -> Any:
    return pytest.raises(RevertedError, match=f"escrow: {reason}")


def test_a_job_from_request_to_payment(on_both: Scene) -> None:
    scene, escrow = on_both, on_both.market.escrow
    terms = scene.terms()
    fee = -(-(sum(PRICES) + 100) * 100 // 10_000)
    deposit = scene.deposit(terms)
    assert deposit == sum(PRICES) + 100 + fee
    before = scene.chain.balance(scene.consumer.address)

    requested = scene.request(terms)
    (event,) = escrow.events_of(requested, "Requested")
    assert Terms.decoded(event["terms"]) == terms
    assert event["job"] == scene.job(terms) == escrow.call("job_of", terms)
    assert scene.state(terms) == JobState.REQUESTED
    assert scene.chain.balance(scene.consumer.address) == before - deposit

    approvals = scene.grant(terms)
    assert [len(escrow.events_of(each, "Granted")) for each in approvals] == [0, 0, 1]
    assert scene.state(terms) == JobState.GRANTED and escrow.call("approvals", scene.job(terms)) == 0b111

    (completed,) = escrow.events_of(scene.complete(terms, [2, 1, 1]), "Completed")
    assert (completed["output"], completed["sealed_key"]) == (OUTPUT, SEALED_KEY)
    assert scene.state(terms) == JobState.COMPLETED
    shares = [scene.credit(each) for each in scene.providers]
    assert shares == [PRICES[0] + 50, PRICES[1] + 25, PRICES[2] + 25] and scene.credit(scene.executor) == fee

    for who in (*scene.providers, scene.executor):
        had, owed = scene.chain.balance(who.address), scene.credit(who)
        escrow.transact("withdraw", who, sender=who)
        assert scene.chain.balance(who.address) == had + owed
    assert scene.chain.balance(escrow.address) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"payer": "0x" + "11" * 20}, "not the payer"),
        ({"executor": "0x" + "00" * 20}, "no executor"),
        ({"executor_basis_points": 10_001}, "fee above the price"),
        ({"bonus": 2**128}, "bonus out of range"),
        ({"datasets": [], "prices": []}, "no dataset"),
        ({"datasets": [2, 1, 3], "prices": [700, 1000, 500]}, "datasets not ascending"),
        ({"datasets": [1, 1, 3], "prices": [1000, 1000, 500]}, "datasets not ascending"),
        ({"datasets": [1, 0, 3], "prices": [1000, 0, 500]}, "gap in datasets"),
        ({"prices": [1000, 700, 499]}, "not the price"),
        ({"prices": [1000, 700, 500, 1]}, "price of no dataset"),
        ({"grant_by": 1}, "too late to grant"),
        ({"complete_by": 1}, "no time to complete"),
        ({"complete_by": 1_750_000_000 + 40 * 86_400}, "deposit locked too long"),
        ({"session": "0x" + "22" * 20}, "session not attested"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_makes_no_sense_is_refused(scene: Scene, change: dict[str, Any], reason: str) -> None:
    terms = replace(scene.terms(), **change)
    with refused(reason):
        scene.market.escrow.transact("request", terms, sender=scene.consumer, value=scene.deposit(scene.terms()))


def test_the_deposit_is_exact_and_a_job_is_requested_once(scene: Scene) -> None:
    terms = scene.terms()
    for wrong in (0, scene.deposit(terms) - 1, scene.deposit(terms) + 1):
        with refused("not the deposit"):
            scene.market.escrow.transact("request", terms, sender=scene.consumer, value=wrong)
    scene.request(terms)
    with refused("job exists"):
        scene.request(terms)
    scene.market.escrow.transact("fail", terms, sender=scene.consumer)
    with refused("job exists"):
        scene.request(terms)


def test_only_a_datasets_approver_approves_and_once(scene: Scene) -> None:
    terms = scene.terms()
    with refused("not requested"):
        scene.approve(terms, 0)
    scene.request(terms)
    for who in (scene.stranger, scene.consumer, scene.executor, scene.providers[1]):
        with refused("not the approver"):
            scene.market.escrow.transact("approve", terms, 0, bytes(32), b"", sender=who)
    for index in (3, 8, 2**255):
        with refused("no such dataset"):
            scene.market.escrow.transact("approve", terms, index, bytes(32), b"", sender=scene.providers[0])
    scene.approve(terms, 0)
    with refused("already approved"):
        scene.approve(terms, 0)


def test_an_approval_by_signature_is_for_that_job_dataset_and_statement(scene: Scene) -> None:
    """As a policy's enclave gives it: the key holds no money, anybody sends."""
    policy, escrow = Account("policy"), scene.market.escrow
    dataset = scene.offer(0, approver=policy.address)
    terms, other = scene.terms([dataset]), scene.terms([dataset])
    scene.request(terms)
    scene.request(other)
    signature = policy.sign(escrow.call("approval_digest", scene.job(terms), dataset, b"v" * 32))
    for wrong in ((other, b"v" * 32, signature), (terms, b"w" * 32, signature)):
        with refused("not the approver"):
            escrow.transact("approve", wrong[0], 0, *wrong[1:], sender=scene.stranger)
    with pytest.raises(RevertedError, match="signature: length"):
        escrow.transact("approve", terms, 0, b"v" * 32, signature[:64], sender=scene.stranger)
    with refused("not the approver"):
        escrow.transact("approve", terms, 0, b"v" * 32, b"", sender=scene.providers[0])
    with pytest.raises(RevertedError, match="signature: "):
        escrow.transact("approve", terms, 0, b"v" * 32, other_s(signature), sender=scene.stranger)
    escrow.transact("approve", terms, 0, b"v" * 32, signature, sender=scene.stranger)
    assert scene.state(terms) == JobState.GRANTED


def test_changed_terms_are_another_job(scene: Scene) -> None:
    terms = scene.terms()
    scene.request(terms)
    for change in ({"program": b"x" * 32}, {"payer": scene.stranger.address}, {"recipient": b"x" * 32}, {"bonus": 0}):
        with refused("not requested"):
            scene.market.escrow.transact(
                "approve", replace(terms, **change), 0, bytes(32), b"", sender=scene.providers[0]
            )


def test_only_the_session_completes_and_only_what_it_signed(scene: Scene) -> None:
    terms, escrow = scene.terms(), scene.market.escrow
    scene.request(terms)
    with refused("not granted"):
        scene.complete(terms)
    scene.grant(terms)
    for signer in (scene.executor, scene.consumer, scene.stranger):
        with refused("not signed by the session"):
            escrow.transact("complete", *scene.completion(terms, [1, 1, 1], signer), sender=scene.executor)
    _, output, key, weights, signature = scene.completion(terms, [1, 1, 1])
    for wrong in ((b"x" * 32, key, weights), (output, key + b"x", weights), (output, key, padded([9, 1, 1]))):
        with refused("not signed by the session"):
            escrow.transact("complete", terms, *wrong, signature, sender=scene.executor)
    with pytest.raises(RevertedError, match="signature: "):
        escrow.transact("complete", terms, output, key, weights, other_s(signature), sender=scene.executor)
    escrow.transact("complete", terms, output, key, weights, signature, sender=scene.stranger)  # anybody sends
    for again in (scene.complete, lambda t: escrow.transact("fail", t, sender=scene.executor)):
        with refused("not granted|no running job"):
            again(terms)


def test_another_jobs_completion_does_not_fit(scene: Scene) -> None:
    one, two = scene.terms(), scene.terms()
    for terms in (one, two):
        scene.request(terms)
        scene.grant(terms)
    _, *content = scene.completion(one, [1, 1, 1])
    with refused("not signed by the session"):
        scene.market.escrow.transact("complete", two, *content, sender=scene.executor)


def test_deadlines_are_kept_to_the_second(scene: Scene) -> None:
    late, granted = scene.terms(), scene.terms()
    for terms in (late, granted):
        scene.request(terms)
    scene.grant(granted)
    with refused("not yet expired"):
        scene.market.escrow.transact("expire", late, sender=scene.stranger)
    scene.chain.advance(late.grant_by - scene.now)
    with refused("too late to grant"):
        scene.approve(late, 0)
    scene.market.escrow.transact("expire", late, sender=scene.stranger)
    with refused("not yet expired"):
        scene.market.escrow.transact("expire", granted, sender=scene.stranger)
    scene.chain.advance(granted.complete_by - scene.now)
    with refused("too late to complete"):
        scene.complete(granted)
    scene.market.escrow.transact("expire", granted, sender=scene.stranger)
    assert scene.state(late) == scene.state(granted) == JobState.EXPIRED


def test_at_its_last_second_a_job_still_completes(scene: Scene) -> None:
    terms = scene.terms()
    scene.request(terms)
    scene.grant(terms)
    scene.chain.advance(terms.complete_by - scene.now - 1)
    scene.complete(terms)
    assert scene.state(terms) == JobState.COMPLETED


@pytest.mark.parametrize("approvals", [0, 1, 2, 3])
def test_silence_gives_the_payer_alone_the_exact_deposit_back(on_both: Scene, approvals: int) -> None:
    """From every state in which a job can wait, when nobody else acts."""
    scene, escrow = on_both, on_both.market.escrow
    before = scene.chain.balance(scene.consumer.address)
    terms = scene.terms()
    scene.request(terms)
    for index in range(approvals):
        scene.approve(terms, index)
    limit = terms.complete_by if approvals == 3 else terms.grant_by
    assert limit - scene.now <= 30 * 86_400
    scene.chain.advance(limit - scene.now + 1)
    escrow.transact("expire", terms, sender=scene.consumer)
    escrow.transact("withdraw", scene.consumer, sender=scene.consumer)
    assert scene.chain.balance(scene.consumer.address) == before
    assert scene.chain.balance(escrow.address) == 0
    assert not any(scene.credit(each) for each in (*scene.providers, scene.executor, scene.stranger))


@pytest.mark.parametrize("approvals", [0, 1, 2])
def test_a_charge_comes_back_only_for_a_job_that_was_never_granted(scene: Scene, approvals: int) -> None:
    terms = scene.terms()
    scene.request(terms)
    for index in range(approvals):
        scene.approve(terms, index)
    charged = [any(scene.total(each)) for each in scene.datasets]
    assert charged == [index < approvals for index in range(3)]
    scene.market.escrow.transact("fail", terms, sender=scene.executor)
    assert not any(any(scene.total(each)) for each in scene.datasets)


@pytest.mark.parametrize("end", ["fail", "expire"])
def test_a_granted_jobs_charge_stays_whatever_becomes_of_it(scene: Scene, end: str) -> None:
    terms = scene.terms()
    scene.request(terms)
    scene.grant(terms)
    charged = [scene.total(each) for each in scene.datasets]
    assert all(lanes(each) == lanes(terms.curve) for each in charged)
    if end == "expire":
        scene.chain.advance(terms.complete_by - scene.now + 1)
    scene.market.escrow.transact(end, terms, sender=scene.executor)
    assert scene.credit(scene.consumer) == scene.deposit(terms)
    assert [scene.total(each) for each in scene.datasets] == charged


def test_who_may_fail_a_job(scene: Scene) -> None:
    escrow, terms = scene.market.escrow, scene.terms()
    scene.request(terms)
    for who in (scene.stranger, scene.providers[0]):
        with refused("nothing was revoked"):
            escrow.transact("fail", terms, sender=who)
    scene.grant(terms)
    with refused("nothing was revoked"):  # the payer is bound once the keys may have moved
        escrow.transact("fail", terms, sender=scene.consumer)
    (event,) = escrow.events_of(escrow.transact("fail", terms, sender=scene.executor), "Failed")
    assert event["reason"] == Failure.BY_EXECUTOR
    other = scene.terms()
    scene.request(other)
    (event,) = escrow.events_of(escrow.transact("fail", other, sender=scene.consumer), "Failed")
    assert event["reason"] == Failure.BY_PAYER


@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("what", ["dataset", *Revocable])
def test_nothing_is_released_after_a_revocation_and_the_payer_is_refunded(
    scene: Scene, granted: bool, what: str | Revocable
) -> None:
    escrow, terms = scene.market.escrow, scene.terms()
    scene.request(terms)
    scene.approve(terms, 0)
    if granted:
        scene.approve(terms, 1)
        scene.approve(terms, 2)
    if isinstance(what, Revocable):
        fields = ("measurement", "signer", "platform", "tcb")
        session = bytes(12) + bytes.fromhex(scene.session.address[2:])
        value = session if what == Revocable.SESSION else getattr(scene.evidence, fields[what - 1])
        scene.market.attestation.transact("revoke", what, value, sender=scene.admin)
    else:
        scene.market.registry.transact("revoke", scene.datasets[1], sender=scene.providers[1])
    if granted:
        with refused("revoked"):
            scene.complete(terms)
    else:
        with pytest.raises(RevertedError, match="revoked|not attested"):
            scene.approve(terms, 1)
    (event,) = escrow.events_of(escrow.transact("fail", terms, sender=scene.stranger), "Failed")
    assert event["reason"] == Failure.BY_REVOCATION
    assert scene.state(terms) == JobState.FAILED and scene.credit(scene.consumer) == scene.deposit(terms)
    assert any(scene.total(scene.datasets[0])) == granted


def test_a_dataset_revoked_before_the_last_approval_stops_the_grant(scene: Scene) -> None:
    """One that had approved before is not asked again, and must still count."""
    terms = scene.terms()
    scene.request(terms)
    scene.approve(terms, 0)
    scene.approve(terms, 1)
    scene.market.registry.transact("revoke", scene.datasets[0], sender=scene.providers[0])
    with refused("revoked"):
        scene.approve(terms, 2)
    assert scene.state(terms) == JobState.REQUESTED


def test_a_reorganised_completion_pays_nobody_until_it_is_sent_again(on_both: Scene) -> None:
    scene = on_both
    terms = scene.terms()
    scene.request(terms)
    scene.chain.finalise(scene.grant(terms)[-1])
    scene.complete(terms)
    scene.chain.reorganise(1)
    assert scene.state(terms) == JobState.GRANTED and scene.credit(scene.executor) == 0
    assert scene.market.escrow.events("Completed") == []
    scene.complete(terms)
    assert scene.state(terms) == JobState.COMPLETED


def test_withdrawing_pays_once_and_to_where_the_owner_says(scene: Scene) -> None:
    escrow, terms = scene.market.escrow, scene.terms()
    scene.request(terms)
    escrow.transact("fail", terms, sender=scene.consumer)
    safe = Account("safe")
    with refused("nothing to withdraw"):
        escrow.transact("withdraw", safe, sender=scene.stranger)
    escrow.transact("withdraw", safe, sender=scene.consumer)
    assert scene.chain.balance(safe.address) == scene.deposit(terms)
    with refused("nothing to withdraw"):
        escrow.transact("withdraw", safe, sender=scene.consumer)


def test_small_jobs_pay_no_less_fee_than_a_large_one(scene: Scene) -> None:
    """Case 41: 1% of 99 is less than one, a hundred times."""
    small = scene.terms([scene.offer(0, price=99)], bonus=0)
    large = scene.terms([scene.offer(0, price=9900)], bonus=0)
    fee = scene.deposit(large) - 9900
    assert fee == 99
    assert 100 * (scene.deposit(small) - 99) >= fee
    for terms in (small, large):
        scene.request(terms)
        scene.grant(terms)
        scene.complete(terms, [])
    paid = scene.credit(scene.providers[0]) + scene.credit(scene.executor)
    assert paid == scene.deposit(small) + scene.deposit(large) == scene.chain.balance(scene.market.escrow.address)


def test_a_hundred_three_ways_is_34_33_33(scene: Scene) -> None:
    """Case 41: what rounding leaves goes to the first datasets, one wei each, and nothing stays behind."""
    terms = scene.terms(bonus=100)
    shares = scene.market.escrow.call("split", terms, padded([1, 1, 1]))
    assert [share - price for share, price in zip(shares, PRICES, strict=False)] == [34, 33, 33]
    zero_first = scene.market.escrow.call("split", terms, padded([0, 1, 2]))
    assert [share - price for share, price in zip(zero_first, PRICES, strict=False)] == [0, 34, 66]


@pytest.mark.parametrize(
    ("bonus", "weights", "reason"),
    [
        (100, [0, 0, 0], "weights where there is a bonus"),
        (0, [1, 0, 0], "weights where there is a bonus"),
        (100, [1, 1, 1, 1], "weight of no dataset"),
        (100, [2**64, 1, 1], "weight out of range"),
    ],
)
def test_weights_that_do_not_fit_are_refused(scene: Scene, bonus: int, weights: list[int], reason: str) -> None:
    with refused(reason):
        scene.market.escrow.call("split", scene.terms(bonus=bonus), padded(weights))


def test_the_largest_amounts_do_not_overflow(scene: Scene) -> None:
    dataset = scene.offer(0, price=2**128 - 1)
    terms = scene.terms([dataset], bonus=2**128 - 1, executor_basis_points=10_000)
    assert scene.deposit(terms) == 4 * (2**128 - 1)
    shares = scene.market.escrow.call("split", terms, padded([2**64 - 1]))
    assert shares[0] == 2 * (2**128 - 1)


def other_s(signature: bytes) -> bytes:
    """The same signature with the other s: valid for the curve, refused here."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    s = order - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


@pytest.mark.parametrize("again", ["withdraw", "fail", "expire", "state"])
def test_who_calls_back_while_being_paid_gets_nothing_more(scene: Scene, again: str) -> None:
    """A payer that is a contract: the escrow's lock refuses the second call, and nobody else's money moves."""
    escrow, chain = scene.market.escrow, scene.chain
    payer = chain.deploy(compile_vyper(Path(__file__).with_name("Reenter.vy")), sender=scene.consumer)
    mine, other = scene.terms(payer=payer.address), scene.terms()
    scene.request(other)
    deposit = scene.deposit(mine)
    payer.transact("act", escrow.address, escrow.data("request", mine), sender=scene.consumer, value=deposit)
    payer.transact("act", escrow.address, escrow.data("fail", mine), sender=scene.consumer)
    arguments: dict[str, Any] = {"withdraw": payer.address, "fail": other, "expire": other, "state": scene.job(other)}
    payer.transact("arm", escrow.address, escrow.data(again, arguments[again]), sender=scene.consumer)
    payer.transact("act", escrow.address, escrow.data("withdraw", payer.address), sender=scene.consumer)
    assert (payer.call("tried"), payer.call("succeeded")) == (1, False)
    assert chain.balance(payer.address) == deposit and chain.balance(escrow.address) == scene.deposit(other)


def test_a_payer_that_cannot_be_paid_blocks_nobody_and_may_withdraw_elsewhere(scene: Scene) -> None:
    """Pull payments: the refund of a contract that refuses money waits; everybody else is paid."""
    escrow, terms = scene.market.escrow, scene.terms()
    scene.request(terms)
    scene.grant(terms)
    scene.complete(terms)
    with pytest.raises(RevertedError):
        escrow.transact("withdraw", scene.market.registry.address, sender=scene.executor)  # takes no money
    assert scene.credit(scene.executor) > 0
    for who in (scene.executor, *scene.providers):
        escrow.transact("withdraw", who, sender=who)
    assert scene.chain.balance(escrow.address) == 0
