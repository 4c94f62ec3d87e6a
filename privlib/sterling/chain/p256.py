"""The P-256 precompile (EIP-7951) for py-evm, which has the rules up to Prague, the fork before it."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from eth.abc import ComputationAPI
from eth_typing import Address

P256_ADDRESS = Address((0x100).to_bytes(20, "big"))
P256_GAS = 6_900


def p256_verify(computation: ComputationAPI) -> ComputationAPI:
    """digest ‖ r ‖ s ‖ x ‖ y, 32 bytes each, give 32 bytes equal to 1 for a valid signature, nothing otherwise."""
    computation.consume_gas(P256_GAS, reason="P256VERIFY")
    computation.output = (1).to_bytes(32, "big") if _valid(computation.msg.data_as_bytes) else b""
    return computation


def _valid(data: bytes) -> bool:
    if len(data) != 160:
        return False
    r, s, x, y = (int.from_bytes(data[at : at + 32], "big") for at in range(32, 160, 32))
    try:
        key = EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
        key.verify(encode_dss_signature(r, s), data[:32], ECDSA(Prehashed(SHA256())))
    except (ValueError, InvalidSignature):
        return False
    return True
