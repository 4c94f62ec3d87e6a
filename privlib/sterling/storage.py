"""Content-addressed storage: files in chunks, every chunk and every file named by SHA-256.

    folder/chunks/<sha256>      a chunk of at most CHUNK_BYTES
    folder/files/<sha256>       JSON [chunk names in order], under the digest of the whole file

What is stored here is ciphertext (`privlib.trusted.storage`): storage is trusted with nothing. It can lose a chunk, and
then says so; whatever it gives is checked against its name, so that it cannot give something else.
"""

import hashlib
import json
import re
from pathlib import Path

from privlib.files import atomic_path
from privlib.sterling.errors import StorageError

CHUNK_BYTES = 4 << 20
_NAME = re.compile(r"[0-9a-f]{64}")


class ContentStore:
    """Storage in a folder."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def put(self, source: Path | bytes) -> str:
        """Store a file or bytes; returns its SHA-256, hexadecimal, by which it is got back."""
        whole, names = hashlib.sha256(), []
        data = source if isinstance(source, bytes) else source.read_bytes()
        for start in range(0, max(len(data), 1), CHUNK_BYTES):
            piece = data[start : start + CHUNK_BYTES]
            whole.update(piece)
            names.append(hashlib.sha256(piece).hexdigest())
            self._write(self.chunk(names[-1]), piece)
        self._write(self.folder / "files" / whole.hexdigest(), json.dumps(names).encode())
        return whole.hexdigest()

    def get(self, digest: str) -> bytes:
        """A file's bytes. Raises StorageError where it, or a chunk of it, is lost or altered."""
        if not _NAME.fullmatch(digest):
            raise StorageError(f"{digest!r:.80} is no SHA-256 in hexadecimal")
        pieces = []
        for name in self._names(digest):
            try:
                piece = self.chunk(name).read_bytes()
            except OSError as error:
                raise StorageError(f"chunk {name[:16]}… of file {digest[:16]}… is lost; get a copy of it") from error
            if hashlib.sha256(piece).hexdigest() != name:
                raise StorageError(f"chunk {name[:16]}… of file {digest[:16]}… was altered; get a copy of it")
            pieces.append(piece)
        data = b"".join(pieces)
        if hashlib.sha256(data).hexdigest() != digest:
            raise StorageError(f"file {digest[:16]}… is not what was stored; get a copy of it")
        return data

    def save(self, digest: str, path: Path | str) -> Path:
        """A file, written whole or not at all to `path`. Raises StorageError."""
        data = self.get(digest)
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        return Path(path)

    def chunk(self, name: str) -> Path:
        """Where the chunk of this name lies, or would."""
        return self.folder / "chunks" / name

    def chunks(self, digest: str) -> list[Path]:
        """Where a file's chunks lie. Raises StorageError."""
        return [self.chunk(name) for name in self._names(digest)]

    def _names(self, digest: str) -> list[str]:
        try:
            names = json.loads((self.folder / "files" / digest).read_bytes())
        except FileNotFoundError:
            raise StorageError(f"there is no file {digest[:16]}… here; who stored it can store it again") from None
        except (OSError, ValueError) as error:
            raise StorageError(f"the list of chunks of {digest[:16]}… cannot be read: {error}") from error
        if not isinstance(names, list) or not all(isinstance(each, str) and _NAME.fullmatch(each) for each in names):
            raise StorageError(f"the list of chunks of {digest[:16]}… is damaged; store the file again")
        return names

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
