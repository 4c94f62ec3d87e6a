"""What each protection mode moves over the bus for one access, in order: metadata first, then the data it is needed
for.

none  nothing
ctr   nothing: counters come from on-chip tensor versions; no integrity at all
mee   64-byte lines; eight 8-byte MACs a line, eight 56-bit counters a line, and a tree of arity 8 over the counter
      lines up to 64 that stay on chip (Gueron, "A Memory Encryption Engine Suitable for General Purpose Processors",
      ePrint 2016/204), through a 32 KiB metadata cache
mgx   tags over fixed 512-byte blocks, versions on chip (MGX, ISCA 2022, arXiv 2004.09679)
tec   AES-GCM over the blocks of `privlib.ginseng.memory.blocks`, versions on chip, tags in a small on-chip buffer that
      is written back
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from privlib.ginseng.errors import ProtectionError
from privlib.ginseng.memory import blocks as authentication
from privlib.ginseng.memory.blocks import TAG_BYTES, TAGS_PER_LINE, Blocks
from privlib.ginseng.memory.cache import LineCache
from privlib.ginseng.memory.dram import LINE_BYTES
from privlib.ginseng.vta.program import ALIGNMENT, VtaProgram

MODES = ("none", "ctr", "mee", "mgx", "tec")
MEE_CACHE_LINES = 512
MEE_ARITY = 8
MEE_ROOT_LINES = 64
MGX_BLOCK = 512
TAG_BUFFER_LINES = 64
"""4 KiB on chip beside 432 KiB of scratchpads."""


class Transfer(NamedTuple):
    """Bytes [start, end) to or from DRAM; `extra` of them were not asked for. `label` is "data" or a kind of
    metadata."""

    start: int
    end: int
    write: bool
    label: str
    extra: int = 0


class TrafficModel(Protocol):
    """How a mode turns accesses into transfers; it keeps the state of its on-chip metadata."""

    def access(self, start: int, end: int, write: bool) -> list[Transfer]:
        """The transfers for one run of bytes."""

    def release(self, regions: Iterable[str]) -> None:
        """No later instruction reads these regions: metadata about them need not be kept or written back."""

    def finish(self) -> list[Transfer]:
        """What must still be written when the network is done: the output's tags. Other lines stay on chip."""


class Unchanged:
    """No metadata: `none` and `ctr`."""

    def access(self, start: int, end: int, write: bool) -> list[Transfer]:
        return [Transfer(start, end, write, "data")]

    def release(self, regions: Iterable[str]) -> None:
        return None

    def finish(self) -> list[Transfer]:
        return []


