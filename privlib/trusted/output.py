"""What a job's result leaves the enclave as: a file that its consumer opens, and nobody before the payment is final.

    file         message (`privlib.trusted.protocol`) of kind "output": fields grant, gates {dataset: hexadecimal};
                 array data
    data         the release, AES-256-GCM under HKDF-SHA256(M ‖ G), both drawn here for this file alone
    gates        G under the gate key of each provider's policy enclave: nonce 12 ‖ ciphertext 32 ‖ tag 16
    sealed key   M, sealed to the consumer's key with HPKE; the completion on the chain publishes it

A policy enclave gives its gate key for the job to the consumer once the payment is final (`policy_service`), never
before; any one of them will do, so that a provider that is gone keeps nothing back. Without the gate an executor could
hand the signed completion to the consumer instead of to the chain, and nobody would be paid.
"""

import secrets
from collections.abc import Mapping

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privlib.errors import PrivlibError
from privlib.trusted.binding import encode
from privlib.trusted.delivery import SUITE
from privlib.trusted.grant import Grant
from privlib.trusted.protocol import Message, ProtocolError, decode
from privlib.trusted.protocol import encode as frame

KEY_BYTES, NONCE_BYTES = 32, 12
GATE_BYTES = NONCE_BYTES + KEY_BYTES + 16


class OutputError(PrivlibError):
    """No output of this job, altered, or for another consumer or gate."""


def gate_info(grant: Grant) -> bytes:
    """HPKE's `info` of a gate key on its way to the consumer."""
    return encode(b"privlib gate v1", (grant.encode(),))


def seal_output(release: bytes, grant: Grant, gates: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """(file, sealed key). release: what the consumer gets in the end; gates: of this job, each dataset's, 32 bytes."""
    share, opened_by_gates = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)
    text = grant.encode()
    wrapped = {}
    for dataset, key in gates.items():
        nonce = secrets.token_bytes(NONCE_BYTES)
        wrapped[dataset] = (nonce + AESGCM(key).encrypt(nonce, opened_by_gates, text)).hex()
    data = AESGCM(_key(share, opened_by_gates, text)).encrypt(bytes(NONCE_BYTES), release, text)
    consumer = SUITE.encrypt(share, X25519PublicKey.from_public_bytes(bytes.fromhex(grant.consumer)), _info(text))
    message = Message("output", {"grant": text.decode(), "gates": wrapped}, {"data": np.frombuffer(data, np.uint8)})
    return b"".join(frame(message)), consumer


def open_output(
    file: bytes, sealed_key: bytes, grant: Grant, consumer: X25519PrivateKey, dataset: str, gate: bytes
) -> bytes:
    """The release. gate: the gate key that `dataset`'s policy enclave gave. Raises OutputError."""
    text = grant.encode()
    try:
        message = decode(file)
        wrapped = bytes.fromhex(message.fields["gates"][dataset])
        data = message.arrays["data"].tobytes()
        if message.kind != "output" or message.fields["grant"] != text.decode() or len(wrapped) != GATE_BYTES:
            raise ValueError("another grant's")
    except (ProtocolError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise OutputError(f"no output of this job: {error}") from None
    try:
        share = bytes(SUITE.decrypt(sealed_key, consumer, _info(text)))
        opened = AESGCM(gate).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], text)
        return AESGCM(_key(share, opened, text)).decrypt(bytes(NONCE_BYTES), data, text)
    except (InvalidTag, ValueError):
        raise OutputError("the output does not open: altered, or another consumer's or gate's key") from None


def open_gate(sealed: bytes, grant: Grant, consumer: X25519PrivateKey) -> bytes:
    """The gate key that a policy enclave sealed to the consumer. Raises OutputError."""
    try:
        return bytes(SUITE.decrypt(sealed, consumer, gate_info(grant)))
    except (InvalidTag, ValueError):
        raise OutputError("the gate key does not open: for another consumer or job, or altered") from None


def _info(grant: bytes) -> bytes:
    return encode(b"privlib output v1", (grant,))


def _key(share: bytes, opened_by_gates: bytes, grant: bytes) -> bytes:
    info = encode(b"privlib output key v1", (grant,))
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(share + opened_by_gates)
