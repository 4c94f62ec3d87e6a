"""What a simulation found: cycles and bytes, for each layer and for the network."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from privlib.ginseng.vta.isa import Alu, Engine, Gemm, Instruction, MemoryInstruction


@dataclass(frozen=True)
class Span:
    """One instruction on the time line of its layer, for pictures: from its start to its end, in cycles."""

    engine: Engine
    what: str
    start: int
    end: int


def describe(instruction: Instruction) -> str:
    """A short name for a picture's legend: "LOAD WGT", "GEMM", "RESET", "ALU SHR", ..."""
    name = type(instruction).__name__.upper()
    if isinstance(instruction, MemoryInstruction):
        return f"{name} {instruction.memory.name}"
    if isinstance(instruction, Gemm) and instruction.reset:
        return "RESET"
    return f"{name} {instruction.op.name}" if isinstance(instruction, Alu) else name


@dataclass(frozen=True)
class LayerReport:
    """One launch. `moved` counts bytes on the bus by what they are: a kind of region, "overfetch", or metadata ("tags",
    "macs", "counters", "tree"); `gemm_cycles` and `alu_cycles` are those in which that unit works."""

    name: str
    cycles: int
    macs: int
    gemm_cycles: int
    alu_cycles: int
    bus_cycles: int
    store_wait_cycles: int
    moved: Mapping[str, int]
    spans: tuple[Span, ...] = ()

    @property
    def bytes_moved(self) -> int:
        return sum(self.moved.values())


@dataclass(frozen=True)
class CycleReport:
    """A network under one protection mode."""

    network: str
    protection: str
    memory: str
    layers: tuple[LayerReport, ...]

    @property
    def cycles(self) -> int:
        return sum(layer.cycles for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def moved(self) -> dict[str, int]:
        """Bytes by what they are, over all layers."""
        total: Counter[str] = Counter()
        for layer in self.layers:
            total.update(layer.moved)
        return dict(total)

    @property
    def bytes_moved(self) -> int:
        return sum(layer.bytes_moved for layer in self.layers)

    def overhead(self, baseline: "CycleReport") -> tuple[float, float]:
        """Cycles and bytes beyond a baseline's, as fractions of it."""
        return self.cycles / baseline.cycles - 1, self.bytes_moved / baseline.bytes_moved - 1