class Tagged:
    """A 16-byte tag for each block, kept in DRAM behind a buffer of `buffer_lines` lines: `tec` and `mgx`."""

    def __init__(
        self, program: VtaProgram, partition: Mapping[str, Blocks], *, partial_writes: bool, buffer_lines: int
    ) -> None:
        self._regions = sorted(program.regions.values(), key=lambda region: region.base)
        self._bases = [region.base for region in self._regions]
        self._partition, self._partial, self._output = partition, partial_writes, program.network.output
        self._slots = authentication.tag_slots(program.regions, partition)
        self._tags = -(-max(region.end for region in self._regions) // ALIGNMENT) * ALIGNMENT
        self._buffer = LineCache(buffer_lines)

    def access(self, start: int, end: int, write: bool) -> list[Transfer]:
        region = self._regions[bisect_right(self._bases, start) - 1]
        blocks = self._partition[region.name]
        first, last = blocks.covering(start - region.base, end - region.base)
        whole = (region.base + blocks.cuts[first], region.base + blocks.cuts[last])
        extra = whole[1] - whole[0] - (end - start)
        slot = self._slots[region.name]
        transfers = []
        if write and extra:
            if not self._partial:
                raise ProtectionError(
                    f"bytes {start}..{end} of {region.name!r} are part of a block; a block is written whole"
                )
            transfers = [
                *self._touch(slot + first, slot + last, False),
                Transfer(*whole, False, "data", whole[1] - whole[0]),
            ]
        return [*transfers, *self._touch(slot + first, slot + last, write), Transfer(*whole, write, "data", extra)]

    def _touch(self, first: int, last: int, write: bool) -> list[Transfer]:
        transfers = []
        for line in range(first // TAGS_PER_LINE, (last - 1) // TAGS_PER_LINE + 1):
            low, high = max(first, line * TAGS_PER_LINE), min(last, (line + 1) * TAGS_PER_LINE)
            sectors = (1 << high - line * TAGS_PER_LINE) - (1 << low - line * TAGS_PER_LINE)
            if self._buffer.touch(line, sectors, write):
                transfers.append(self._line(line, False))
        return transfers + [self._line(line, True) for line in self._buffer.drain()]

    def _line(self, line: int, write: bool) -> Transfer:
        start = self._tags + line * TAGS_PER_LINE * TAG_BYTES
        return Transfer(start, start + LINE_BYTES, write, "tags", LINE_BYTES)

    def release(self, regions: Iterable[str]) -> None:
        for name in regions:
            first = self._slots[name]
            self._buffer.drop(-(-first // TAGS_PER_LINE), (first + self._partition[name].count) // TAGS_PER_LINE)

    def finish(self) -> list[Transfer]:
        first = self._slots[self._output]
        last = first + self._partition[self._output].count
        return [
            self._line(line, True)
            for line in self._buffer.flush()
            if line * TAGS_PER_LINE < last and (line + 1) * TAGS_PER_LINE > first
        ]


class CounterTree:
    """MACs, counters and a tree for every 64-byte line: `mee`. A line found in the cache was verified when it came."""

    def __init__(self, program: VtaProgram, cache_lines: int) -> None:
        self._cache = LineCache(cache_lines)
        position = -(-max(region.end for region in program.regions.values()) // ALIGNMENT) * ALIGNMENT
        groups = -(-position // (LINE_BYTES * MEE_ARITY))
        self._macs = position // LINE_BYTES
        position += groups * LINE_BYTES
        self._levels: list[int] = []
        while groups > MEE_ROOT_LINES:
            self._levels.append(position // LINE_BYTES)
            position += groups * LINE_BYTES
            groups = -(-groups // MEE_ARITY)

    def access(self, start: int, end: int, write: bool) -> list[Transfer]:
        low, high = start // LINE_BYTES * LINE_BYTES, -(-end // LINE_BYTES) * LINE_BYTES
        extra = high - low - (end - start)
        span = LINE_BYTES * MEE_ARITY
        transfers = []
        for group in range(low // span, (high - 1) // span + 1):
            transfers += self._counter(0, group, write)
            transfers += self._use(self._macs + group, write, "macs")
        if write and extra:
            transfers += [
                Transfer(line, line + LINE_BYTES, False, "data", LINE_BYTES)
                for line, partial in ((low, start > low), (high - LINE_BYTES, end < high))
                if partial
            ]
        return [*transfers, Transfer(low, high, write, "data", extra)]

    def _counter(self, level: int, group: int, write: bool) -> list[Transfer]:
        """A counter line, and above it each line that must be fetched to verify the one below."""
        if level == len(self._levels):
            return []
        line = self._levels[level] + group
        missed = self._cache.touch(line, 1, False)
        label = "counters" if level == 0 else "tree"
        transfers = (
            [self._line(line, False, label), *self._counter(level + 1, group // MEE_ARITY, False)] if missed else []
        )
        if write:
            self._cache.touch(line, 1, True)
        return transfers + self._write_back()

    def _use(self, line: int, write: bool, label: str) -> list[Transfer]:
        missed = self._cache.touch(line, 1, False)
        if write:
            self._cache.touch(line, 1, True)
        return ([self._line(line, False, label)] if missed else []) + self._write_back()

    def _write_back(self) -> list[Transfer]:
        """A counter line leaves with its parent's counter raised, which may push out others in turn."""
        transfers = []
        for line in self._cache.drain():
            level = next((n for n in reversed(range(len(self._levels))) if line >= self._levels[n]), None)
            label = "macs" if level is None else "counters" if level == 0 else "tree"
            transfers.append(self._line(line, True, label))
            if level is not None:
                transfers += self._counter(level + 1, (line - self._levels[level]) // MEE_ARITY, True)
        return transfers

    def release(self, regions: Iterable[str]) -> None:
        """A cache that works by address, as this one, knows nothing of tensors."""

    @staticmethod
    def _line(line: int, write: bool, label: str) -> Transfer:
        return Transfer(line * LINE_BYTES, (line + 1) * LINE_BYTES, write, label, LINE_BYTES)

    def finish(self) -> list[Transfer]:
        return []


def traffic_model(
    mode: str,
    program: VtaProgram,
    *,
    partition: Mapping[str, Blocks] | None = None,
    tag_buffer_lines: int = TAG_BUFFER_LINES,
) -> TrafficModel:
    """The model of a mode. ProtectionError lists the modes there are."""
    if mode in ("none", "ctr"):
        return Unchanged()
    if mode == "mee":
        return CounterTree(program, MEE_CACHE_LINES)
    if mode == "mgx":
        fixed = {name: authentication.uniform(region.size, MGX_BLOCK) for name, region in program.regions.items()}
        return Tagged(program, fixed, partial_writes=True, buffer_lines=tag_buffer_lines)
    if mode == "tec":
        return Tagged(
            program, partition or authentication.choose(program), partial_writes=False, buffer_lines=tag_buffer_lines
        )
    raise ProtectionError(f"no protection mode called {mode!r}; there are {', '.join(MODES)}")
