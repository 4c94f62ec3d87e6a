"""What goes wrong on the way, and how each of it ends: a final state, a refund, and the budget's charge."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from privlib.enclave.refusals import AttestationError
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.sterling import JobRequest, JobState, Rules
from privlib.sterling.chain import Receipt
from privlib.sterling.chain.errors import RevertedError
from privlib.sterling.contracts.quotes import pck_key, platform_id
from privlib.sterling.contracts.terms import Revocable
from privlib.sterling.errors import JobError, NotFinal, SterlingError, StorageError
from tests.sterling.world import World, kill


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("failures"), epsilon=1e3, rules=Rules(jobs_per_consumer=100))
    yield made
    made.close()


@pytest.fixture
def world(shared: World) -> World:
    """The payer is owed nothing yet."""
    shared.market.withdraw(shared.consumer.account)
    return shared


def granted(world: World) -> tuple[JobRequest, int]:
    """A job whose data are with the enclave, and what the dataset had been charged before."""
    before, request = world.charged()[0], world.request()
    world.approve(request)
    world.deliver(request)
    return request, before


def test_an_executor_that_dies_with_the_data_costs_the_budget_and_no_money(world: World) -> None:
    request, before = granted(world)
    kill(world.executor._enclave)
    with pytest.raises(JobError, match="can only expire"):
        world.executor.run(request)
    world.expire(request)
    assert world.market.state(request.job) is JobState.EXPIRED and world.refunded(request)
    assert world.charged()[0] > before
    with pytest.raises(JobError, match="is expired"):
        world.executor.run(request)


def test_an_executor_that_never_answers_is_charged_to_nobody(world: World) -> None:
    """Nothing was granted, so nothing was touched."""
    before, request = world.charged()[0], world.request()
    stranger = world.market.chain.account("stranger")
    with pytest.raises(RevertedError, match="not yet expired"):
        world.market.expire(request.job, stranger)
    world.expire(request)
    assert world.market.state(request.job) is JobState.EXPIRED and world.refunded(request)
    assert world.charged()[0] == before


def test_garbage_is_signed_by_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor changes the output, or makes one up; the enclave's own signature covers another."""
    request, before = granted(world)
    complete = world.executor._complete
    garbage = world.market.store.put(b"garbage")
    monkeypatch.setattr(world.executor, "_complete", lambda asked, kept: complete(asked, kept | {"output": garbage}))
    with pytest.raises(SterlingError, match="not signed by"):
        world.executor.run(request)
    terms, escrow = world.market.terms(request.job), world.market.contracts.escrow
    with pytest.raises(RevertedError):
        forged = world.executor.account.sign(bytes(32))
        escrow.transact("complete", terms, bytes.fromhex(garbage), b"", [0] * 8, forged, sender=world.executor.account)
    world.market.fail(request.job, world.executor.account)
    assert world.market.state(request.job) is JobState.FAILED and world.refunded(request)
    assert world.charged()[0] > before
    with pytest.raises(JobError, match="is failed"):
        world.consumer.receive(request, world.providers)


def test_what_a_reorganisation_undoes_is_done_again_and_nothing_has_left_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every transaction of the protocol is undone once, just before it would be final."""
    chain = world.market.chain
    finalise, undone = chain.finalise, list[bytes]()

    def another_branch(receipt: Receipt, *arguments: object) -> object:
        if receipt.transaction not in undone and len(undone) < 40:
            chain.mine(chain.confirmations - 1)
            undone.extend(chain.reorganise(chain.confirmations))
        return finalise(receipt, *arguments)  # type: ignore[arg-type]

    before = world.charged()[0]
    request = world.request()
    monkeypatch.setattr(chain, "finalise", another_branch)
    world.approve(request)
    world.deliver(request)
    world.executor.run(request)
    assert len(undone) >= 3 and world.market.state(request.job) is JobState.COMPLETED
    assert world.charged()[0] > before
    assert world.consumer.receive(request, world.providers, world.executor.collateral)


def test_a_grant_that_is_not_final_moves_no_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another branch could still take the charge back."""
    market, request = world.market, world.request()
    final = market.final

    def in_haste(transact: Callable[..., Receipt], name: str, *arguments: object, **options: object) -> Receipt:
        return (transact if name == "approve" else partial(final, transact))(name, *arguments, **options)

    monkeypatch.setattr(market, "final", in_haste)
    before = world.charged()[0]
    world.approve(request)
    assert market.state(request.job) is JobState.GRANTED and world.charged()[0] > before
    with pytest.raises(NotFinal, match="not granted in a final block"):
        world.deliver(request)
    market.chain.reorganise(1)
    assert market.state(request.job) is JobState.REQUESTED and world.charged()[0] == before
    market.settle()
    with pytest.raises(NotFinal, match="not granted in a final block"):
        world.deliver(request)


