"""A data provider: encrypts, sets terms, and lets its policy's enclave decide; is paid, and audits.

Steps, each of which may be the last before a crash: whoever calls again goes on from what lies on disk and chain.

| step       | what is done                                           | after a crash                              |
|------------|--------------------------------------------------------|--------------------------------------------|
| checked    | program, quote, payment and curve looked at            | checked again                              |
| proposed   | the policy has decided, its new state is stored        | proposed anew; the old one never counts    |
| committed  | the new state is the chain's                           | opened from disk once it is final          |
| confirmed  | it is final                                            | the same                                   |
| approved   | the escrow has charged the budget                      | nothing is charged twice                   |
| delivered  | the key is with the enclave, after the grant was final | the same wrapped key is given again        |
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from eth_abi.abi import encode as abi_encode
from eth_utils.crypto import keccak

from privlib.enclave.datasets import encrypt_examples
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.verify import verify_quote
from privlib.files import atomic_path, create_private
from privlib.sterling.chain import Account, Event
from privlib.sterling.checks import check_job
from privlib.sterling.confidential import Rules, policy_hash
from privlib.sterling.contract import BuiltContract
from privlib.sterling.contracts.budget import cap_words, spent_epsilon
from privlib.sterling.contracts.terms import JobState, LogKind
from privlib.sterling.contracts.terms import Terms as JobTerms
from privlib.sterling.errors import JobRefused, SterlingError
from privlib.sterling.executor import Executor
from privlib.sterling.keeper import Keeper
from privlib.sterling.market import Listing, Market, Progress
from privlib.sterling.recover import recoverable
from privlib.sterling.request import JobRequest
from privlib.trusted.delivery import delivery_purpose
from privlib.trusted.ethereum import approval_digest
from privlib.trusted.finality import COMPLETED, GRANTED
from privlib.trusted.grant import statement_of
from privlib.trusted.policy_service import PURPOSE
from privlib.trusted.protocol import Message
from privlib.trusted.terms import Terms

_PRIVATE, _LISTING, _CIPHERTEXT = "provider.json", "listing.json", "dataset.encrypted"


@dataclass(frozen=True)
class Offer:
    """What a provider sets for its dataset. epsilon, delta: its budget, for good; price: wei a job; rules, or any
    deployment `code`: the policy; noise_multiplier, job_epsilon: least and most of a job's program; issuers: whom it
    trusts for which claims (Ed25519 keys, hexadecimal); licence: its text; seconds: for how long it is on offer."""

    epsilon: float
    delta: float = 1e-5
    price: int = 0
    rules: Rules = field(default_factory=Rules)
    code: bytes | None = None
    noise_multiplier: float = 0.5
    job_epsilon: float = 8.0
    issuers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    licence: str = ""
    seconds: int = 365 * 86400


class Provider:
    """A provider with one dataset, kept in a folder: an object that is made anew with it goes on where it was.

    account: who is paid; keeper: its confidential contract. Context manager: leaving it ends its policy enclave.
    """

    def __init__(self, market: Market, folder: Path | str, account: Account) -> None:
        self.market, self.account = market, account
        self._folder = Path(folder)
        made = {"authority": Ed25519PrivateKey.generate().private_bytes_raw().hex(), "key": secrets.token_hex(32)}
        private = json.loads(create_private(self._folder / _PRIVATE, json.dumps(made)))
        self._key = bytes.fromhex(private["key"])
        authority = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private["authority"]))
        self.keeper = Keeper(market, self._folder, account, authority)

    @property
    def listing(self) -> Listing:
        """What it offers. Raises SterlingError before `offer`."""
        try:
            value = json.loads((self._folder / _LISTING).read_text())
        except FileNotFoundError as error:
            raise SterlingError("nothing is on offer yet; call offer") from error
        return Listing(**value | {"terms": value["terms"].encode()})

    def offer(self, images: np.ndarray, labels: np.ndarray, offer: Offer) -> Listing:
        """Encrypt examples under the offer's policy, store the ciphertext, put the key into a policy enclave's keeping,
        and register all of it. images float32 (n, *input_shape), labels int64 (n,).

        Raises TermsError, DatasetError, PolicyRefused, ChainError, SterlingError for a second dataset.
        """
        if (self._folder / _LISTING).exists():
            raise SterlingError("this provider's dataset is on offer; another one goes into another folder")
        market, chain = self.market, self.market.chain
        code = offer.rules.code() if offer.code is None else offer.code
        terms = Terms(offer.epsilon, offer.delta, policy=policy_hash(code), chain=chain.chain_id)
        policy = bytes.fromhex(policy_hash(code))
        dataset = encrypt_examples(self._folder / _CIPHERTEXT, images, labels, self._key, terms)
        market.store.put(dataset.path)
        enclave = self.keeper.enclave
        address = "0x" + str(enclave.ask("address").fields["address"])
        described = (
            self.account.address, address, offer.price, market.now + offer.seconds, bytes.fromhex(dataset.digest),
            keccak(text=offer.licence), policy,
        )  # fmt: skip
        budget = round(offer.epsilon * 1e9), round(offer.delta * 1e18), cap_words(offer.epsilon, offer.delta)
        registered = market.final(
            market.contracts.registry.transact, "register", described, *budget, [], [], sender=self.account
        )
        (event,) = market.contracts.registry.events_of(registered, "Registered")
        market.publish(LogKind.POLICY, policy, self.account)
        salt = secrets.token_bytes(32)
        instance = self._instance(policy, salt)
        listing = Listing(
            event["id"], dataset.digest, len(labels), offer.price, policy.hex(), instance.hex(),
            offer.noise_multiplier, offer.job_epsilon, terms.encode(),
        )  # fmt: skip
        state = enclave.ask("install", self._installation(listing, offer), key=self._key, code=code)
        self.keeper.store(state)
        created = (policy, address, bytes.fromhex(state.fields["commitment"]), salt)
        market.final(market.contracts.states.transact, "create", *created, sender=self.account)
        self.keeper.instance = listing.instance
        self.keeper.confirm()
        with atomic_path(self._folder / _LISTING) as temporary:
            temporary.write_text(json.dumps(asdict(listing) | {"terms": listing.terms.decode()}))
        market.listings[listing.digest] = listing
        return listing

    def approve(self, request: JobRequest, executor: Executor, progress: Progress = lambda step: None) -> None:
        """Check a job, have the policy decide, and approve it on the chain: the budget is charged. May be called again
        after a crash at any step.

        Raises JobRefused, PolicyRefused, CredentialRefused, AttestationError, JobError, ChainError.
        """
        market, listing = self.market, self.listing
        market.require(request.job, JobState.REQUESTED, JobState.GRANTED)
        index = request.grant.datasets.index(listing.digest) if listing.digest in request.grant.datasets else 0
        if market.contracts.escrow.call("approvals", bytes.fromhex(request.job)) >> index & 1:
            market.settle()
            return
        market.settle()  # who is asked about a job must see its deposit locked for good
        built, terms, epsilon = check_job(market, listing, request)
        self.keeper.open(listing.instance)
        signature = self.keeper.approval(request.job)
        if signature is None:
            public_key, nonce = _offered_key(executor, built, market, terms)
            progress("checked")
            self.keeper.write(f"offers/{request.job}", public_key)
            state = self.keeper.propose(request, built.measurement, epsilon, terms.prices[index], public_key, nonce)
            progress("proposed")
            self.keeper.commit(state)
            progress("committed")
            self.keeper.confirm()
            progress("confirmed")
            signature = self.keeper.approval(request.job)
            assert signature is not None
        self._allow(listing, built.measurement)
        statement = statement_of(request.grant.encode())
        digest = approval_digest(market.chain.chain_id, market.escrow, request.job, listing.number, statement)
        approver = market.contracts.registry.call("datasets", listing.number)[1]
        market.final(
            market.contracts.escrow.transact, "approve", terms, index, statement,
            recoverable(signature, digest, approver), sender=self.account,
        )  # fmt: skip
        progress("approved")

    def deliver(self, request: JobRequest, executor: Executor, progress: Progress = lambda step: None) -> int:
        """Give the key to the job's enclave, once all providers' approvals are final; returns the examples inside.

        Raises NotFinal before that or once something is revoked, RequestRefused where the enclave is another one.
        """
        listing = self.listing
        enclave = self.keeper.open(listing.instance)
        granted = self.keeper.statement(GRANTED, request.job)
        answer = enclave.ask("release", {"job": request.job, "granted": granted})
        public_key = (self._folder / "offers" / request.job).read_bytes()
        rows = executor.provision(request, listing, public_key, answer.arrays["sealed"].tobytes())
        progress("delivered")
        return rows

    def open_gate(self, request: JobRequest) -> bytes:
        """The gate key of a job that is paid, sealed to its consumer. Raises NotFinal before."""
        enclave = self.keeper.open(self.listing.instance)
        completed = self.keeper.statement(COMPLETED, request.job)
        return enclave.ask("gate", {"job": request.job, "completed": completed}).arrays["sealed"].tobytes()

    def revoke(self) -> None:
        """Withdraw the dataset for good: no key moves from now on, and jobs under way can only fail, with a refund."""
        self.market.final(self.market.contracts.registry.transact, "revoke", self.listing.number, sender=self.account)

    def earnings(self) -> int:
        """Wei that the escrow owes its account; `Market.withdraw` takes them."""
        return int(self.market.contracts.escrow.call("credit", self.account.address))

    def spent(self) -> float:
        """ε at the terms' δ of everything that the chain has charged the dataset."""
        listing = self.listing
        total = self.market.contracts.ledger.call("total", listing.number)
        return spent_epsilon(total, Terms.decode(listing.terms).delta)

    def audit(self) -> list[Event]:
        """What happened to the dataset on the chain, oldest first: approvals, charges, states."""
        contracts, listing = self.market.contracts, self.listing
        found = [each for each in contracts.escrow.events("Approved") if each["dataset"] == listing.number]
        found += [each for each in contracts.ledger.events() if each.arguments.get("dataset") == listing.number]
        instance = bytes.fromhex(listing.instance)
        found += [each for each in contracts.states.events() if each["instance"] == instance]
        return sorted(found, key=lambda each: each.block_number)

    def close(self) -> None:
        """End the policy enclave; it is launched again when it is needed."""
        self.keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _installation(self, listing: Listing, offer: Offer) -> dict[str, Any]:
        market = self.market
        return {
            "dataset": listing.digest,
            "number": listing.number,
            "terms": listing.terms.decode(),
            "chain": market.chain.chain_id,
            "escrow": market.escrow,
            "states": market.contracts.states.address[2:].lower(),
            "instance": listing.instance,
            "witnesses": [market.witness.public_key],
            "threshold": 1,
            "issuers": {key: list(claims) for key, claims in offer.issuers.items()},
        }

    def _instance(self, policy: bytes, salt: bytes) -> bytes:
        """The identity that StateCommitments gives the contract."""
        words = (self.market.chain.chain_id, self.market.contracts.states.address, self.account.address, policy, salt)
        return bytes(keccak(abi_encode(["uint256", "address", "address", "bytes32", "bytes32"], words)))

    def _allow(self, listing: Listing, measurement: bytes) -> None:
        """Admit the verified enclave on the chain, once."""
        registry = self.market.contracts.registry
        if not registry.call("measurements", listing.number, measurement):
            allowed = (listing.number, measurement, True)
            self.market.final(registry.transact, "allow_measurement", *allowed, sender=self.account)


def _offered_key(executor: Executor, built: BuiltContract, market: Market, terms: JobTerms) -> tuple[bytes, bytes]:
    """(a key that the job's enclave offers, the nonce that its quote binds it to). Raises JobRefused where the job's
    session is not the account of the enclave at the other end, AttestationError."""
    nonce = secrets.token_bytes(32)
    asked = {"chain": market.chain.chain_id, "registry": market.contracts.attestation.address[2:].lower()}
    with executor.connect(built.image) as session:
        address = session.request(Message("session", asked)).fields["address"]
        offer = session.request(Message("offer", arrays={"nonce": np.frombuffer(nonce, np.uint8)}))
    if "0x" + str(address) != terms.session.lower():
        raise JobRefused("the job's session belongs to another enclave than the one that asks for the key")
    public_key, quote = offer.arrays["public_key"].tobytes(), offer.arrays["quote"].tobytes()
    accepted = QuotePolicy(measurements=frozenset({built.measurement}), root=market.root)
    verify_quote(quote, accepted.fresh(public_key, nonce, delivery_purpose(PURPOSE)), executor.collateral)
    return public_key, nonce
