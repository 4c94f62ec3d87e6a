"""What answers requests behind the door, and reads their parts."""

from typing import Protocol

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.protocol import Message


class RequestError(PrivlibError):
    """A request that this enclave does not know, or whose fields or arrays are not what it takes."""


class Answers(Protocol):
    """The service behind a door."""

    def answer(self, message: Message, client: bytes | None) -> Message:
        """client: the identity that the sender has proven, or None. Raises PrivlibError, MemoryError."""


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
