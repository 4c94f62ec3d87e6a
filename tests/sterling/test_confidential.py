"""The confidential contract: nothing leaves before its state is final on the chain, and no other state is taken."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privlib.enclave.errors import RequestRefused
from privlib.enclave.launcher import ALL_MECHANISMS
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.state import StateStore
from privlib.sterling import JobRequest, Offer, Rules
from privlib.sterling.confidential import PolicyEnclave, policy_image
from privlib.sterling.errors import (
    AlreadyGranted,
    NotFinal,
    PolicyRefused,
    PolicyStateError,
    StateForked,
    StateRolledBack,
    SterlingError,
)
from privlib.sterling.provider import Provider
from privlib.sterling.witness import FinalityWitness
from privlib.trusted.credentials import present
from privlib.trusted.finality import HEAD, Statement, signed_statement
from privlib.trusted.protocol import Message
from tests.sterling.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("confidential"), epsilon=1e3, rules=Rules(jobs_per_consumer=100))
    made.request()
    yield made
    made.close()


@pytest.fixture
def provider(world: World) -> Provider:
    return world.providers[0]


def ready(provider: Provider) -> PolicyEnclave:
    return provider.keeper.open(provider.listing.instance)


def propose(provider: Provider, request: JobRequest, **changes: str) -> Message:
    """As `Provider.approve` does, for a made-up offer."""
    measurement = request.contract.build().measurement
    ready(provider)
    return provider.keeper.propose(request, measurement, 1.0, 10**18, b"\x09" + bytes(31), bytes(32))


def another(request: JobRequest, world: World, number: int) -> JobRequest:
    """A job that is on no chain: the policy enclave has not to know."""
    grant = replace(request.grant, job=bytes([number] * 32).hex())
    return replace(request, grant=grant, presentation=present(world.consumer._identity, grant.encode()))


@pytest.fixture
def request_(world: World) -> JobRequest:
    return world.request(bid=world.bid)


def test_the_policy_runs_closed_in_and_without_what_trains(provider: Provider) -> None:
    enclave = ready(provider)._enclave
    assert not enclave.report.missing or set(enclave.report.missing) <= set(ALL_MECHANISMS)
    names = [file.name for file in policy_image().files]
    assert any("pyrevm" in name for name in names)
    assert not any("tvm" in name or name.startswith("artifact") for name in names)


def test_a_decision_does_not_leave_before_its_state_is_final(provider: Provider, request_: JobRequest) -> None:
    enclave = ready(provider)
    state = propose(provider, request_)
    for _ in range(2):
        with pytest.raises(NotFinal, match="no final state grants this job"):
            enclave.ask("approval", {"job": request_.job})
    with pytest.raises(NotFinal, match="has not taken the new state yet"):
        provider.keeper.confirm()
    provider.keeper.commit(state)
    provider.keeper.confirm()
    assert len(enclave.ask("approval", {"job": request_.job}).arrays["signature"]) == 64
    with pytest.raises(NotFinal, match="not granted in a final block"):
        provider.keeper.statement("granted", request_.job)


def test_of_two_successors_the_chain_takes_one(world: World, provider: Provider, request_: JobRequest) -> None:
    """A host has two jobs decided on one state, and would have both."""
    enclave = ready(provider)
    first = propose(provider, another(request_, world, 1))
    second = propose(provider, another(request_, world, 2))
    assert first.fields["previous"] == second.fields["previous"]
    provider.keeper.commit(first)
    with pytest.raises(SterlingError, match="not the newest"):
        provider.keeper.commit(second)
    provider.keeper.confirm()
    assert len(enclave.ask("approval", {"job": "01" * 32}).arrays["signature"])
    with pytest.raises(NotFinal):
        enclave.ask("approval", {"job": "02" * 32})


def test_a_second_enclave_that_goes_on_elsewhere_is_left_behind(
    world: World, provider: Provider, request_: JobRequest, tmp_path: Path
) -> None:
    """A fork: two enclaves have the same state open, and each goes on. The one that comes second is refused."""
    ready(provider)
    twin = Provider(world.market, provider._folder, provider.account)
    theirs = propose(twin, another(request_, world, 3))
    propose(provider, another(request_, world, 4))
    twin.keeper.commit(theirs)
    with pytest.raises(StateForked, match="did not propose"):
        provider.keeper.confirm()
    with pytest.raises(StateRolledBack, match="a newer state than this enclave"):
        propose(provider, another(request_, world, 5))
    twin.close()
    provider.close()
    assert len(ready(provider).ask("approval", {"job": "03" * 32}).arrays["signature"])


def test_an_older_state_is_refused(world: World, provider: Provider, request_: JobRequest, tmp_path: Path) -> None:
    """Rollback: the host keeps yesterday's state, with one job less in it, and starts an enclave on it."""
    ready(provider)
    listing = provider.listing
    yesterday = provider._folder / "states" / f"{head(provider)}.sealed"
    provider.keeper.commit(propose(provider, another(request_, world, 6)))
    provider.keeper.confirm()
    with PolicyEnclave(provider.keeper._authority, StateStore(tmp_path), world.market.root) as other:
        with pytest.raises(StateRolledBack, match="not this one: an older state"):
            statement = stated(world, other, listing.instance)
            other.ask("open", {"head": statement}, sealed=yesterday.read_bytes())
        altered = bytearray((provider._folder / "states" / f"{head(provider)}.sealed").read_bytes())
        altered[-1] ^= 1
        with pytest.raises(PolicyStateError, match="altered since"):
            statement = stated(world, other, listing.instance)
            other.ask("open", {"head": statement}, sealed=bytes(altered))
        with pytest.raises(NotFinal, match="no state is open"):
            other.ask("approval", {"job": "06" * 32})


