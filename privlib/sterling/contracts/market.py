"""All contracts of a market, deployed and bound to each other."""

from dataclasses import dataclass

from privlib.sterling.chain import Account, Chain, Contract, ContractCode, compile_vyper
from privlib.sterling.contracts import SOURCES
from privlib.sterling.contracts.quotes import QuotingEnclave

SESSION_SECONDS = 7 * 86400


@dataclass(frozen=True)
class MarketContracts:
    """The market's six contracts."""

    registry: Contract
    escrow: Contract
    attestation: Contract
    ledger: Contract
    log: Contract
    states: Contract

    @classmethod
    def at(cls, chain: Chain, addresses: "dict[str, str]") -> "MarketContracts":
        """Contracts that stand on a chain already: `addresses` as `.addresses` gave them."""
        return cls(**{name: Contract(chain, addresses[name], code(source)) for name, source in _SOURCES.items()})

    @property
    def addresses(self) -> dict[str, str]:
        return {name: getattr(self, name).address for name in _SOURCES}


_SOURCES = {
    "registry": "DatasetRegistry",
    "escrow": "JobEscrow",
    "attestation": "AttestationRegistry",
    "ledger": "BudgetLedger",
    "log": "TransparencyLog",
    "states": "StateCommitments",
}


def code(name: str) -> ContractCode:
    """One of the contracts, compiled."""
    return compile_vyper(SOURCES / f"{name}.vy")


def deploy_market(
    chain: Chain,
    administrator: Account,
    quoting_enclave: QuotingEnclave,
    *,
    verifier: str | None = None,
    session_seconds: int = SESSION_SECONDS,
) -> MarketContracts:
    """Deploy the contracts. The administrator says which platforms are trusted and what is revoked.

    quoting_enclave: whose quotes are taken. verifier: address whose word `attest` takes where the chain has no P-256
    precompile (default: the administrator). session_seconds: how long a quote is good for.
    """
    ledger = chain.deploy(code("BudgetLedger"), sender=administrator)
    attestation = chain.deploy(
        code("AttestationRegistry"),
        verifier or administrator.address,
        session_seconds,
        quoting_enclave.signer,
        quoting_enclave.product,
        quoting_enclave.least_svn,
        sender=administrator,
    )
    registry = chain.deploy(code("DatasetRegistry"), ledger.address, sender=administrator)
    addresses = registry.address, ledger.address, attestation.address
    escrow = chain.deploy(code("JobEscrow"), *addresses, sender=administrator)
    ledger.transact("bind", registry.address, escrow.address, sender=administrator)
    log = chain.deploy(code("TransparencyLog"), sender=administrator)
    states = chain.deploy(code("StateCommitments"), sender=administrator)
    return MarketContracts(registry, escrow, attestation, ledger, log, states)
