"""One simulated installation for the session, and the real quotes with the time they were made for."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from privlib.enclave.policy import QuotePolicy
from privlib.enclave.simulated_root import SimulatedRoot

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "attestation"
NOW = 1_800_000_000
MEASUREMENT, SIGNER, REPORT_DATA = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 128))


@dataclass(frozen=True)
class Evidence:
    """A quote with what is needed to verify it."""

    quote: bytes
    collateral: str
    now: int
    policy: QuotePolicy


def real(name: str, now: int, status: str) -> Evidence:
    policy = QuotePolicy(any_enclave=True, tcb_statuses=frozenset({status}))
    return Evidence(
        (VECTORS / f"{name}_quote").read_bytes(), (VECTORS / f"{name}_quote_collateral.json").read_text(), now, policy
    )


@pytest.fixture(scope="session")
def sgx() -> Evidence:
    return real("sgx", 1750416971, "ConfigurationAndSWHardeningNeeded")


@pytest.fixture(scope="session")
def tdx() -> Evidence:
    return real("tdx", 1750414563, "UpToDate")


@pytest.fixture(scope="session")
def simulated_root() -> SimulatedRoot:
    return SimulatedRoot.create(NOW)


@pytest.fixture(scope="session")
def simulated(simulated_root: SimulatedRoot) -> Evidence:
    quote = simulated_root.quote(MEASUREMENT, SIGNER, 7, 3, False, REPORT_DATA)
    policy = QuotePolicy(measurements=frozenset({MEASUREMENT}), root=simulated_root.certificate)
    return Evidence(quote, simulated_root.collateral(NOW), NOW, policy)
