"""VTA's 128-bit instructions, encoded and decoded (field layout: include/vta/hw_spec.h).

Each instruction is two little-endian 64-bit words. A C bit-field never straddles a word, so the fields that do not fit
the first word start at bit 64; `_FIRST` and `_SECOND` list them in order, lowest bit first.

    LOAD, STORE  opcode 3 | dependences 4 | memory 3 | sram 16 | dram 32 || y_size 16 x_size 16 x_stride 16 | four pads
    of 4 GEMM         opcode 3 | dependences 4 | reset 1 | uop begin 13, end 14 | iterations 14, 14 || six factors 11
    11 11 11 10 10 ALU          opcode 3 | dependences 4 | reset 1 | uop begin 13, end 14 | iterations 14, 14 || 11 11
    11 11 | op 3 | imm? 1 | 16
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

from privlib.ginseng.errors import IsaError
from privlib.ginseng.vta.config import INSTRUCTION_BYTES


class Opcode(IntEnum):
    LOAD = 0
    STORE = 1
    GEMM = 2
    FINISH = 3
    ALU = 4


class Memory(IntEnum):
    """On-chip buffer of a LOAD or STORE; ACC_8BIT widens int8 from DRAM to int32."""

    UOP = 0
    WGT = 1
    INP = 2
    ACC = 3
    OUT = 4
    ACC_8BIT = 5


class AluOp(IntEnum):
    MIN = 0
    MAX = 1
    ADD = 2
    SHR = 3
    """Arithmetic shift right; by a negative amount, left."""
    MUL = 4


class Engine(IntEnum):
    LOAD = 0
    COMPUTE = 1
    STORE = 2


_DEPENDENCES = (("pop_prev", 1), ("pop_next", 1), ("push_prev", 1), ("push_next", 1))
_LOOPS = (("uop_begin", 13), ("uop_end", 14), ("iter_out", 14), ("iter_in", 14))
Fields = tuple[tuple[str, int], ...]
Edge = tuple[Engine, Engine]


@dataclass
class Instruction:
    """The four dependence bits, common to all: pop before starting, push when done; prev and next are the neighbours in
    the chain load, compute, store."""

    pop_prev: bool = False
    pop_next: bool = False
    push_prev: bool = False
    push_next: bool = False

    opcode: ClassVar[Opcode]
    _ENGINE: ClassVar[Engine] = Engine.COMPUTE
    _FIRST: ClassVar[Fields] = ()
    _SECOND: ClassVar[Fields] = ()
    _SIGNED: ClassVar[frozenset[str]] = frozenset()

    @property
    def engine(self) -> Engine:
        """The queue that runs it."""
        return self._ENGINE

    @property
    def pops(self) -> list[Edge]:
        """Token queues (from, to) of which it takes one token before it starts. The chain's ends have no outer
        neighbour, whatever the bits say."""
        behind, ahead = self._neighbours()
        return ([(behind, self.engine)] if self.pop_prev and behind is not None else []) + (
            [(ahead, self.engine)] if self.pop_next and ahead is not None else []
        )

    @property
    def pushes(self) -> list[Edge]:
        """Token queues into which it puts one token when it is done."""
        behind, ahead = self._neighbours()
        return ([(self.engine, behind)] if self.push_prev and behind is not None else []) + (
            [(self.engine, ahead)] if self.push_next and ahead is not None else []
        )

    def _neighbours(self) -> tuple[Engine | None, Engine | None]:
        engine = self.engine
        return (
            Engine(engine - 1) if engine is not Engine.LOAD else None,
            Engine(engine + 1) if engine is not Engine.STORE else None,
        )

    def encode(self) -> bytes:
        """The 16 bytes of this instruction. IsaError names a field whose value does not fit."""
        words = 0
        position = 3
        words |= int(self.opcode)
        for name, bits in _DEPENDENCES + self._FIRST:
            words |= self._field(name, bits) << position
            position += bits
        position = 64
        for name, bits in self._SECOND:
            words |= self._field(name, bits) << position
            position += bits
        return words.to_bytes(INSTRUCTION_BYTES, "little")

    def _field(self, name: str, bits: int) -> int:
        value = int(getattr(self, name))
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if name in self._SIGNED else (0, (1 << bits) - 1)
        if not low <= value <= high:
            raise IsaError(
                f"{type(self).__name__}.{name} = {value} does not fit its {bits} bits ({low}..{high}); "
                "use a smaller tile"
            )
        return value & ((1 << bits) - 1)


@dataclass
class MemoryInstruction(Instruction):
    """2-D strided DMA; sizes, stride and `dram_base` count elements of the buffer's type, pads add zeros on chip."""

    memory: Memory = Memory.INP
    sram_base: int = 0
    dram_base: int = 0
    y_size: int = 1
    x_size: int = 1
    x_stride: int = 1
    y_pad_0: int = 0
    y_pad_1: int = 0
    x_pad_0: int = 0
    x_pad_1: int = 0

    _FIRST = (("memory", 3), ("sram_base", 16), ("dram_base", 32))
    _SECOND = (
        ("y_size", 16),
        ("x_size", 16),
        ("x_stride", 16),
        ("y_pad_0", 4),
        ("y_pad_1", 4),
        ("x_pad_0", 4),
        ("x_pad_1", 4),
    )


