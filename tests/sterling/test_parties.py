"""The four steps of the market, from upload to a certified model, and what each party refuses on the way."""

import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from privlib import sterling
from privlib.compiler import DPSGD, SGD
from privlib.enclave.datasets import EncryptedDataset, encrypt_examples
from privlib.enclave.errors import RequestRefused
from privlib.sterling import AnvilChain, Consumer, EmbeddedChain, JobState, Rules
from privlib.sterling.chain import Chain
from privlib.sterling.chain.errors import NodeError
from privlib.sterling.checks import check_job
from privlib.sterling.contracts.budget import jobs_admitted, words
from privlib.sterling.contracts.terms import LogKind, Terms
from privlib.sterling.contracts.transparency import ProofError
from privlib.sterling.errors import CredentialRefused, JobError, JobRefused, NotFinal, OutputError, PolicyRefused
from privlib.sterling.request import JobRequest
from privlib.trusted import renyi
from privlib.trusted import terms as trusted
from privlib.trusted.epoch import TrainRequest
from tests.sterling.world import ETHER, World, contract, examples


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"), rules=Rules(jobs_per_consumer=100))
    made.bid = made.executor.bid(contract())
    yield made
    made.close()


def chain_of(kind: str, folder: Path) -> Chain:
    if kind == "embedded":
        return EmbeddedChain()
    try:
        return AnvilChain()
    except NodeError as error:
        pytest.skip(f"no anvil: {error}")


@pytest.mark.parametrize(("kind", "count"), [("embedded", 3), ("anvil", 2)])
def test_from_upload_to_a_certified_model(kind: str, count: int, tmp_path: Path) -> None:
    """Several providers, each paid its price and a share of the bonus; the consumer gets a model whose certificate
    holds, and the chain has charged each budget what the contract costs."""
    with chain_of(kind, tmp_path) as chain:
        world = World(tmp_path, chain, providers=count)
        asked = contract(appraisal_noise=5.0)
        request = world.request(asked, bonus=ETHER)
        deposit = chain.balance(world.market.contracts.escrow.address)
        world.complete(request)
        collateral = world.executor.collateral
        delivery = world.consumer.receive(request, world.providers, collateral)
        assert world.market.state(request.job) is JobState.COMPLETED
        names = {"1.weight", "1.bias", "3.weight", "3.bias"}
        assert set(delivery.release.parameters) == names and delivery.verified.quote.simulated
        built = asked.build()
        assert delivery.verified.program == built.step.digest
        assert all(np.isfinite(value).all() for value in delivery.release.parameters.values())
        expected = renyi.epsilon(built.events(40 * count), 1e-5)
        for claim in delivery.verified.datasets:
            assert claim.epsilon == pytest.approx(expected)
        assert all(provider.spent() >= expected for provider in world.providers)
        earned = [provider.earnings() for provider in world.providers]
        assert all(each >= ETHER for each in earned) and sum(earned) == (count + 1) * ETHER
        accounts = [*(provider.account for provider in world.providers), world.executor.account]
        assert sum(world.market.withdraw(account) for account in accounts) == deposit
        assert chain.balance(world.market.contracts.escrow.address) == 0
        logged = {(entry.kind, entry.digest) for entry in delivery.logged}
        policy = bytes.fromhex(world.providers[0].listing.policy_hash)
        assert logged == {
            (LogKind.PROGRAM, built.program_digest), (LogKind.MEASUREMENT, built.measurement), (LogKind.POLICY, policy)
        }  # fmt: skip
        for entry in delivery.logged:
            assert entry.root == world.market.contracts.log.call("root")
            with pytest.raises(ProofError):
                replace(entry, digest=bytes(32)).check()
        names = {event.name for event in world.providers[0].audit()}
        assert {"Approved", "Charged", "Created", "Committed"} <= names
        world.close()


def test_nothing_moves_before_everybody_has_approved(tmp_path: Path) -> None:
    world = World(tmp_path, providers=2)
    request = world.request()
    world.providers[0].approve(request, world.executor)
    with pytest.raises(NotFinal):
        world.providers[0].deliver(request, world.executor)
    with pytest.raises(JobError, match="is requested; this step needs it granted"):
        world.executor.run(request)
    world.providers[1].approve(request, world.executor)
    world.providers[0].deliver(request, world.executor)
    with pytest.raises(Exception, match="not given for this job"):
        world.executor.run(request)
    world.close()


