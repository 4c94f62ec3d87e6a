"""What an enclave states in its report data: that a key is its own, made for this nonce and this purpose.

report data = SHA-512("privlib report data v1" ‖ len(key) ‖ key ‖ len(nonce) ‖ nonce ‖ len(purpose) ‖ purpose), 64
bytes; lengths are u32 big-endian, so that no two lists of fields give the same bytes. Whoever sent the nonce knows that
the quote is not older than it; whoever asked for one purpose cannot be given a quote made for another.
"""

import hashlib
import struct
from collections.abc import Sequence

NONCE_BYTES = 32
REPORT_DATA_BYTES = 64


def report_data(public_key: bytes, nonce: bytes, purpose: str) -> bytes:
    """The 64 bytes of report data that bind `public_key` to `nonce` (32 bytes) and `purpose`."""
    return hashlib.sha512(encode(b"privlib report data v1", (public_key, nonce, purpose.encode()))).digest()


def encode(label: bytes, fields: Sequence[bytes]) -> bytes:
    """`label` and fields, each behind its length (u32 big-endian): an injective encoding for hashes and HPKE's info."""
    return label + b"".join(struct.pack(">I", len(field)) + field for field in fields)
