"""A private copy of a file that nobody can change any more: what is hashed is what is used, whatever happens to the
file meanwhile.

The copy lies in memory (memfd_create(2)) and is sealed against writing and resizing (fcntl(2), F_ADD_SEALS).
"""

import fcntl
import hashlib
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

    size: bytes; sha256: hexadecimal, of the copy; path: opens the copy in this process, until `close`. Raises OSError where the file cannot be read or memory is short.
    """

    def __init__(self, source: Path) -> None:
        self.descriptor = os.memfd_create(f"privlib:{source.name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._close = weakref.finalize(self, os.close, self.descriptor)
        digest = hashlib.sha256()
        with open(source, "rb", buffering=0) as file, open(self.descriptor, "wb", buffering=0, closefd=False) as copy:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                while chunk:
                    chunk = chunk[copy.write(chunk) :]
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, SEALS)
        self.size, self.sha256 = os.fstat(self.descriptor).st_size, digest.hexdigest()
        # The dynamic linker takes a path it has seen before for the library it found there then, and numbers of
        # descriptors come back: so every copy spells its path in a way of its own.
        spelling = "".join("./" if bit == "1" else "/" for bit in f"{next(_COUNTER):b}")
        self.path = f"/proc/self/fd/{spelling}{self.descriptor}"

    def map(self) -> mmap.mmap | bytes:
        """The bytes, mapped read-only; they stay valid after `close`."""
        return mmap.mmap(self.descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) if self.size else b""

    def close(self) -> None:
        """Give the descriptor back; what is mapped stays."""
        self._close()
