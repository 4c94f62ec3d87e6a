"""Squared norms of per-example weight gradients from Gram matrices: no gradient is formed, no input unfolded.

‖D[n]‖² = Σ_{p,q} ⟨g_p, g_q⟩ · Σ_{taps t} ⟨x_{p+t}, x_{q+t}⟩

For a convolution the Gram matrix P of the padded input's pixels is formed once (a reduction over channels only) and its
shifted views are added up. Both matrices are symmetric, so only pairs of rows of pixels (y_p ≤ y_q) are visited and
those of different rows count twice. Cost for T positions: T²(c_in + c_out)/2 products and taps·T²/2 additions.
Ghost norm: Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, arXiv 2110.05679; the shifted views are this project's.
"""

from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile
from privlib.compiler.kernels.conv_direct import input_shape, padded_strip
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine


def applies(shape: Conv2d) -> bool:
    """Whether the kernel can take this convolution: any kernel, stride and dilation, one group."""
    return shape.groups == 1


def squared_norms(machine: Machine, dtype: str, shape: Conv2d) -> "tvm.tirx.PrimFunc":
    """Arguments: X NHWC, g NHWC, squared norms (batch,)."""
    kernel = Kernel(machine, dtype)
    (kh, kw), (sy, sx), (dy, dx) = shape.kernel, shape.stride, shape.dilation
    height, width = shape.out_height, shape.out_width
    rows_in, columns_in = shape.input_rows(height), shape.width + shape.padding[1] + shape.padding[3]
    with kernel.function():
        x = kernel.argument("x", input_shape(shape, False))
        g = kernel.argument("g", (shape.batch, height, width, shape.c_out))
        norms = kernel.argument("squared_norms", (shape.batch,))
        with T.parallel(shape.batch) as image:
            strip = padded_strip(kernel, x, shape, image, 0, rows_in)
            pixels = _pixel_gram(
                kernel, rows_in, columns_in, shape.c_in, lambda y, px, c: strip[y, px, c], symmetric=sy == 1
            )
            gradients = _pixel_gram(kernel, height, width, shape.c_out, lambda y, px, c: g[image, y, px, c])
            total = kernel.registers(1)
            T.buffer_store(total, kernel.constant(0.0), [0])
            with T.serial(height) as yp, T.serial(width) as xp:
                p = T.Bind(yp * width + xp)
                line = kernel.registers(kernel.lanes)
                kernel.store(line, kernel.constant(0.0, kernel.lanes), 0)
                with T.serial(height - yp) as later:
                    yq = T.Bind(yp + later)
                    twice = T.Bind(T.if_then_else(later > 0, kernel.constant(2.0), kernel.constant(1.0)))

                    def add(xq: Expression, lanes: int) -> None:
                        views: Expression = kernel.constant(0.0, lanes)
                        for ky in range(kh):
                            for kx in range(kw):
                                at_p = (yp * sy + ky * dy) * columns_in + xp * sx + kx * dx
                                at_q = (yq * sy + ky * dy) * columns_in + xq * sx + kx * dx
                                views = T.Bind(views + _strided(kernel, pixels, at_p, at_q, sx, lanes))
                        product = views * kernel.load(gradients, p, yq * width + xq, lanes=lanes)
                        kept = kernel.load(line, 0, lanes=lanes)
                        kernel.store(line, kept + product * kernel.splat(twice, lanes), 0, lanes=lanes)

                    kernel.for_vectors(width, add)
                for lane in range(kernel.lanes):
                    T.buffer_store(total, total[0] + line[lane], [0])
            # rounding may leave a tiny negative number where the gradient is zero
            T.buffer_store(norms, T.max(total[0], kernel.constant(0.0)), [image])
    return kernel.finish()


def _strided(kernel: Kernel, matrix: Any, row: Expression, column: Expression, stride: int, lanes: int) -> Expression:
    if lanes == 1:
        return matrix[row, column]
    return matrix[row, T.ramp(column, stride, lanes)]


def _pixel_gram(kernel: Kernel, rows: int, columns: int, channels: int, pixel: Any, symmetric: bool = True) -> Any:
    """M[u, v] = ⟨pixel u, pixel v⟩ for v from the first pixel of u's row on (all v where not symmetric).

    The rest is not written.
    """
    positions, lanes, machine = rows * columns, kernel.lanes, kernel.machine
    block = machine.tile_vectors * lanes
    padded = -(-positions // block) * block
    transposed = kernel.scratch((channels, padded))
    with T.serial(rows) as y, T.serial(columns) as px, T.serial(channels) as c:
        T.buffer_store(transposed, pixel(y, px, c), [c, y * columns + px])
    if padded > positions:
        with T.serial(channels) as c, T.serial(padded - positions) as rest:
            T.buffer_store(transposed, kernel.constant(0.0), [c, positions + rest])
    gram = kernel.scratch((positions, padded))

    def tile(y: Expression, px: Expression, count: int) -> None:
        first_block = T.Bind(y * columns // block if symmetric else 0)
        with T.serial(padded // block - first_block) as vb:
            at = T.Bind((first_block + vb) * block)

            def reduction(step: Any) -> None:
                with T.serial(channels) as c:
                    step(
                        lambda r: transposed[c, y * columns + px + r],
                        lambda v: kernel.load(transposed, c, at + v * lanes),
                    )

            sums = register_tile(kernel, count, machine.tile_vectors, reduction)
            for r in range(count):
                for v in range(machine.tile_vectors):
                    value = kernel.load(sums, (r * machine.tile_vectors + v) * lanes)
                    kernel.store(gram, value, y * columns + px + r, at + v * lanes)

    with T.serial(rows) as y:
        for_tiles(columns, machine.tile_rows, lambda px, count: tile(y, px, count))
    return gram
