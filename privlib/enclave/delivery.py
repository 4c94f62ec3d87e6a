"""The provider's side of key delivery: seal a dataset's key to an enclave whose offer has been verified.

The enclave's side and the message are in `privlib.trusted.delivery`.
"""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from privlib.enclave.policy import QuotePolicy
from privlib.enclave.verify import VerifiedQuote, verify_quote
from privlib.trusted import delivery
from privlib.trusted.channel_errors import KeyDeliveryError


def deliver_key(
    key: bytes,
    public_key: bytes,
    quote: bytes,
    nonce: bytes,
    policy: QuotePolicy,
    *,
    purpose: str,
    dataset: bytes,
    dataset_policy: bytes = b"",
    collateral: str | None = None,
    now: float | None = None,
) -> tuple[bytes, VerifiedQuote]:
    """Verify an offer, and seal `key` (32 bytes) to it.

    Args:
        public_key: the offered key, 32 bytes; `quote` must bind it to `nonce` (32 bytes, drawn by the provider for this
            delivery alone) and to `purpose`.
        policy: what the provider accepts; its report data are filled in here.
        dataset, dataset_policy: names or digests of what the key opens and of the terms; the enclave must state the
            same to open it.

    Returns the sealed key and the verdict. Raises AttestationError where the quote is refused, KeyDeliveryError for a
    key of another length or an offered key that is none.
    """
    if len(key) != delivery.KEY_BYTES:
        raise KeyDeliveryError(f"key: {len(key)} bytes, expected {delivery.KEY_BYTES}")
    fresh = policy.fresh(public_key, nonce, delivery.delivery_purpose(purpose))
    verdict = verify_quote(quote, fresh, collateral, now)
    context = delivery.info(verdict.measurement, purpose, nonce, dataset, dataset_policy)
    try:
        sealed = delivery.SUITE.encrypt(key, X25519PublicKey.from_public_bytes(public_key), context)
    except ValueError as error:
        raise KeyDeliveryError(f"the offered key is not usable: {error}") from error
    return delivery.MAGIC + sealed, verdict
