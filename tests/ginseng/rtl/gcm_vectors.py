"""NIST CAVP vectors for AES-128-GCM (gcmEncryptExtIV128.rsp, gcmDecrypt128.rsp), by cryptography-vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cryptography_vectors

from tests.ginseng.rtl.jobs import Job, Result


@dataclass(frozen=True)
class Vector:
    """One vector with a 96-bit IV; `plaintext` is None where decryption must fail."""

    key: bytes
    iv: bytes
    aad: bytes
    plaintext: bytes | None
    ciphertext: bytes
    tag: bytes


def load(name: str) -> Iterator[Vector]:
    """Vectors of a file that have a 128-bit key and a 96-bit IV, whatever their tag's length."""
    with cryptography_vectors.open_vector_file(f"ciphers/AES/GCM/{name}", "r") as lines:
        blocks = lines.read().split("\n\n")
    iv_bits = key_bits = ""
    for block in blocks:
        values: dict[str, str] = {}
        for line in block.splitlines():
            name_, _, value = line.strip("[]").partition("=")
            values[name_.strip()] = value.strip()
        key_bits, iv_bits = values.get("Keylen", key_bits), values.get("IVlen", iv_bits)
        if "Count" in values and (key_bits, iv_bits) == ("128", "96"):
            plaintext = None if "FAIL" in values else bytes.fromhex(values["PT"])
            parts = [bytes.fromhex(values[part]) for part in ("Key", "IV", "AAD", "CT", "Tag")]
            yield Vector(parts[0], parts[1], parts[2], plaintext, parts[3], parts[4])


def encryption() -> list[Vector]:
    """gcmEncryptExtIV128.rsp: 375 vectors for each of seven tag lengths."""
    return _complete(list(load("gcmEncryptExtIV128.rsp")))


def decryption() -> list[Vector]:
    """gcmDecrypt128.rsp, as many; some must fail."""
    return _complete(list(load("gcmDecrypt128.rsp")))


def _complete(vectors: list[Vector]) -> list[Vector]:
    assert len(vectors) == 2625 and sum(len(vector.tag) == 16 for vector in vectors) == 375
    return vectors


def sample(vectors: Sequence[Vector]) -> list[Vector]:
    """The first vector of every class: lengths of text, associated data and tag, and whether it must fail."""
    classes: defaultdict[tuple[int, int, int, bool], list[Vector]] = defaultdict(list)
    for v in vectors:
        classes[len(v.ciphertext), len(v.aad), len(v.tag), v.plaintext is None].append(v)
    return [members[0] for members in classes.values()]


def encryption_jobs(vectors: Sequence[Vector]) -> list[Job]:
    """What the core is asked to write."""
    return [Job(v.key, v.iv, True, [v.aad], [v.plaintext or b""]) for v in vectors]


def decryption_jobs(vectors: Sequence[Vector]) -> list[Job]:
    """What the core is asked to read."""
    return [Job(v.key, v.iv, False, [v.aad], [v.ciphertext], v.tag) for v in vectors]


def check_encryption(vectors: Sequence[Vector], results: Sequence[Result]) -> None:
    """Ciphertext and the (prefix of the) tag are those of the file."""
    for vector, result in zip(vectors, results, strict=True):
        assert result.ok
        assert result.data == vector.ciphertext
        assert result.tag[: len(vector.tag)] == vector.tag


def check_decryption(vectors: Sequence[Vector], results: Sequence[Result]) -> list[tuple[Vector, bytes]]:
    """Whole tags: plaintext and verdict. Shortened tags are refused by the core: what must still be judged by the
    prefix of the whole tag is returned, each with the data that came out."""
    shortened = []
    for vector, result in zip(vectors, results, strict=True):
        assert result.tag == bytes(16), "the core must never show the tag it expected"
        if len(vector.tag) == 16:
            assert result.ok == (vector.plaintext is not None)
        else:
            assert not result.ok, "a shortened tag was accepted"
            shortened.append((vector, result.data))
        if vector.plaintext is not None:
            assert result.data == vector.plaintext
    return shortened


def check_shortened(shortened: Sequence[tuple[Vector, bytes]], again: Sequence[Result]) -> None:
    """Written again, the data must give the file's shortened tag exactly where the file says that it is right."""
    for (vector, _), result in zip(shortened, again, strict=True):
        assert result.ok and result.data == vector.ciphertext
        assert (result.tag[: len(vector.tag)] == vector.tag) == (vector.plaintext is not None)
