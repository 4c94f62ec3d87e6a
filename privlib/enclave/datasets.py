"""A provider's side of storage: encrypt a dataset to a file (the format is in `privlib.trusted.storage`)."""

from pathlib import Path

from privlib.files import atomic_path
from privlib.trusted.records import Buffer
from privlib.trusted.storage import DEFAULT_CHUNK, DatasetWriter


def encrypt_dataset(
    path: Path | str, data: Buffer, key: bytes, context: bytes = b"", chunk_bytes: int = DEFAULT_CHUNK
) -> None:
    """Write `data` encrypted to `path`, whole or not at all.

    key: 32 bytes, of this dataset alone; deliver it with `deliver_key`. context: what the reader must state to open it
    (name, digest of the terms); it is bound and not stored.
    Raises DatasetError for a key or chunks of another size.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        writer = DatasetWriter(file, memoryview(data).nbytes, key, context, chunk_bytes)
        writer.write(data)
        writer.finish()
