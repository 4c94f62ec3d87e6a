"""Writing TIR kernels from Python: vectors as ramps, register tiles as unrolled local buffers, one context per
function."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from privlib.compiler.target import Machine

Expression = Any  # a TIR expression, or a Python int where an index is constant
Epilogue = Callable[[Expression, Sequence[Expression], Expression, int], Expression]

SCRATCH_BYTES = "privlib.scratch_bytes"  # of a function: working memory of one core
ITEM_BYTES = {"float32": 4, "float64": 8, "int32": 4, "uint32": 4, "int64": 8}


class Kernel:
    """One TIR function under construction; `finish()` gives the PrimFunc.

    Buffers are dense and row-major. `dtype` is the element type of every float buffer ("float32" or "float64").
    """

    def __init__(self, machine: Machine, dtype: str) -> None:
        self.machine, self.dtype, self.lanes = machine, dtype, machine.lanes(dtype)
        self._builder = IRBuilder()
        self._scratch = 0

    @contextmanager
    def function(self, **attributes: Any) -> Iterator[None]:
        with self._builder, T.prim_func(is_private=True, s_tir=True):
            T.func_attr({"tirx.noalias": True, **attributes})
            yield

    def finish(self) -> "tvm.tirx.PrimFunc":
        return self._builder.get().with_attr(SCRATCH_BYTES, self._scratch)

    def argument(self, name: str, shape: Sequence[int], dtype: str | None = None) -> Any:
        return T.arg(name, T.buffer(tuple(shape), dtype or self.dtype, layout=None))

    def scratch(self, shape: Sequence[int], dtype: str | None = None) -> Any:
        self._scratch += math.prod(shape) * ITEM_BYTES[dtype or self.dtype]
        return T.alloc_buffer(tuple(shape), dtype or self.dtype, layout=None)

    def registers(self, count: int, dtype: str | None = None) -> Any:
        """A local buffer of `count` elements; with constant indices LLVM keeps it in registers."""
        return T.alloc_buffer((count,), dtype or self.dtype, scope="local", layout=None)

    def view(self, buffer: Any, shape: Sequence[int]) -> Any:
        """The same memory under another shape."""
        return T.decl_buffer(tuple(shape), buffer.dtype, data=buffer.data, layout=None)

    def constant(self, value: float, lanes: int = 1) -> Expression:
        scalar = getattr(T, self.dtype)(value)
        return scalar if lanes == 1 else T.broadcast(scalar, lanes)

    def load(self, buffer: Any, *index: Expression, lanes: int | None = None) -> Expression:
        lanes = self.lanes if lanes is None else lanes
        if lanes == 1:
            return buffer[tuple(index)]
        return buffer[(*index[:-1], T.ramp(index[-1], 1, lanes))]

    def store(self, buffer: Any, value: Expression, *index: Expression, lanes: int | None = None) -> None:
        lanes = self.lanes if lanes is None else lanes
        last = index[-1] if lanes == 1 else T.ramp(index[-1], 1, lanes)
        T.buffer_store(buffer, value, [*index[:-1], last])

    def splat(self, scalar: Expression, lanes: int | None = None) -> Expression:
        lanes = self.lanes if lanes is None else lanes
        return scalar if lanes == 1 else T.broadcast(scalar, lanes)

    def for_vectors(self, extent: int, body: Callable[[Expression, int], None]) -> None:
        """Call body(start, lanes) over a contiguous extent: a loop of whole vectors, then one narrower vector for the
        rest."""
        whole, rest = divmod(extent, self.lanes)
        if whole:
            with T.serial(whole) as block:
                body(block * self.lanes, self.lanes)
        if rest:
            body(whole * self.lanes, rest)


def for_tiles(extent: int, size: int, body: Callable[[Expression, int], None]) -> None:
    """Call body(start, size) over whole tiles in a loop, then once for a smaller last tile."""
    whole, rest = divmod(extent, size)
    if whole == 1:
        body(0, size)
    elif whole:
        with T.serial(whole) as tile:
            body(tile * size, size)
    if rest:
        body(whole * size, rest)


def register_tile(
    kernel: Kernel,
    rows: int,
    vectors: int,
    reduction: Callable[[Callable[[Callable[[int], Expression], Callable[[int], Expression]], None]], None],
) -> Any:
    """Accumulate rows × vectors outer products in registers.

    `reduction(step)` opens the reduction loops and calls step(row_scalar, column_vector) in the innermost one; the
    result is a local buffer holding row r, vector v at (r·vectors + v)·lanes.
    """
    lanes = kernel.lanes
    accumulator = kernel.registers(rows * vectors * lanes)
    for position in range(rows * vectors):
        kernel.store(accumulator, kernel.constant(0.0, lanes), position * lanes)

    def step(row_scalar: Callable[[int], Expression], column_vector: Callable[[int], Expression]) -> None:
        columns = [T.Bind(column_vector(v)) for v in range(vectors)]
        for r in range(rows):
            value = T.Bind(kernel.splat(row_scalar(r)))
            for v in range(vectors):
                at = (r * vectors + v) * lanes
                kernel.store(accumulator, kernel.load(accumulator, at) + value * columns[v], at)

    reduction(step)
    return accumulator


def transposed(rows: Sequence[Expression]) -> list[Expression]:
    """The columns of as many vectors as each has lanes (a power of two), in registers: Eklundh's exchanges."""
    vectors, lanes = list(rows), len(rows)
    distance = 1
    while distance < lanes:
        for r in (r for r in range(lanes) if not r & distance):
            pair = [vectors[r], vectors[r + distance]]
            upper = [j if not j & distance else lanes + j - distance for j in range(lanes)]
            lower = [j + distance if not j & distance else lanes + j for j in range(lanes)]
            vectors[r], vectors[r + distance] = (T.Bind(tirx.Shuffle(pair, order)) for order in (upper, lower))
        distance *= 2
    return vectors
