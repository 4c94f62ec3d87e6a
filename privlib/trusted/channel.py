"""The enclave's end of an attested channel, and what both ends share: messages and keys.

    hello   client → enclave   "PLH1" ‖ share 32 ‖ nonce 32 ‖ identity 32 (zero: none) ‖ length u16 ‖ purpose
    answer  enclave → client   "PLA1" ‖ share 32 ‖ length u32 ‖ quote
    finish  client → enclave   "PLF1" ‖ signature 64 (zero: none) ‖ confirmation 32

Shares are fresh X25519 keys. The quote's report data bind the enclave's share to SHA-256(hello) and "privlib channel"
(`privlib.trusted.binding`): the hello holds the client's nonce, share, identity and purpose, so that a quote serves one
hello and no other use. With T = SHA-256 over hello and answer, HKDF-SHA256 (RFC 5869) of the X25519 secret, salt T,
gives one AES-256-GCM key and IV for each direction and the key of the client's confirmation, HMAC-SHA256 over T. A
client with an identity signs T with Ed25519; the enclave compares it with its list. Secrets of a finished handshake are
dropped, so that keys found later open nothing recorded earlier.
"""

import hashlib
import hmac
import struct
from collections.abc import Collection
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privlib.trusted.binding import NONCE_BYTES, encode, report_data
from privlib.trusted.channel_errors import ClientError, HandshakeError
from privlib.trusted.records import IV_BYTES, KEY_BYTES, TO_CLIENT, TO_ENCLAVE, Opener, Sealer

PURPOSE = "privlib channel"
SHARE_BYTES, IDENTITY_BYTES, SIGNATURE_BYTES, CONFIRMATION_BYTES = 32, 32, 64, 32
MAXIMUM_PURPOSE, MAXIMUM_QUOTE = 255, 1 << 16
MAXIMUM_MESSAGE = 4 + SHARE_BYTES + 4 + MAXIMUM_QUOTE
NO_IDENTITY, NO_SIGNATURE = bytes(IDENTITY_BYTES), bytes(SIGNATURE_BYTES)
_HELLO, _ANSWER, _FINISH = struct.Struct(">4s32s32s32sH"), struct.Struct(">4s32sI"), struct.Struct(">4s64s32s")


@dataclass(frozen=True)
class Hello:
    """The client's first message."""

    share: bytes  # X25519, 32
    nonce: bytes  # 32
    identity: bytes  # Ed25519, 32; zero: none
    purpose: str

    def encode(self) -> bytes:
        purpose = self.purpose.encode()
        if len(purpose) > MAXIMUM_PURPOSE or len(self.nonce) != NONCE_BYTES:
            raise HandshakeError(f"hello: purpose {len(purpose)} bytes (at most {MAXIMUM_PURPOSE}), "
                                 f"nonce {len(self.nonce)} (expected {NONCE_BYTES})")  # fmt: skip
        return _HELLO.pack(b"PLH1", self.share, self.nonce, self.identity, len(purpose)) + purpose


@dataclass(frozen=True)
class SessionKeys:
    """What both ends derive; `transcript` names the session."""

    transcript: bytes  # 32
    to_enclave: tuple[bytes, bytes]  # key 32, IV 12
    to_client: tuple[bytes, bytes]
    confirmation: bytes  # 32, what the client sends


class Responder:
    """The enclave's end of one handshake: `begin`, `answer`, `finish`, in this order and once each.

    clients: Ed25519 public keys (32 bytes each) that may open a channel; None lets anybody in, known or not. Raises
    ClientError for what is no such key (zeros stand for "no identity" and would let anybody in).
    """

    def __init__(self, clients: Collection[bytes] | None = None) -> None:
        self._clients = None if clients is None else frozenset(clients)
        if any(len(each) != IDENTITY_BYTES or each == NO_IDENTITY for each in self._clients or ()):
            raise ClientError(f"the list of clients holds what is no Ed25519 public key of {IDENTITY_BYTES} bytes")
        self._share: X25519PrivateKey | None = None
        self._hello = b""
        self._keys: SessionKeys | None = None
        self._step = "begin"
        self.client: bytes | None = None  # the identity, once it is proven
        self.purpose = ""

    def begin(self, hello: bytes) -> bytes:
        """Take the client's hello; returns the report data (64 bytes) that the answer's quote must state.

        Raises HandshakeError for a malformed hello, ClientError for a client that is not on the list.
        """
        self._turn("begin")
        read = read_hello(hello)
        if self._clients is not None and read.identity not in self._clients:
            raise ClientError("the client names no identity that is on the enclave's list")
        self._share, self._hello, self.purpose = X25519PrivateKey.generate(), hello, read.purpose
        self._step = "answer"
        return report_data(self._share.public_key().public_bytes_raw(), hashlib.sha256(hello).digest(), PURPOSE)

    def answer(self, quote: bytes) -> bytes:
        """The enclave's answer, with the quote over `begin`'s report data."""
        self._turn("answer")
        assert self._share is not None
        message = encode_answer(self._share.public_key().public_bytes_raw(), quote)
        self._keys = derive(self._share, read_hello(self._hello).share, self._hello, message)
        self._share, self._step = None, "finish"
        return message

    def finish(self, message: bytes) -> tuple[Sealer, Opener]:
        """Take the client's finish; returns what seals records to the client and opens those from it.

        Raises HandshakeError where the client has not derived the same keys, ClientError for a wrong signature.
        """
        self._turn("finish")
        assert self._keys is not None
        keys, self._keys = self._keys, None
        signature, confirmation = read_finish(message)
        if not hmac.compare_digest(confirmation, keys.confirmation):
            raise HandshakeError("finish: the client did not derive the same keys; somebody stands between")
        identity = read_hello(self._hello).identity
        if identity != NO_IDENTITY:
            try:
                Ed25519PublicKey.from_public_bytes(identity).verify(signature, signed_by_client(keys.transcript))
            except (InvalidSignature, ValueError):
                raise ClientError("finish: the client does not hold the identity it named") from None
            self.client = identity
        return Sealer(*keys.to_client, TO_CLIENT), Opener(*keys.to_enclave, TO_ENCLAVE)

    def _turn(self, step: str) -> None:
        """A step out of turn is refused, and a step that fails is the last one."""
        if self._step != step:
            raise HandshakeError(f"handshake: {step} came where {self._step} was due; begin a new handshake")
        self._step = "nothing"


