"""Requests to a worker, whatever it serves: their parts, and how they are dispatched."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.protocol import Message


class RequestError(PrivlibError):
    """A request that this worker does not know, or whose fields or arrays are not what it takes."""


Handler = Callable[[Message, bytes | None], Message]
Handlers = Mapping[str, tuple[Handler, set[str], set[str]]]
"""kind → (what answers it, names of its fields, names of its arrays)."""


class Answers(Protocol):
    """The service behind a door."""

    def answer(self, message: Message, client: bytes | None) -> Message:
        """client: the identity that the sender has proven, or None. Raises PrivlibError, MemoryError."""


def dispatch(handlers: Handlers, message: Message, client: bytes | None) -> Message:
    """The answer to a request that has exactly the parts it must have. Raises RequestError, and what handlers raise."""
    if message.kind not in handlers:
        raise RequestError(f"{message.kind[:40]!r} is no request; there are {', '.join(handlers)}")
    handle, fields, arrays = handlers[message.kind]
    takes(message, fields, arrays)
    return handle(message, client)


def takes(message: Message, fields: set[str], arrays: set[str]) -> None:
    """Raises RequestError for more or fewer parts than these."""
    if set(message.fields) != fields or set(message.arrays) != arrays:
        wanted = ", ".join(sorted(fields | arrays)) or "nothing"
        raise RequestError(f"{message.kind} takes {wanted}, and all of it; look at what was sent")


def array_of(data: bytes) -> np.ndarray:
    """Bytes as an array of a message, uint8 (n,)."""
    return np.frombuffer(data, np.uint8)


def bytes_in(message: Message, name: str, size: int | None = None) -> bytes:
    """An array of a message as bytes. Raises RequestError for another type or size."""
    found = message.arrays[name]
    if found.dtype != np.uint8 or found.ndim != 1 or (size is not None and len(found) != size):
        wanted = f"({size},)" if size is not None else "(n,)"
        raise RequestError(f"{name} is uint8 {wanted}, got {found.dtype} {found.shape}")
    return found.tobytes()


def text_in(message: Message, name: str) -> str:
    """A field of a message that is a text. Raises RequestError."""
    found = message.fields[name]
    if not isinstance(found, str):
        raise RequestError(f"{name} is a text, got {type(found).__name__}")
    return found
