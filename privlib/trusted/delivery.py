"""A key for an enclave, sealed with HPKE so that one enclave can open it, once, for one purpose.

HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, single-shot. The enclave offers a
fresh public key; its quote binds the key to the provider's nonce and to "privlib key delivery" and the purpose
(`privlib.trusted.binding`). `info` holds what the key is for: measurement, purpose, nonce, dataset, policy. An enclave
with another measurement, or one that is told another dataset or policy, does not open it.

    sealed key = "PLK1" ‖ encapsulated key 32 ‖ ciphertext 32 ‖ tag 16

For a job of the market 64 bytes are delivered: the dataset's key, and the gate key that the result is locked with.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from privlib.trusted.binding import NONCE_BYTES, encode, report_data
from privlib.trusted.channel_errors import KeyDeliveryError, ReplayError

KEY_BYTES = 32
MAGIC = b"PLK1"
SEALED_BYTES = len(MAGIC) + 32 + KEY_BYTES + 16
SEALED_WITH_GATE = SEALED_BYTES + KEY_BYTES
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def delivery_purpose(purpose: str) -> str:
    """The purpose that an offer's report data state."""
    return f"privlib key delivery: {purpose}"


def info(measurement: bytes, purpose: str, nonce: bytes, dataset: bytes, policy: bytes) -> bytes:
    """HPKE's `info`: what a sealed key is bound to."""
    return encode(b"privlib key delivery v1", (measurement, purpose.encode(), nonce, dataset, policy))


class KeyOffer:
    """The enclave's side of one delivery: a fresh key that opens one sealed key and is then gone.

    measurement: the enclave's own (32 bytes); nonce: the provider's (32 bytes).
    """

    def __init__(self, measurement: bytes, nonce: bytes, purpose: str) -> None:
        if len(nonce) != NONCE_BYTES:
            raise KeyDeliveryError(f"nonce: {len(nonce)} bytes, expected {NONCE_BYTES}")
        self._key: X25519PrivateKey | None = X25519PrivateKey.generate()
        self._measurement, self._nonce, self._purpose = measurement, nonce, purpose
        self.public_key = self._key.public_key().public_bytes_raw()
        self.report_data = report_data(self.public_key, nonce, delivery_purpose(purpose))

    def open(self, sealed: bytes, dataset: bytes, policy: bytes = b"") -> bytes:
        """The delivered key, 32 bytes, or with a gate key 64; `dataset` and `policy` are what the enclave will use it
        for (names or digests).

        Raises KeyDeliveryError where it was sealed for anything else (the offer stays open: the host may retry), and
        ReplayError once the offer has been used.
        """
        if self._key is None:
            raise ReplayError("this offer has received its key; ask for a new offer")
        if len(sealed) not in (SEALED_BYTES, SEALED_WITH_GATE) or not sealed.startswith(MAGIC):
            raise KeyDeliveryError(
                f"sealed key: {len(sealed)} bytes, not {SEALED_BYTES} or {SEALED_WITH_GATE} that begin with {MAGIC!r}"
            )
        context = info(self._measurement, self._purpose, self._nonce, dataset, policy)
        try:
            key = SUITE.decrypt(sealed[len(MAGIC) :], self._key, context)
        except (InvalidTag, ValueError):
            raise KeyDeliveryError(
                "sealed key: not for this enclave, nonce, purpose, dataset and policy, or altered on the way"
            ) from None
        self._key = None
        return bytes(key)
