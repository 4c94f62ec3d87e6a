"""Sealed messages arrive whole and in order, and every attack on the wire meets its own error."""

import io
import os
import struct
import threading
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.trusted import records
from privlib.trusted.channel_errors import (
    AuthenticationError,
    ChannelError,
    ClosedError,
    LimitError,
    RecordFormatError,
    ReflectionError,
    ReorderError,
    ReplayError,
    TruncationError,
)
from privlib.trusted.records import HEADER_BYTES, MAXIMUM_LENGTH, TAG_BYTES, Sealer, read_header
from tests.trusted.wires import Pair

LIMIT = 1 << 26


@pytest.mark.parametrize("size", [0, 1, 1000, MAXIMUM_LENGTH, MAXIMUM_LENGTH + 1, 3 * MAXIMUM_LENGTH + 5])
@pytest.mark.parametrize("slow", [1 << 30, 70_001])
def test_messages_of_any_size_arrive_and_are_counted(size: int, slow: int) -> None:
    pair, message = Pair(slow), os.urandom(size)
    pair.deliver(*pair.records(message, b"next"))
    assert pair.enclave.receive(LIMIT) == message
    assert pair.enclave.receive(LIMIT) == b"next"
    assert pair.enclave.received_bytes == pair.client.sent_bytes
    pair.deliver(*pair.records(message, b"next"))
    out = memoryview(bytearray(size + 3))
    assert pair.enclave.receive_into(out) == size and out[:size] == message
    assert pair.enclave.receive_into(out[:4] if size else memoryview(bytearray(4))) == 4
    pieces = max(1, -(-size // MAXIMUM_LENGTH)) + 1
    assert pair.client.sent_bytes == 2 * (size + 4 + pieces * (HEADER_BYTES + TAG_BYTES))


def test_an_array_is_sent_as_its_bytes() -> None:
    pair, array = Pair(), np.arange(600, dtype=np.float32).reshape(20, 30)
    pair.client.send(array.data)
    pair.client.send(np.empty((0, 3), np.float32).data)
    pair.deliver(*pair.client_tape.written)
    assert (np.frombuffer(pair.enclave.receive(LIMIT), np.float32).reshape(20, 30) == array).all()
    assert pair.enclave.receive(LIMIT) == b""


def test_both_directions_over_a_real_pipe() -> None:
    pair, message = Pair(), os.urandom(2 * MAXIMUM_LENGTH + 3)
    read, write = os.pipe()
    with io.FileIO(read, "r") as reader, io.FileIO(write, "w") as writer:
        pair.client._transport, pair.enclave._transport = writer, reader
        thread = threading.Thread(target=pair.client.send, args=(message,))
        thread.start()
        assert pair.enclave.receive(LIMIT) == message
        thread.join()


def test_a_record_is_what_aes_gcm_makes_of_header_and_data() -> None:
    """The layout, sealed once more by hand: nonce = IV xor counter, the header is the associated data."""
    key, iv = bytes(range(32)), bytes(range(12))
    out = memoryview(bytearray(100))
    sealer = Sealer(key, iv, records.TO_ENCLAVE)
    sealer.seal_into(records.DATA, b"first", 0, out)
    size = sealer.seal_into(records.DATA, b"second", 7, out)
    header = struct.pack(">BBHIQQ", 1, 1, 0, 6, 1, 7)
    nonce = iv[:-1] + bytes([iv[-1] ^ 1])
    assert bytes(out[:size]) == header + AESGCM(key).encrypt(nonce, b"second", header)


def test_a_closed_channel_ends_in_order_and_takes_nothing_more() -> None:
    pair = Pair()
    pair.client.send(b"last")
    pair.client.close()
    pair.client.close()
    pair.deliver(*pair.client_tape.written)
    assert pair.enclave.receive(LIMIT) == b"last"
    for _ in range(2):
        with pytest.raises(ClosedError):
            pair.enclave.receive(LIMIT)
    with pytest.raises(ClosedError, match="this end"):
        pair.client.send(b"more")


def changed(record: bytes, offset: int, value: int = 1) -> bytes:
    return record[:offset] + bytes([record[offset] ^ value]) + record[offset + 1 :]


WIRE_ATTACKS: dict[str, tuple[Callable[[Pair, list[bytes]], list[bytes]], type[ChannelError]]] = {
    "replay of the first record": (lambda p, r: [r[0], r[0]], ReplayError),
    "replay of an older record": (lambda p, r: [r[0], r[1], r[0]], ReplayError),
    "reordered records": (lambda p, r: [r[1], r[0]], ReorderError),
    "a record left out": (lambda p, r: [r[0], r[2]], ReorderError),
    "the stream cut between records": (lambda p, r: r[:2], TruncationError),
    "the stream cut inside a header": (lambda p, r: [r[0], r[1][:10]], TruncationError),
    "the stream cut inside a record": (lambda p, r: [r[0], r[1][:-1]], TruncationError),
    "nothing at all": (lambda p, r: [], TruncationError),
    "reflection of the enclave's own record": (lambda p, r: [r[0], own_record(p)], ReflectionError),
    "reflection with the direction forged": (lambda p, r: [changed(own_record(p), 1, 3)], AuthenticationError),
    "a counter forged forward": (lambda p, r: [changed(r[0], 15)], ReorderError),
    "a replay with the counter forged": (lambda p, r: [r[0], changed(r[0], 15)], AuthenticationError),
    "a data record passed off as closing": (lambda p, r: [changed(r[0], 0, 3)], RecordFormatError),
    "an empty record passed off as closing": (lambda p, r: [*r, changed(p.records(b"")[0], 0, 3)], AuthenticationError),
    "a longer message promised": (lambda p, r: [changed(r[0], 23)], AuthenticationError),
    "a message larger than the limit promised": (lambda p, r: [changed(r[0], 16)], LimitError),
    "a longer record promised": (lambda p, r: [changed(r[0], 7), *r[1:]], AuthenticationError),
    "a record of 16 MiB promised": (lambda p, r: [changed(r[0], 4)], RecordFormatError),
    "reserved bits set": (lambda p, r: [changed(r[0], 2)], RecordFormatError),
    "an unknown kind": (lambda p, r: [changed(r[0], 0, 8)], RecordFormatError),
    "ciphertext altered": (lambda p, r: [changed(r[0], HEADER_BYTES)], AuthenticationError),
    "tag altered": (lambda p, r: [changed(r[0], len(r[0]) - 1)], AuthenticationError),
    "another channel's record": (lambda p, r: Pair().records(b"one"), AuthenticationError),
    "another protocol": (lambda p, r: [b"GET / HTTP/1.1\r\nHost: enclave\r\n\r\n"], RecordFormatError),
}


def own_record(pair: Pair) -> bytes:
    pair.enclave_tape.written.clear()
    pair.enclave.send(b"from the enclave")
    return pair.enclave_tape.written[0]


def receive_all(pair: Pair) -> None:
    while True:
        pair.enclave.receive(LIMIT)


@pytest.mark.parametrize("name", WIRE_ATTACKS)
def test_attack_on_the_wire_meets_its_error_and_closes_the_channel(name: str) -> None:
    attack, error = WIRE_ATTACKS[name]
    pair = Pair()
    pair.deliver(*attack(pair, pair.records(b"one", b"two", b"three")))
    with pytest.raises(ChannelError) as refused:
        receive_all(pair)
    assert type(refused.value) is error, refused.value
    pair.enclave_tape.to_read = b"".join(pair.records(b"four"))
    with pytest.raises(ClosedError):
        pair.enclave.receive(LIMIT)


def test_a_closing_record_inside_a_message_is_a_truncation() -> None:
    pair = Pair()
    first = pair.records(bytes(2 * MAXIMUM_LENGTH))[0]
    pair.client_sealer._counter = 1
    pair.client_tape.written.clear()
    pair.client.close()
    pair.deliver(first, *pair.client_tape.written)
    with pytest.raises(TruncationError, match="bytes of a message missing"):
        pair.enclave.receive(LIMIT)


def test_a_peer_that_does_not_continue_its_message_is_refused() -> None:
    pair = Pair()
    first = pair.records(bytes(2 * MAXIMUM_LENGTH))[0]
    pair.client_sealer._counter = 1
    pair.deliver(first, *pair.records(b"something else"))
    with pytest.raises(RecordFormatError, match="does not continue"):
        pair.enclave.receive(LIMIT)


def test_a_message_over_the_limit_is_refused_before_its_memory_is_taken() -> None:
    pair = Pair()
    pair.deliver(*pair.records(bytes(101)))
    with pytest.raises(LimitError, match="101 bytes, at most 100"):
        pair.enclave.receive(100)
    again = Pair()
    again.deliver(*again.records(bytes(101)))
    with pytest.raises(LimitError, match="101 bytes, at most 100"):
        again.enclave.receive_into(memoryview(bytearray(100)))


def test_what_a_forged_record_deciphers_to_is_not_left_in_memory() -> None:
    pair = Pair()
    record = changed(pair.records(b"secret")[0], 31)
    out = bytearray(b"before")
    header = read_header(record[:HEADER_BYTES])
    with pytest.raises(AuthenticationError):
        pair.enclave._opener.open_into(header, record[:HEADER_BYTES], record[HEADER_BYTES:], memoryview(out))
    assert out == bytes(6)


@pytest.mark.parametrize("start", [0, 2**16 - 1, 2**32 - 1, 2**48, 2**63 - 1, 2**64 - 3])
def test_counters_past_every_narrow_width_give_fresh_nonces(start: int) -> None:
    """A 32-bit counter would repeat here (case 33)."""
    pair = Pair()
    pair.client_sealer._counter = pair.enclave._opener._counter = start
    first, second = pair.records(b"same", b"same")
    assert first[HEADER_BYTES:] != second[HEADER_BYTES:]
    pair.deliver(first, second, first)
    assert pair.enclave.receive(LIMIT) == pair.enclave.receive(LIMIT) == b"same"
    with pytest.raises(ReplayError):
        pair.enclave.receive(LIMIT)


def test_the_last_counter_is_never_used_twice() -> None:
    pair = Pair()
    pair.client_sealer._counter = 2**64 - 2
    pair.client.send(b"last")
    for _ in range(2):
        with pytest.raises(LimitError, match="open a new channel"):
            pair.client.send(b"one too many")


def test_a_key_seals_no_more_bytes_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAXIMUM_BYTES", 10)
    pair = Pair()
    pair.client.send(bytes(10))
    with pytest.raises(LimitError):
        pair.client.send(bytes(1))


def test_a_peer_that_is_gone_is_a_truncation_and_ends_the_channel() -> None:
    pair = Pair()
    read, write = os.pipe()
    os.close(read)
    with io.FileIO(write, "w") as transport:
        pair.client._transport = transport
        with pytest.raises(TruncationError, match="the peer is gone"):
            pair.client.send(b"to nobody")
        with pytest.raises(ClosedError):
            pair.client.send(b"again")
        pair.enclave._transport = transport
        with pytest.raises(TruncationError, match="the peer is gone"):
            pair.enclave.receive(LIMIT)


def received_is_a_prefix(messages: list[bytes], edit: Callable[[bytes], bytes]) -> None:
    """Whatever the host does to the wire, the enclave has received the first messages, whole and in order."""
    pair = Pair()
    pair.deliver(edit(b"".join(pair.records(*messages))))
    got: list[bytes] = []
    with pytest.raises(ChannelError):
        while True:
            got.append(bytes(pair.enclave.receive(1000)))
    assert got == messages[: len(got)]


@st.composite
def edits(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    if draw(st.integers(0, 4)) == 0:
        noise = draw(st.binary(max_size=200))
        return lambda wire: noise
    at, cut = draw(st.integers(0, 200)), draw(st.sampled_from((0, 1, 8, 24, 45)))
    piece, copy = draw(st.binary(max_size=24)), draw(st.booleans())
    return lambda wire: wire[:at] + (wire[:cut] if copy else piece) + wire[at + cut :]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4), edits())
@settings(max_examples=300, deadline=None)
def test_what_arrives_is_a_prefix_of_what_was_sent(messages: list[bytes], edit: Callable[[bytes], bytes]) -> None:
    received_is_a_prefix(messages, edit)


@pytest.mark.soak
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4), edits())
@settings(max_examples=100_000, deadline=None)
def test_100_000_edited_streams_arrive_as_a_prefix(messages: list[bytes], edit: Callable[[bytes], bytes]) -> None:
    received_is_a_prefix(messages, edit)
