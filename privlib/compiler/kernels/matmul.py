"""Matrix product with packed weights: 1×1 convolutions over all pixels of a batch, and linear layers.

Y[m, o] = act(bias[o] + R[m, o] + Σ_k X[m, k] · W[o, k])

Rows are blocked so that a block of X stays in the L1 cache while the weights stream through once per block; a long
reduction is cut, its partial sums kept in scratch. Tasks split the rows or, where there are few of them (a linear
layer), the output channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile
from privlib.compiler.kernels.conv_direct import Epilogue, Output
from privlib.compiler.kernels.shapes import divisors
from privlib.compiler.target import Machine

L2_BLOCK_BYTES = 128 * 1024
MAXIMUM_CHUNK = 256
FEW_ROWS = 128

Reader = Callable[[Expression, Expression], Expression]
Writer = Callable[[Expression, Expression, Expression, int], None]


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


def pack_rows(machine: Machine, dtype: str, shape: Matmul) -> "tvm.tirx.PrimFunc":
    """(c_in, c_out) → packed_shape: the right operand as it stands in the product."""
    blocks, c_in, block = packed_shape(machine, dtype, shape)
    kernel, lanes = Kernel(machine, dtype), machine.lanes(dtype)
    with kernel.function():
        right = kernel.argument("right", (c_in, shape.c_out))
        packed = kernel.argument("packed", (blocks, c_in, block))

        def one(ob: Expression, width: int) -> None:
            with T.serial(c_in) as k:
                for start in range(0, block, lanes):
                    part = max(0, min(lanes, width - start))
                    if part < lanes:
                        kernel.store(packed, kernel.constant(0.0, lanes), ob, k, start)
                    if part:
                        value = kernel.load(right, k, ob * block + start, lanes=part)
                        kernel.store(packed, value, ob, k, start, lanes=part)

        whole, rest = divmod(shape.c_out, block)
        if whole:
            with T.parallel(whole) as ob:
                one(ob, block)
        if rest:
            one(whole, rest)
    return kernel.finish()


@dataclass(frozen=True)
class Blocking:
    """Rows of a block, tasks over blocks of rows, tasks over blocks of output channels."""

    rows: int
    row_tasks: int
    channel_tasks: int


def blocking(machine: Machine, dtype: str, shape: Matmul) -> Blocking:
    fit = max(machine.tile_rows, L2_BLOCK_BYTES // (shape.c_in * (8 if dtype == "float64" else 4)))
    blocks = packed_shape(machine, dtype, shape)[0]
    channel_tasks = _even_split(blocks, machine.cores)
    if shape.rows <= FEW_ROWS and channel_tasks:  # weights outweigh rows: read each weight once
        return Blocking(shape.rows, 1, channel_tasks)
    rows = next((d for d in divisors(shape.rows) if d <= fit and d % machine.tile_rows == 0), 0)
    rows = rows or next(d for d in divisors(shape.rows) if d <= 4 * fit)
    if (
        rows < machine.tile_rows <= shape.rows
    ):  # a prime number of rows: take them all and leave a tail in the last tile
        rows = shape.rows
    row_tasks = _even_split(shape.rows // rows, machine.cores)
    if row_tasks:
        return Blocking(rows, row_tasks, 1)
    return Blocking(rows, 1, channel_tasks or next((d for d in divisors(blocks) if d <= 8 * machine.cores), 1))


def _even_split(pieces: int, cores: int) -> int:
    """The largest number of equal tasks, at most 64, that gives every core the same share (or nearly, when there are
    many); else 0."""
    return next((d for d in divisors(pieces) if d <= 64 and (d % cores == 0 or d >= 8 * cores)), 0)


class Product:
    """A block of rows times one block of output channels, the reduction cut into chunks whose weights stay in the L1
    cache.

    x(row, k) reads the left operand; store(row, channel, value, lanes) takes a finished vector of output channels.
    """

    def __init__(self, kernel: Kernel, rows: int, c_in: int, c_out: int, packed: Any, x: Reader, store: Writer) -> None:
        self.kernel, self.rows, self.c_out, self.packed, self.x, self.store = kernel, rows, c_out, packed, x, store
        self.chunk = next(d for d in divisors(c_in) if d <= MAXIMUM_CHUNK)
        self.chunks = c_in // self.chunk
        self.block = kernel.machine.tile_vectors * kernel.lanes
        self.partial = kernel.scratch((rows, self.block)) if self.chunks > 1 else None

    def emit(self, ob: Expression) -> None:
        """The code for channel block `ob` (a loop variable); a narrower last block gets code of its own."""
        blocks, rest = -(-self.c_out // self.block), self.c_out % self.block
        if not rest or blocks == 1:
            self._width(ob, rest or self.block)
            return
        with T.If(ob < blocks - 1):
            with T.Then():
                self._width(ob, self.block)
            with T.Else():
                self._width(ob, rest)

    def _width(self, ob: Expression, width: int) -> None:
        with T.serial(self.chunks) as chunk:
            for_tiles(
                self.rows, self.kernel.machine.tile_rows, lambda first, rows: self._tile(ob, width, chunk, first, rows)
            )

    def _tile(self, ob: Expression, width: int, chunk: Expression, first: Expression, rows: int) -> None:
        lanes, vectors = self.kernel.lanes, -(-width // self.kernel.lanes)

        def reduction(step: Any) -> None:
            with T.serial(self.chunk) as k:
                at = chunk * self.chunk + k
                step(lambda r: self.x(first + r, at), lambda v: self.kernel.load(self.packed, ob, at, v * lanes))

        sums = register_tile(self.kernel, rows, vectors, reduction)
        for r in range(rows):
            for v in range(vectors):
                self._finish(
                    ob, chunk, sums, first + r, v * lanes, (r * vectors + v) * lanes, min(lanes, width - v * lanes)
                )

    def _finish(
        self, ob: Expression, chunk: Expression, sums: Any, row: Expression, column: int, at: int, part: int
    ) -> None:
        kernel = self.kernel

        def store() -> None:
            self.store(row, ob * self.block + column, kernel.load(sums, at, lanes=part), part)

        if self.partial is None:
            store()
            return
        with T.If(chunk > 0), T.Then():
            kernel.store(sums, kernel.load(sums, at) + kernel.load(self.partial, row, column), at)
        with T.If(chunk == self.chunks - 1):
            with T.Then():
                store()
            with T.Else():
                kernel.store(self.partial, kernel.load(sums, at), row, column)


def matmul(machine: Machine, dtype: str, shape: Matmul, epilogue: Epilogue) -> "tvm.tirx.PrimFunc":
    """Arguments: X (rows, c_in), packed weights, [bias], [residual], Y (rows, c_out)."""
    kernel = Kernel(machine, dtype)
    blocks = packed_shape(machine, dtype, shape)[0]
    cut = blocking(machine, dtype, shape)
    row_blocks, per_task = shape.rows // cut.rows // cut.row_tasks, blocks // cut.channel_tasks
    with kernel.function():
        x = kernel.argument("x", (shape.rows, shape.c_in))
        packed = kernel.argument("packed", packed_shape(machine, dtype, shape))
        output = Output(kernel, epilogue, (shape.rows, shape.c_out))
        with T.parallel(cut.row_tasks * cut.channel_tasks) as task, T.serial(row_blocks) as rb:
            first = T.Bind((task // cut.channel_tasks * row_blocks + rb) * cut.rows)
            product = Product(
                kernel,
                cut.rows,
                shape.c_in,
                shape.c_out,
                packed,
                lambda row, k: x[first + row, k],
                lambda row, channel, value, lanes: output.store(value, first + row, channel, lanes=lanes),
            )
            with T.serial(per_task) as local:
                product.emit(T.Bind(task % cut.channel_tasks * per_task + local))
    return kernel.finish()
