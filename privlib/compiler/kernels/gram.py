"""Squared norms of per-example weight gradients from Gram matrices: no gradient is formed, no input unfolded.

‖D[n]‖² = Σ_{p,q} ⟨g_p, g_q⟩ · Σ_{taps t} ⟨x_{p+t}, x_{q+t}⟩

For a convolution the Gram matrix P of the padded input's pixels is formed once (a reduction over channels only) and its
shifted views are added up. Both matrices are symmetric, so only pairs of rows of pixels (y_p ≤ y_q) are visited and
those of different rows count twice. Cost for T positions: T²(c_in + c_out)/2 products and taps·T²/2 additions.
Ghost norm: Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, arXiv 2110.05679; the shifted views are this project's.
"""

import math
from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx
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
    reach = (kh - 1) * dy + 1
    floor = 1 / (8 * views * height * width)
    with kernel.function():
        x = kernel.argument("x", input_shape(shape, False))
        g = kernel.argument("g", (shape.batch, height, width, shape.c_out))
        norms = kernel.argument("squared_norms", (shape.batch // views,))
        with T.parallel(shape.batch // views) as example:
            image = example * views
            # of the padded images' pixels only those of the last `reach` rows are kept, so that all stays in the cache
            pixels = _Gram(kernel, views * rows_in, columns_in, shape.c_in, reach)
            gradients = _Gram(kernel, views * height, width, shape.c_out, 1)
            with T.serial(views) as view:
                strip = padded_strip(kernel, x, shape, image + view, 0, rows_in)
                pixels.transpose(view * rows_in, rows_in, lambda y, px, c: strip[y, px, c])
                gradients.transpose(view * height, height, lambda y, px, c: g[image + view, y, px, c])
            total, bounds = kernel.registers(1), kernel.registers(len(taps))
            for register, size in ((total, 1), (bounds, len(taps))):
                for number in range(size):
                    T.buffer_store(register, kernel.constant(0.0), [number])

            def output_row(yp: Expression) -> None:
                gradients.row(yp, 0, width)
                with T.serial(width) as xp:
                    _add_pairs(kernel, yp, xp)

            def source(y: Expression, px: Expression, tap: tuple[int, int]) -> tuple[Expression, Expression]:
                """Row and column, in the stacked padded images, of the pixel that a tap sees from an output pixel."""
                row = y // height * rows_in + y % height * sy if views > 1 else y * sy
                return row + tap[0], px * sx + tap[1]

            def _add_pairs(kernel: Kernel, yp: Expression, xp: Expression) -> None:
                line = kernel.registers(kernel.lanes)
                kernel.store(line, kernel.constant(0.0, kernel.lanes), 0)
                own = T.Bind(gradients.norms[yp * width + xp])
                for number, tap in enumerate(taps):
                    row, column = source(yp, xp, tap)
                    T.buffer_store(bounds, bounds[number] + own * pixels.norms[row * columns_in + column], [number])
                with T.serial(views * height - yp) as later:
                    yq = T.Bind(yp + later)
                    twice = T.Bind(T.if_then_else(later > 0, kernel.constant(2.0), kernel.constant(1.0)))

                    def add(xq: Expression, lanes: int) -> None:
                        shifted: Expression = kernel.constant(0.0, lanes)
                        for tap in taps:
                            ours, theirs = source(yp, xp, tap), source(yq, xq, tap)
                            shifted = T.Bind(
                                shifted + pixels.load(*ours, theirs[0] * columns_in + theirs[1], sx, lanes)
                            )
                        product = shifted * gradients.load(yp, xp, yq * width + xq, 1, lanes)
                        kept = kernel.load(line, 0, lanes=lanes)
                        kernel.store(line, kept + product * kernel.splat(twice, lanes), 0, lanes=lanes)

                    kernel.for_vectors(width, add)
                for lane in range(kernel.lanes):
                    T.buffer_store(total, total[0] + line[lane], [0])

            inner = (shape.padding[1], shape.padding[1] + shape.width)  # the other columns are zero
            with T.serial(views) as view, T.serial(rows_in) as local:
                pixels.row(view * rows_in + local, *inner)
                last = T.Bind(local - (reach - 1))
                with T.If(T.And(last >= 0, tirx.EQ(last % sy, 0))), T.Then():
                    output_row(T.Bind(view * height + last // sy))
            bound: Expression = bounds[0] * bounds[0]
            for number in range(1, len(taps)):
                bound = bound + bounds[number] * bounds[number]
            # NaN stays: a comparison with it takes the second operand
            T.buffer_store(norms, T.max(bound * kernel.constant(floor), total[0]), [example])
    return kernel.finish()


class _Gram:
    """Scalar products of one row's pixels with the pixels of that row and of all later rows; a few rows at a time.

    Pixels lie transposed in panels of a register tile's width: (panels, channels, pixels of a panel).
    """

    def __init__(self, kernel: Kernel, rows: int, columns: int, channels: int, kept_rows: int) -> None:
        self.kernel, self.rows, self.columns, self.channels, self.kept_rows = kernel, rows, columns, channels, kept_rows
        self.panel = kernel.machine.tile_vectors * kernel.lanes
        self.panels = -(-rows * columns // self.panel)
        self.transposed = kernel.scratch((self.panels, channels, self.panel))
        self.products = kernel.scratch((kept_rows, columns, self.panels * self.panel))
        self.norms = kernel.scratch((rows * columns,))
        for rest in range(rows * columns, self.panels * self.panel):
            with T.serial(channels) as c:
                T.buffer_store(self.transposed, kernel.constant(0.0), [rest // self.panel, c, rest % self.panel])

    def transpose(
        self, first: Expression, rows: int, pixel: Callable[[Expression, Expression, Expression], Expression]
    ) -> None:
        with T.serial(rows) as y, T.serial(self.columns) as px:
            at = T.Bind((first + y) * self.columns + px)
            panel, lane = T.Bind(at // self.panel), T.Bind(at % self.panel)
            with T.serial(self.channels) as c:
                T.buffer_store(self.transposed, pixel(y, px, c), [panel, c, lane])

    def row(self, y: Expression, begin: int, end: int) -> None:
        """Compute row y; its pixels before column `begin` and from `end` on are zero."""
        kernel, machine, lanes, vectors = (
            self.kernel,
            self.kernel.machine,
            self.kernel.lanes,
            self.kernel.machine.tile_vectors,
        )
        slot, start = T.Bind(y % self.kept_rows), T.Bind(y * self.columns // self.panel)
        for px in (*range(begin), *range(end, self.columns)):
            with T.serial(self.panels - start) as more, T.serial(vectors) as v:
                at = (start + more) * self.panel + v * lanes
                kernel.store(self.products, kernel.constant(0.0, lanes), slot, px, at)
            T.buffer_store(self.norms, kernel.constant(0.0), [y * self.columns + px])

        def tile(offset: Expression, count: int) -> None:
            first = T.Bind(y * self.columns + begin + offset)
            with T.serial(self.panels - start) as more:
                panel = T.Bind(start + more)

                def reduction(step: Any) -> None:
                    with T.serial(self.channels) as c:
                        step(
                            lambda r: self.transposed[(first + r) // self.panel, c, (first + r) % self.panel],
                            lambda v: kernel.load(self.transposed, panel, c, v * lanes),
                        )

                sums = register_tile(kernel, count, vectors, reduction)
                for r in range(count):
                    for v in range(vectors):
                        value = kernel.load(sums, (r * vectors + v) * lanes)
                        kernel.store(self.products, value, slot, begin + offset + r, panel * self.panel + v * lanes)
            for r in range(count):
                own = T.Bind(self.products[slot, begin + offset + r, first + r])
                T.buffer_store(self.norms, T.sqrt(own), [first + r])

        for_tiles(end - begin, machine.tile_rows, tile)

    def load(self, y: Expression, px: Expression, other: Expression, stride: int, lanes: int) -> Expression:
        """Products of pixel (y, px) with pixels other, other + stride, …"""
        slot = y % self.kept_rows
        if lanes == 1:
            return self.products[slot, px, other]
        return self.products[slot, px, T.ramp(other, stride, lanes)]
