"""A private copy of a file that nobody can change any more: what is hashed is what is used, whatever happens to the
file meanwhile.

The copy lies in memory (memfd_create(2)) and is sealed against writing and resizing (fcntl(2), F_ADD_SEALS).
"""

import fcntl
import hashlib
import io
import itertools
import mmap
import os
import weakref
from pathlib import Path

_CHUNK = 1 << 20
_COUNTER = itertools.count()
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


class PrivateFile:
    """The bytes of `source` as they were when this was made.

    guarded: the platform itself keeps the file from changing (Gramine's trusted files); then it is used where it lies.
    size: bytes; sha256: hexadecimal; path: opens the bytes in this process, until `close`. Raises OSError where the
    file cannot be read or memory is short.
    """

    def __init__(self, source: Path, guarded: bool = False) -> None:
        with open(source, "rb", buffering=0) as file:
            if guarded:
                self._descriptor, self.path = os.dup(file.fileno()), str(source)
            else:
                self._descriptor = os.memfd_create(f"privlib:{source.name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
                # The dynamic linker takes a path it has seen before for the library it found there then, and numbers
                # of descriptors come back: so every copy spells its path in a way of its own.
                spelling = "".join("./" if bit == "1" else "/" for bit in f"{next(_COUNTER):b}")
                self.path = f"/proc/self/fd/{spelling}{self._descriptor}"
            self._close = weakref.finalize(self, os.close, self._descriptor)
            if not guarded:
                _copy(file, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size
        self.sha256 = hashlib.sha256(self.map()).hexdigest()

    def map(self) -> mmap.mmap | bytes:
        """The bytes, mapped read-only; they stay valid after `close`."""
        return mmap.mmap(self._descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) if self.size else b""

    def close(self) -> None:
        """Give the descriptor back; what is mapped stays."""
        self._close()


def _copy(file: io.RawIOBase, target: int) -> None:
    with open(target, "wb", buffering=0, closefd=False) as copy:
        while chunk := file.read(_CHUNK):
            while chunk:
                chunk = chunk[copy.write(chunk) :]
    fcntl.fcntl(target, fcntl.F_ADD_SEALS, SEALS)
