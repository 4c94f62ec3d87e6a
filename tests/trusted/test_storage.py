"""Encrypted datasets come back whole, or with the error that says what the storage did to them."""

import io
import os
import struct
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.trusted.storage import (
    HEADER_BYTES,
    LARGEST_CHUNK,
    SMALLEST_CHUNK,
    TAG_BYTES,
    DatasetChunkError,
    DatasetError,
    DatasetFormatError,
    DatasetKeyError,
    DatasetReader,
    DatasetTruncatedError,
    DatasetWriter,
)

KEY, CONTEXT, CHUNK = bytes(range(32)), b"policy and dataset", 64
DATA = bytes(i % 251 for i in range(10 * CHUNK + 7))


def encrypt(data: bytes, key: bytes = KEY, context: bytes = CONTEXT, chunk: int = CHUNK, piece: int = 50) -> bytes:
    sink = io.BytesIO()
    writer = DatasetWriter(sink, len(data), key, context, chunk)
    for start in range(0, len(data), piece):
        writer.write(data[start : start + piece])
    writer.finish()
    return sink.getvalue()


def decrypt(file: bytes, key: bytes = KEY, context: bytes = CONTEXT) -> bytes:
    return bytes(DatasetReader(io.BytesIO(file), key, context).read())


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 10 * CHUNK + 7])
@pytest.mark.parametrize("piece", [1, CHUNK, CHUNK + 1, 10_000])
def test_data_of_any_length_written_in_any_pieces_come_back(length: int, piece: int) -> None:
    data = os.urandom(length)
    file = encrypt(data, piece=piece)
    assert decrypt(file) == data
    assert b"".join(DatasetReader(io.BytesIO(file), KEY, CONTEXT).chunks()) == data
    assert len(file) == HEADER_BYTES + length + TAG_BYTES * max(1, -(-length // CHUNK))


def test_the_default_chunks_carry_megabytes() -> None:
    data = os.urandom(3_000_000)
    sink = io.BytesIO()
    writer = DatasetWriter(sink, len(data), KEY)
    writer.write(data)
    writer.finish()
    reader = DatasetReader(io.BytesIO(sink.getvalue()), KEY)
    assert reader.length == len(data)
    assert reader.read() == data


def test_a_file_is_what_the_format_s_text_says() -> None:
    """Deciphered once more by hand: HKDF, STREAM's nonces, associated data."""

    def encode(label: bytes, *fields: bytes) -> bytes:
        return label + b"".join(struct.pack(">I", len(field)) + field for field in fields)

    file = encrypt(DATA[:100])
    header, salt = file[:HEADER_BYTES], file[16:48]
    assert header[:16] == b"PLD1" + struct.pack(">IQ", CHUNK, 100)
    info = encode(b"privlib dataset v1", header[:48], CONTEXT)
    material = HKDF(hashes.SHA256(), 64, salt=salt, info=info).derive(KEY)
    assert header[48:] == material[32:]
    digest = hashes.Hash(hashes.SHA256())
    digest.update(encode(b"privlib dataset chunk v1", header, CONTEXT))
    associated = digest.finalize()
    aead, first = AESGCM(material[:32]), file[HEADER_BYTES : HEADER_BYTES + CHUNK + TAG_BYTES]
    assert aead.decrypt(bytes(12), first, associated) == DATA[:CHUNK]
    last_nonce = bytes(3) + struct.pack(">QB", 1, 1)
    assert aead.decrypt(last_nonce, file[HEADER_BYTES + CHUNK + TAG_BYTES :], associated) == DATA[CHUNK:100]


def test_the_same_data_twice_give_files_that_share_nothing() -> None:
    first, second = encrypt(DATA), encrypt(DATA)
    assert first[16:] != second[16:]
    assert DATA[:16] not in first


def parts(file: bytes) -> list[bytes]:
    """Header, then chunks."""
    size = CHUNK + TAG_BYTES
    return [file[:HEADER_BYTES], *(file[i : i + size] for i in range(HEADER_BYTES, len(file), size))]


def edited(edit: Callable[[list[bytes]], object]) -> Callable[[bytes], bytes]:
    def act(file: bytes) -> bytes:
        pieces = parts(file)
        edit(pieces)
        return b"".join(pieces)

    return act


def swap(i: int, j: int) -> Callable[[list[bytes]], object]:
    def act(pieces: list[bytes]) -> None:
        pieces[i], pieces[j] = pieces[j], pieces[i]

    return act


def flipped(offset: int) -> Callable[[bytes], bytes]:
    return lambda file: file[:offset] + bytes([file[offset] ^ 1]) + file[offset + 1 :]


OTHER = encrypt(DATA)
STORAGE_ATTACKS: dict[str, tuple[Callable[[bytes], bytes], type[DatasetError]]] = {
    "chunks swapped": (edited(swap(2, 3)), DatasetChunkError),
    "the last chunk moved forward": (edited(swap(1, 11)), DatasetChunkError),
    "a chunk doubled": (edited(lambda p: p.__setitem__(4, p[3])), DatasetChunkError),
    "a chunk doubled in between": (edited(lambda p: p.insert(4, p[3])), DatasetChunkError),
    "a chunk left out": (edited(lambda p: p.pop(5)), DatasetChunkError),
    "the last chunk left out": (edited(lambda p: p.pop()), DatasetTruncatedError),
    "another file's chunk": (edited(lambda p: p.__setitem__(2, parts(OTHER)[2])), DatasetChunkError),
    "another file's chunks under this header": (edited(lambda p: p.__setitem__(slice(1, None), parts(OTHER)[1:])),
                                                DatasetChunkError),
    "another file's header over these chunks": (edited(lambda p: p.__setitem__(0, parts(OTHER)[0])), DatasetChunkError),
    "a bit of a chunk": (flipped(HEADER_BYTES + 100), DatasetChunkError),
    "a bit of the last tag": (lambda f: flipped(len(f) - 1)(f), DatasetChunkError),
    "a bit of the salt": (flipped(20), DatasetKeyError),
    "a bit of the commitment": (flipped(60), DatasetKeyError),
    "a shorter length": (flipped(15), DatasetKeyError),
    "other chunks": (flipped(5), DatasetKeyError),
    "chunks past the largest": (flipped(4), DatasetFormatError),
    "a length past all memory": (lambda f: f[:8] + b"\xff" * 8 + f[16:], DatasetFormatError),
    "chunks of no bytes": (lambda f: f[:4] + bytes(4) + f[8:], DatasetFormatError),
    "another format": (flipped(3), DatasetFormatError),
    "cut inside a chunk": (lambda f: f[:-1], DatasetTruncatedError),
    "cut inside the header": (lambda f: f[:30], DatasetTruncatedError),
    "emptied": (lambda f: b"", DatasetTruncatedError),
    "bytes behind the end": (lambda f: f + b"\0", DatasetFormatError),
    "itself behind the end": (lambda f: f + f, DatasetFormatError),
}  # fmt: skip


@pytest.mark.parametrize("name", STORAGE_ATTACKS)
def test_attack_on_storage_meets_its_error(name: str) -> None:
    attack, error = STORAGE_ATTACKS[name]
    file = encrypt(DATA)
    assert decrypt(file) == DATA
    for read in (decrypt, lambda f: list(DatasetReader(io.BytesIO(f), KEY, CONTEXT).chunks())):
        with pytest.raises(DatasetError) as refused:
            read(attack(file))
        assert type(refused.value) is error, refused.value


def test_data_that_end_at_a_chunk_s_border_cannot_be_cut_there() -> None:
    file = encrypt(DATA[: 4 * CHUNK])
    for chunks in range(4):
        with pytest.raises(DatasetTruncatedError):
            decrypt(file[: HEADER_BYTES + chunks * (CHUNK + TAG_BYTES)])


@pytest.mark.parametrize("context", [b"", b"another policy", CONTEXT + b"\0"])
def test_another_context_does_not_open(context: bytes) -> None:
    with pytest.raises(DatasetKeyError, match="for this context"):
        decrypt(encrypt(DATA), context=context)


def test_another_key_does_not_open() -> None:
    with pytest.raises(DatasetKeyError):
        decrypt(encrypt(DATA), key=bytes(32))
    with pytest.raises(DatasetKeyError, match="expected 32"):
        decrypt(encrypt(DATA), key=b"short")


def test_nothing_of_a_damaged_dataset_is_left_in_the_caller_s_memory() -> None:
    out = bytearray(b"\xaa" * len(DATA))
    reader = DatasetReader(io.BytesIO(flipped(HEADER_BYTES + 500)(encrypt(DATA))), KEY, CONTEXT)
    with pytest.raises(DatasetChunkError):
        reader.read_into(memoryview(out))
    assert out == bytes(len(DATA))


def test_a_dataset_over_the_reader_s_limit_is_refused_by_its_header() -> None:
    with pytest.raises(DatasetFormatError, match="at most 100"):
        DatasetReader(io.BytesIO(encrypt(DATA)), KEY, CONTEXT, limit=100)


def test_a_writer_takes_exactly_what_was_announced() -> None:
    writer = DatasetWriter(io.BytesIO(), 10, KEY)
    writer.write(b"12345")
    with pytest.raises(DatasetError, match="5 of 10"):
        writer.finish()
    with pytest.raises(DatasetError, match="11 bytes were given"):
        writer.write(b"678901")
    whole = DatasetWriter(io.BytesIO(), 0, KEY)
    whole.finish()
    with pytest.raises(DatasetError, match="finished: True"):
        whole.finish()


def test_a_reader_reads_once() -> None:
    reader = DatasetReader(io.BytesIO(encrypt(DATA)), KEY, CONTEXT)
    reader.read()
    with pytest.raises(DatasetError, match="has not been read"):
        reader.read()


@pytest.mark.parametrize("chunk", [0, SMALLEST_CHUNK - 1, LARGEST_CHUNK + 1])
def test_chunks_of_other_sizes_are_refused(chunk: int) -> None:
    with pytest.raises(DatasetFormatError, match="chunks of"):
        DatasetWriter(io.BytesIO(), 10, KEY, chunk_bytes=chunk)


FILE = encrypt(DATA[: 3 * CHUNK + 5])


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=200))
    file = bytearray(FILE)
    at, size = draw(st.integers(0, len(file))), draw(st.sampled_from((0, 1, CHUNK + TAG_BYTES, HEADER_BYTES)))
    piece = draw(st.one_of(st.binary(max_size=16), st.sampled_from(parts(FILE))))
    file[at : at + size] = piece
    return bytes(file)


def comes_back_unchanged_or_not_at_all(file: bytes) -> None:
    try:
        found = decrypt(file)
    except DatasetError:
        assert file != FILE
        return
    assert file == FILE and found == DATA[: len(found)]


@given(hostile())
@settings(max_examples=300, deadline=None)
def test_hostile_files_come_back_unchanged_or_not_at_all(file: bytes) -> None:
    comes_back_unchanged_or_not_at_all(file)


@pytest.mark.soak
@given(hostile())
@settings(max_examples=100_000, deadline=None)
def test_100_000_hostile_files_come_back_unchanged_or_not_at_all(file: bytes) -> None:
    comes_back_unchanged_or_not_at_all(file)


def test_every_flipped_bit_is_refused() -> None:
    file = encrypt(DATA[:CHUNK])
    for bit in range(8 * len(file)):
        changed = bytearray(file)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DatasetError):
            decrypt(bytes(changed))
