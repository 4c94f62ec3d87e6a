"""Means over the cells of a grid, as torch.nn.AdaptiveAvgPool2d has them, and two-sided rectification.

Cell i of `count` over `extent` positions takes those from ⌊i·extent/count⌋ to ⌈(i+1)·extent/count⌉ − 1: where the
extent is no multiple of the count, neighbouring cells share a position.

Two-sided rectification turns z into max(z − t, 0) and max(−z − t, 0), side by side. `rectified_means` takes it and the
means of it as a matrix product leaves the registers: z, the largest map of a patch dictionary, is never in memory.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels import matmul
from privlib.compiler.kernels.builder import Expression, Kernel, register_tile
from privlib.compiler.kernels.matmul import Matmul
from privlib.compiler.kernels.rows import tasks_of_rows
from privlib.compiler.target import Machine


def bounds(extent: int, count: int) -> list[tuple[int, int]]:
    """(first position, one past the last) of each cell."""
    return [(i * extent // count, -(-(i + 1) * extent // count)) for i in range(count)]


def cell_means(machine: Machine, dtype: str, shape: Sequence[int], cells: Sequence[int]) -> "tvm.tirx.PrimFunc":
    """(batch, height, width, channels) → (batch, *cells, channels). Arguments: input, output."""
    kernel, (batch, height, width, channels) = Kernel(machine, dtype), tuple(shape)
    with kernel.function():
        source = kernel.argument("input", shape)
        output = kernel.argument("output", (batch, *cells, channels))

        def mean(image: Expression, cy: Expression, cx: Expression, c: Expression, lanes: int) -> None:
            (top, bottom), (left, right) = (
                (T.Bind(i * extent // count), T.Bind(((i + 1) * extent + count - 1) // count))
                for i, extent, count in ((cy, height, cells[0]), (cx, width, cells[1]))
            )
            total, line = kernel.registers(lanes), kernel.registers(lanes)
            kernel.store(total, kernel.constant(0.0, lanes), 0, lanes=lanes)
            with T.serial(bottom - top) as y:
                kernel.store(line, kernel.constant(0.0, lanes), 0, lanes=lanes)
                with T.serial(right - left) as x:
                    value = kernel.load(source, image, top + y, left + x, c, lanes=lanes)
                    kernel.store(line, kernel.load(line, 0, lanes=lanes) + value, 0, lanes=lanes)
                kept = kernel.load(total, 0, lanes=lanes) + kernel.load(line, 0, lanes=lanes)
                kernel.store(total, kept, 0, lanes=lanes)
            area = T.cast((bottom - top) * (right - left), dtype)
            result = kernel.load(total, 0, lanes=lanes) / kernel.splat(area, lanes)
            kernel.store(output, result, image, cy, cx, c, lanes=lanes)

        with T.parallel(batch) as image, T.serial(cells[0]) as cy, T.serial(cells[1]) as cx:
            kernel.for_vectors(channels, lambda c, lanes: mean(image, cy, cx, c, lanes))
    return kernel.finish()


def two_sided(machine: Machine, dtype: str, shape: Sequence[int], threshold: float) -> "tvm.tirx.PrimFunc":
    """(…, channels) → (…, 2 · channels). Arguments: input, output."""
    kernel, channels = Kernel(machine, dtype), shape[-1]
    rows = math.prod(shape[:-1])
    with kernel.function():
        whole, result = kernel.argument("input", shape), kernel.argument("output", (*shape[:-1], 2 * channels))
        source, output = kernel.view(whole, (rows, channels)), kernel.view(result, (rows, 2 * channels))
        tasks, chunk = tasks_of_rows(rows)
        with T.parallel(tasks) as task, T.serial(chunk) as r:
            row = T.Bind(task * chunk + r)

            def both(c: Expression, lanes: int) -> None:
                for side, value in enumerate(
                    rectified(kernel, kernel.load(source, row, c, lanes=lanes), threshold, lanes)
                ):
                    kernel.store(output, value, row, side * channels + c, lanes=lanes)

            kernel.for_vectors(channels, both)
    return kernel.finish()


def rectified(kernel: Kernel, value: Expression, threshold: float, lanes: int) -> tuple[Expression, Expression]:
    """max(0, z − t) and max(0, −z − t); NaN stays NaN, as in PyTorch."""
    zero, bound = kernel.constant(0.0, lanes), kernel.constant(threshold, lanes)
    z = T.Bind(value)
    return T.max(zero, z - bound), T.max(zero, (zero - z) - bound)


@dataclass(frozen=True)
class Rectified:
    """x (batch, height, width, c_in) → (batch, *cells, 2 · c_out)."""

    batch: int
    height: int
    width: int
    c_in: int
    c_out: int
    cells: tuple[int, int]
    threshold: float
    bias: bool

    @property
    def product(self) -> Matmul:
        return Matmul(self.batch * self.height * self.width, self.c_in, self.c_out)


def tiles(width: int, most: int) -> list[tuple[int, int]]:
    """(start, size) of the fewest nearly equal pieces of a line, none longer than `most`."""
    count = -(-width // most)
    edges = [i * width // count for i in range(count + 1)]
    return [(start, end - start) for start, end in itertools.pairwise(edges)]


def rectified_means(machine: Machine, dtype: str, what: Rectified) -> "tvm.tirx.PrimFunc":
    """Linear layer over positions, two-sided rectification, cell means. Arguments: x, weights as `matmul.pack_weights`
    packs them, [bias (c_out,)], output.

    A task is one image and a share of the output channels; it keeps the sums of a block of channels for every cell, and
    walks over the map line by line in tiles of positions that fill the registers.
    """
    kernel, lanes = Kernel(machine, dtype), machine.lanes(dtype)
    blocks, c_in, block = matmul.packed_shape(machine, dtype, what.product)
    share = next((d for d in (1, 2, 4) if blocks % d == 0 and what.batch * d % machine.cores == 0), blocks)
    rows, columns = bounds(what.height, what.cells[0]), bounds(what.width, what.cells[1])
    across = tiles(what.width, machine.tile_rows * 3 // 2)
    with kernel.function():
        x = kernel.argument("x", (what.batch, what.height, what.width, c_in))
        packed = kernel.argument("packed", (blocks, c_in, block))
        bias = kernel.argument("bias", (what.c_out,)) if what.bias else None
        output = kernel.argument("output", (what.batch, *what.cells, 2 * what.c_out))
        with T.parallel(what.batch * share) as task:
            image = T.Bind(task // share)
            sums = kernel.scratch((*what.cells, 2, block))
            line = kernel.scratch((what.cells[1], 2, block))

            def zero(buffer: Any, *outer: Expression) -> None:
                for side in range(2):
                    for at in range(0, block, lanes):
                        kernel.store(buffer, kernel.constant(0.0, lanes), *outer, side, at)

            def tile(ob: Expression, width: int, y: Expression, x0: int, positions: int) -> None:
                vectors = -(-width // lanes)

                def reduction(step: Any) -> None:
                    with T.serial(c_in) as k:
                        step(lambda r: x[image, y, x0 + r, k], lambda v: kernel.load(packed, ob, k, v * lanes))

                products = register_tile(kernel, positions, vectors, reduction)
                for v in range(vectors):
                    part = min(lanes, width - v * lanes)
                    added = kernel.load(bias, ob * block + v * lanes, lanes=part) if bias is not None else None
                    totals: dict[tuple[int, int], Expression] = {}
                    for r in range(positions):
                        z = kernel.load(products, (r * vectors + v) * lanes, lanes=part)
                        sides = rectified(kernel, z if added is None else z + added, what.threshold, part)
                        for cell, (left, right) in enumerate(columns):
                            if left <= x0 + r < right:
                                for side, value in enumerate(sides):
                                    before = totals.get((cell, side))
                                    totals[cell, side] = value if before is None else before + value
                    for (cell, side), value in totals.items():
                        kept = kernel.load(line, cell, side, v * lanes, lanes=part)
                        kernel.store(line, kept + value, cell, side, v * lanes, lanes=part)

            def each_cell(ob: Expression, width: int, put: Any) -> None:
                for cx in range(what.cells[1]):
                    for side in range(2):
                        for at in range(0, width, lanes):
                            put(cx, side, at, min(lanes, width - at))

            def one_block(ob: Expression, width: int) -> None:
                for cy in range(what.cells[0]):
                    for cx in range(what.cells[1]):
                        zero(sums, cy, cx)
                with T.serial(what.height) as y:
                    for cx in range(what.cells[1]):
                        zero(line, cx)
                    for x0, positions in across:
                        tile(ob, width, y, x0, positions)
                    for cy, (top, bottom) in enumerate(rows):
                        with T.If(T.And(y >= top, y < bottom)), T.Then():

                            def add(cx: int, side: int, at: int, part: int, cy: int = cy) -> None:
                                value = kernel.load(line, cx, side, at, lanes=part)
                                before = kernel.load(sums, cy, cx, side, at, lanes=part)
                                kernel.store(sums, before + value, cy, cx, side, at, lanes=part)

                            each_cell(ob, width, add)
                for cy, (top, bottom) in enumerate(rows):

                    def put(cx: int, side: int, at: int, part: int, cy: int = cy, height: int = bottom - top) -> None:
                        area = height * (columns[cx][1] - columns[cx][0])
                        mean = kernel.load(sums, cy, cx, side, at, lanes=part) * kernel.constant(1.0 / area, part)
                        kernel.store(output, mean, image, cy, cx, side * what.c_out + ob * block + at, lanes=part)

                    each_cell(ob, width, put)

            rest = what.c_out % block
            with T.serial(blocks // share) as local:
                ob = T.Bind(task % share * (blocks // share) + local)
                if not rest or blocks == 1:
                    one_block(ob, rest or block)
                else:
                    with T.If(ob < blocks - 1):
                        with T.Then():
                            one_block(ob, block)
                        with T.Else():
                            one_block(ob, rest)
    return kernel.finish()
