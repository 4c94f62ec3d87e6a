"""Matrix product with packed weights: 1×1 convolutions over all pixels of a batch, and linear layers.

Y[m, o] = act(bias[o] + R[m, o] + Σ_k X[m, k] · W[o, k])

Rows are blocked so that a block of X stays in the L1 cache while the weights stream through once per block; a long
reduction is cut, its partial sums kept in scratch. Tasks split the rows or, where there are few of them (a linear
layer), the output channels.
"""

from dataclasses import dataclass
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile
from privlib.compiler.kernels.conv_direct import Epilogue, Output
from privlib.compiler.kernels.shapes import divisors
from privlib.compiler.target import Machine

L1_BLOCK_BYTES = 16 * 1024


@dataclass(frozen=True)
class Matmul:
    """X (rows, c_in) times W (c_out, c_in) transposed."""

    rows: int
    c_in: int
    c_out: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.c_in * self.c_out


def packed_shape(machine: Machine, dtype: str, shape: Matmul) -> tuple[int, int, int]:
    """(blocks of output channels, c_in, lanes of a block), zero-padded."""
    block = machine.tile_vectors * machine.lanes(dtype)
    return (-(-shape.c_out // block), shape.c_in, block)


def pack_weights(machine: Machine, dtype: str, shape: Matmul) -> "tvm.tirx.PrimFunc":
    """(c_out, c_in) → packed_shape."""
    blocks, c_in, block = packed_shape(machine, dtype, shape)
    kernel = Kernel(machine, dtype)
    with kernel.function():
        weight = kernel.argument("weight", (shape.c_out, c_in))
        packed = kernel.argument("packed", (blocks, c_in, block))
        with T.parallel(blocks) as ob, T.serial(c_in) as k, T.serial(block) as lane:
            o = T.Bind(ob * block + lane)
            value = T.if_then_else(o < shape.c_out, weight[T.min(o, shape.c_out - 1), k], kernel.constant(0.0))
            T.buffer_store(packed, value, [ob, k, lane])
    return kernel.finish()


@dataclass(frozen=True)
class Blocking:
    """Rows of a block, length of a reduction chunk, tasks over rows, tasks over blocks of output channels."""

    rows: int
    chunk: int
    row_tasks: int
    channel_tasks: int


def blocking(machine: Machine, dtype: str, shape: Matmul) -> Blocking:
    item = 8 if dtype == "float64" else 4
    chunk = next(d for d in divisors(shape.c_in) if d <= 256 or d == 1)
    fit = max(machine.tile_rows, L1_BLOCK_BYTES // (chunk * item))
    blocks = packed_shape(machine, dtype, shape)[0]
    rows = next(d for d in divisors(shape.rows) if d <= fit)
    # a prime number of rows: take them all and leave a tail in the last tile
    if rows < machine.tile_rows <= shape.rows:
        rows = shape.rows
    row_blocks = shape.rows // rows
    row_tasks = _even_split(row_blocks, machine.cores)
    if row_tasks:
        return Blocking(rows, chunk, row_tasks, 1)
    return Blocking(
        rows,
        chunk,
        1,
        _even_split(blocks, machine.cores) or next((d for d in divisors(blocks) if d <= 8 * machine.cores), 1),
    )


def _even_split(pieces: int, cores: int) -> int:
    """The largest number of equal tasks, at most 64, that gives every core the same share (or nearly, when there are
    many); else 0."""
    return next((d for d in divisors(pieces) if d <= 64 and (d % cores == 0 or d >= 8 * cores)), 0)


def matmul(machine: Machine, dtype: str, shape: Matmul, epilogue: Epilogue) -> "tvm.tirx.PrimFunc":
    """Arguments: X (rows, c_in), packed weights, [bias], [residual], Y (rows, c_out)."""
    kernel, lanes = Kernel(machine, dtype), machine.lanes(dtype)
    blocks, c_in, block = packed_shape(machine, dtype, shape)
    cut = blocking(machine, dtype, shape)
    chunks, row_blocks, per_task = (
        c_in // cut.chunk,
        shape.rows // cut.rows // cut.row_tasks,
        blocks // cut.channel_tasks,
    )

    with kernel.function():
        x = kernel.argument("x", (shape.rows, c_in))
        packed = kernel.argument("packed", (blocks, c_in, block))
        output = Output(kernel, epilogue, (shape.rows, shape.c_out))
        with T.parallel(cut.row_tasks * cut.channel_tasks) as task:
            partial = kernel.scratch((cut.rows, per_task * block)) if chunks > 1 else None

            def tile(
                first: Expression,
                ob: Expression,
                local: Expression,
                width: int,
                chunk: Expression,
                r0: Expression,
                rows: int,
            ) -> None:
                vectors = -(-width // lanes)

                def reduction(step: Any) -> None:
                    with T.serial(cut.chunk) as k:
                        at = chunk * cut.chunk + k
                        step(lambda r: x[first + r0 + r, at], lambda v: kernel.load(packed, ob, at, v * lanes))

                sums = register_tile(kernel, rows, vectors, reduction)
                for r in range(rows):
                    for v in range(vectors):
                        finish(first, ob, local, width, chunk, sums, r0 + r, v, (r * vectors + v) * lanes)

            def finish(
                first: Expression,
                ob: Expression,
                local: Expression,
                width: int,
                chunk: Expression,
                sums: Any,
                row: Expression,
                v: int,
                at: int,
            ) -> None:
                part = min(lanes, width - v * lanes)

                def store(value: Expression) -> None:
                    output.store(value, first + row, ob * block + v * lanes, lanes=part)

                if partial is None:
                    store(kernel.load(sums, at, lanes=part))
                    return
                column = local * block + v * lanes
                with T.If(chunk > 0), T.Then():
                    kernel.store(sums, kernel.load(sums, at) + kernel.load(partial, row, column), at)
                with T.If(chunk == chunks - 1):
                    with T.Then():
                        store(kernel.load(sums, at, lanes=part))
                    with T.Else():
                        kernel.store(partial, kernel.load(sums, at), row, column)

            def channel_block(
                first: Expression, ob: Expression, local: Expression, chunk: Expression, width: int
            ) -> None:
                for_tiles(cut.rows, machine.tile_rows, lambda r0, rows: tile(first, ob, local, width, chunk, r0, rows))

            rest = shape.c_out % block
            with T.serial(row_blocks) as rb, T.serial(chunks) as chunk, T.serial(per_task) as local:
                first = T.Bind((task // cut.channel_tasks * row_blocks + rb) * cut.rows)
                ob = T.Bind(task % cut.channel_tasks * per_task + local)
                if not rest:
                    channel_block(first, ob, local, chunk, block)
                elif blocks == 1:
                    channel_block(first, ob, local, chunk, rest)
                else:
                    with T.If(ob < blocks - 1):
                        with T.Then():
                            channel_block(first, ob, local, chunk, block)
                        with T.Else():
                            channel_block(first, ob, local, chunk, rest)
    return kernel.finish()
