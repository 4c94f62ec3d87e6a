"""Calls to the host: nothing that it answers is believed, and what it keeps from the enclave is an error of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privlib.trusted.binding import report_data
from privlib.trusted.host import FETCH_BYTES, Host, HostError, HostFile, HostRegister
from privlib.trusted.platform import (
    IDENTITY,
    GramineFiles,
    PlatformServiceError,
    SimulatedCpu,
    identity_report_data,
    own_measurement,
)
from privlib.trusted.protocol import Message, decode, encode
from privlib.trusted.sealing import RollbackError

BYTES = np.arange(64, dtype=np.uint8)


def host(answer: Callable[[Message], Message] | Message) -> Host:
    """A host that answers so."""
    waiting: list[Message] = []

    def send(parts: Any) -> None:
        waiting.append(decode(b"".join(parts)))

    def receive() -> bytes:
        return b"".join(encode(answer if isinstance(answer, Message) else answer(waiting.pop())))

    return Host(send, receive)


def test_calls_are_counted_and_answered() -> None:
    found = host(lambda call: Message("host", {"echo": call.fields}, call.arrays))
    assert found.call("quote", {"a": 1}, {"x": BYTES}).fields["echo"] == {"call": "quote", "a": 1}
    assert found.calls == 1


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (Message("error", {"type": "OSError", "text": "no room"}), HostError, "refuses load: no room"),
        (Message("error", {"type": "RollbackError", "text": "older"}), RollbackError, "older"),
        (Message("error"), HostError, "refuses"),
        (Message("result"), HostError, "answers load with 'result'"),
        (Message("host"), HostError, "has no sealed"),
        (Message("host", {}, {"sealed": BYTES.astype(np.int64)}), HostError, "has no sealed"),
        (Message("host", {}, {"sealed": BYTES.reshape(8, 8)}), HostError, "has no sealed"),
    ],
)
def test_an_answer_that_is_none_is_refused(answer: Message, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        host(answer).load("ledger")


@pytest.mark.parametrize(
    "fields",
    [{}, {"version": 1}, {"version": "1", "digest": "00" * 32}, {"version": -1, "digest": "00" * 32},
     {"version": True, "digest": "00" * 32}, {"version": 1, "digest": "00" * 31}, {"version": 1, "digest": "zz"},
     {"version": 1, "digest": 5}],
)  # fmt: skip
def test_a_register_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(HostError, match="register is none"):
        HostRegister(host(Message("host", fields)), "ledger").read()


def test_a_file_is_read_in_pieces_of_one_size_from_beginning_to_end() -> None:
    data, asked = np.arange(20, dtype=np.uint8), []

    def piece(call: Message) -> Message:
        asked.append((call.fields["offset"], call.fields["size"]))
        start = call.fields["offset"]
        return Message("host", {}, {"data": data[start : start + 8]})

    file, read = HostFile(host(piece), "0" * 64), bytearray()
    buffer = memoryview(bytearray(7))
    while count := file.readinto(buffer):
        read += buffer[:count]
    assert read == data.tobytes() and asked == [(start, FETCH_BYTES) for start in (0, 8, 16, 20)]


def test_a_piece_longer_than_was_asked_for_is_refused() -> None:
    large = Message("host", {}, {"data": np.zeros(FETCH_BYTES + 1, np.uint8)})
    with pytest.raises(HostError, match="were asked for"):
        HostFile(host(large), "0" * 64).readinto(memoryview(bytearray(1)))


@pytest.mark.parametrize(("svn", "size"), [(None, 32), ("1", 32), (-1, 32), (1 << 16, 32), (True, 32), (1, 31)])
def test_keys_that_are_none_are_refused(svn: Any, size: int) -> None:
    keys = {name: np.zeros(size, np.uint8) for name in ("measurement", "signer")}
    with pytest.raises(HostError):
        SimulatedCpu(host(Message("host", {"svn": svn}, keys))).sealing_keys()


def test_what_is_quoted_for_strangers_binds_no_key() -> None:
    nonce = bytes(range(32))
    assert identity_report_data(nonce) == report_data(b"", nonce, IDENTITY)


def test_gramine_s_files_are_written_and_read(tmp_path: Path) -> None:
    """A folder of plain files in the place of /dev/attestation: where things lie, not what the hardware does."""
    quote = bytes(48 + 64) + b"m" * 32 + bytes(48 + 258 - 144) + (7).to_bytes(2, "little") + bytes(200)
    (tmp_path / "quote").write_bytes(quote)
    (tmp_path / "keys").mkdir()
    platform = GramineFiles(tmp_path)
    with pytest.raises(PlatformServiceError, match="no sealing key"):
        platform.sealing_keys()
    for name in ("_sgx_mrenclave", "_sgx_mrsigner"):
        (tmp_path / "keys" / name).write_bytes(name.encode())
    assert platform.quote(BYTES.tobytes()) == quote
    assert (tmp_path / "user_report_data").read_bytes() == BYTES.tobytes()
    assert own_measurement(platform) == b"m" * 32
    keys = platform.sealing_keys()
    assert (keys.measurement_key, keys.signer_key, keys.svn) == (b"_sgx_mrenclave", b"_sgx_mrsigner", 7)
    with pytest.raises(PlatformServiceError, match="no quote"):
        GramineFiles(tmp_path / "nowhere").quote(bytes(64))
