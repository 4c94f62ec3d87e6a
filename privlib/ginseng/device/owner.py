"""What the owner of an encrypted model does: deliver its key to a device that attests, and to no other."""

import secrets

import numpy as np

from privlib.enclave.delivery import deliver_key
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.session import Session
from privlib.enclave.verify import VerifiedQuote
from privlib.ginseng.device.image import DeviceImage
from privlib.ginseng.device.package import FOLDER, read
from privlib.ginseng.device.service import PURPOSE
from privlib.trusted.protocol import Message


def provision_model(
    session: Session,
    model_key: bytes,
    image: DeviceImage,
    policy: QuotePolicy,
    collateral: str | None = None,
    now: float | None = None,
) -> VerifiedQuote:
    """Release a model to the device at the other end: HPKE (RFC 9180) to a key that its quote binds to a fresh nonce.

    model_key: 32 bytes, what `image` was built with; the device that opens it must state this very model. policy,
    collateral, now: as of `verify_quote`. The device seals the key for its next boots. Returns the verdict.
    Raises AttestationError, KeyDeliveryError, PackageError, RequestRefused.
    """
    nonce = secrets.token_bytes(32)
    offer = session.request(Message("model_offer", arrays={"nonce": np.frombuffer(nonce, np.uint8)}))
    public_key = offer.arrays["public_key"].tobytes()
    context = read({file.name: file.read() for file in image.files if file.name.startswith(FOLDER)}).context
    sealed, verdict = deliver_key(
        model_key,
        public_key,
        offer.arrays["quote"].tobytes(),
        nonce,
        policy,
        purpose=PURPOSE,
        dataset=context,
        collateral=collateral,
        now=now,
    )
    arrays = {"public_key": offer.arrays["public_key"], "sealed": np.frombuffer(sealed, np.uint8)}
    session.request(Message("model_key", arrays=arrays))
    return verdict
