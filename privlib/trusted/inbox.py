"""The worker's incoming frames, and how it is told to stop while it computes.

During an epoch a second thread, which stands since before the process was closed in, waits in one read that was begun
before the epoch: so nothing is asked of the host meanwhile, and a frame that says "cancel" is noticed all the same.
"""

import os
import queue
import threading

from privlib.trusted.protocol import Buffer, ClosedError, Message, ProtocolError, Stream, encode

CANCEL = b"".join(encode(Message("cancel")))
"""It gets no answer: the request it stops does."""


class Inbox:
    """Frames in order. `cancelled` is set by a CANCEL frame since the last request."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._begin, self._arrived = threading.Semaphore(0), queue.SimpleQueue[Buffer | ProtocolError]()
        self._listening = False
        self.cancelled = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def receive(self) -> Buffer:
        """The next frame that is no CANCEL. Raises ClosedError, ProtocolError."""
        if not self._listening:
            return self._next()
        found = self._arrived.get()
        self._listening = False
        if isinstance(found, ProtocolError):
            raise found
        return found

    def receive_request(self) -> Buffer:
        """The next frame, which begins anew: what was cancelled before does not concern it."""
        found = self.receive()
        self.cancelled.clear()
        return found

    def listen(self) -> None:
        """Let the other thread wait for the next frame. If the host goes away meanwhile, the process ends."""
        if not self._listening:
            self._listening = True
            self._begin.release()

    def _next(self) -> Buffer:
        while (payload := self._stream.receive()) == CANCEL:
            self.cancelled.set()
        return payload

    def _listen(self) -> None:
        while True:
            self._begin.acquire()
            try:
                self._arrived.put(self._next())
            except ClosedError:
                os._exit(0)
            except ProtocolError as error:
                self._arrived.put(error)
