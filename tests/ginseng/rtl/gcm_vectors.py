"""NIST CAVP vectors for AES-128-GCM (gcmEncryptExtIV128.rsp, gcmDecrypt128.rsp), by cryptography-vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cryptography_vectors


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
