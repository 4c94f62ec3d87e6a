"""The client's end of an attested channel: nothing is sent before the enclave's quote has been verified.

Messages and keys are described in `privlib.trusted.channel`.
"""

import hashlib
import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privlib.enclave.policy import QuotePolicy
from privlib.enclave.verify import VerifiedQuote, verify_quote
from privlib.trusted import channel
from privlib.trusted.binding import NONCE_BYTES
from privlib.trusted.channel_errors import HandshakeError
from privlib.trusted.records import TO_CLIENT, TO_ENCLAVE, Opener, Sealer


class Initiator:
    """The client's end of one handshake: send `hello`, give the answer to `verify`, send the finish it returns.

    identity: an Ed25519 key to prove who the client is, where the enclave asks for that.
    """

    def __init__(self, purpose: str = "", identity: Ed25519PrivateKey | None = None) -> None:
        self._share: X25519PrivateKey | None = X25519PrivateKey.generate()
        self._identity = identity
        public = channel.NO_IDENTITY if identity is None else identity.public_key().public_bytes_raw()
        share = self._share.public_key().public_bytes_raw()
        self.hello = channel.Hello(share, secrets.token_bytes(NONCE_BYTES), public, purpose).encode()

    def verify(
        self, answer: bytes, policy: QuotePolicy, collateral: str | None = None, now: float | None = None
    ) -> tuple[bytes, Sealer, Opener, VerifiedQuote]:
        """Verify the enclave's answer under `policy` (its report data are filled in here: they must bind this hello).

        Returns the finish message, what seals records to the enclave and opens those from it, and the verdict.
        Raises HandshakeError for a malformed answer or a second use, AttestationError where the quote is refused.
        """
        if self._share is None:
            raise HandshakeError("this handshake is over; begin a new one")
        own, self._share = self._share, None
        share, quote = channel.read_answer(answer)
        fresh = policy.fresh(share, hashlib.sha256(self.hello).digest(), channel.PURPOSE)
        verdict = verify_quote(quote, fresh, collateral, now)
        keys = channel.derive(own, share, self.hello, answer)
        signature = channel.NO_SIGNATURE
        if self._identity is not None:
            signature = self._identity.sign(channel.signed_by_client(keys.transcript))
        finish = channel.encode_finish(signature, keys.confirmation)
        return finish, Sealer(*keys.to_enclave, TO_ENCLAVE), Opener(*keys.to_client, TO_CLIENT), verdict
