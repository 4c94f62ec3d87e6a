"""Messages between a session and a worker.

frame     length u32, little-endian, then that many bytes; at most a limit that both ends know
message   length u32 of the head; head, JSON in UTF-8: {"kind", "fields": {name: value}, "arrays": [[name, dtype,
          shape]]}, and spaces, so that the first array begins at a multiple of 64 bytes; the arrays' bytes, raw,
          little-endian, in this order, and nothing after them

`Stream` moves frames; `privlib.trusted.conversation` encrypts messages that are carried in others.
"""

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from privlib.errors import PrivlibError
from privlib.trusted.bounded_json import read_json
from privlib.trusted.pages import new_memory

MAXIMUM_FRAME = 64 << 20
MAXIMUM_HEAD = 64 << 10
DTYPES = ("float32", "float64", "int64", "uint8", "bool")
_LENGTH, _ALIGNMENT = struct.Struct("<I"), 64
Buffer = bytes | bytearray | memoryview


class ProtocolError(PrivlibError):
    """What arrived is no frame or no message; the text names the part that is wrong."""


class ClosedError(PrivlibError):
    """The other end is gone, between two frames or within one."""


class Stream:
    """Frames over a pair of descriptors (a socket, or two pipes). Counts what passes: frames and bytes each way, and
    the system calls that moved them."""

    def __init__(self, incoming: int, outgoing: int, maximum: int = MAXIMUM_FRAME) -> None:
        self._incoming, self._outgoing, self._maximum = incoming, outgoing, maximum
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = self.system_calls = 0

    @property
    def incoming(self) -> int:
        """The descriptor that is read; -1 once closed."""
        return self._incoming

    def close(self) -> None:
        """From now on everything raises ClosedError. The descriptors belong to whoever gave them: their numbers may be
        another file's soon."""
        self._incoming = self._outgoing = -1

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send one frame made of `parts`. Raises ProtocolError for one that is too long, before anything is sent, and
        ClosedError."""
        size = sum(len(part) for part in parts)
        if size > self._maximum:
            raise ProtocolError(f"a frame of {size} bytes is longer than {self._maximum}; send less at once")
        rest = [memoryview(part) for part in (_LENGTH.pack(size), *parts) if len(part)]
        while rest:
            if self._outgoing < 0:
                raise ClosedError("this end is closed")
            self.system_calls += 1
            try:
                written = os.writev(self._outgoing, rest)
            except (BrokenPipeError, ConnectionResetError):
                raise ClosedError("the other end is gone") from None
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][written:]
        self.frames_out += 1
        self.bytes_out += size

    def receive(self) -> Buffer:
        """The next frame's payload. Raises ProtocolError for a length over the limit, before anything is allocated,
        and ClosedError."""
        (size,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if size > self._maximum:
            raise ProtocolError(f"a frame of {size} bytes is announced; at most {self._maximum} are taken")
        payload = self._exactly(size)
        self.frames_in += 1
        self.bytes_in += size
        return payload

    def _exactly(self, size: int) -> memoryview:
        rest = data = new_memory(size)
        while rest:
            if self._incoming < 0:
                raise ClosedError("this end is closed")
            self.system_calls += 1
            try:
                count = os.readv(self._incoming, [rest])
            except ConnectionResetError:
                count = 0
            if not count:
                raise ClosedError("the other end is gone")
            rest = rest[count:]
        return data


@dataclass(frozen=True)
class Message:
    """kind: what is asked or answered; fields: JSON values by name; arrays: NumPy arrays by name, of DTYPES."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def encode(message: Message) -> list[Buffer]:
    """The parts of a payload; arrays are not copied where they are contiguous."""
    arrays = {name: np.asarray(array, order="C") for name, array in message.arrays.items()}
    listed = [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()]
    head = json.dumps({"kind": message.kind, "fields": dict(message.fields), "arrays": listed}).encode()
    head += b" " * (-(_LENGTH.size + len(head)) % _ALIGNMENT)
    views = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
    return [_LENGTH.pack(len(head)), head, *views]


def decode(payload: Buffer) -> Message:
    """A message from a payload nobody vouches for; its arrays are views of it. Raises ProtocolError."""
    if len(payload) < _LENGTH.size:
        raise ProtocolError(f"a message of {len(payload)} bytes has no head")
    (length,) = _LENGTH.unpack_from(payload)
    if length > min(MAXIMUM_HEAD, len(payload) - _LENGTH.size):
        raise ProtocolError(f"a head of {length} bytes is announced; the message has {len(payload)}")
    body = memoryview(payload)[_LENGTH.size :]
    try:
        head = read_json(bytes(body[:length]), parse_constant=_no_constant)
        kind, fields, listed = head["kind"], head["fields"], head["arrays"]
        if len(head) != 3 or not (isinstance(kind, str) and isinstance(fields, dict) and isinstance(listed, list)):
            raise ValueError("kind must be a text, fields an object, arrays a list, and nothing else there")
        arrays: dict[str, np.ndarray] = {}
        rest = body[length:]
        for name, dtype, shape in listed:
            arrays[name], rest = _array(rest, name, dtype, shape, taken=arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the head is malformed: {error!r}") from None
    if len(rest):
        raise ProtocolError(f"{len(rest)} bytes follow the last array")
    return Message(kind, fields, arrays)


def _array(
    rest: memoryview, name: Any, dtype: Any, shape: Any, taken: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, memoryview]:
    if not isinstance(name, str) or name in taken or dtype not in DTYPES:
        raise ValueError(f"array {name!r} is unnamed, named twice or of type {dtype!r}")
    if not isinstance(shape, list) or len(shape) > 8 or any(type(n) is not int or not 0 <= n < 2**40 for n in shape):
        raise ValueError(f"array {name!r} has shape {shape!r}")
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > len(rest):
        raise ValueError(f"array {name!r} needs {size} bytes, {len(rest)} are there")
    raw = np.frombuffer(rest[:size], np.uint8)
    if dtype == "bool" and size and raw.max() > 1:
        raise ValueError(f"array {name!r} holds bytes that are no truth values")
    return raw.view(dtype).reshape(shape), rest[size:]


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")
