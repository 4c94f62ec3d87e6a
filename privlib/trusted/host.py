"""What an enclave asks of its host while it answers a request: quotes and keys where the platform has them outside,
state to store, ciphertext to read. Never within an epoch, and nothing that the host says is believed.

call       fields                    arrays        answer
quote                                report_data   quote                   (simulated platform)
keys                                               measurement, signer; svn (simulated platform)
fetch      dataset, offset, size                   data: of an encrypted dataset, at most `size` bytes
load       label                                   sealed: uint8, empty where nothing is stored
store      label                     sealed
register   label                                   version, digest
advance    label, version, digest
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.protocol import Buffer, Message, decode, encode
from privlib.trusted.sealing import DIGEST_BYTES, RollbackError

FETCH_BYTES = 8 << 20


class HostError(PrivlibError):
    """The host did not give what it was asked for."""


class Host:
    """Calls, one at a time. `calls` counts them."""

    def __init__(self, send: Callable[[list[Buffer]], None], receive: Callable[[], Buffer]) -> None:
        self._send, self._receive = send, receive
        self.calls = 0

    def call(
        self, what: str, fields: Mapping[str, Any] | None = None, arrays: Mapping[str, np.ndarray] | None = None
    ) -> Message:
        """The host's answer. Raises HostError where it refuses or answers something else."""
        self.calls += 1
        self._send(encode(Message("host", {"call": what, **(fields or {})}, arrays or {})))
        answer = decode(self._receive())
        if answer.kind == "error":
            kind, text = answer.fields.get("type"), answer.fields.get("text")
            raise (RollbackError if kind == "RollbackError" else HostError)(f"the host refuses {what}: {text}")
        if answer.kind != "host":
            raise HostError(f"the host answers {what} with {answer.kind[:40]!r}")
        return answer

    def bytes_of(self, answer: Message, name: str) -> bytes:
        """An array of bytes in an answer. Raises HostError."""
        found = answer.arrays.get(name)
        if found is None or found.dtype != np.uint8 or found.ndim != 1:
            raise HostError(f"the host's answer has no {name}")
        return found.tobytes()

    def load(self, label: str) -> bytes | None:
        """Sealed state that was stored under a label, or None."""
        return self.bytes_of(self.call("load", {"label": label}), "sealed") or None

    def store(self, label: str, sealed: bytes) -> None:
        """Returns once the host says that it is stored."""
        self.call("store", {"label": label}, {"sealed": np.frombuffer(sealed, np.uint8)})


class HostRegister:
    """A version register (`privlib.trusted.sealing.Register`) that is reached through the host."""

    def __init__(self, host: Host, label: str) -> None:
        self._host, self._label = host, label

    def read(self) -> tuple[int, bytes]:
        """(version, digest). Raises HostError."""
        fields = self._host.call("register", {"label": self._label}).fields
        try:
            version, digest = fields["version"], bytes.fromhex(fields["digest"])
        except (KeyError, TypeError, ValueError) as error:
            raise HostError(f"the host's register is none: {error!r}") from None
        if type(version) is not int or version < 0 or len(digest) != DIGEST_BYTES:
            raise HostError(f"the host's register is none: version {version!r}, digest of {len(digest)} bytes")
        return version, digest

    def advance(self, version: int, digest: bytes) -> None:
        """Raises RollbackError, HostError."""
        self._host.call("advance", {"label": self._label, "version": version, "digest": digest.hex()})


class HostFile:
    """An encrypted dataset in the host's keeping, read once from its beginning to its end in pieces of one size."""

    def __init__(self, host: Host, dataset: str) -> None:
        self._host, self._dataset = host, dataset
        self._piece, self._offset = memoryview(b""), 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Raises HostError for a piece that is longer than was asked for."""
        if not self._piece:
            asked = {"dataset": self._dataset, "offset": self._offset, "size": FETCH_BYTES}
            piece = self._host.bytes_of(self._host.call("fetch", asked), "data")
            if len(piece) > FETCH_BYTES:
                raise HostError(f"the host gives {len(piece)} bytes, {FETCH_BYTES} were asked for")
            self._piece, self._offset = memoryview(piece), self._offset + len(piece)
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count
