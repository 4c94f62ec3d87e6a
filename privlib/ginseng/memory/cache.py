"""A small on-chip store of metadata lines, least recently used out first, dirty lines written back."""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass
class _Entry:
    sectors: int
    dirty: bool


class LineCache:
    """`capacity` lines; each has sectors, so that a line may be written without first being read.

    `touch` says whether DRAM must be read; `evicted` then holds the dirty lines that had to leave, to be written.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lines: OrderedDict[int, _Entry] = OrderedDict()
        self.evicted: list[int] = []

    def touch(self, line: int, sectors: int, write: bool) -> bool:
        """Use these sectors (a bit mask) of a line; True when a read misses any of them. Without capacity a write is
        evicted at once."""
        entry = self._lines.get(line)
        miss = not write and (entry is None or entry.sectors & sectors != sectors)
        if entry is None:
            entry = self._lines[line] = _Entry(0, False)
        entry.sectors |= -1 if miss else sectors
        entry.dirty |= write
        self._lines.move_to_end(line)
        while len(self._lines) > self.capacity:
            old, left = self._lines.popitem(last=False)
            if left.dirty:
                self.evicted.append(old)
        return miss

    def drain(self) -> list[int]:
        """Dirty lines evicted since the last call."""
        gone, self.evicted = self.evicted, []
        return gone

    def drop(self, first: int, last: int) -> None:
        """Forget lines [first, last), dirty or not: what they describe is dead."""
        for line in [line for line in self._lines if first <= line < last]:
            del self._lines[line]

    def flush(self) -> list[int]:
        """All lines still dirty, in order of address; the store is empty afterwards."""
        dirty = sorted(line for line, entry in self._lines.items() if entry.dirty)
        self._lines.clear()
        return dirty
