"""Squared norms of per-example weight gradients from Gram matrices: no gradient is formed, no input unfolded.

‖D[n]‖² = Σ_{p,q} ⟨g_p, g_q⟩ · Σ_{taps t} ⟨x_{p+t}, x_{q+t}⟩

For a convolution the Gram matrix P of the padded input's pixels is formed once (a reduction over channels only) and its
shifted views are added up. Both matrices are symmetric, so only pairs of rows of pixels (y_p ≤ y_q) are visited and
those of different rows count twice. Cost for T positions: T²(c_in + c_out)/2 products and taps·T²/2 additions.
Ghost norm: Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, arXiv 2110.05679; the shifted views are this project's.
"""

import math

import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.kernels.conv_direct import input_shape
from privlib.compiler.kernels.products import Products
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine
from privlib.trusted.sensitivity import UNIT


def applies(shape: Conv2d) -> bool:
    """Whether the kernel can take this convolution: any kernel, stride and dilation, one group."""
    return shape.groups == 1


def rounding(dtype: str, shape: Conv2d, views: int = 1) -> float:
    """How far, relative to S², the computed squared norm may be off: 2·√(c_in + c_out + T)·u.

    S² = Σ_t (Σ_p ‖x_{p+t}‖·‖g_p‖)² bounds what is added up; T positions; u is half a unit in the last place.
    """
    terms = shape.c_in + shape.c_out + views * shape.out_height * shape.out_width
    return 2 * math.sqrt(terms) * UNIT[dtype]


FLOOR = {"float32": 1 / 8, "float64": 1e-8}
"""Times S²/T: the least squared norm that is returned."""


def margin(dtype: str, shape: Conv2d, views: int = 1) -> float:
    """η of this strategy: no norm that comes out is too small by more than the factor 1 + η.

    Where terms cancel, the result is no longer accurate relative to itself; the kernel therefore never returns less
    than FLOOR · S²/T, below which few gradients lie. An error of rounding · S² in the square is then at most
    T · rounding / FLOOR of it, and half of that in the norm.
    """
    return 4 * rounding(dtype, shape, views) * views * shape.out_height * shape.out_width


def squared_norms(machine: Machine, dtype: str, shape: Conv2d, views: int = 1) -> "tvm.tirx.PrimFunc":
    """Arguments: X NHWC, g NHWC, squared norms (examples,). `views` consecutive images make an example."""
    kernel = Kernel(machine, dtype)
    (kh, kw), (sy, sx), (dy, dx) = shape.kernel, shape.stride, shape.dilation
    height, width = shape.out_height, shape.out_width
    taps = [(ky * dy, kx * dx) for ky in range(kh) for kx in range(kw)]
    reach = (kh - 1) * dy + 1
    floor = FLOOR[dtype] / (views * height * width)
    with kernel.function():
        x = kernel.argument("x", input_shape(shape, False))
        g = kernel.argument("g", (shape.batch, height, width, shape.c_out))
        norms = kernel.argument("squared_norms", (shape.batch // views,))
        with T.parallel(shape.batch // views) as example:
            image = example * views
            # of the padded images' rows only the products of the last `reach` are kept, so that all stays in the cache
            extent = (shape.height, shape.width)
            pixels = Products(kernel, x, image, views, extent, shape.c_in, shape.padding, reach)
            gradients = Products(kernel, g, image, views, (height, width), shape.c_out, (0, 0, 0, 0), 1)
            totals, bounds = kernel.registers(kernel.lanes), kernel.registers(len(taps))
            kernel.store(totals, kernel.constant(0.0, kernel.lanes), 0)
            for number in range(len(taps)):
                T.buffer_store(bounds, kernel.constant(0.0), [number])

            def output_row(view: Expression, y: Expression) -> None:
                gradients.row(view, y)
                with T.serial(width) as px:
                    add_pairs(T.Bind(view * height + y), px)

            def source(y: Expression, px: Expression, tap: tuple[int, int]) -> tuple[Expression, Expression]:
                """Row and column, in the stacked padded images, of the pixel that a tap sees from an output pixel."""
                row = y // height * pixels.rows + y % height * sy if views > 1 else y * sy
                return row + tap[0], px * sx + tap[1]

            def add_pairs(yp: Expression, xp: Expression) -> None:
                line = kernel.registers(kernel.lanes)
                kernel.store(line, kernel.constant(0.0, kernel.lanes), 0)
                own = T.Bind(gradients.norm(yp, xp))
                for number, tap in enumerate(taps):
                    seen = own * pixels.norm(*source(yp, xp, tap))
                    T.buffer_store(bounds, bounds[number] + seen, [number])
                with T.serial(views * height - yp) as later:
                    yq = T.Bind(yp + later)
                    twice = T.Bind(T.if_then_else(later > 0, kernel.constant(2.0), kernel.constant(1.0)))

                    def add(xq: Expression, lanes: int) -> None:
                        shifted: Expression = kernel.constant(0.0, lanes)
                        for tap in taps:
                            ours, theirs = source(yp, xp, tap), source(yq, xq, tap)
                            shifted = T.Bind(shifted + pixels.load(*ours, theirs, sx, lanes))
                        product = shifted * gradients.load(yp, xp, (yq, xq), 1, lanes)
                        kept = kernel.load(line, 0, lanes=lanes)
                        kernel.store(line, kept + product * kernel.splat(twice, lanes), 0, lanes=lanes)

                    kernel.for_vectors(width, add)
                kernel.store(totals, kernel.load(totals, 0) + kernel.load(line, 0), 0)

            with T.serial(views) as view, T.serial(shape.input_rows(height)) as row:
                pixels.row(view, row)
                last = T.Bind(row - (reach - 1))
                with T.If(T.And(last >= 0, tirx.EQ(last % sy, 0))), T.Then():
                    output_row(view, T.Bind(last // sy))
            total: Expression = totals[0]
            for lane in range(1, kernel.lanes):
                total = total + totals[lane]
            bound: Expression = bounds[0] * bounds[0]
            for number in range(1, len(taps)):
                bound = bound + bounds[number] * bounds[number]
            # NaN stays: a comparison with it takes the second operand
            T.buffer_store(norms, T.max(bound * kernel.constant(floor), total), [example])
    return kernel.finish()
