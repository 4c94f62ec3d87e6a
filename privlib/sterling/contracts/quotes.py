"""A DCAP quote as the attestation registry takes it: the bytes that are signed, and the numbers of its signatures.

ECDSA has two signatures for each, (r, s) and (r, order − s); quoting enclaves give either, the registry takes the one
with the lower s alone, so that nobody can make a second quote of one.
"""

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from eth_utils.crypto import keccak

from privlib.enclave.quote import SGX, parse_quote
from privlib.enclave.refusals import QuoteFormatError

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SESSION_LABEL = b"privlib sterling session v1"
MOST_AUTHENTICATION_BYTES = 128


@dataclass(frozen=True)
class QuotingEnclave:
    """Whose quotes are taken: MRSIGNER (32 bytes), ISVPRODID, and the least ISVSVN."""

    signer: bytes
    product: int
    least_svn: int

    @classmethod
    def of(cls, quote: bytes) -> "QuotingEnclave":
        """The one that made a quote (for a market that trusts it). Raises QuoteFormatError."""
        report = parse_quote(quote).qe_report
        return cls(report.mr_signer, report.isv_prod_id, report.isv_svn)


@dataclass(frozen=True)
class RegistryQuote:
    """AttestationRegistry.vy's struct Quote."""

    signed: bytes
    r: int
    s: int
    key_x: int
    key_y: int
    qe_report: bytes
    qe_r: int
    qe_s: int
    authentication: bytes
    pck_x: int
    pck_y: int


def session_report_data(chain_id: int, registry: str, session: str, free: bytes = bytes(32)) -> bytes:
    """The 64 bytes of report data that bind a session key: a SHA-256 over label, chain, attestation registry and
    session (addresses as hexadecimal), then 32 `free` bytes, for instance the hash of a key for HPKE."""
    parts = (SESSION_LABEL, chain_id.to_bytes(32, "big"), *(bytes.fromhex(each[2:]) for each in (registry, session)))
    return hashlib.sha256(b"".join(parts)).digest() + free


def registry_quote(quote: bytes) -> RegistryQuote:
    """Take an SGX quote apart for `register`. Raises QuoteFormatError for what the registry could not read."""
    parsed = parse_quote(quote)
    if parsed.header.tee_type != SGX:
        raise QuoteFormatError("TEE type: the registry on chain reads SGX quotes; attest this one through the verifier")
    if len(parsed.authentication_data) > MOST_AUTHENTICATION_BYTES:
        found = len(parsed.authentication_data)
        raise QuoteFormatError(f"authentication data: {found} bytes, the registry reads {MOST_AUTHENTICATION_BYTES}")
    return RegistryQuote(
        parsed.signed,
        *_signature(parsed.signature),
        *_halves(parsed.attestation_key),
        parsed.qe_report_bytes,
        *_signature(parsed.qe_report_signature),
        parsed.authentication_data,
        *pck_key(quote),
    )


def pck_key(quote: bytes) -> tuple[int, int]:
    """x and y of the key that certified the quoting enclave, as `trust_platform` takes them (its certificate is not
    checked here: `privlib.enclave.verify_quote` does). Raises QuoteFormatError."""
    try:
        key = x509.load_pem_x509_certificates(parse_quote(quote).certification_chain)[0].public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise QuoteFormatError(f"PCK certificate: {error}") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise QuoteFormatError("PCK certificate: its key is not on P-256")
    numbers = key.public_numbers()
    return numbers.x, numbers.y


def platform_id(pck: tuple[int, int]) -> bytes:
    """The registry's name of a platform, 32 bytes."""
    return bytes(keccak(b"".join(each.to_bytes(32, "big") for each in pck)))


def low_s(s: int) -> int:
    """The lower of the two equivalent s."""
    return min(s, P256_ORDER - s)


def _signature(data: bytes) -> tuple[int, int]:
    r, s = _halves(data)
    return r, low_s(s)


def _halves(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:32], "big"), int.from_bytes(data[32:], "big")
