"""States of confidential contracts: one line of versions, no forks, no replays, no rollbacks."""

import pytest

from privlib.sterling.chain import Account, RevertedError

from .scene import Scene

CODE, FIRST = b"c" * 32, b"0" * 32


@pytest.fixture
def key() -> Account:
    return Account("enclave")


def begin(scene: Scene, key: Account, salt: bytes = bytes(32)) -> bytes:
    states = scene.market.states
    receipt = states.transact("create", CODE, key, FIRST, salt, sender=scene.providers[0])
    return bytes(states.events_of(receipt, "Created")[0]["instance"])


def commit(scene: Scene, key: Account, instance: bytes, version: int, previous: bytes, state: bytes) -> None:
    states = scene.market.states
    fields = (instance, version, previous, state, b"out" + bytes(29))
    states.transact("commit", *fields, key.sign(states.call("digest", *fields)), sender=scene.stranger)


def test_states_follow_each_other(on_both: Scene, key: Account) -> None:
    instance = begin(on_both, key)
    commit(on_both, key, instance, 1, FIRST, b"1" * 32)
    commit(on_both, key, instance, 2, b"1" * 32, b"2" * 32)
    assert on_both.market.states.call("heads", instance)[1:] == (key.address, 2, b"2" * 32)
    committed = on_both.market.states.events("Committed")
    assert [(each["version"], each["state"]) for each in committed] == [(1, b"1" * 32), (2, b"2" * 32)]


@pytest.mark.parametrize(
    ("version", "previous"),
    [(1, FIRST), (2, FIRST), (3, b"1" * 32), (1, b"1" * 32), (0, FIRST), (2, b"x" * 32)],
    ids=["replay", "fork", "gap", "rollback", "beginning", "unknown"],
)
def test_forks_rollbacks_replays_and_gaps_are_refused(
    scene: Scene, key: Account, version: int, previous: bytes
) -> None:
    instance = begin(scene, key)
    commit(scene, key, instance, 1, FIRST, b"1" * 32)
    with pytest.raises(RevertedError, match="not the newest"):
        commit(scene, key, instance, version, previous, b"f" * 32)


def test_only_the_enclaves_key_commits_and_only_what_it_signed(scene: Scene, key: Account) -> None:
    instance, other = begin(scene, key), begin(scene, key, b"s" * 32)
    for wrong in (scene.providers[0], scene.admin, Account("thief")):
        with pytest.raises(RevertedError, match="not signed by the enclave"):
            commit(scene, wrong, instance, 1, FIRST, b"1" * 32)
    states = scene.market.states
    fields = (instance, 1, FIRST, b"1" * 32, bytes(32))
    signature = key.sign(states.call("digest", *fields))
    for changed in ((other, *fields[1:]), (*fields[:3], b"2" * 32, bytes(32)), (*fields[:4], b"2" * 32)):
        with pytest.raises(RevertedError, match="not signed by the enclave"):
            states.transact("commit", *changed, signature, sender=scene.stranger)
    with pytest.raises(RevertedError, match="signature: length"):
        states.transact("commit", *fields, signature[:-1], sender=scene.stranger)
    with pytest.raises(RevertedError, match="no such contract"):
        states.transact("commit", b"?" * 32, *fields[1:], signature, sender=scene.stranger)


def test_another_enclave_goes_on_where_the_last_one_stopped(scene: Scene, key: Account) -> None:
    states, instance, successor = scene.market.states, begin(scene, key), Account("successor")
    commit(scene, key, instance, 1, FIRST, b"1" * 32)
    with pytest.raises(RevertedError, match="not the owner"):
        states.transact("replace_key", instance, successor, sender=scene.stranger)
    states.transact("replace_key", instance, successor, sender=scene.providers[0])
    with pytest.raises(RevertedError, match="not signed by the enclave"):
        commit(scene, key, instance, 2, b"1" * 32, b"2" * 32)
    commit(scene, successor, instance, 2, b"1" * 32, b"2" * 32)


def test_a_contract_begins_once(scene: Scene, key: Account) -> None:
    begin(scene, key)
    with pytest.raises(RevertedError, match="state: exists"):
        begin(scene, key)
    with pytest.raises(RevertedError, match="no key"):
        scene.market.states.transact("create", CODE, "0x" + "00" * 20, FIRST, b"z" * 32, sender=scene.admin)


def test_a_reorganised_commitment_is_not_final_and_may_be_made_again(on_both: Scene, key: Account) -> None:
    scene = on_both
    instance = begin(scene, key)
    scene.chain.mine(scene.chain.confirmations)
    commit(scene, key, instance, 1, FIRST, b"1" * 32)
    assert scene.market.states.call("heads", instance, at="final")[2] == 0
    scene.chain.reorganise(1)
    commit(scene, key, instance, 1, FIRST, b"another branch".ljust(32))
    scene.chain.mine(scene.chain.confirmations)
    assert scene.market.states.call("heads", instance, at="final")[2:] == (1, b"another branch".ljust(32))