@dataclass
class Load(MemoryInstruction):
    opcode = Opcode.LOAD

    @property
    def engine(self) -> Engine:
        """Inputs and weights have a queue of their own; the compute engine loads micro-ops and accumulators itself."""
        return Engine.LOAD if self.memory in (Memory.INP, Memory.WGT) else Engine.COMPUTE


@dataclass
class Store(MemoryInstruction):
    opcode = Opcode.STORE
    _ENGINE = Engine.STORE


@dataclass
class Gemm(Instruction):
    """For each of iter_out x iter_in x micro-op: acc[dst] += wgt[w] @ inp[src], or acc[dst] = 0 when `reset`."""

    reset: bool = False
    uop_begin: int = 0
    uop_end: int = 0
    iter_out: int = 1
    iter_in: int = 1
    dst_factor_out: int = 0
    dst_factor_in: int = 0
    src_factor_out: int = 0
    src_factor_in: int = 0
    wgt_factor_out: int = 0
    wgt_factor_in: int = 0

    opcode = Opcode.GEMM
    _FIRST = (("reset", 1), *_LOOPS)
    _SECOND = (
        ("dst_factor_out", 11),
        ("dst_factor_in", 11),
        ("src_factor_out", 11),
        ("src_factor_in", 11),
        ("wgt_factor_out", 10),
        ("wgt_factor_in", 10),
    )

    @property
    def passes(self) -> int:
        """Times the MAC array is used."""
        return (self.uop_end - self.uop_begin) * self.iter_out * self.iter_in


@dataclass
class Alu(Instruction):
    """The same loops over accumulators: acc[dst] = op(acc[dst], immediate or acc[src])."""

    reset: bool = False
    uop_begin: int = 0
    uop_end: int = 0
    iter_out: int = 1
    iter_in: int = 1
    dst_factor_out: int = 0
    dst_factor_in: int = 0
    src_factor_out: int = 0
    src_factor_in: int = 0
    op: AluOp = AluOp.ADD
    use_immediate: bool = False
    immediate: int = 0

    opcode = Opcode.ALU
    _FIRST = (("reset", 1), *_LOOPS)
    _SECOND = (
        ("dst_factor_out", 11),
        ("dst_factor_in", 11),
        ("src_factor_out", 11),
        ("src_factor_in", 11),
        ("op", 3),
        ("use_immediate", 1),
        ("immediate", 16),
    )
    _SIGNED = frozenset({"immediate"})

    @property
    def operations(self) -> int:
        """Vectors of `block` accumulators worked on."""
        return (self.uop_end - self.uop_begin) * self.iter_out * self.iter_in


@dataclass
class Finish(Instruction):
    opcode = Opcode.FINISH


_KINDS: dict[Opcode, type[Instruction]] = {kind.opcode: kind for kind in (Load, Store, Gemm, Finish, Alu)}
_ENUMS: dict[str, type[IntEnum]] = {"memory": Memory, "op": AluOp}
_BOOLS = frozenset({"pop_prev", "pop_next", "push_prev", "push_next", "reset", "use_immediate"})


def decode(raw: bytes) -> Instruction:
    """The instruction in 16 bytes. IsaError for another length, an unknown opcode, buffer or operation, or stray
    bits."""
    if len(raw) != INSTRUCTION_BYTES:
        raise IsaError(f"an instruction is {INSTRUCTION_BYTES} bytes, got {len(raw)}")
    words = int.from_bytes(raw, "little")
    try:
        kind = _KINDS[Opcode(words & 7)]
    except ValueError:
        raise IsaError(f"opcode {words & 7} is no VTA instruction") from None
    values: dict[str, Any] = {}
    used = 7
    for start, fields in ((3, _DEPENDENCES + kind._FIRST), (64, kind._SECOND)):
        position = start
        for name, bits in fields:
            value = words >> position & ((1 << bits) - 1)
            used |= ((1 << bits) - 1) << position
            if name in kind._SIGNED and value >> (bits - 1):
                value -= 1 << bits
            values[name] = _typed(name, value, kind)
            position += bits
    if words & ~used:
        raise IsaError(f"bits outside the fields of {kind.__name__} are set: {words & ~used:#034x}")
    return kind(**values)


def _typed(name: str, value: int, kind: type[Instruction]) -> int:
    if name in _BOOLS:
        return bool(value)
    if name not in _ENUMS:
        return value
    try:
        return _ENUMS[name](value)
    except ValueError:
        raise IsaError(f"{name} {value} is unknown in {kind.__name__}") from None
