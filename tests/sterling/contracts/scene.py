"""A market with everybody in it, for tests: three providers, a consumer, an executor, an enclave session."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from privlib.enclave.simulated_root import SimulatedRoot
from privlib.sterling.chain import Account, Chain, Receipt
from privlib.sterling.chain.values import abi_type, plain
from privlib.sterling.contracts.budget import cap_words, curve_words
from privlib.sterling.contracts.market import MarketContracts, deploy_market
from privlib.sterling.contracts.quotes import QuotingEnclave, pck_key, registry_quote, session_report_data
from privlib.sterling.contracts.terms import DatasetTerms, Evidence, JobState, Terms, padded
from privlib.trusted.events import Event

MEASUREMENT, SIGNER, TCB = b"m" * 32, b"s" * 32, b"t" * 32
EPSILON, DELTA = 3.0, 1e-5
PRICES = (1000, 700, 500)
JOB = (Event("poisson", 1.0, 500, sample_rate=0.005),)
OUTPUT, SEALED_KEY = b"o" * 32, b"sealed" * 16
_ROOT = SimulatedRoot.create()


def quote(report_data: bytes, root: SimulatedRoot = _ROOT, **changes: Any) -> bytes:
    """A quote of the simulated root."""
    fields = {"mr_enclave": MEASUREMENT, "mr_signer": SIGNER, "isv_prod_id": 1, "isv_svn": 1, "debug": False}
    return root.quote(**{**fields, **changes}, report_data=report_data)


@dataclass
class Scene:
    """Everybody, and the moves of a job. `root` signs the quotes."""

    chain: Chain
    root: SimulatedRoot = _ROOT
    market: MarketContracts = field(init=False)
    salt: int = 0
    prices: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("admin", "consumer", "executor", "stranger")
        self.admin, self.consumer, self.executor, self.stranger = map(self.chain.account, names)
        self.providers = [self.chain.account(f"provider {index}") for index in range(len(PRICES))]
        self.market = deploy_market(self.chain, self.admin, QuotingEnclave.of(quote(bytes(64), self.root)))
        self.session = Account("session")
        self.evidence = self.attest(self.session)
        self.datasets = [self.offer(index) for index in range(len(PRICES))]

    @property
    def now(self) -> int:
        return self.chain.head().timestamp

    def session_quote(self, session: Account, **changes: Any) -> bytes:
        address = self.market.attestation.address
        return quote(session_report_data(self.chain.chain_id, address, session.address), self.root, **changes)

    def attest(self, session: Account, **changes: Any) -> Evidence:
        """Register a session: by its quote where the chain has the precompile, else by the verifier's word."""
        registry, made = self.market.attestation, self.session_quote(session, **changes)
        if registry.call("precompile"):
            registry.transact("trust_platform", *pck_key(made), TCB, sender=self.admin)
            receipt = registry.transact("register", registry_quote(made), session, sender=self.executor)
        else:
            fields = (MEASUREMENT, SIGNER, 1, 1, b"p" * 32, TCB)
            receipt = registry.transact("attest", *fields, session, sender=self.admin)
        return Evidence(*registry.events_of(receipt, "SessionRegistered")[0]["evidence"])

    def dataset(self, index: int, **changes: Any) -> DatasetTerms:
        owner = self.providers[index].address
        content = (1000 * self.salt + index).to_bytes(32, "big")
        terms = DatasetTerms(owner, owner, PRICES[index], self.now + 10**7, content, b"l" * 32, b"p" * 32)
        return replace(terms, **changes)

    def offer(self, index: int, epsilon: float = EPSILON, delta: float = DELTA, **changes: Any) -> int:
        """Register a dataset of a provider; its id."""
        self.salt += 1
        caps = cap_words(epsilon, delta)
        budget = (round(epsilon * 10**9), round(delta * 10**18), caps)
        self.market.registry.transact(
            "register", self.dataset(index, **changes), *budget, [MEASUREMENT], [], sender=self.providers[index]
        )
        dataset = int(self.market.registry.call("count"))
        self.prices[dataset] = changes.get("price", PRICES[index])
        return dataset

    def terms(self, datasets: Sequence[int] | None = None, **changes: Any) -> Terms:
        """Terms of a job over some datasets (default: all), with their prices of now."""
        self.salt += 1
        chosen = self.datasets if datasets is None else datasets
        terms = Terms(
            payer=self.consumer.address,
            executor=self.executor.address,
            executor_basis_points=100,
            datasets=chosen,
            prices=[self.prices[each] for each in chosen],
            bonus=100,
            program=b"g" * 32,
            session=self.session.address,
            evidence=self.evidence,
            curve=curve_words(JOB),
            grant_by=self.now + 1000,
            complete_by=self.now + 10_000,
            recipient=b"r" * 32,
            salt=self.salt.to_bytes(32, "big"),
        )
        return replace(terms, **changes)

    def deposit(self, terms: Terms) -> int:
        return int(self.market.escrow.call("deposit_of", terms))

    def request(self, terms: Terms) -> Receipt:
        return self.market.escrow.transact("request", terms, sender=self.consumer, value=self.deposit(terms))

    def approve(self, terms: Terms, index: int) -> Receipt:
        owner = self.market.registry.call("owner_of", terms.datasets[index])
        (provider,) = (each for each in self.providers if each.address == owner)
        return self.market.escrow.transact("approve", terms, index, b"v" * 32, b"", sender=provider)

    def grant(self, terms: Terms) -> list[Receipt]:
        return [self.approve(terms, index) for index, dataset in enumerate(terms.datasets) if dataset]

    def completion(self, terms: Terms, weights: Sequence[int], signer: Account | None = None) -> tuple[Any, ...]:
        """Arguments of `complete`, signed by the session (or another)."""
        hashes = keccak(SEALED_KEY), keccak(encode(["uint256[8]"], [padded(weights)]))
        label = keccak(text="privlib sterling completion v1")
        place = (self.chain.chain_id, self.market.escrow.address)
        types = ["bytes32", "uint256", "address", *["bytes32"] * 4]
        digest = keccak(encode(types, [label, *place, self.job(terms), OUTPUT, *hashes]))
        return (terms, OUTPUT, SEALED_KEY, padded(weights), (signer or self.session).sign(digest))

    def complete(self, terms: Terms, weights: Sequence[int] | None = None) -> Receipt:
        chosen = [1 for each in terms.datasets if each] if weights is None else weights
        return self.market.escrow.transact("complete", *self.completion(terms, chosen), sender=self.executor)

    def job(self, terms: Terms) -> bytes:
        """The identity of a job, worked out here: the ABI's encoding of chain, contract and terms, hashed."""
        (entry,) = (each for each in self.market.escrow.code.abi if each.get("name") == "job_of")
        types = ["uint256", "address", abi_type(entry["inputs"][0])]
        return bytes(keccak(encode(types, [self.chain.chain_id, self.market.escrow.address, plain(terms)])))

    def state(self, terms: Terms) -> JobState:
        return JobState(self.market.escrow.call("state", self.job(terms)))

    def credit(self, who: Account) -> int:
        return int(self.market.escrow.call("credit", who))

    def total(self, dataset: int) -> tuple[int, ...]:
        return tuple(self.market.ledger.call("total", dataset))
