"""A job's signing key: made inside, bound by a quote, checked on chain by `ecrecover`.

report data = SHA-256("privlib session key v1" ‖ X ‖ Y ‖ job) ‖ 32 zero bytes (SHA-512, which other quotes bind with, is
not to be had on chain; 32 zero bytes and the label keep the two apart). What it signs is the job's completion:

    SHA-256("privlib completion v1" ‖ chain id 32 ‖ market 20 ‖ job 32 ‖ output digest 32 ‖ shares, u16 each)

with secp256k1 (SEC 1), low s (EIP-2). The recovery bit is found outside: it holds no secret.
"""

import hashlib
from collections.abc import Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256K1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privlib.trusted.grant import Grant

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class SessionKey:
    """The key of one job. public_key: X ‖ Y, 64 bytes, big-endian."""

    def __init__(self, job: str) -> None:
        self._key: EllipticCurvePrivateKey = generate_private_key(SECP256K1())
        self._job = bytes.fromhex(job)
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.public_key = point[1:]

    @property
    def report_data(self) -> bytes:
        """What its quote states, 64 bytes."""
        return session_report_data(self.public_key, self._job)

    def sign(self, digest: bytes) -> bytes:
        """r ‖ s, 64 bytes, over a digest of 32."""
        r, s = decode_dss_signature(self._key.sign(digest, ECDSA(Prehashed(hashes.SHA256()))))
        return r.to_bytes(32, "big") + min(s, _ORDER - s).to_bytes(32, "big")


def session_report_data(public_key: bytes, job: bytes) -> bytes:
    """Report data that bind a session key (X ‖ Y) to a job (32 bytes)."""
    return hashlib.sha256(b"privlib session key v1" + public_key + job).digest() + bytes(32)


def completion_digest(grant: Grant, output: bytes, shares: Sequence[int]) -> bytes:
    """What a completion signs. output: SHA-256 of the output's file; shares: basis points, a dataset each."""
    text = b"privlib completion v1" + grant.chain.to_bytes(32, "big") + bytes.fromhex(grant.market + grant.job)
    return hashlib.sha256(text + output + b"".join(share.to_bytes(2, "big") for share in shares)).digest()
