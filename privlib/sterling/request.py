"""What a consumer sends to everybody whom a job concerns: contract, grant, credentials."""

import hashlib
from dataclasses import dataclass, field

from privlib.sterling.contract import TrainingContract
from privlib.trusted.grant import Grant


@dataclass(frozen=True)
class JobRequest:
    """A job that is on the chain. credentials, revocations: texts of `privlib.trusted.credentials`; subject: the
    consumer's identity, Ed25519 (32 bytes); presentation: its signature for this grant (64 bytes)."""

    contract: TrainingContract
    grant: Grant
    credentials: tuple[str, ...] = field(repr=False)
    revocations: tuple[str, ...] = field(repr=False)
    subject: bytes
    presentation: bytes = field(repr=False)

    @property
    def job(self) -> str:
        """The job's identity on the chain, 64 hexadecimal digits."""
        return self.grant.job


def recipient_hash(consumer: str) -> bytes:
    """What terms name a consumer's X25519 key (hexadecimal) by: its SHA-256."""
    return hashlib.sha256(bytes.fromhex(consumer)).digest()