def test_a_lost_chunk_of_the_data_ends_in_a_refund(world: World) -> None:
    before, request = world.charged()[0], world.request()
    (chunk,) = world.market.store.chunks(world.providers[0].listing.digest)
    kept = chunk.read_bytes()
    world.approve(request)
    chunk.unlink()
    try:
        with pytest.raises(StorageError, match=r"is lost; get a copy"):
            world.deliver(request)
        chunk.write_bytes(kept[:-1] + b"x")
        with pytest.raises(StorageError, match="was altered"):
            world.deliver(request)
    finally:
        chunk.write_bytes(kept)
    world.market.fail(request.job, world.executor.account)
    assert world.market.state(request.job) is JobState.FAILED and world.refunded(request)
    assert world.charged()[0] > before  # the key was out


def test_a_lost_chunk_of_the_output_is_stored_again_by_the_executor(world: World) -> None:
    request, _ = granted(world)
    world.executor.run(request)
    output = world.market.contracts.escrow.events("Completed")[-1]["output"].hex()
    for chunk in world.market.store.chunks(output):
        chunk.unlink()
    with pytest.raises(StorageError, match="is lost"):
        world.consumer.receive(request, world.providers)
    world.executor.run(request)
    assert world.consumer.receive(request, world.providers, world.executor.collateral)


def test_a_provider_that_revokes_in_mid_job_stops_it(tmp_path: Path) -> None:
    """Before its key moves none does; afterwards nothing is released, and the payer gets everything back."""
    world = World(tmp_path, providers=2, epsilon=1e3)
    request = world.request()
    world.approve(request)
    charged = world.charged()
    world.providers[0].deliver(request, world.executor)
    world.providers[1].revoke()
    with pytest.raises(NotFinal, match="rests on what was revoked"):
        world.providers[1].deliver(request, world.executor)
    with pytest.raises(NotFinal, match="rests on what was revoked"):
        world.providers[0].deliver(request, world.executor)
    world.market.fail(request.job, world.market.chain.account("stranger"))
    assert world.market.state(request.job) is JobState.FAILED and world.refunded(request)
    assert world.charged() == charged  # its data may have been touched
    with pytest.raises(RevertedError, match="revoked"):
        world.request()
    world.close()


def test_nothing_is_released_after_a_revocation(tmp_path: Path) -> None:
    world = World(tmp_path, epsilon=1e3)
    request, _ = granted(world)
    world.providers[0].revoke()
    with pytest.raises(RevertedError, match="revoked"):
        world.executor.run(request)
    with pytest.raises(NotFinal):
        world.providers[0].open_gate(request)
    world.market.fail(request.job, world.consumer.account)
    assert world.market.state(request.job) is JobState.FAILED and world.refunded(request)
    world.close()


@pytest.mark.parametrize(
    "kind",
    [Revocable.PLATFORM, *(pytest.param(each, marks=pytest.mark.soak) for each in (Revocable.TCB, Revocable.SESSION))],
)
def test_a_leaked_attestation_key_ends_its_jobs(kind: Revocable, tmp_path: Path) -> None:
    """The administrator revokes the platform, or the TCB level, as its maker does: jobs under way end in a refund, and
    no new session is taken from there."""
    world = World(tmp_path, epsilon=1e3)
    market = world.market
    request, before = granted(world)
    evidence = market.terms(request.job).evidence
    session = bytes(12) + bytes.fromhex(market.terms(request.job).session[2:])
    what = {Revocable.PLATFORM: evidence.platform, Revocable.TCB: evidence.tcb, Revocable.SESSION: session}[kind]
    sample = SimulatedRoot.load_or_create().quote(bytes(32), bytes(32), 1, 1, False, bytes(64))
    assert evidence.platform == platform_id(pck_key(sample))
    market.final(market.contracts.attestation.transact, "revoke", kind, what, sender=market.administrator)
    with pytest.raises(NotFinal, match="rests on what was revoked"):
        world.deliver(request)
    with pytest.raises(RevertedError, match="revoked"):
        world.executor.run(request)
    market.fail(request.job, market.chain.account("stranger"))
    assert market.state(request.job) is JobState.FAILED and world.refunded(request)
    assert world.charged()[0] > before
    if kind is not Revocable.SESSION:
        with pytest.raises(RevertedError, match="revoked"):
            world.executor.bid(request.contract)
    world.close()


def test_a_provider_takes_no_quote_of_a_revoked_tcb(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anybody has told the chain: the collateral says so."""
    root = SimulatedRoot.load_or_create()
    request, before = world.request(), world.charged()[0]
    monkeypatch.setattr(
        type(world.executor.enclave), "collateral", property(lambda _: root.collateral(revoked=[root.pck]))
    )
    with pytest.raises(AttestationError, match="[Rr]evoked"):
        world.approve(request)
    assert world.charged()[0] == before
