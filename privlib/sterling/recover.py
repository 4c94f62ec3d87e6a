"""From r ‖ s, as enclaves sign, to r ‖ s ‖ v, as `ecrecover` takes it."""

from eth_keys import keys
from eth_keys.exceptions import BadSignature

from privlib.sterling.errors import SterlingError


def recoverable(signature: bytes, digest: bytes, signer: str) -> bytes:
    """65 bytes, with the v (27 or 28) for which `signer` (an address) is recovered. Raises SterlingError where neither
    does: the signature is another's, or over something else."""
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    for bit in (0, 1):
        try:
            found = keys.Signature(vrs=(bit, r, s)).recover_public_key_from_msg_hash(digest)
        except BadSignature:
            continue
        if found.to_checksum_address() == signer:
            return signature + bytes([27 + bit])
    raise SterlingError(f"this was not signed by {signer}, or something else was")
