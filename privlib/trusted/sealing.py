"""Sealing: state that leaves the enclave as ciphertext and comes back only to it, and only the newest version of it.

    "PLS1" ‖ bound u8 (1 measurement, 2 signer) ‖ zero u8 ‖ svn u16 ‖ version u64 ‖ previous 32 ‖ salt 32 ‖
    commitment 32 ‖ length u16 ‖ label ‖ ciphertext ‖ tag 16                                            (big-endian)

HKDF-SHA256 of the sealing key, with a fresh salt, gives an AES-256-GCM key that is used once (nonce zero, everything
before the ciphertext as associated data) and the commitment, which tells another enclave's state from an altered one.

Sealed to the measurement, state opens in the same build alone. Sealed to the signer, it opens in every later version
(SVN at least that of the sealer) of the same signer's product: the key of an older SVN is a hash of the newer one's,
never the reverse.

Versions are counted by a register outside the enclave (`Register`): state is sealed as the successor of the registered
one, stored, and then registered. What can be noticed is what the register remembers:

| the host                                              | noticed |
|-------------------------------------------------------|---------|
| puts back an older state, or removes it               | yes     |
| keeps two successors of one state, to choose later    | yes     |
| dies between storing and registering                  | no harm: either state opens, none has been acted upon |
| sets back the register together with the state        | no: a register must be where the host cannot write it |
"""

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass
from typing import Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privlib.errors import PrivlibError

KEY_BYTES, DIGEST_BYTES, SALT_BYTES, TAG_BYTES = 32, 32, 32, 16
MAXIMUM_SVN, MAXIMUM_LABEL, MAXIMUM_VERSION = (1 << 16) - 1, 255, (1 << 64) - 1
NOTHING = bytes(DIGEST_BYTES)
_HEADER = struct.Struct(">4sBBHQ32s32s32sH")
_NONCE = bytes(12)  # each key seals once
Bound = Literal["measurement", "signer"]
_BOUNDS: tuple[Bound, ...] = ("measurement", "signer")


class SealError(PrivlibError):
    """Base: sealed state that does not open."""


class SealFormatError(SealError):
    """The bytes are no sealed state."""


class SealIdentityError(SealError):
    """Sealed by another enclave, or on another platform."""


class SealVersionError(SealError):
    """Sealed by a later version (SVN) of this enclave's product."""


class SealLabelError(SealError):
    """Sealed as something else: one state was put in another's place."""


class SealAlteredError(SealError):
    """Sealed by this enclave and altered since."""


class RollbackError(SealError):
    """Not the newest version of this state, or none where there was one."""


@dataclass(frozen=True)
class SealingKeys:
    """The keys that a platform gives one enclave; `svn` is the enclave's own version."""

    measurement_key: bytes
    signer_key: bytes
    svn: int

    def key(self, bound: Bound, svn: int) -> bytes:
        """The key for state that was sealed at `svn`. Raises SealVersionError for one above the enclave's own."""
        if svn > self.svn:
            raise SealVersionError(f"sealed by version {svn}, this enclave is {self.svn}: run the newer one")
        return self.measurement_key if bound == "measurement" else older_key(self.signer_key, self.svn - svn)


@dataclass(frozen=True)
class Unsealed:
    """State that opened."""

    data: bytes
    bound: Bound
    svn: int
    version: int
    previous: bytes  # digest of the sealed state before it


def older_key(key: bytes, steps: int) -> bytes:
    """The signer's key `steps` versions earlier."""
    for _ in range(steps):
        key = hashlib.sha256(b"privlib sealing: one version earlier" + key).digest()
    return key


def digest(blob: bytes) -> bytes:
    """What a register keeps of sealed state: its SHA-256."""
    return hashlib.sha256(blob).digest()


def seal(
    data: bytes,
    keys: SealingKeys,
    label: str,
    bound: Bound = "measurement",
    version: int = 0,
    previous: bytes = NOTHING,
) -> bytes:
    """Seal `data` under `label`, which says what it is. `SealedState` counts versions; alone, 0 will do."""
    name = label.encode()
    if len(name) > MAXIMUM_LABEL or not 0 <= version <= MAXIMUM_VERSION or len(previous) != DIGEST_BYTES:
        raise SealFormatError(f"label {len(name)} bytes (at most {MAXIMUM_LABEL}), version {version}, "
                              f"previous {len(previous)} bytes (expected {DIGEST_BYTES})")  # fmt: skip
    salt = secrets.token_bytes(SALT_BYTES)
    key, commitment = _derive(keys.key(bound, keys.svn), salt)
    number = _BOUNDS.index(bound) + 1
    header = _HEADER.pack(b"PLS1", number, 0, keys.svn, version, previous, salt, commitment, len(name)) + name
    return header + AESGCM(key).encrypt(_NONCE, data, header)


