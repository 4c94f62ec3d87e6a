"""The host's end of an enclave's channel: requests, one at a time, and what the enclave asks for in between."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from privlib.enclave.errors import EnclaveDied, EnclaveError
from privlib.enclave.platforms.base import Process
from privlib.enclave.state import StateStore
from privlib.errors import PrivlibError
from privlib.trusted.host import FETCH_BYTES
from privlib.trusted.inbox import CANCEL
from privlib.trusted.protocol import Buffer, ClosedError, Message, decode, encode


class Link:
    """Shared by an enclave's sessions; threads may share it too.

    datasets: files of ciphertext that the enclave may read, by SHA-256 (hexadecimal).
    """

    def __init__(self, process: Process, state: StateStore) -> None:
        self._process, self._state = process, state
        self.datasets: dict[str, Path] = {}
        self._turn, self._sending = threading.Lock(), threading.Lock()
        self._ended = ""
        self._busy: tuple[str, float] | None = None
        self._calls: dict[str, Callable[[Message], Message]] = {
            "quote": self._quote,
            "keys": self._keys,
            "fetch": self._fetch,
            "load": self._load,
            "store": self._store,
            "register": self._register,
            "advance": self._advance,
        }

    @property
    def busy(self) -> tuple[str, float] | None:
        """What it works on now, and for how many seconds; None where it waits for a request."""
        busy = self._busy
        return busy and (busy[0], time.monotonic() - busy[1])

    def exchange(self, message: Message, what: str = "") -> Message:
        """Send a message and take its answer, which may be an error. what: to say in errors, for a sealed message.

        Raises EnclaveDied.
        """
        what = what or message.kind
        with self._turn:
            if self._ended:
                raise EnclaveDied(f"the enclave is gone: {self._ended}; launch another one")
            self._busy = (what, time.monotonic())
            try:
                with contextlib.suppress(ClosedError):  # it may have said why before it ended
                    self._send(encode(message))
                while (answer := decode(self._process.transport.receive())).kind == "host":
                    self._send(encode(self._serve(answer)))
            except ClosedError:
                self._ended = self._process.death()
                raise EnclaveDied(f"the enclave ended during {what!r}: {self._ended}") from None
            finally:
                self._busy = None
        return answer

    def cancel(self) -> None:
        """Stop what the enclave trains; a request that it has finished, or not yet begun, is not concerned."""
        with contextlib.suppress(ClosedError):
            self._send([CANCEL])

    def _send(self, parts: list[Buffer]) -> None:
        with self._sending:
            self._process.transport.send(parts)

    def _serve(self, call: Message) -> Message:
        try:
            return self._calls[str(call.fields.get("call"))](call)
        except (PrivlibError, OSError, KeyError, TypeError, ValueError) as error:
            return Message("error", {"type": type(error).__name__, "text": str(error)})

    def _quote(self, call: Message) -> Message:
        return _bytes(quote=self._process.quote(call.arrays["report_data"].tobytes()))

    def _keys(self, _: Message) -> Message:
        keys = self._process.sealing_keys()
        answer = _bytes(measurement=keys.measurement_key, signer=keys.signer_key)
        return Message(answer.kind, {"svn": keys.svn}, answer.arrays)

    def _fetch(self, call: Message) -> Message:
        path = self.datasets.get(call.fields["dataset"])
        if path is None:
            raise EnclaveError("the host has no file of this dataset")
        with open(path, "rb", buffering=0) as file:
            file.seek(call.fields["offset"])
            return _bytes(data=file.read(min(call.fields["size"], FETCH_BYTES)))

    def _load(self, call: Message) -> Message:
        return _bytes(sealed=self._state.load(call.fields["label"]) or b"")

    def _store(self, call: Message) -> Message:
        self._state.store(call.fields["label"], call.arrays["sealed"].tobytes())
        return Message("host")

    def _register(self, call: Message) -> Message:
        version, digest = self._state.register(call.fields["label"]).read()
        return Message("host", {"version": version, "digest": digest.hex()})

    def _advance(self, call: Message) -> Message:
        fields = call.fields
        self._state.register(fields["label"]).advance(fields["version"], bytes.fromhex(fields["digest"]))
        return Message("host")


def _bytes(**values: bytes) -> Message:
    return Message("host", arrays={name: np.frombuffer(value, np.uint8) for name, value in values.items()})
