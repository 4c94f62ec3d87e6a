"""Who answers for an image: an RSA-3072 key with exponent 3, as SGX takes it.

MRSIGNER is the SHA-256 of the modulus, little-endian (Intel SDM 3D, 38.4.1.2); the signature is PKCS#1 v1.5 with
SHA-256 over measurement, product id and security version, so that none of the three is changed by whoever launches.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from privlib.enclave.errors import ImageError
from privlib.files import atomic_path, cache_dir

_BITS, _EXPONENT = 3072, 3


@dataclass(frozen=True)
class Signature:
    """modulus: of the signer's key, 384 bytes little-endian; product_id, svn: u16; value: 384 bytes."""

    modulus: bytes
    product_id: int
    svn: int
    value: bytes

    @property
    def mr_signer(self) -> bytes:
        """MRSIGNER, 32 bytes."""
        return hashlib.sha256(self.modulus).digest()

    def verify(self, measurement: bytes) -> None:
        """Raises ImageError unless the signer answers for this measurement with this product id and version."""
        key = rsa.RSAPublicNumbers(_EXPONENT, int.from_bytes(self.modulus, "little")).public_key()
        try:
            key.verify(self.value, _signed(measurement, self.product_id, self.svn), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            raise ImageError("the image's signature is not its signer's; build the image again") from None


class Signer:
    """A signer's private key."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        if key.key_size != _BITS or key.public_key().public_numbers().e != _EXPONENT:
            raise ImageError(f"a signer's key is RSA-{_BITS} with exponent {_EXPONENT}, as SGX takes it")
        self._key = key

    @classmethod
    def generate(cls) -> "Signer":
        """A new key."""
        return cls(rsa.generate_private_key(_EXPONENT, _BITS))

    @classmethod
    def load(cls, path: Path | str) -> "Signer":
        """The key in a PEM file (PKCS#8 or PKCS#1, no password). Raises ImageError."""
        try:
            key = serialization.load_pem_private_key(Path(path).read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise ImageError(f"{path} holds no private key that can be read: {error}") from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ImageError(f"{path} holds no RSA key")
        return cls(key)

    @classmethod
    def of_this_user(cls) -> "Signer":
        """The key in the cache, made at its first use: for development."""
        path = cache_dir("enclave") / "signer.pem"
        if not path.exists():
            with atomic_path(path) as temporary:
                temporary.write_bytes(cls.generate().pem())
            os.chmod(path, 0o600)
        return cls.load(path)

    def pem(self) -> bytes:
        """The private key, PKCS#8."""
        encoding, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
        return self._key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no_password)

    def sign(self, measurement: bytes, product_id: int, svn: int) -> Signature:
        """Sign for a measurement (32 bytes). Raises ImageError for a product id or version that is no u16."""
        for name, value in (("product_id", product_id), ("svn", svn)):
            if not 0 <= value < 1 << 16:
                raise ImageError(f"{name} must be from 0 to 65535, got {value}")
        modulus = self._key.public_key().public_numbers().n.to_bytes(_BITS // 8, "little")
        signed = self._key.sign(_signed(measurement, product_id, svn), padding.PKCS1v15(), hashes.SHA256())
        return Signature(modulus, product_id, svn, signed)


def _signed(measurement: bytes, product_id: int, svn: int) -> bytes:
    numbers = product_id.to_bytes(2, "little") + svn.to_bytes(2, "little")
    return b"privlib enclave signature 1\0" + measurement + numbers