def unseal(blob: bytes, keys: SealingKeys, label: str) -> Unsealed:
    """Open sealed state. Whether it is the newest is `SealedState`'s to say.

    Raises SealFormatError, SealLabelError, SealVersionError, SealIdentityError, SealAlteredError.
    """
    if len(blob) < _HEADER.size:
        raise SealFormatError(f"sealed state: {len(blob)} bytes, at least {_HEADER.size + TAG_BYTES} expected")
    magic, number, zero, svn, version, previous, salt, commitment, length = _HEADER.unpack_from(blob)
    end = _HEADER.size + length
    if magic != b"PLS1":
        raise SealFormatError(f"sealed state: begins with {magic!r}; this version reads b'PLS1'")
    if number not in (1, 2) or zero or length > MAXIMUM_LABEL or len(blob) < end + TAG_BYTES:
        raise SealFormatError(f"sealed state: kind {number}, label of {length} bytes in {len(blob)}: malformed")
    bound, header = _BOUNDS[number - 1], blob[:end]
    if blob[_HEADER.size : end] != label.encode():
        raise SealLabelError(f"sealed as {blob[_HEADER.size : end]!r}, expected {label!r}")
    key, expected = _derive(keys.key(bound, svn), salt)
    if not hmac.compare_digest(commitment, expected):
        whose = ("another measurement: state sealed to a measurement does not open after an upgrade"
                 if bound == "measurement" else "another signer or product")  # fmt: skip
        raise SealIdentityError(f"sealed to {whose}, or on another platform, or its header was altered")
    try:
        data = AESGCM(key).decrypt(_NONCE, blob[end:], header)
    except InvalidTag:
        raise SealAlteredError("sealed by this enclave, and altered since") from None
    return Unsealed(data, bound, svn, version, previous)


class Register(Protocol):
    """Remembers which sealed state is the newest: its version and digest, (0, 32 zero bytes) before the first.

    `advance` takes the version after the current one and nothing else; anything else is a RollbackError.
    """

    def read(self) -> tuple[int, bytes]: ...

    def advance(self, version: int, digest: bytes) -> None: ...


class SealedState:
    """One piece of state under a register: `open` what is stored, `seal` its successor, store it, `commit`.

    Act upon new state only after `commit`: from then on the host cannot go back behind it.
    """

    def __init__(self, keys: SealingKeys, label: str, register: Register, bound: Bound = "signer") -> None:
        self._keys, self._label, self._register, self._bound = keys, label, register, bound

    def open(self, blob: bytes | None) -> bytes | None:
        """The newest state, or None before the first (`blob` None). Raises RollbackError and what `unseal` raises."""
        version, newest = self._register.read()
        if blob is None:
            if version:
                raise RollbackError(f"no state was given, and version {version} exists: give it")
            return None
        found = unseal(blob, self._keys, self._label)
        if found.version == version and digest(blob) == newest:
            return found.data
        if found.version == version + 1 and found.previous == newest:
            # Stored and not yet registered when the enclave died: registering it now completes what was begun.
            self._register.advance(found.version, digest(blob))
            return found.data
        if found.version > version:
            raise RollbackError(f"version {found.version} of the state, the register is at {version}: it was set back")
        raise RollbackError(
            f"version {found.version} of the state is not the newest, which is another version {version}"
        )

    def seal(self, data: bytes) -> bytes:
        """The successor of the registered state, to be stored and then committed."""
        version, newest = self._register.read()
        return seal(data, self._keys, self._label, self._bound, version + 1, newest)

    def commit(self, blob: bytes) -> None:
        """Register what `seal` returned. Raises RollbackError if something else was registered in between."""
        found = unseal(blob, self._keys, self._label)
        version, newest = self._register.read()
        if found.version != version + 1 or found.previous != newest:
            raise RollbackError(f"version {found.version} does not follow the registered version {version}")
        self._register.advance(found.version, digest(blob))


def _derive(key: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """(key of one seal, commitment)."""
    material = HKDF(hashes.SHA256(), KEY_BYTES + DIGEST_BYTES, salt=salt, info=b"privlib seal v1").derive(key)
    return material[:KEY_BYTES], material[KEY_BYTES:]
