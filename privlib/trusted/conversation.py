"""Messages within an attested channel, carried by a transport that moves whole payloads.

A payload is a message's records (`privlib.trusted.records`), one after the other; both ends of a channel use this.
"""

import numpy as np

from privlib.trusted.channel_errors import RecordFormatError
from privlib.trusted.pages import new_memory
from privlib.trusted.protocol import MAXIMUM_FRAME, MAXIMUM_HEAD, Buffer, Message, decode, encode
from privlib.trusted.records import Opener, Sealer, sealed_size
from privlib.trusted.stream import MessageStream

MAXIMUM_PAYLOAD = MAXIMUM_FRAME - MAXIMUM_HEAD  # of a message before it is sealed: records and a head fit beside it


class _Payload:
    """The transport of a stream of records: one payload in, and the room for one out."""

    def __init__(self) -> None:
        self.left = self.room = memoryview(b"")

    def take(self, size: int) -> memoryview:
        """The next bytes of the payload, at most `size`."""
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def readinto(self, buffer: memoryview, /) -> int:
        taken = self.take(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)

    def write(self, data: Buffer, /) -> int:
        self.room[: len(data)] = data
        self.room = self.room[len(data) :]
        return len(data)


class _InMemory(MessageStream):
    """Records that lie in a payload are opened where they lie, and sealed to where they go: megabytes are not copied on
    the way."""

    def __init__(self, payload: _Payload, sealer: Sealer, opener: Opener) -> None:
        super().__init__(payload, sealer, opener)
        self._payload = payload

    def _body(self, size: int) -> memoryview:
        if len(self._payload.left) < size:
            return super()._body(size)  # which says what is missing
        return self._payload.take(size)

    def _send_record(self, kind: int, data: Buffer, remaining: int) -> None:
        size = self._sealer.seal_into(kind, data, remaining, self._payload.room)
        self._payload.room = self._payload.room[size:]
        self.sent_bytes += size


class Conversation:
    """One end. Errors are those of `privlib.trusted.stream` and of `privlib.trusted.protocol`; after an error of the
    channel nothing more opens."""

    def __init__(self, sealer: Sealer, opener: Opener) -> None:
        self._payload = _Payload()
        self._stream = _InMemory(self._payload, sealer, opener)

    def seal(self, message: Message) -> np.ndarray:
        """The records of a message, uint8. Raises LimitError for one that no frame holds."""
        parts = encode(message)
        sealed = self._payload.room = new_memory(sealed_size(sum(map(len, parts))))
        self._stream.send(*parts)
        return np.frombuffer(sealed, np.uint8)

    def open(self, records: np.ndarray) -> Message:
        """The message in `records`, uint8 and contiguous."""
        self._payload.left = records.data.cast("B")
        plain = self._stream.receive(MAXIMUM_PAYLOAD)
        if self._payload.left:
            raise RecordFormatError(f"{len(self._payload.left)} bytes follow the message's last record")
        return decode(plain)
