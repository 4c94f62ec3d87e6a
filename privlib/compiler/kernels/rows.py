"""Sums along the last axis: one value a row, for norms of vectors and layer normalization."""

import math
from collections.abc import Callable, Sequence

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.target import Machine

Term = Callable[[Expression, int], Expression]


def sum_of_row(kernel: Kernel, columns: int, term: Term) -> Expression:
    """Σ over c of term(c, lanes): lane by lane, then the lanes pairwise, so that rounding stays small."""
    lanes = kernel.lanes
    line = kernel.registers(lanes)
    kernel.store(line, kernel.constant(0.0, lanes), 0)

    def add(c: Expression, width: int) -> None:
        kernel.store(line, kernel.load(line, 0, lanes=width) + term(c, width), 0, lanes=width)

    kernel.for_vectors(columns, add)
    return T.Bind(pairwise([line[lane] for lane in range(lanes)]))


def pairwise(parts: Sequence[Expression]) -> Expression:
    """The sum of a power of two of terms, added in pairs."""
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [parts[i] + parts[i + half] for i in range(half)]
    return parts[0]


def tasks_of_rows(rows: int) -> tuple[int, int]:
    """(tasks, rows of a task)."""
    chunk = next(c for c in (64, 32, 16, 8, 4, 2, 1) if rows % c == 0)
    return rows // chunk, chunk


def row_sum(machine: Machine, dtype: str, shape: Sequence[int], factor: float) -> "tvm.tirx.PrimFunc":
    """(…, channels) → (…, 1): factor times the sum of each row. Arguments: input, output."""
    kernel, rows, channels = Kernel(machine, dtype), math.prod(shape[:-1]), shape[-1]
    with kernel.function():
        whole, result = kernel.argument("input", shape), kernel.argument("output", (*shape[:-1], 1))
        source, output = kernel.view(whole, (rows, channels)), kernel.view(result, (rows,))
        tasks, chunk = tasks_of_rows(rows)
        with T.parallel(tasks) as task, T.serial(chunk) as r:
            row = T.Bind(task * chunk + r)
            total = sum_of_row(kernel, channels, lambda c, lanes: kernel.load(source, row, c, lanes=lanes))
            T.buffer_store(output, total * kernel.constant(factor), [row])
    return kernel.finish()
