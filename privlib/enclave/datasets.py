"""A provider's side of storage: encrypt a dataset to a file (the format is in `privlib.trusted.storage`)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from privlib.files import atomic_path
from privlib.trusted.examples import KIND
from privlib.trusted.protocol import Message, encode
from privlib.trusted.records import Buffer
from privlib.trusted.storage import DEFAULT_CHUNK, DatasetWriter
from privlib.trusted.terms import Terms


@dataclass(frozen=True)
class EncryptedDataset:
    """A file of ciphertext. digest: its SHA-256, hexadecimal, by which requests name it; terms: what it was encrypted
    under."""

    path: Path
    digest: str
    terms: Terms

    @classmethod
    def at(cls, path: Path | str, terms: Terms) -> "EncryptedDataset":
        """The one in a file that `encrypt_examples` wrote."""
        with open(path, "rb") as file:
            return cls(Path(path), hashlib.file_digest(file, "sha256").hexdigest(), terms)


def encrypt_examples(
    path: Path | str, images: np.ndarray, labels: np.ndarray, key: bytes, terms: Terms
) -> EncryptedDataset:
    """Encrypt examples to train on, as the model takes them: images float32 (n, *input_shape), labels int64 (n,).

    key: 32 bytes, of this dataset alone. The terms are bound to the ciphertext. Raises DatasetError.
    """
    parts = encode(Message(KIND, arrays={"images": images, "labels": labels}))
    encrypt_dataset(path, parts, key, terms.encode())
    return EncryptedDataset.at(path, terms)


def encrypt_dataset(
    path: Path | str,
    pieces: Sequence[Buffer],
    key: bytes,
    context: bytes = b"",
    chunk_bytes: int = DEFAULT_CHUNK,
) -> None:
    """Write `pieces`, one after the other, encrypted to `path`, whole or not at all.

    key: 32 bytes, of this dataset alone; deliver it with `deliver_key`. context: what the reader must state to open it
    (name, digest of the terms); it is bound and not stored.
    Raises DatasetError for a key or chunks of another size.
    """
    length = sum(memoryview(piece).nbytes for piece in pieces)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        writer = DatasetWriter(file, length, key, context, chunk_bytes)
        for piece in pieces:
            writer.write(piece)
        writer.finish()
