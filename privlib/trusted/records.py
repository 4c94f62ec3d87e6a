"""Records of an established channel: authenticated, ordered, one key for each direction.

record = header 24 ‖ ciphertext ‖ tag 16, AES-256-GCM; the header is the associated data:

    kind u8 (1 data, 2 close) ‖ direction u8 ‖ zero u16 ‖ length u32 ‖ counter u64 ‖ remaining u64   (big-endian)

`length` is that of the plaintext, at most 1 MiB; `remaining` is how many bytes of the same message follow in later
records. The nonce is the direction's 96-bit IV xor the 64-bit counter (RFC 8446, section 5.3), so that none repeats
before the counter ends; then, or after 16 TiB (GCM's distinguishing advantage is 2⁻⁴⁹ there), sealing is refused.

| received                                  | error               |
|-------------------------------------------|---------------------|
| header is none, or too long               | RecordFormatError   |
| a record of this end's own                | ReflectionError     |
| an earlier counter                        | ReplayError         |
| a later counter                           | ReorderError        |
| any bit changed, another channel's record | AuthenticationError |
| anything after an error or a close        | ClosedError         |
"""

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privlib.trusted.channel_errors import (
    AuthenticationError,
    ClosedError,
    LimitError,
    RecordFormatError,
    ReflectionError,
    ReorderError,
    ReplayError,
)

HEADER_BYTES, TAG_BYTES, KEY_BYTES, IV_BYTES = 24, 16, 32, 12
MAXIMUM_LENGTH = 1 << 20
DATA, CLOSE = 1, 2
TO_ENCLAVE, TO_CLIENT = 1, 2
MAXIMUM_COUNTER = (1 << 64) - 1
MAXIMUM_BYTES = 1 << 44
_HEADER = struct.Struct(">BBHIQQ")

Buffer = bytes | bytearray | memoryview
"""What holds bytes; an array goes in as `memoryview(array)`."""


@dataclass(frozen=True)
class Header:
    """A record's header, read and within bounds but not authenticated."""

    kind: int
    direction: int
    length: int
    counter: int
    remaining: int


def sealed_size(length: int) -> int:
    """Bytes of the records of a message of `length` bytes."""
    return length + max(-(-length // MAXIMUM_LENGTH), 1) * (HEADER_BYTES + TAG_BYTES)


def read_header(data: Buffer) -> Header:
    """Raises RecordFormatError for anything but 24 bytes of a header."""
    if len(data) != HEADER_BYTES:
        raise RecordFormatError(f"record header: {len(data)} bytes, expected {HEADER_BYTES}")
    kind, direction, zero, length, counter, remaining = _HEADER.unpack(data)
    if kind not in (DATA, CLOSE) or direction not in (TO_ENCLAVE, TO_CLIENT) or zero:
        raise RecordFormatError(f"record header: kind {kind}, direction {direction}, reserved {zero}")
    if length > MAXIMUM_LENGTH or (kind == CLOSE and (length or remaining)):
        raise RecordFormatError(f"record header: length {length}, at most {MAXIMUM_LENGTH} and none when closing")
    return Header(kind, direction, length, counter, remaining)


class Sealer:
    """Seals one direction's records."""

    def __init__(self, key: bytes, iv: bytes, direction: int) -> None:
        self._aead, self._iv, self._direction = AESGCM(key), int.from_bytes(iv, "big"), direction
        self._counter = self._sealed_bytes = 0

    def seal_into(self, kind: int, data: Buffer, remaining: int, out: memoryview) -> int:
        """Write a record over `data` (at most 1 MiB) to `out`; returns its size, 40 bytes more than the data.

        Raises LimitError when the direction's counter or bytes are used up.
        """
        length = len(data)
        if self._counter >= MAXIMUM_COUNTER or self._sealed_bytes + length > MAXIMUM_BYTES:
            raise LimitError("this channel's key has been used as often as it may be; open a new channel")
        _HEADER.pack_into(out, 0, kind, self._direction, 0, length, self._counter, remaining)
        size = HEADER_BYTES + length + TAG_BYTES
        nonce = _nonce(self._iv, self._counter)
        self._counter += 1  # before the nonce is used: it is gone even if what follows fails
        self._sealed_bytes += length
        self._aead.encrypt_into(nonce, data, out[:HEADER_BYTES], out[HEADER_BYTES:size])
        return size


class Opener:
    """Opens one direction's records, in order; an error closes it."""

    def __init__(self, key: bytes, iv: bytes, direction: int) -> None:
        self._aead, self._iv, self._direction = AESGCM(key), int.from_bytes(iv, "big"), direction
        self._counter = 0
        self._open = True

    def require_open(self) -> None:
        """Raises ClosedError after the peer's close or an error."""
        if not self._open:
            raise ClosedError("the channel is closed; open a new one")

    def check(self, header: Header) -> None:
        """Raises ReflectionError, ReplayError, ReorderError or ClosedError where this record cannot be the next."""
        self.require_open()
        self._open = False
        if header.direction != self._direction:
            raise ReflectionError("this end's own record came back; the channel is closed")
        if header.counter < self._counter:
            raise ReplayError(f"record {header.counter} came again; the channel is closed")
        if header.counter > self._counter:
            raise ReorderError(f"record {header.counter} came, {self._counter} was next; the channel is closed")
        self._open = True

    def open_into(self, header: Header, raw_header: Buffer, body: Buffer, out: memoryview) -> None:
        """Decrypt `body` (ciphertext ‖ tag) to `out`, of exactly header.length bytes.

        Raises what `check` raises, and AuthenticationError; then `out` is zeroed and the channel closed.
        """
        self.check(header)
        self._open = False
        try:
            self._aead.decrypt_into(_nonce(self._iv, header.counter), body, raw_header, out)
        except InvalidTag:
            out[:] = bytes(len(out))
            raise AuthenticationError(f"record {header.counter} was altered or is another channel's") from None
        self._counter += 1
        self._open = header.kind != CLOSE

    def close(self) -> None:
        """Accept nothing more."""
        self._open = False


def _nonce(iv: int, counter: int) -> bytes:
    return (iv ^ counter).to_bytes(IV_BYTES, "big")
