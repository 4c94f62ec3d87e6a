"""Lays out SGX DCAP quotes of version 3, for the simulated quoting enclave (reading them is `privlib.enclave.quote`).

A quote is header ‖ report ‖ length ‖ signature data; what is signed is header ‖ report. Reserved fields are zero.
Source: Intel, "SGX ECDSA Quote Library Reference: DCAP API", appendix A.4.
"""

import hashlib
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# The identifier that verifiers know as the vendor of the reference quoting enclave; another one is refused by them.
_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_INIT, _DEBUG, _MODE64BIT, PROVISION_KEY = 1 << 0, 1 << 1, 1 << 2, 1 << 4
_XFRM_X87_SSE = 0b11


def header(qe_id: bytes, qe_svn: int, pce_svn: int) -> bytes:
    """48 bytes; qe_id (16 bytes) names the quoting enclave on its platform."""
    return struct.pack("<HHIHH16s20s", 3, 2, 0, qe_svn, pce_svn, _QE_VENDOR, qe_id)


def report(
    cpu_svn: bytes,
    mr_enclave: bytes,
    mr_signer: bytes,
    isv_prod_id: int,
    isv_svn: int,
    report_data: bytes,
    *,
    debug: bool = False,
    more_flags: int = 0,
) -> bytes:
    """384 bytes. cpu_svn 16 bytes, mr_enclave and mr_signer 32, report_data up to 64 (zeros follow)."""
    flags = _INIT | _MODE64BIT | (_DEBUG if debug else 0) | more_flags
    return (
        struct.pack("<16sI28x", cpu_svn, 0)
        + struct.pack("<QQ", flags, _XFRM_X87_SSE)
        + struct.pack("<32s32x32s96x", mr_enclave, mr_signer)
        + struct.pack("<HH60x64s", isv_prod_id, isv_svn, report_data)
    )


def quote(
    signed: bytes,
    attestation_key: EllipticCurvePrivateKey,
    qe_report: bytes,
    qe_report_signature: bytes,
    authentication_data: bytes,
    pck_chain: bytes,
) -> bytes:
    """The whole quote; `signed` is header ‖ report, pck_chain PEM with the PCK certificate first."""
    data = (
        sign(attestation_key, signed)
        + public_bytes(attestation_key)
        + qe_report
        + qe_report_signature
        + struct.pack("<H", len(authentication_data))
        + authentication_data
        + struct.pack("<HI", 5, len(pck_chain))
        + pck_chain
    )
    return signed + struct.pack("<I", len(data)) + data


def qe_report_data(attestation_key: EllipticCurvePrivateKey, authentication_data: bytes) -> bytes:
    """Report data of the quoting enclave: SHA-256(attestation key ‖ authentication data) ‖ 32 zero bytes."""
    return hashlib.sha256(public_bytes(attestation_key) + authentication_data).digest() + bytes(32)


def public_bytes(key: EllipticCurvePrivateKey) -> bytes:
    """x ‖ y, 64 bytes big-endian."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def sign(key: EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA P-256 with SHA-256 as r ‖ s, 64 bytes big-endian."""
    r, s = decode_dss_signature(key.sign(data, ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
