"""The structs of terms.vy and DatasetRegistry.vy as values: fields in the same order, lists filled up with zeros."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

MOST = 8
"""Datasets in one job, and rules in one list."""


class JobState(IntEnum):
    """Where a job stands; the last three are final."""

    UNKNOWN = 0
    REQUESTED = 1
    GRANTED = 2
    COMPLETED = 3
    FAILED = 4
    EXPIRED = 5

    @property
    def final(self) -> bool:
        return self >= JobState.COMPLETED


class Failure(IntEnum):
    """Why a job failed."""

    BY_EXECUTOR = 1
    BY_PAYER = 2
    BY_REVOCATION = 3


class Revocable(IntEnum):
    """What the attestation registry can revoke."""

    MEASUREMENT = 1
    SIGNER = 2
    PLATFORM = 3
    TCB = 4
    SESSION = 5


class LogKind(IntEnum):
    """Entries of the transparency log."""

    POLICY = 1
    MEASUREMENT = 2
    PROGRAM = 3


@dataclass(frozen=True)
class Evidence:
    """What a session's quote said. measurement, signer, platform, tcb 32 bytes; expires in Unix seconds; on_chain:
    False where an authorised verifier, not the contract, checked the quote."""

    measurement: bytes
    signer: bytes
    product: int
    svn: int
    platform: bytes
    tcb: bytes
    expires: int
    on_chain: bool


@dataclass(frozen=True)
class SignerRule:
    """Whatever this signer (32 bytes) signs as this product, from this version on."""

    signer: bytes
    product: int
    least_svn: int


@dataclass(frozen=True)
class DatasetTerms:
    """A dataset on offer: price in wei a job, expires in Unix seconds; content (root of the ciphertext), licence and
    policy are hashes of 32 bytes, fixed for good."""

    owner: str
    approver: str
    price: int
    expires: int
    content: bytes
    licence: bytes
    policy: bytes


@dataclass(frozen=True)
class Terms:
    """A job. Its identity is the hash of all of it, so nothing in it can change.

    datasets: ids, ascending, at most 8; prices: wei for each; bonus: wei that the enclave's appraisal splits among
    them; executor_basis_points: the executor's fee in 1/10,000 of prices and bonus, rounded up, paid on top; program:
    digest of the program to verify; curve: from `privlib.sterling.contracts.budget.curve_words`; grant_by, complete_by:
    Unix seconds; recipient: hash of the public key to which the model's key is sealed; salt: 32 bytes, random.
    """

    payer: str
    executor: str
    executor_basis_points: int
    datasets: Sequence[int]
    prices: Sequence[int]
    bonus: int
    program: bytes
    session: str
    evidence: Evidence
    curve: Sequence[int]
    grant_by: int
    complete_by: int
    recipient: bytes
    salt: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "datasets", padded(self.datasets))
        object.__setattr__(self, "prices", padded(self.prices))

    @classmethod
    def decoded(cls, values: Sequence[Any]) -> "Terms":
        """From the terms in a `Requested` event."""
        return cls(
            **{field.name: value for field, value in zip(fields(cls), values, strict=True)}
            | {"evidence": Evidence(*values[8])}
        )


def padded(values: Sequence[int]) -> tuple[int, ...]:
    """Filled up with zeros, as the contracts' lists of fixed length are."""
    return (*values, *(0,) * (MOST - len(values)))
