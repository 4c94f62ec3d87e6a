"""Encrypted datasets: a header and chunks, each authenticated in its place, read in order.

    header   "PLD1" ‖ chunk bytes u32 ‖ length u64 ‖ salt 32 ‖ commitment 32                             (big-endian)
    chunk    ciphertext ‖ tag 16; every chunk but the last holds `chunk bytes` bytes

STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance") over AES-256-GCM: nonce = zero 3 ‖ index u64 ‖ last u8. HKDF-SHA256 of the dataset's key, with a
fresh salt and the header's other fields and the context as `info`, gives a key for this file alone and the commitment;
the associated data are SHA-256 over header and context. The context says what the data may be used for (the policy's
digest, the dataset's name): without the same context they do not open.

| what the storage did                          | error                 |
|-----------------------------------------------|-----------------------|
| cut the file off, anywhere                    | DatasetTruncatedError |
| altered, moved, doubled or exchanged a chunk  | DatasetChunkError     |
| put bytes behind the last chunk               | DatasetFormatError    |
| altered the header, gave another file, key or context | DatasetKeyError (or DatasetFormatError) |
"""

import hashlib
import hmac
import secrets
import struct
from collections.abc import Iterator
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privlib.errors import PrivlibError
from privlib.trusted.binding import encode
from privlib.trusted.records import Buffer

KEY_BYTES, SALT_BYTES, COMMITMENT_BYTES, TAG_BYTES = 32, 32, 32, 16
DEFAULT_CHUNK, SMALLEST_CHUNK, LARGEST_CHUNK = 1 << 20, 1 << 6, 1 << 24
MAXIMUM_LENGTH = 1 << 48
_FIELDS = struct.Struct(">4sIQ32s")
HEADER_BYTES = _FIELDS.size + COMMITMENT_BYTES


class DatasetError(PrivlibError):
    """Base: an encrypted dataset that cannot be written or read."""


class DatasetFormatError(DatasetError):
    """The bytes are no encrypted dataset, or it is larger than its reader allows."""


class DatasetKeyError(DatasetError):
    """Not this key and context, or another header."""


class DatasetChunkError(DatasetError):
    """A chunk that was altered, moved, doubled, or taken from another file."""


class DatasetTruncatedError(DatasetError):
    """The file ends before its last chunk does."""


