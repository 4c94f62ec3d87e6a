"""Messages of any size over a byte stream, sealed record by record.

The transport is any raw stream with `readinto` and `write` (an `io.FileIO` on a pipe or socket, `socket.makefile("rwb",
buffering=0)`), so that an enclave behind a system-call filter needs read and write alone. Bulk data is not copied on
the way out, and at most the first record is on the way in: records are deciphered into the message's final place.
"""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from privlib.trusted.channel_errors import ClosedError, LimitError, RecordFormatError, TruncationError
from privlib.trusted.pages import new_memory
from privlib.trusted.records import (
    CLOSE,
    DATA,
    HEADER_BYTES,
    MAXIMUM_LENGTH,
    TAG_BYTES,
    Buffer,
    Header,
    Opener,
    Sealer,
    read_header,
)

_Result = TypeVar("_Result")


class Transport(Protocol):
    """A raw stream, blocking."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...

    def write(self, data: Buffer, /) -> int | None: ...


class MessageStream:
    """An established channel: whole messages, sealed. Not for several threads at a time in one direction.

    `sent_bytes`, `received_bytes`: on the wire, for counting what crosses the enclave's border.
    """

    def __init__(self, transport: Transport, sealer: Sealer, opener: Opener) -> None:
        self._transport, self._sealer, self._opener = transport, sealer, opener
        self._out = memoryview(bytearray(HEADER_BYTES + MAXIMUM_LENGTH + TAG_BYTES))
        self._in = memoryview(bytearray(MAXIMUM_LENGTH + TAG_BYTES))
        self._closed = False
        self.sent_bytes = self.received_bytes = 0

    def send(self, *parts: Buffer) -> None:
        """Send one message (any size, also none), made of `parts`. Raises ClosedError after `close`, LimitError."""
        if self._closed:
            raise ClosedError("this end has closed the channel")
        remaining = sum(memoryview(part).nbytes for part in parts)
        for piece in _pieces(parts, remaining):
            remaining -= len(piece)
            self._send_record(DATA, piece, remaining)

    def receive(self, limit: int) -> memoryview:
        """The next message.

        Raises LimitError for one longer than `limit` bytes, ClosedError when the peer has closed the channel in order,
        TruncationError when the stream ended otherwise, and what `privlib.trusted.records` lists.
        """
        return self._guarded(lambda: self._receive(limit))

    def receive_into(self, out: memoryview) -> int:
        """The next message into the first bytes of `out`; returns how many they are. Raises what `receive` raises.

        For bulk data: memory that is used again costs no page faults. After an error nothing in `out` is a message.
        """
        return self._guarded(lambda: self._receive_into(out))

    def close(self) -> None:
        """Tell the peer that nothing more comes: without this, the end of the stream counts as an attack."""
        if not self._closed:
            self._closed = True
            self._send_record(CLOSE, b"", 0)

    def _guarded(self, act: Callable[[], _Result]) -> _Result:
        self._opener.require_open()
        try:
            return act()
        except BaseException:
            self._opener.close()
            raise

    def _receive(self, limit: int) -> memoryview:
        raw, header = self._first_header(limit)
        first = memoryview(bytearray(header.length))
        self._take(raw, header, first)
        if not header.remaining:
            return first
        # Only now is the size the peer's word and not a stranger's.
        message = new_memory(header.length + header.remaining)
        message[: header.length] = first
        self._continue(header, message)
        return message

    def _receive_into(self, out: memoryview) -> int:
        raw, header = self._first_header(len(out))
        size = header.length + header.remaining
        self._take(raw, header, out[: header.length])
        self._continue(header, out[:size])
        return size

    def _first_header(self, limit: int) -> tuple[bytearray, Header]:
        raw, header = self._next_header()
        if header.kind == CLOSE:
            self._take(raw, header, memoryview(bytearray()))
            raise ClosedError("the peer has closed the channel")
        if header.length + header.remaining > limit:
            raise LimitError(f"a message of {header.length + header.remaining} bytes, at most {limit} are taken")
        return raw, header

    def _continue(self, first: Header, view: memoryview) -> None:
        """Receive the records after a message's first one to their places in `view`, the whole message's."""
        position, remaining = first.length, first.remaining
        while remaining:
            raw, header = self._next_header()
            if header.kind == CLOSE:
                raise TruncationError(f"the channel was closed with {remaining} bytes of a message missing")
            if not header.length or header.length + header.remaining != remaining:
                raise RecordFormatError("a record that does not continue its message")
            self._take(raw, header, view[position : position + header.length])
            position, remaining = position + header.length, header.remaining

    def _next_header(self) -> tuple[bytearray, Header]:
        raw = _read(self._transport, HEADER_BYTES)
        header = read_header(raw)
        self._opener.check(header)
        return raw, header

    def _take(self, raw: bytearray, header: Header, out: memoryview) -> None:
        body = self._body(header.length + TAG_BYTES)
        self._opener.open_into(header, raw, body, out)
        self.received_bytes += HEADER_BYTES + len(body)

    def _body(self, size: int) -> memoryview:
        body = self._in[:size]
        _read_into(self._transport, body)
        return body

    def _send_record(self, kind: int, data: Buffer, remaining: int) -> None:
        size = self._sealer.seal_into(kind, data, remaining, self._out)
        try:
            _write_all(self._transport, self._out[:size])
        except BaseException:
            self._closed = True  # what the peer has got of this record is unknown: nothing can follow it
            raise
        self.sent_bytes += size


def _pieces(parts: tuple[Buffer, ...], size: int) -> Iterator[Buffer]:
    """What each record of a message of `size` bytes holds; only a piece that lies in several parts is a copy."""
    views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
    left = size
    while True:
        wanted, gathered = min(left, MAXIMUM_LENGTH), []
        left -= wanted
        while wanted:
            taken = views[0][:wanted]
            views[0] = views[0][len(taken) :]
            if not views[0]:
                views.pop(0)
            gathered.append(taken)
            wanted -= len(taken)
        yield gathered[0] if len(gathered) == 1 else b"".join(gathered)
        if not left:
            return


def _read(transport: Transport, size: int) -> bytearray:
    data = bytearray(size)
    _read_into(transport, memoryview(data))
    return data


def _read_into(transport: Transport, view: memoryview) -> None:
    position = 0
    while position < len(view):
        try:
            count = transport.readinto(view[position:])
        except OSError as error:
            raise TruncationError(f"the peer is gone: {error}") from error
        if not count:
            raise TruncationError(
                f"the stream ended {len(view) - position} bytes early, and the peer had not closed it"
            )
        position += count


def _write_all(transport: Transport, data: memoryview) -> None:
    position = 0
    while position < len(data):
        try:
            position += transport.write(data[position:]) or 0
        except OSError as error:
            raise TruncationError(f"the peer is gone: {error}") from error
