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
    """The transport of a MessageStream: one payload each way."""

    def __init__(self) -> None:
        self.left = memoryview(b"")

    def begin(self, size: int) -> memoryview:
        """Where the payload that is written next will be, of `size` bytes."""
        self._room = new_memory(size)
        return self._room

    def write(self, data: Buffer, /) -> int:
        self._room[: len(data)] = data
        self._room = self._room[len(data) :]
        return len(data)

    def readinto(self, buffer: memoryview, /) -> int:
        count = min(len(buffer), len(self.left))
        buffer[:count] = self.left[:count]
        self.left = self.left[count:]
        return count


class Conversation:
    """One end. Errors are those of `privlib.trusted.stream` and of `privlib.trusted.protocol`; after an error of the
    channel nothing more opens."""

    def __init__(self, sealer: Sealer, opener: Opener) -> None:
        self._payload = _Payload()
        self._stream = MessageStream(self._payload, sealer, opener)

    def seal(self, message: Message) -> np.ndarray:
        """The records of a message, uint8. Raises LimitError for one that no frame holds."""
        parts = encode(message)
        sealed = self._payload.begin(sealed_size(sum(map(len, parts))))
        self._stream.send(*parts)
        return np.frombuffer(sealed, np.uint8)

    def open(self, records: np.ndarray) -> Message:
        """The message in `records`, uint8 and contiguous."""
        self._payload.left = records.data.cast("B")
        plain = self._stream.receive(MAXIMUM_PAYLOAD)
        if self._payload.left:
            raise RecordFormatError(f"{len(self._payload.left)} bytes follow the message's last record")
        return decode(plain)