class Source(Protocol):
    """What is read from: a raw or buffered file, a pipe."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Sink(Protocol):
    """What is written to."""

    def write(self, data: Buffer, /) -> int: ...


class DatasetWriter:
    """Encrypts `length` bytes, given in pieces of any size, to `sink`; `finish` says that this was all."""

    def __init__(
        self, sink: Sink, length: int, key: bytes, context: bytes = b"", chunk_bytes: int = DEFAULT_CHUNK
    ) -> None:
        fields = _FIELDS.pack(b"PLD1", *_checked(chunk_bytes, length), secrets.token_bytes(SALT_BYTES))
        self._sink, self._length, self._chunk_bytes = sink, length, chunk_bytes
        aead, commitment = _derive(key, fields, context)
        self._aead, self._associated = aead, _associated(fields + commitment, context)
        self._pending = bytearray()
        self._out = memoryview(bytearray(chunk_bytes + TAG_BYTES))
        self._index = self._taken = 0
        self._finished = False
        sink.write(fields + commitment)

    def write(self, data: Buffer) -> None:
        """Take the next bytes. Raises DatasetError for more than `length` in all."""
        view = memoryview(data)
        piece = view.cast("B") if view.nbytes else memoryview(b"")
        self._taken += len(piece)
        if self._taken > self._length:
            raise DatasetError(f"{self._taken} bytes were given for a dataset of {self._length}")
        while piece:
            if not self._pending and len(piece) > self._chunk_bytes:
                self._seal(piece[: self._chunk_bytes], last=False)
                piece = piece[self._chunk_bytes :]
                continue
            if len(self._pending) == self._chunk_bytes:
                self._flush(last=False)
            room = self._chunk_bytes - len(self._pending)
            self._pending += piece[:room]
            piece = piece[room:]

    def finish(self) -> None:
        """Write the last chunk. Raises DatasetError for fewer bytes than `length`, or when called again."""
        if self._finished or self._taken != self._length:
            raise DatasetError(f"{self._taken} of {self._length} bytes were given, finished: {self._finished}")
        self._finished = True
        self._flush(last=True)

    def _flush(self, last: bool) -> None:
        self._seal(memoryview(self._pending), last)
        self._pending = bytearray()

    def _seal(self, piece: memoryview, last: bool) -> None:
        out = self._out[: len(piece) + TAG_BYTES]
        self._aead.encrypt_into(_nonce(self._index, last), piece, self._associated, out)
        self._index += 1
        self._sink.write(out)


class DatasetReader:
    """Reads a dataset from `source`, checking each chunk before it is handed out.

    length: bytes of the plaintext; known to be the writer's as soon as the reader exists.
    Raises DatasetFormatError, DatasetTruncatedError, DatasetKeyError; DatasetFormatError for more than `limit` bytes.
    """

    def __init__(self, source: Source, key: bytes, context: bytes = b"", limit: int = MAXIMUM_LENGTH) -> None:
        header = bytearray(HEADER_BYTES)
        _read_into(source, memoryview(header), "the header")
        magic, chunk_bytes, length, _salt = _FIELDS.unpack_from(header)
        if magic != b"PLD1":
            raise DatasetFormatError(f"dataset: begins with {magic!r}, expected b'PLD1'")
        _checked(chunk_bytes, length)
        if length > limit:
            raise DatasetFormatError(f"dataset: {length} bytes, at most {limit} are taken here")
        fields = bytes(header[: _FIELDS.size])
        self._aead, expected = _derive(key, fields, context)
        if not hmac.compare_digest(expected, bytes(header[_FIELDS.size :])):
            raise DatasetKeyError("dataset: not encrypted with this key for this context, or its header was altered")
        self._source, self._associated = source, _associated(bytes(header), context)
        self.length, self.chunk_bytes = length, chunk_bytes
        self._next = 0

    def read(self) -> bytearray:
        """The whole plaintext, deciphered in place. Raises what `read_into` raises."""
        data = bytearray(self.length)
        self.read_into(memoryview(data))
        return data

    def read_into(self, out: memoryview) -> None:
        """Decipher everything to `out`, of exactly `length` bytes, which is zeroed when an error ends it.

        Raises DatasetTruncatedError, DatasetChunkError, DatasetFormatError; DatasetError for another size or again.
        """
        if len(out) != self.length or self._next:
            raise DatasetError(f"expected room for {self.length} bytes and a reader that has not been read")
        try:
            position = 0
            for size, body in self._bodies():
                self._open(body, out[position : position + size])
                position += size
        except BaseException:
            out[:] = bytes(len(out))
            raise

    def chunks(self) -> Iterator[bytes]:
        """The plaintext chunk by chunk, for data that need not be held at once. What came before an error was genuine
        and incomplete: use it only once the iteration has ended."""
        for size, body in self._bodies():
            piece = bytearray(size)
            self._open(body, memoryview(piece))
            yield bytes(piece)

    def _bodies(self) -> Iterator[tuple[int, memoryview]]:
        buffer = memoryview(bytearray(min(self.chunk_bytes, self.length) + TAG_BYTES))
        while self._next < self._count:
            size = min(self.chunk_bytes, self.length - self._next * self.chunk_bytes)
            body = buffer[: size + TAG_BYTES]
            _read_into(self._source, body, f"chunk {self._next} of {self._count}")
            yield size, body
        if self._source.readinto(memoryview(bytearray(1))):
            raise DatasetFormatError("dataset: there are bytes behind the last chunk")

    @property
    def _count(self) -> int:
        return max(1, -(-self.length // self.chunk_bytes))

    def _open(self, body: memoryview, out: memoryview) -> None:
        index = self._next
        self._next += 1
        try:
            self._aead.decrypt_into(_nonce(index, self._next == self._count), body, self._associated, out)
        except InvalidTag:
            raise DatasetChunkError(
                f"chunk {index} of {self._count} was altered, moved, or is another file's; fetch the dataset again"
            ) from None


def _derive(key: bytes, fields: bytes, context: bytes) -> tuple[AESGCM, bytes]:
    if len(key) != KEY_BYTES:
        raise DatasetKeyError(f"key: {len(key)} bytes, expected {KEY_BYTES}")
    salt, info = fields[-SALT_BYTES:], encode(b"privlib dataset v1", (fields, context))
    material = HKDF(hashes.SHA256(), KEY_BYTES + COMMITMENT_BYTES, salt=salt, info=info).derive(key)
    return AESGCM(material[:KEY_BYTES]), material[KEY_BYTES:]


def _associated(header: bytes, context: bytes) -> bytes:
    return hashlib.sha256(encode(b"privlib dataset chunk v1", (header, context))).digest()


def _nonce(index: int, last: bool) -> bytes:
    return struct.pack(">3xQB", index, last)


def _checked(chunk_bytes: int, length: int) -> tuple[int, int]:
    if not SMALLEST_CHUNK <= chunk_bytes <= LARGEST_CHUNK or not 0 <= length <= MAXIMUM_LENGTH:
        raise DatasetFormatError(f"dataset: chunks of {chunk_bytes} bytes ({SMALLEST_CHUNK} … {LARGEST_CHUNK}), "
                                 f"length {length} (at most {MAXIMUM_LENGTH})")  # fmt: skip
    return chunk_bytes, length


def _read_into(source: Source, view: memoryview, what: str) -> None:
    position = 0
    while position < len(view):
        count = source.readinto(view[position:])
        if not count:
            raise DatasetTruncatedError(f"dataset: it ends {len(view) - position} bytes before {what} does")
        position += count