def test_the_result_opens_for_nobody_before_the_payment_is_final(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for an executor who hands the signed completion to the consumer off chain."""
    request = world.request()
    world.approve(request)
    world.deliver(request)
    monkeypatch.setattr(world.executor, "_complete", lambda *_: None)
    world.executor.run(request)
    with pytest.raises(JobError, match="is granted; this step needs it completed"):
        world.consumer.receive(request, world.providers)
    with pytest.raises(NotFinal):
        world.providers[0].open_gate(request)
    monkeypatch.undo()
    world.executor.run(request)
    assert world.consumer.receive(request, world.providers, world.executor.collateral).verified.updates == 2


def test_an_executor_cannot_train_on_to_get_at_the_model(world: World, tmp_path: Path) -> None:
    """With a dataset of its own, whose terms forbid nothing, its enclave would give it the parameters; and another
    consumer's keys open nothing."""
    request = world.request()
    world.complete(request)
    key = bytes(range(32))
    own = encrypt_examples(tmp_path / "own", *examples(40, 9), key, trusted.Terms(None))
    with world.executor.connect(request.contract.build().image) as session:
        session.provision(key, own)
        with pytest.raises(RequestRefused, match="hold the result of a job"):
            session.train(TrainRequest((own.digest,), 1, 0.2, 8))
        with pytest.raises(RequestRefused, match="given for one job of a market"):
            session.train(TrainRequest(request.grant.datasets, 1, 0.2, 8))
    stranger = Consumer(world.market, tmp_path, world.market.chain.account("stranger"))
    with pytest.raises(OutputError, match="another consumer or job"):
        stranger.receive(request, world.providers)


def altered_terms(world: World, request: JobRequest, **changes: object) -> JobRequest:
    """The job again, with other terms, as a dishonest consumer would ask for it."""
    market = world.market
    terms = replace(market.terms(request.job), salt=bytes(31) + b"\1", **changes)  # type: ignore[arg-type]
    escrow = market.contracts.escrow
    deposit = escrow.call("deposit_of", terms)
    market.final(escrow.transact, "request", terms, sender=world.consumer.account, value=deposit)
    grant = replace(request.grant, job=bytes(escrow.call("job_of", terms)).hex())
    return replace(request, grant=grant)


DISHONEST: dict[str, tuple[Callable[[World, JobRequest], JobRequest], str]] = {
    "another contract than the job names": (
        lambda world, request: replace(request, contract=replace(contract(), memory_bytes=1 << 31)),
        "another program or enclave",
    ),
    "a curve below what it costs": (
        lambda world, request: altered_terms(world, request, curve=words([1] * 16)), "less privacy than it costs",
    ),
    "more steps than the contract": (
        lambda world, request: replace(request, grant=replace(request.grant, steps=3)), "otherwise than the contract",
    ),
    "the result for another key": (
        lambda world, request: replace(request, grant=replace(request.grant, consumer="11" * 32)), "another key",
    ),
    "another chain": (
        lambda world, request: replace(request, grant=replace(request.grant, chain=1)), "another chain or market",
    ),
    "another dataset": (
        lambda world, request: replace(request, grant=replace(request.grant, datasets=("22" * 32,))), "other datasets",
    ),
    "an appraisal that nobody pays for": (
        lambda world, request: replace(
            request, contract=contract(appraisal_noise=5.0), grant=replace(request.grant, appraisal_noise=5.0)
        ), "has both or neither",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DISHONEST)
def test_a_provider_refuses_what_the_chain_does_not_say(name: str, world: World, asked: JobRequest) -> None:
    change, why = DISHONEST[name]
    before = world.charged()
    with pytest.raises(JobRefused, match=why):
        world.providers[0].approve(change(world, asked), world.executor)
    assert world.charged() == before


@pytest.fixture(scope="module")
def asked(world: World) -> JobRequest:
    """A job that is asked for and never granted."""
    return world.request(bid=world.bid)


def test_a_program_with_too_little_noise_is_refused_at_home_and_by_the_provider(world: World) -> None:
    request, provider = world.request(bid=world.bid), world.providers[0]
    strict = replace(provider.listing, noise_multiplier=3.0)
    (verdict,) = world.consumer.check(contract(), [strict])
    assert not verdict.accepted and "noise" in str(verdict)
    with pytest.raises(JobRefused, match="would refuse the program"):
        world.consumer.request(contract(), [strict], world.bid)
    with pytest.raises(JobRefused, match="the program is refused: the noise is smaller"):
        check_job(world.market, strict, request)


def test_an_enclave_that_is_not_the_job_s_gets_no_key(world: World) -> None:
    """The executor launches the same image again: its session is another one."""
    request = world.request(bid=world.bid)
    world.bid = world.executor.bid(request.contract)
    with pytest.raises(JobRefused, match="belongs to another enclave"):
        world.providers[0].approve(request, world.executor)


CLAIMED: dict[str, tuple[dict[str, str], str]] = {
    "another purpose": ({"purpose": "advertising"}, "purpose"),
    "another class": ({"identity_class": "insurer"}, "identity class"),
}


@pytest.mark.parametrize("name", CLAIMED)
def test_the_policy_refuses_claims_that_it_does_not_name(name: str, world: World) -> None:
    claims, reason = CLAIMED[name]
    before = world.charged()
    with pytest.raises(PolicyRefused, match=f"the policy refuses: {reason}"):
        world.approve(world.request(None, None, 0, world.bid, **claims))
    assert world.charged() == before


def test_credentials_that_were_taken_back_do_not_count(world: World) -> None:
    request = world.request(bid=world.bid)
    world.issuer.revoke(request.credentials[0])
    newest = world.issuer.revocations(world.market.now - 1, world.market.now + 10**6)
    with pytest.raises(CredentialRefused, match="taken this credential back"):
        world.approve(replace(request, revocations=(newest,)))
    with pytest.raises(CredentialRefused, match="no current list"):
        world.approve(replace(request, revocations=()))


def test_a_consumer_cannot_use_another_s_credentials(world: World, tmp_path: Path) -> None:
    stranger = Consumer(world.market, tmp_path, world.market.chain.account("stranger"))
    request = world.request(consumer=stranger, bid=world.bid)
    with pytest.raises(CredentialRefused, match="issued to another key"):
        world.approve(replace(request, credentials=tuple(world.credentials(world.consumer)[0])))


def test_two_consumers_and_two_months_share_one_budget(tmp_path: Path) -> None:
    """Each of them alone could have both jobs; together they have no third one, however long they wait."""
    events = contract().build().events(40)
    epsilon = next(each / 10 for each in range(5, 500) if jobs_admitted(events, each / 10, 1e-5) == 2)
    world = World(tmp_path, epsilon=epsilon)
    other = Consumer(world.market, tmp_path / "other", world.market.chain.account("other"))
    world.approve(world.request())
    world.market.chain.advance(62 * 86400)
    world.approve(world.request(consumer=other))
    spent = world.charged()
    world.market.chain.advance(62 * 86400)
    bid = world.executor.bid(contract())
    for consumer in (world.consumer, other):
        request = world.request(consumer=consumer, bid=bid)
        with pytest.raises(JobRefused, match="no room for this job, whoever asks"):
            world.approve(request)
        with pytest.raises(Exception, match="not the approver|not allowed"):
            stranger = world.market.chain.account("stranger")
            escrow, terms = world.market.contracts.escrow, world.market.terms(request.job)
            escrow.transact("approve", terms, 0, bytes(32), b"", sender=stranger)
    assert world.charged() == spent
    world.close()


def test_data_of_the_market_come_with_a_grant_and_no_other_way(world: World, tmp_path: Path) -> None:
    """Neither the provider itself nor whoever has a key gets a policy's data into an enclave without the policy."""
    provider, built = world.providers[0], contract().build()
    policy_terms = trusted.Terms.decode(provider.listing.terms)
    path = world.market.store.save(provider.listing.digest, tmp_path / "data")
    refused = pytest.raises(RequestRefused, match="if and only if its terms name a policy")
    with world.executor.connect(built.image) as session, refused:
        session.provision(provider._key, EncryptedDataset.at(path, policy_terms))


def test_the_workflow_in_the_package_s_text_works(tmp_path: Path) -> None:
    """Its twenty lines, as they stand there, on small data."""
    text = (sterling.__doc__ or "").split("The whole of it:")[1].split("Several providers")[0]
    assert 18 <= len([line for line in text.splitlines() if line.strip()]) <= 30
    names = {name: getattr(sterling, name) for name in sterling.__all__}
    images = np.random.default_rng(0).standard_normal((60, 3, 32, 32)).astype(np.float32)
    model = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(192, 10))
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        values = {"images": images, "labels": np.arange(60) % 10, "model": model, "SGD": SGD, "DPSGD": DPSGD}
        namespace = names | values
        exec(textwrap.dedent(text), namespace)
    finally:
        os.chdir(here)
    market, request = namespace["market"], namespace["request"]
    assert market.state(request.job) is JobState.COMPLETED
    assert namespace["delivery"].verified.updates == 100
    namespace["hospital"].close()
    namespace["executor"].close()


def test_terms_of_a_job_are_what_its_request_said(world: World, asked: JobRequest) -> None:
    terms = world.market.terms(asked.job)
    assert isinstance(terms, Terms) and terms.payer == world.consumer.account.address
    with pytest.raises(NotFinal, match="no request of job"):
        world.market.terms("00" * 32)