def stated(world: World, enclave: PolicyEnclave, instance: str) -> str:
    """What the witness tells another enclave than the keeper's."""
    return world.market.witness.statement(HEAD, instance, enclave.challenge()).decode()


def head(provider: Provider) -> str:
    states = provider.market.contracts.states
    return bytes(states.call("heads", bytes.fromhex(provider.listing.instance), at="final")[3]).hex()


def test_a_statement_serves_once(provider: Provider) -> None:
    """Replay: what was final an hour ago is not what is final now."""
    enclave = ready(provider)
    old = provider.keeper.statement(HEAD, provider.listing.instance)
    for _ in range(2):
        with pytest.raises(NotFinal, match="not taken the new state"):
            enclave.ask("confirm", {"head": old})
        enclave.challenge()
        with pytest.raises(NotFinal, match="state nonce"):
            enclave.ask("confirm", {"head": old})
        with pytest.raises(RequestRefused, match="ask for a challenge first"):
            enclave.ask("confirm", {"head": old})
        old = provider.keeper.statement(HEAD, provider.listing.instance)


def test_only_the_witnesses_say_what_is_final(world: World, provider: Provider) -> None:
    """The host cannot: neither with a key of its own, nor by changing what a witness signed."""
    enclave, listing = ready(provider), provider.listing
    stranger = FinalityWitness(world.market.chain, world.market.contracts)
    with pytest.raises(NotFinal, match="0 witnesses signed"):
        enclave.ask("confirm", {"head": stranger.statement(HEAD, listing.instance, enclave.challenge()).decode()})
    genuine = json.loads(provider.keeper.statement(HEAD, listing.instance))
    changed = Statement(**genuine["statement"] | {"value": "ab" * 32})
    with pytest.raises(NotFinal, match="0 witnesses signed"):
        enclave.ask("confirm", {"head": signed_statement(changed, genuine["signatures"]).decode()})


def test_a_job_gets_no_second_key(world: World, provider: Provider, request_: JobRequest) -> None:
    provider.approve(request_, world.executor)
    with pytest.raises(AlreadyGranted, match="for one offer"):
        propose(provider, request_)


def test_only_the_provider_says_what_was_verified(world: World, provider: Provider, request_: JobRequest) -> None:
    """A host that reaches the enclave through a channel of its own has nothing decided."""
    genuine = ready(provider)
    session = genuine._session
    accepted = QuotePolicy(measurements=frozenset({policy_image().measurement}), root=world.market.root)
    genuine._session = genuine._enclave.connect(accepted, identity=Ed25519PrivateKey.generate())
    try:
        with pytest.raises(RequestRefused, match="only the provider"):
            propose(provider, request_)
        with pytest.raises(RequestRefused, match="installs once"):
            again = provider._installation(provider.listing, Offer(epsilon=1.0))
            genuine.ask("install", again, key=bytes(32), code=b"")
    finally:
        genuine._session = session


def test_the_host_s_copy_of_the_state_tells_nothing(provider: Provider) -> None:
    """Neither the key nor whom the policy knows: it is ciphertext, and another one each time."""
    states = [path.read_bytes() for path in (provider._folder / "states").iterdir()]
    for secret in (provider._key, provider._key.hex().encode(), provider.listing.digest.encode(), b"jobs"):
        assert not any(secret in state for state in states)


def test_what_the_policy_wrote_binds_the_next_decision(tmp_path: Path) -> None:
    """One job for each consumer: its state outlives the enclave."""
    world = World(tmp_path, epsilon=1e3, rules=Rules(jobs_per_consumer=1))
    request = world.request()
    world.approve(request)
    world.restart_providers()
    with pytest.raises(PolicyRefused, match="no more jobs for this consumer"):
        world.approve(world.request(bid=world.bid))
    world.deliver(request)  # what was approved stays so
    world.close()
