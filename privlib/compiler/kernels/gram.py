"""Squared norms of per-example weight gradients from Gram matrices: no gradient is formed, no input unfolded.

‖D[n]‖² = Σ_{p,q} ⟨g_p, g_q⟩ · Σ_{taps t} ⟨x_{p+t}, x_{q+t}⟩

For a convolution the Gram matrix P of the padded input's pixels is formed once (a reduction over channels only) and its
shifted views are added up. Both matrices are symmetric, so only pairs of rows of pixels (y_p ≤ y_q) are visited and
those of different rows count twice. Cost for T positions: T²(c_in + c_out)/2 products and taps·T²/2 additions.
Ghost norm: Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, arXiv 2110.05679; the shifted views are this project's.
"""

import math
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile
from privlib.compiler.kernels.conv_direct import input_shape, padded_strip
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}  # half a unit in the last place of 1


def applies(shape: Conv2d) -> bool:
    """Whether the kernel can take this convolution: any kernel, stride and dilation, one group."""
    return shape.groups == 1


def rounding(dtype: str, shape: Conv2d, views: int = 1) -> float:
    """How far, relative to S², the computed squared norm may be off: 2·√(c_in + c_out + T)·u.

    S² = Σ_t (Σ_p ‖x_{p+t}‖·‖g_p‖)² bounds what is added up; T positions; u is half a unit in the last place.
    """
    terms = shape.c_in + shape.c_out + views * shape.out_height * shape.out_width
    return 2 * math.sqrt(terms) * UNIT[dtype]


def margin(dtype: str, shape: Conv2d, views: int = 1) -> float:
    """η of this strategy: no norm that comes out is too small by more than the factor 1 + η.

    Where terms cancel, the result is no longer accurate relative to itself; the kernel therefore never returns less
    than S²/(8T), below which few gradients lie. An error of rounding · S² in the square is then at most
    8T·rounding of it, and half of that in the norm.
    """
    return 4 * rounding(dtype, shape, views) * views * shape.out_height * shape.out_width


def squared_norms(machine: Machine, dtype: str, shape: Conv2d, views: int = 1) -> "tvm.tirx.PrimFunc":
    """Arguments: X NHWC, g NHWC, squared norms (examples,). `views` consecutive images make an example."""
    kernel = Kernel(machine, dtype)
    (kh, kw), (sy, sx), (dy, dx) = shape.kernel, shape.stride, shape.dilation
    height, width = shape.out_height, shape.out_width
    rows_in, columns_in = shape.input_rows(height), shape.width + shape.padding[1] + shape.padding[3]
    taps = [(ky * dy, kx * dx) for ky in range(kh) for kx in range(kw)]
    floor = 1 / (8 * views * height * width)
    with kernel.function():
        x = kernel.argument("x", input_shape(shape, False))
        g = kernel.argument("g", (shape.batch, height, width, shape.c_out))
        norms = kernel.argument("squared_norms", (shape.batch // views,))
        with T.parallel(shape.batch // views) as example:
            if views == 1:
                strip = padded_strip(kernel, x, shape, example, 0, rows_in)
            else:
                strip = kernel.scratch((views * rows_in, columns_in, shape.c_in))
                _stack(kernel, shape, x, example, views, strip)
            pixels = _pixel_gram(
                kernel, views * rows_in, columns_in, shape.c_in, lambda y, px, c: strip[y, px, c], symmetric=sy == 1
            )
            gradients = _pixel_gram(
                kernel,
                views * height,
                width,
                shape.c_out,
                lambda y, px, c: g[example * views + y // height, y % height, px, c],
            )

            def pixel(y: Expression, px: Expression, tap: tuple[int, int]) -> Expression:
                """The place, in the stacked padded images, of the pixel that a tap sees from output row y."""
                row = y // height * rows_in + y % height * sy if views > 1 else y * sy
                return (row + tap[0]) * columns_in + px * sx + tap[1]

            total = kernel.registers(1)
            T.buffer_store(total, kernel.constant(0.0), [0])
            with T.serial(views * height) as yp, T.serial(width) as xp:
                p = T.Bind(yp * width + xp)
                line = kernel.registers(kernel.lanes)
                kernel.store(line, kernel.constant(0.0, kernel.lanes), 0)
                with T.serial(views * height - yp) as later:
                    yq = T.Bind(yp + later)
                    twice = T.Bind(T.if_then_else(later > 0, kernel.constant(2.0), kernel.constant(1.0)))

                    def add(xq: Expression, lanes: int) -> None:
                        shifted: Expression = kernel.constant(0.0, lanes)
                        for tap in taps:
                            at = (pixel(yp, xp, tap), pixel(yq, xq, tap))
                            shifted = T.Bind(shifted + _strided(kernel, pixels, *at, sx, lanes))
                        product = shifted * kernel.load(gradients, p, yq * width + xq, lanes=lanes)
                        kept = kernel.load(line, 0, lanes=lanes)
                        kernel.store(line, kept + product * kernel.splat(twice, lanes), 0, lanes=lanes)

                    kernel.for_vectors(width, add)
                for lane in range(kernel.lanes):
                    T.buffer_store(total, total[0] + line[lane], [0])
            bound = _bound(kernel, views * height, width, taps, pixels, gradients, pixel)
            # NaN stays: a comparison with it takes the second operand
            T.buffer_store(norms, T.max(bound * kernel.constant(floor), total[0]), [example])
    return kernel.finish()


def _stack(kernel: Kernel, shape: Conv2d, x: Any, example: Expression, views: int, stacked: Any) -> None:
    """The padded images of an example, one below the other."""
    rows = shape.input_rows(shape.out_height)
    with T.serial(views) as view:
        strip = padded_strip(kernel, x, shape, example * views + view, 0, rows)
        with T.serial(rows) as row, T.serial(shape.width + shape.padding[1] + shape.padding[3]) as px:
            kernel.for_vectors(
                shape.c_in,
                lambda c, lanes: kernel.store(
                    stacked, kernel.load(strip, row, px, c, lanes=lanes), view * rows + row, px, c, lanes=lanes
                ),
            )


def _bound(
    kernel: Kernel, rows: int, width: int, taps: list[tuple[int, int]], pixels: Any, gradients: Any, pixel: Any
) -> Expression:
    """S² = Σ_t (Σ_p ‖x_{p+t}‖·‖g_p‖)², from the diagonals of the two matrices."""
    result, sums = kernel.registers(1), kernel.registers(len(taps))
    T.buffer_store(result, kernel.constant(0.0), [0])
    for number in range(len(taps)):
        T.buffer_store(sums, kernel.constant(0.0), [number])
    with T.serial(rows) as y, T.serial(width) as px:
        own = T.Bind(gradients[y * width + px, y * width + px])
        for number, tap in enumerate(taps):
            at = T.Bind(pixel(y, px, tap))
            T.buffer_store(sums, sums[number] + T.sqrt(own * pixels[at, at]), [number])
    for number in range(len(taps)):
        T.buffer_store(result, result[0] + sums[number] * sums[number], [0])
    return result[0]


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
