"""Datasets on offer: who may say what of them."""

from typing import Any

import pytest

from privlib.sterling.chain import Account, RevertedError
from privlib.sterling.contracts.budget import cap_words, lanes
from privlib.sterling.contracts.terms import SignerRule

from .scene import DELTA, EPSILON, MEASUREMENT, SIGNER, Scene

BUDGET = (3 * 10**9, 10**13, cap_words(EPSILON, DELTA))


def test_terms_budget_and_rules_are_on_chain_and_in_the_events(on_both: Scene) -> None:
    scene, registry = on_both, on_both.market.registry
    offered = scene.dataset(0)
    rule = SignerRule(b"q" * 32, 7, 2)
    receipt = registry.transact("register", offered, *BUDGET, [MEASUREMENT], [rule], sender=scene.providers[0])
    registered, measurement, signer = registry.events_of(receipt)
    number = registered["id"]
    found = (offered.owner, offered.approver, offered.price, offered.expires, offered.content, offered.licence)
    assert registry.call("datasets", number) == (*found, offered.policy) == registered["dataset"]
    assert (registered["budget_epsilon"], registered["budget_delta"]) == BUDGET[:2]
    assert lanes(scene.market.ledger.call("caps", number)) == lanes(BUDGET[2])
    assert measurement["measurement"] == MEASUREMENT and registry.call("measurements", number, MEASUREMENT)
    assert signer["rule"] == (b"q" * 32, 7, 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"owner": "0x" + "11" * 20}, "not the owner"),
        ({"approver": "0x" + "00" * 20}, "no approver"),
        ({"price": 2**128}, "price out of range"),
        ({"expires": 1}, "already expired"),
        ({"content": bytes(32)}, "no content"),
    ],
)
def test_an_offer_that_makes_no_sense_is_refused(scene: Scene, change: dict[str, object], reason: str) -> None:
    with pytest.raises(RevertedError, match=reason):
        scene.offer(0, **change)  # type: ignore[arg-type]  # the fields of the parametrisation


def test_the_same_content_has_one_budget_whoever_registers_it(scene: Scene) -> None:
    scene.offer(0, content=b"c" * 32)
    for index in (0, 1):
        with pytest.raises(RevertedError, match="content is registered"):
            scene.offer(index, content=b"c" * 32)


def test_only_the_owner_changes_an_offer(scene: Scene) -> None:
    registry = scene.market.registry
    calls: list[tuple[Any, ...]] = [
        ("set_price", 1, 5),
        ("allow_measurement", 1, b"x" * 32, True),
        ("allow_signer", 1, SignerRule(b"x" * 32, 1, 1), True),
        ("revoke", 1),
    ]
    for call in calls:
        for who in (scene.admin, scene.consumer, scene.providers[1]):
            with pytest.raises(RevertedError, match="not the owner"):
                registry.transact(*call, sender=who)
        registry.transact(*call, sender=scene.providers[0])
    with pytest.raises(RevertedError, match="registry: revoked"):
        registry.call("price_of", 1)
    with pytest.raises(RevertedError, match="no such dataset"):
        registry.call("price_of", 99)


def test_a_new_price_is_for_new_jobs(scene: Scene) -> None:
    terms = scene.terms()
    scene.request(terms)
    scene.market.registry.transact("set_price", 1, 10**6, sender=scene.providers[0])
    with pytest.raises(RevertedError, match="not the price"):
        scene.request(scene.terms())
    scene.grant(terms)
    scene.complete(terms, [0, 0, 1])
    assert scene.credit(scene.providers[0]) == 1000


def test_an_enclave_that_is_not_allowed_is_not_approved(scene: Scene) -> None:
    registry, provider = scene.market.registry, scene.providers[0]
    dataset = scene.offer(0)
    terms = scene.terms([dataset])
    scene.request(terms)
    registry.transact("allow_measurement", dataset, MEASUREMENT, False, sender=provider)
    with pytest.raises(RevertedError, match="enclave not allowed"):
        scene.approve(terms, 0)
    for rule, allowed in (
        (SignerRule(SIGNER, 1, 2), False),  # too old
        (SignerRule(SIGNER, 2, 0), False),  # another product
        (SignerRule(b"x" * 32, 1, 0), False),  # another signer
        (SignerRule(SIGNER, 1, 1), True),
    ):
        registry.transact("allow_signer", dataset, rule, True, sender=provider)
        if allowed:
            scene.approve(terms, 0)
        else:
            with pytest.raises(RevertedError, match="enclave not allowed"):
                scene.approve(terms, 0)
    with pytest.raises(RevertedError, match="SVN out of range"):
        registry.transact("allow_signer", dataset, SignerRule(SIGNER, 1, 2**16), True, sender=provider)


def test_a_signer_that_is_no_longer_allowed(scene: Scene) -> None:
    registry, provider = scene.market.registry, scene.providers[0]
    dataset = scene.offer(0)
    registry.transact("allow_measurement", dataset, MEASUREMENT, False, sender=provider)
    rule = SignerRule(SIGNER, 1, 0)
    registry.transact("allow_signer", dataset, rule, True, sender=provider)
    registry.transact("allow_signer", dataset, rule, False, sender=provider)
    with pytest.raises(RevertedError, match="enclave not allowed"):
        registry.call("approver_for", dataset, scene.evidence, scene.now)


def test_no_job_outlives_its_dataset(scene: Scene) -> None:
    dataset = scene.offer(0, expires=scene.now + 5000)
    terms = scene.terms([dataset])
    scene.request(terms)
    with pytest.raises(RevertedError, match="job outlives the dataset"):
        scene.approve(terms, 0)
    scene.chain.advance(6000)
    with pytest.raises(RevertedError, match="registry: expired"):
        scene.market.registry.call("price_of", dataset)


def test_the_approver_may_be_a_key_of_its_own(scene: Scene) -> None:
    policy = Account("policy")
    dataset = scene.offer(0, approver=policy.address)
    assert scene.market.registry.call("approver_for", dataset, scene.evidence, scene.now) == policy.address
    assert scene.market.registry.call("owner_of", dataset) == scene.providers[0].address
