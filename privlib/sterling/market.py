"""The market: a chain with its contracts, storage, and who says what is final. What all parties share.

A job, step by step, and where it can be taken back:

 1. offer      provider    ciphertext to storage; key and policy into a policy enclave; terms, budget on the chain
 2. bid        executor    an enclave of the contract's image runs; the chain has checked its session's quote
 3. request    consumer    the whole price is locked; terms, program and measurement are fixed
 4. approve    provider    contract rebuilt and verified; the policy decides; its new state is final; then the escrow
                           charges the budget. Before all have approved: taken back when the job fails or expires
 5. deliver    provider    once the grant is final, and nothing revoked: the key, wrapped for the one enclave that
                           offered for it. From here on the charge stays, whatever becomes of the job
 6. run        executor    the enclave trains, appraises, seals the output, signs the completion; the escrow pays
 7. receive    consumer    once the payment is final: one policy enclave's gate key, and the output opens

Who sees what: storage and executor ciphertext alone; the chain terms, digests, payments and charges; a provider the
contract, never another's data or the result; the consumer the result and its certificate, never the data.

Not promised: fairness of a job whose policy enclaves are all gone when it is paid (the output stays locked); privacy of
what providers publish (number of rows, price); an executor's honest clock; more than the witnesses' word for finality.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privlib.enclave.policy import QuotePolicy
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.verify import verify_quote
from privlib.sterling.chain import Account, Chain, EmbeddedChain, Receipt
from privlib.sterling.chain.errors import ReorganisedError
from privlib.sterling.contracts.market import MarketContracts, deploy_market
from privlib.sterling.contracts.quotes import QuotingEnclave, pck_key
from privlib.sterling.contracts.terms import JobState, LogKind, Terms
from privlib.sterling.contracts.transparency import check_inclusion, entry, inclusion_proof
from privlib.sterling.errors import JobError, NotFinal
from privlib.sterling.storage import ContentStore
from privlib.sterling.witness import FinalityWitness, terms_of

Progress = Callable[[str], None]
"""Told the name of each step of the protocol when it is done."""


@dataclass(frozen=True)
class Listing:
    """A dataset as it is offered. number: in the registry; digest: SHA-256 of the ciphertext; rows: how many examples,
    which its provider makes public; price: wei a job; policy_hash: of the policy's deployment code; instance: its
    confidential contract; noise_multiplier, job_epsilon: least and most that a program may have; terms:
    `privlib.trusted.terms`, encoded."""

    number: int
    digest: str
    rows: int
    price: int
    policy_hash: str
    instance: str
    noise_multiplier: float
    job_epsilon: float
    terms: bytes = field(repr=False)


@dataclass(frozen=True)
class LogEntry:
    """An entry of the transparency log with its inclusion proof (RFC 9162): `digest` is number `index` of `size`
    entries with that root."""

    kind: LogKind
    author: str
    digest: bytes
    index: int
    size: int
    proof: tuple[bytes, ...]
    root: bytes

    def check(self) -> None:
        """Offline, against the root. Raises ProofError."""
        check_inclusion(entry(self.kind, self.author, self.digest), self.index, self.size, self.proof, self.root)


@dataclass
class Market:
    """Made by `Market.open`. root: DER certificate that quotes must lead to; administrator: deploys, trusts platforms
    and revokes; witness: what enclaves believe of the chain. listings: datasets on offer, by their digest."""

    chain: Chain
    contracts: MarketContracts
    store: ContentStore
    witness: FinalityWitness
    administrator: Account
    root: bytes = field(repr=False)
    listings: dict[str, Listing] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str, chain: Chain | None = None, root: SimulatedRoot | None = None) -> "Market":
        """A new market: contracts deployed on `chain` (None: an embedded one), storage in `folder`, and the platform of
        a SIMULATED root (None: this installation's) trusted, as its administrator would trust a maker's.

        Raises ChainError, AttestationError.
        """
        chain, root = chain or EmbeddedChain(), root or SimulatedRoot.load_or_create()
        administrator = chain.account("administrator")
        sample = root.quote(bytes(32), bytes(32), 1, 1, False, bytes(64))
        contracts = deploy_market(chain, administrator, QuotingEnclave.of(sample))
        market = cls(
            chain, contracts, ContentStore(Path(folder) / "store"), FinalityWitness(chain, contracts), administrator,
            root.certificate,
        )  # fmt: skip
        market.trust_platform(sample, root.collateral())
        return market

    def trust_platform(self, quote: bytes, collateral: str) -> None:
        """As administrator: check a platform's quote with all its evidence, and name its PCK key on the chain.

        Raises AttestationError.
        """
        verdict = verify_quote(quote, QuotePolicy(any_enclave=True, root=self.root), collateral)
        level = verdict.tcb_status.encode().ljust(32, b"\0")
        self.final(
            self.contracts.attestation.transact, "trust_platform", *pck_key(quote), level, sender=self.administrator
        )

    @property
    def escrow(self) -> str:
        """The escrow's address, 40 hexadecimal digits."""
        return self.contracts.escrow.address[2:].lower()

    def terms(self, job: str) -> Terms:
        """A job's terms. Raises NotFinal."""
        return terms_of(self.contracts, bytes.fromhex(job))

    def state(self, job: str) -> JobState:
        """Where a job stands now, final or not."""
        return JobState(self.contracts.escrow.call("state", bytes.fromhex(job)))

    def require(self, job: str, *states: JobState) -> JobState:
        """Raise JobError unless the job is in one of these states."""
        if (found := self.state(job)) not in states:
            wanted = " or ".join(each.name.lower() for each in states)
            raise JobError(f"job {job[:16]}… is {found.name.lower()}; this step needs it {wanted}")
        return found

    def final(self, transact: Callable[..., Receipt], *arguments: Any, **options: Any) -> Receipt:
        """Send a transaction and wait until it is final; one that another branch undid is sent again.

        Raises RevertedError, ChainError.
        """
        while True:
            receipt = transact(*arguments, **options)
            try:
                self.chain.finalise(receipt)
            except ReorganisedError:
                continue
            return receipt

    def settle(self) -> None:
        """Wait until what is on the chain now is final."""
        self.chain.mine(self.chain.confirmations)

    def publish(self, kind: LogKind, digest: bytes, author: Account) -> None:
        """Put a policy, measurement or program (32 bytes) into the transparency log."""
        self.final(self.contracts.log.transact, "append", kind, digest, sender=author)

    def logged(self, kind: LogKind, digest: bytes) -> LogEntry:
        """The first entry of the log with this digest, and its proof for the newest final root. Raises NotFinal."""
        found = self.contracts.log.events("Appended", at="final")
        entries = [entry(LogKind(each["kind"]), each["author"], each["digest"]) for each in found]
        for index, each in enumerate(found):
            if (each["kind"], each["digest"]) == (kind, digest):
                proof = tuple(inclusion_proof(entries, index))
                logged = LogEntry(kind, each["author"], digest, index, len(entries), proof, found[-1]["root"])
                logged.check()
                return logged
        raise NotFinal(f"{digest.hex()[:16]}… is in no final entry of the transparency log; have it published")

    def withdraw(self, account: Account) -> int:
        """Take all that the escrow owes an account to its own address; returns the wei, 0 where there is nothing."""
        owed: int = self.contracts.escrow.call("credit", account.address)
        if owed:
            self.final(self.contracts.escrow.transact, "withdraw", account.address, sender=account)
        return owed

    def expire(self, job: str, sender: Account) -> None:
        """End a job whose time has passed; anybody may. Raises RevertedError before."""
        self.final(self.contracts.escrow.transact, "expire", self.terms(job), sender=sender)

    def fail(self, job: str, sender: Account) -> None:
        """End a job with a refund; who may is the escrow's to say. Raises RevertedError."""
        self.final(self.contracts.escrow.transact, "fail", self.terms(job), sender=sender)

    @property
    def now(self) -> int:
        """The newest block's time, Unix seconds."""
        return self.chain.head().timestamp
