"""Transports for channel tests: a tape that keeps records apart, and a pair of sealed streams over one."""

import secrets

from privlib.trusted.records import IV_BYTES, KEY_BYTES, TO_CLIENT, TO_ENCLAVE, Opener, Sealer
from privlib.trusted.stream import MessageStream


class Tape:
    """What one end has written, write by write, and what the other end will read; `slow` moves few bytes at a time."""

    def __init__(self, slow: int = 1 << 30) -> None:
        self.written: list[bytes] = []
        self.to_read = b""
        self.slow = slow

    def readinto(self, buffer: memoryview, /) -> int:
        piece = self.to_read[: min(len(buffer), self.slow)]
        buffer[: len(piece)] = piece
        self.to_read = self.to_read[len(piece) :]
        return len(piece)

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        piece = bytes(data[: self.slow])
        self.written.append(piece)
        return len(piece)


class Pair:
    """A client and an enclave that share keys, each with a tape of its own."""

    def __init__(self, slow: int = 1 << 30) -> None:
        keys = {way: (secrets.token_bytes(KEY_BYTES), secrets.token_bytes(IV_BYTES)) for way in (TO_ENCLAVE, TO_CLIENT)}
        self.client_tape, self.enclave_tape = Tape(slow), Tape(slow)
        self.client_sealer = Sealer(*keys[TO_ENCLAVE], TO_ENCLAVE)
        self.client = MessageStream(self.client_tape, self.client_sealer, Opener(*keys[TO_CLIENT], TO_CLIENT))
        self.enclave = MessageStream(
            self.enclave_tape, Sealer(*keys[TO_CLIENT], TO_CLIENT), Opener(*keys[TO_ENCLAVE], TO_ENCLAVE)
        )

    def records(self, *messages: bytes) -> list[bytes]:
        """What the client sends for these messages, one item a record."""
        self.client_tape.written.clear()
        for message in messages:
            self.client.send(message)
        return list(self.client_tape.written)

    def deliver(self, *records: bytes) -> None:
        self.enclave_tape.to_read += b"".join(records)
