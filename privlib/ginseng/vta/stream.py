"""Building one layer's instruction stream: micro-op kernels, buffer slots, and dependence bits from stated hazards.

Lowering says which earlier instructions each instruction must wait for. `Stream.finish` turns that into the four token
queues between load, compute and store: for each pair of neighbours, an instruction pops one token if it needs a later
producer than any before it, and that producer pushes one. Tokens are counted and engines run in order, so the n-th pop
always waits for the n-th push, and one wait covers everything its producer's engine did before.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privlib.ginseng.errors import LoweringError
from privlib.ginseng.vta.config import VtaConfig
from privlib.ginseng.vta.isa import Engine, Finish, Instruction, Load, Memory

_NEIGHBOURS = (
    (Engine.LOAD, Engine.COMPUTE),
    (Engine.COMPUTE, Engine.LOAD),
    (Engine.COMPUTE, Engine.STORE),
    (Engine.STORE, Engine.COMPUTE),
)


Axis = tuple[int, int, int, int]
"""A loop over micro-ops: extent, and the steps of accumulator, source and weight index."""


def expand(bases: tuple[int, int, int], axes: Sequence[Axis]) -> list[tuple[int, int, int]]:
    """The micro-ops of nested loops over `axes`, the last one fastest."""
    uops = [bases]
    for extent, *steps in axes:
        uops = [(d + n * steps[0], s + n * steps[1], w + n * steps[2]) for d, s, w in uops for n in range(extent)]
    return uops


@dataclass
class Slot:
    """A piece of an on-chip buffer: what it holds, who loaded that, and who used it last."""

    base: int
    key: Hashable = None
    loader: int | None = None
    user: int | None = None


@dataclass
class SlotPool:
    """Equal slots of one buffer; the least recently used is given away first."""

    slots: list[Slot]
    reuse: bool = True
    order: list[Slot] = field(init=False)

    def __post_init__(self) -> None:
        self.order = list(self.slots)

    def take(self, key: Hashable, fixed: int | None = None) -> tuple[Slot, bool]:
        """The slot for `key` and whether it holds it already; `fixed` asks for one slot by number."""
        held = next((slot for slot in self.order if slot.key == key), None) if self.reuse else None
        slot = held or (self.order[0] if fixed is None else self.slots[fixed])
        self.order.remove(slot)
        self.order.append(slot)
        slot.key = key
        return slot, held is not None


class Stream:
    """Instructions in order of issue, with what each waits for, and the micro-ops they use."""

    def __init__(self, config: VtaConfig) -> None:
        self.config = config
        self.instructions: list[Instruction] = []
        self.needs: list[tuple[int, ...]] = []
        self.uops: list[tuple[int, int, int]] = []
        self._kernels: dict[Hashable, tuple[int, int]] = {}
        self._uop_load = Load(memory=Memory.UOP)
        self.add(self._uop_load)

    def add(self, instruction: Instruction, needs: Iterable[int | None] = ()) -> int:
        """Append; returns its number, for others to wait for."""
        self.instructions.append(instruction)
        self.needs.append(tuple(need for need in needs if need is not None))
        return len(self.instructions) - 1

    def kernel(self, key: Hashable, build: Callable[[], Iterable[tuple[int, int, int]]]) -> tuple[int, int]:
        """Begin and end in the micro-op buffer of the kernel called `key`, which is built and stored once."""
        if key not in self._kernels:
            begin = len(self.uops)
            self.uops.extend(build())
            if len(self.uops) > self.config.uop_depth:
                raise LoweringError(f"the layer needs more than {self.config.uop_depth} micro-ops; use a smaller tile")
            self._kernels[key] = (begin, len(self.uops))
        return self._kernels[key]

    def single(self, dst: int, src: int) -> tuple[int, int]:
        """A kernel of one micro-op on accumulators `dst` and `src`."""
        return self.kernel((dst, src), lambda: [(dst, src, 0)])

    def finish(self, uop_dram_base: int) -> tuple[list[Instruction], npt.NDArray[np.int64]]:
        """Close the stream with FINISH after the last STORE, place the micro-op load, set the dependence bits."""
        last_store = max((n for n, i in enumerate(self.instructions) if i.engine is Engine.STORE), default=None)
        self.add(Finish(), [last_store])
        self._uop_load.dram_base = uop_dram_base
        self._uop_load.x_size = self._uop_load.x_stride = len(self.uops)
        set_dependences(self.instructions, self.needs)
        return self.instructions, np.array(self.uops, dtype=np.int64).reshape(-1, 3)


def set_dependences(instructions: Sequence[Instruction], needs: Sequence[Sequence[int]]) -> None:
    """Set pop and push bits so that every instruction waits for all it needs; LoweringError for a wait that the queues
    cannot express (load on store, store on load, or on a later instruction)."""
    awaited = dict.fromkeys(_NEIGHBOURS, -1)
    for number, (instruction, producers) in enumerate(zip(instructions, needs, strict=True)):
        latest: dict[tuple[Engine, Engine], int] = {}
        for producer in producers:
            edge = (instructions[producer].engine, instruction.engine)
            if producer >= number or (edge not in awaited and edge[0] is not edge[1]):
                raise LoweringError(
                    f"instruction {number} cannot wait for instruction {producer}: no queue from "
                    f"{edge[0].name} to {edge[1].name}, or it comes later"
                )
            if edge[0] is not edge[1]:
                latest[edge] = max(latest.get(edge, -1), producer)
        for edge, producer in latest.items():
            if producer <= awaited[edge]:
                continue
            awaited[edge] = producer
            if edge[0] < edge[1]:
                instructions[producer].push_next = instruction.pop_prev = True
            else:
                instructions[producer].push_prev = instruction.pop_next = True
