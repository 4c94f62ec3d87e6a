"""What an enclave signs for the chain: an account of its own, and the digests of the market's contracts.

secp256k1 (SEC 1) with low s (EIP-2), addresses and digests by Keccak-256 over the ABI's 32-byte words, as
`JobEscrow.vy`, `StateCommitments.vy` and `AttestationRegistry.vy` compute them. Signatures are r ‖ s; the recovery bit
is found outside, it holds no secret.
"""

import hashlib
from collections.abc import Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256K1, derive_private_key, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privlib.trusted.keccak import keccak

MOST_DATASETS = 8
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_SESSION = b"privlib sterling session v1"
_APPROVAL, _COMPLETION, _COMMITMENT = (
    keccak(f"privlib sterling {what} v1".encode()) for what in ("approval", "completion", "commitment")
)


class EnclaveAccount:
    """A key pair that only the enclave has. secret: 32 bytes, None for a new one. address: 20 bytes, hexadecimal."""

    def __init__(self, secret: bytes | None = None) -> None:
        number = secret and int.from_bytes(secret, "big")
        self._key = derive_private_key(number, SECP256K1()) if number else generate_private_key(SECP256K1())
        self.secret = self._key.private_numbers().private_value.to_bytes(32, "big")
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.address = keccak(point[1:])[12:].hex()

    def sign(self, digest: bytes) -> bytes:
        """r ‖ s, 64 bytes, over a digest of 32."""
        r, s = decode_dss_signature(self._key.sign(digest, ECDSA(Prehashed(hashes.SHA256()))))
        return r.to_bytes(32, "big") + min(s, _ORDER - s).to_bytes(32, "big")


def session_report_data(chain: int, registry: str, address: str) -> bytes:
    """The 64 bytes of report data that bind a session's address to a chain's attestation registry. SHA-256 and zeros:
    every other quote of an enclave binds with SHA-512 (`privlib.trusted.binding`)."""
    text = _SESSION + chain.to_bytes(32, "big") + bytes.fromhex(registry + address)
    return hashlib.sha256(text).digest() + bytes(32)


def approval_digest(chain: int, escrow: str, job: str, dataset: int, statement: bytes) -> bytes:
    """What a policy's enclave signs to approve a job for a dataset (its number in the registry)."""
    return keccak(_words(_APPROVAL, chain, escrow, bytes.fromhex(job), dataset, statement))


def completion_digest(
    chain: int, escrow: str, job: str, output: bytes, sealed_key: bytes, weights: Sequence[int]
) -> bytes:
    """What a session signs to complete a job. output: 32 bytes; weights: at most MOST_DATASETS."""
    padded = [*weights, *[0] * (MOST_DATASETS - len(weights))]
    return keccak(
        _words(_COMPLETION, chain, escrow, bytes.fromhex(job), output, keccak(sealed_key), keccak(_words(*padded)))
    )


def commitment_digest(
    chain: int, states: str, instance: str, version: int, previous: str, state: str, output: str
) -> bytes:
    """What a confidential contract's enclave signs to go on to a state."""
    hashes_ = (bytes.fromhex(each) for each in (previous, state, output))
    return keccak(_words(_COMMITMENT, chain, states, bytes.fromhex(instance), version, *hashes_))


def _words(*values: int | bytes | str) -> bytes:
    """The ABI's encoding of numbers, 32-byte values and addresses (hexadecimal), all of them one word."""
    found = b""
    for value in values:
        if isinstance(value, int):
            found += value.to_bytes(32, "big")
        else:
            found += bytes(12) + bytes.fromhex(value) if isinstance(value, str) else value
    return found
