"""What cryptography imports, opens or seeds when it is first used: done once, before a worker is closed in, and once
where it is found out which files a worker loads."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privlib.trusted.delivery import KEY_BYTES, SUITE
from privlib.trusted.ethereum import EnclaveAccount
from privlib.trusted.randomness import Stream
from privlib.trusted.sealing import SealingKeys, seal, unseal


def use_everything() -> None:
    """Every primitive that the worker uses, on data that mean nothing."""
    own, peer = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    own.exchange(X25519PublicKey.from_public_bytes(peer.public_key().public_bytes_raw()))
    SUITE.decrypt(SUITE.encrypt(b"", own.public_key()), own)
    signer = Ed25519PrivateKey.generate()
    Ed25519PublicKey.from_public_bytes(signer.public_key().public_bytes_raw()).verify(signer.sign(b""), b"")
    EnclaveAccount().sign(bytes(32))
    keys = SealingKeys(bytes(KEY_BYTES), bytes(KEY_BYTES), 0)
    unseal(seal(b"", keys, ""), keys, "")
    Stream().words(1)
