"""Frames and messages: what comes back is what was sent; what is hostile is refused by a typed error."""

import contextlib
import os
import struct
import threading
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from privlib.trusted.protocol import (
    DTYPES,
    MAXIMUM_FRAME,
    Buffer,
    ClosedError,
    Message,
    ProtocolError,
    Stream,
    decode,
    encode,
)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):  # a test closed it
            os.close(end)


values = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
                      lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
                      max_leaves=10)  # fmt: skip
tensors = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
messages = st.builds(
    Message,
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=8), values, max_size=4),
    st.dictionaries(st.text(max_size=8), tensors, max_size=3),
)


@given(messages)
@settings(max_examples=200, deadline=None)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    found = decode(b"".join(bytes(part) for part in encode(message)))
    assert (found.kind, found.fields) == (message.kind, message.fields)
    assert list(found.arrays) == list(message.arrays)
    for name, array in message.arrays.items():
        assert found.arrays[name].dtype == array.dtype and found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()


def damaged(data: bytes, where: int, how: int) -> bytes:
    at = where % max(len(data), 1)
    return [data[:at], data[:at] + bytes([data[at] ^ (1 << how % 8)]) + data[at + 1 :], data + data[at:]][how % 3]


@given(messages, st.integers(0, 1 << 30), st.integers(0, 1 << 30), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_a_damaged_message_is_read_or_refused(message: Message, where: int, how: int, times: int) -> None:
    data = b"".join(bytes(part) for part in encode(message))
    for turn in range(times):
        data = damaged(data, where >> turn, how >> turn) or b"\0"
    accepted_or_refused(data)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_noise_is_refused(data: bytes) -> None:
    accepted_or_refused(data)


def accepted_or_refused(data: bytes) -> None:
    try:
        found = decode(data)
    except ProtocolError as error:
        assert str(error)
    else:
        assert sum(array.nbytes for array in found.arrays.values()) <= len(data)


@pytest.mark.soak
@given(st.binary(max_size=2000) | st.builds(damaged, st.builds(lambda m: b"".join(map(bytes, encode(m))), messages),
                                            st.integers(0, 1 << 30), st.integers(0, 1 << 30)))  # fmt: skip
@settings(max_examples=100_000, deadline=None)
def test_a_hundred_thousand_hostile_messages(data: bytes) -> None:
    accepted_or_refused(data)


def test_frames_keep_their_bounds_and_are_counted(pipe: tuple[int, int]) -> None:
    sender, receiver = Stream(pipe[0], pipe[1]), Stream(pipe[0], pipe[1])
    large = os.urandom(1 << 20)
    frames: list[list[Buffer]] = [[b""], [b"a", b"", b"bc"], [large], [memoryview(large)[5:9]]]

    def send() -> None:
        for parts in frames:
            sender.send(parts)

    thread = threading.Thread(target=send)
    thread.start()
    found = [bytes(receiver.receive()) for _ in frames]
    thread.join()
    assert found == [b"", b"abc", large, large[5:9]]
    size = 3 + len(large) + 4
    assert (sender.frames_out, sender.bytes_out) == (4, size) == (receiver.frames_in, receiver.bytes_in)


def test_a_frame_over_the_limit_costs_no_memory(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], struct.pack("<I", 2**32 - 1))
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=f"at most {MAXIMUM_FRAME} are taken"):
        Stream(*pipe).receive()
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_frame_that_is_too_long_is_not_begun(pipe: tuple[int, int]) -> None:
    stream = Stream(pipe[0], pipe[1], maximum=10)
    with pytest.raises(ProtocolError, match="11 bytes is longer than 10"):
        stream.send([bytes(5), bytes(6)])
    stream.send([bytes(10)])
    assert bytes(stream.receive()) == bytes(10)


@pytest.mark.parametrize("sent", [b"", b"\x05", b"\x05\0\0", b"\x05\0\0\0", b"\x05\0\0\0abcd"])
def test_an_end_within_a_frame_is_an_end(pipe: tuple[int, int], sent: bytes) -> None:
    os.write(pipe[1], sent)
    os.close(pipe[1])
    with pytest.raises(ClosedError):
        Stream(pipe[0], -1).receive()


def test_sending_to_nobody_and_after_closing_are_ends_too(pipe: tuple[int, int]) -> None:
    stream = Stream(pipe[0], pipe[1])
    os.close(pipe[0])
    with pytest.raises(ClosedError):
        stream.send([b"hello"])
    stream.close()
    with pytest.raises(ClosedError, match="this end is closed"):
        stream.send([b"hello"])
    with pytest.raises(ClosedError, match="this end is closed"):
        stream.receive()
