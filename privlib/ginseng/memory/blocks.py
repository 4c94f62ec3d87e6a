"""Authentication blocks: which bytes of a tensor share one 16-byte tag, chosen per tensor from how it is accessed.

A block is read whole, since its tag covers all of it, and written whole, since its version is used once. Small blocks
cost tags; large blocks cost bytes that a tile does not need (a convolution's halo, say). Cutting a tensor exactly
where accesses begin and end wastes nothing; merging the pieces up to some size trades halo bytes for tags. `choose`
tries both and equal sizes, counts every access of the lowered program in whole DRAM bursts, and takes the cheapest.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from privlib.ginseng.errors import ProtectionError
from privlib.ginseng.memory.dram import LINE_BYTES
from privlib.ginseng.vta.config import INSTRUCTION_BYTES, PIPELINED, VtaConfig
from privlib.ginseng.vta.isa import MemoryInstruction, Store
from privlib.ginseng.vta.program import Kind, LayerProgram, Region, VtaProgram, dram_ranges

TAG_BYTES = 16
TAGS_PER_LINE = LINE_BYTES // TAG_BYTES
SIZES = tuple(1 << power for power in range(6, 18))


@dataclass(frozen=True)
class Use:
    """One access to bytes [start, end) of a tensor, counted from its base."""

    start: int
    end: int
    write: bool


@dataclass(frozen=True)
class Blocks:
    """Block boundaries of one tensor: block n is bytes cuts[n] to cuts[n + 1] from its base.

    `numbers` are the blocks' burst numbers, in the order in which they are written: the TEC refuses a burst below the
    last one written, so that no nonce can repeat. Empty means in order of address.
    """

    cuts: tuple[int, ...]
    rule: str = ""
    numbers: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return len(self.cuts) - 1

    def covering(self, start: int, end: int) -> tuple[int, int]:
        """First and one past the last block that bytes [start, end) touch."""
        if not 0 <= start < end <= self.cuts[-1]:
            raise ProtectionError(f"bytes {start}..{end} are outside a tensor of {self.cuts[-1]} bytes")
        return bisect_right(self.cuts, start) - 1, bisect_left(self.cuts, end)

    def number(self, block: int) -> int:
        """The burst number of a block."""
        return self.numbers[block] if self.numbers else block

    def exact(self, start: int, end: int) -> bool:
        first, last = self.covering(start, end)
        return self.cuts[first] == start and self.cuts[last] == end


def uniform(size: int, block: int) -> Blocks:
    """Blocks of `block` bytes, the last one shorter."""
    return Blocks((*range(0, size, block), size), f"{block} B")


def uses(layers: Iterable[LayerProgram], regions: Mapping[str, Region], config: VtaConfig) -> dict[str, list[Use]]:
    """Every access of one inference to every region, whoever reads or writes it; the host writes the input whole."""
    found: dict[str, list[Use]] = {name: [] for name in regions}
    bases = sorted((region.base, name) for name, region in regions.items())
    keys = [base for base, _ in bases]
    for layer in layers:
        stream = regions[f"{layer.name}:instructions"]
        chunk = PIPELINED.fetch_instructions * INSTRUCTION_BYTES
        found[stream.name] += [
            Use(start, min(start + chunk, stream.size), False) for start in range(0, stream.size, chunk)
        ]
        for instruction in layer.instructions:
            if isinstance(instruction, MemoryInstruction):
                for start, end in dram_ranges(instruction, config):
                    region = regions[bases[bisect_right(keys, start) - 1][1]]
                    found[region.name].append(
                        Use(start - region.base, end - region.base, isinstance(instruction, Store))
                    )
    return found


def extra_bytes(blocks: Blocks, accesses: Iterable[Use]) -> int:
    """Bytes moved beyond those asked for: the rest of each block, and its tags in whole lines, nothing kept on chip. A
    block written in part is read first and then written whole."""
    total = 0
    for use in accesses:
        first, last = blocks.covering(use.start, use.end)
        overfetch = blocks.cuts[last] - blocks.cuts[first] - (use.end - use.start)
        lines = (last - 1) // TAGS_PER_LINE - first // TAGS_PER_LINE + 1
        if use.write and overfetch:
            total += overfetch + blocks.cuts[last] - blocks.cuts[first] + lines * LINE_BYTES
        else:
            total += overfetch
        total += lines * LINE_BYTES
    return total


def candidates(size: int, accesses: Sequence[Use]) -> list[Blocks]:
    """Partitions worth trying; all keep every write whole."""
    written = {0, size} | {edge for use in accesses if use.write for edge in (use.start, use.end)}
    read = {edge for use in accesses if not use.write for edge in (use.start, use.end)}
    found = [
        Blocks(tuple(_merge(sorted(written | read), written, least)), f"access edges, at least {least} B")
        for least in (0, *SIZES)
    ]
    for block in SIZES:
        if block < size:
            equal = uniform(size, block)
            if written <= set(equal.cuts):
                found.append(equal)
    return found


def _merge(edges: Sequence[int], fixed: set[int], least: int) -> list[int]:
    """Drop edges that end a block shorter than `least`, but never a fixed one."""
    kept = [edges[0]]
    for edge in edges[1:]:
        if edge in fixed or edge - kept[-1] >= least:
            kept.append(edge)
    return kept


def choose(program: VtaProgram) -> dict[str, Blocks]:
    """The cheapest partition of every region of a program."""
    accesses = uses(program.layers, program.regions, program.config)
    return {name: cheapest(region.size, accesses[name])[1] for name, region in program.regions.items()}


def cheapest(size: int, accesses: Sequence[Use]) -> tuple[int, Blocks]:
    """The partition that moves the fewest extra bytes, and how many; among equals the one with the fewest tags."""
    cost, _, blocks = min(
        ((extra_bytes(found, accesses), found.count, found) for found in candidates(size, accesses)),
        key=lambda ranked: ranked[:2],
    )
    return cost, replace(blocks, numbers=_written_order(blocks, accesses))


def _written_order(blocks: Blocks, accesses: Iterable[Use]) -> tuple[int, ...]:
    """Burst numbers of blocks by the order in which an inference writes them; what only the host writes, by address."""
    written = [block for use in accesses if use.write for block in range(*blocks.covering(use.start, use.end))]
    if not written:
        return ()
    numbers = {block: number for number, block in enumerate(dict.fromkeys(written))}
    return tuple(numbers[block] for block in range(blocks.count))


def granularity_curve(program: VtaProgram, sizes: Iterable[int] = SIZES) -> dict[str, float]:
    """Extra bytes as a fraction of those asked for, for each equal block size and for the chosen partition."""
    accesses = uses(program.layers, program.regions, program.config)
    asked = sum(use.end - use.start for group in accesses.values() for use in group)
    curve = {
        f"{size} B": sum(
            extra_bytes(uniform(region.size, size), accesses[name]) for name, region in program.regions.items()
        )
        / asked
        for size in sizes
    }
    chosen = choose(program)
    curve["chosen"] = sum(extra_bytes(chosen[name], accesses[name]) for name in chosen) / asked
    return curve


def tag_slots(regions: Mapping[str, Region], blocks: Mapping[str, Blocks]) -> dict[str, int]:
    """Where each region's tags begin, in tags: constants of a layer side by side, so that they share lines, then
    activations, each from a new line, so that a dead tensor's lines can be dropped."""
    slots: dict[str, int] = {}
    position = 0
    order = sorted(regions.values(), key=lambda region: (region.kind is Kind.ACTIVATIONS, region.number))
    for region in order:
        if region.kind is Kind.ACTIVATIONS:
            position = -(-position // TAGS_PER_LINE) * TAGS_PER_LINE
        slots[region.name] = position
        position += blocks[region.name].count
    return slots
