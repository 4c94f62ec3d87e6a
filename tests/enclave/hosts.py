"""Hosts that do more than carry messages: one that writes down what it sees, and one that changes it."""

from collections.abc import Callable
from typing import Any

from privlib.enclave.launcher import Enclave
from privlib.trusted.protocol import Buffer, Message, decode, encode

Edit = Callable[[Message], Message]


class Meddler:
    """Stands between an enclave and whoever talks to it. sent, received: payloads; to_enclave, to_client: what it makes
    of each message on its way."""

    def __init__(self, enclave: Enclave) -> None:
        process: Any = enclave._process
        self._inner = process.transport
        process.transport = self
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.to_enclave: Edit = lambda message: message
        self.to_client: Edit = lambda message: message

    def send(self, parts: list[Buffer]) -> None:
        payload = b"".join(encode(self.to_enclave(decode(b"".join(parts)))))
        self.sent.append(payload)
        self._inner.send([payload])

    def receive(self) -> Buffer:
        payload = b"".join(encode(self.to_client(decode(self._inner.receive()))))
        self.received.append(payload)
        return payload

    def close(self) -> None:
        self._inner.close()

    @property
    def seen(self) -> bytes:
        """Everything."""
        return b"".join(self.sent + self.received)