def read_hello(data: bytes) -> Hello:
    """Raises HandshakeError."""
    if len(data) < _HELLO.size:
        raise HandshakeError(f"hello: {len(data)} bytes, at least {_HELLO.size} expected")
    magic, share, nonce, identity, length = _HELLO.unpack_from(data)
    if magic != b"PLH1":
        raise HandshakeError(f"hello: begins with {magic!r}, expected b'PLH1'")
    if length > MAXIMUM_PURPOSE or len(data) != _HELLO.size + length:
        raise HandshakeError(f"hello: purpose of {length} bytes does not fit a message of {len(data)}")
    try:
        return Hello(share, nonce, identity, data[_HELLO.size :].decode())
    except UnicodeDecodeError as error:
        raise HandshakeError(f"hello: the purpose is not UTF-8: {error}") from error


def encode_answer(share: bytes, quote: bytes) -> bytes:
    """Raises HandshakeError for a quote that is too long."""
    if len(quote) > MAXIMUM_QUOTE:
        raise HandshakeError(f"answer: a quote of {len(quote)} bytes, at most {MAXIMUM_QUOTE}")
    return _ANSWER.pack(b"PLA1", share, len(quote)) + quote


def read_answer(data: bytes) -> tuple[bytes, bytes]:
    """(the enclave's share, quote). Raises HandshakeError."""
    if len(data) < _ANSWER.size:
        raise HandshakeError(f"answer: {len(data)} bytes, at least {_ANSWER.size} expected")
    magic, share, length = _ANSWER.unpack_from(data)
    if magic != b"PLA1":
        raise HandshakeError(f"answer: begins with {magic!r}, expected b'PLA1'")
    if length > MAXIMUM_QUOTE or len(data) != _ANSWER.size + length:
        raise HandshakeError(f"answer: a quote of {length} bytes does not fit a message of {len(data)}")
    return share, data[_ANSWER.size :]


def encode_finish(signature: bytes, confirmation: bytes) -> bytes:
    return _FINISH.pack(b"PLF1", signature, confirmation)


def read_finish(data: bytes) -> tuple[bytes, bytes]:
    """(signature, confirmation). Raises HandshakeError."""
    if len(data) != _FINISH.size:
        raise HandshakeError(f"finish: {len(data)} bytes, expected {_FINISH.size}")
    magic, signature, confirmation = _FINISH.unpack(data)
    if magic != b"PLF1":
        raise HandshakeError(f"finish: begins with {magic!r}, expected b'PLF1'")
    return signature, confirmation


def signed_by_client(transcript: bytes) -> bytes:
    """What a client's identity signs."""
    return encode(b"privlib channel v1 client", (transcript,))


def derive(own: X25519PrivateKey, peer: bytes, hello: bytes, answer: bytes) -> SessionKeys:
    """The session's keys. Raises HandshakeError for a share of small order, which would give a known secret."""
    try:
        secret = own.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError as error:
        raise HandshakeError(f"the peer's share is not usable: {error}") from error
    transcript = hashlib.sha256(encode(b"privlib channel v1 transcript", (hello, answer))).digest()
    size = 2 * (KEY_BYTES + IV_BYTES) + CONFIRMATION_BYTES
    material = HKDF(hashes.SHA256(), size, salt=transcript, info=b"privlib channel v1 keys").derive(secret)
    pair = KEY_BYTES + IV_BYTES
    pairs = [(part[:KEY_BYTES], part[KEY_BYTES:]) for part in (material[:pair], material[pair : 2 * pair])]
    confirmation = hmac.digest(material[2 * pair :], encode(b"client finish", (transcript,)), "sha256")
    return SessionKeys(transcript, pairs[0], pairs[1], confirmation)
