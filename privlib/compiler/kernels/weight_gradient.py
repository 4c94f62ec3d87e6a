"""Weight gradients of a convolution, direct, register-tiled: per example, or summed with a factor for each example.

D[n, ky, kx, c, o] = Σ_{y,x} X[n, y·s + ky·d − p, x·s + kx·d − p, c] · g[n, y, x, o]

Three uses of one loop nest: `kept` stores D and its squared norm (the `instantiate` strategy), `norm` computes the
squared norm and drops D, `summed` accumulates Σ_n f[n]·D[n], the clipped sum when f holds the clip factors and plain
SGD's gradient when f is 1. For the sum the factor scales a copy of g in the cache, so a batch costs one pass. Rows of
output are taken in blocks whose X and g stay in the L1 cache while all taps and channels run over them.
"""

from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile
from privlib.compiler.kernels.conv_direct import input_shape, padded_strip
from privlib.compiler.kernels.shapes import Conv2d, divisors
from privlib.compiler.target import Machine

MODES = ("kept", "norm", "summed")
BLOCK_PIXELS = 128  # of output: at 16 channels a vector block of g is 8 kB
GROUP_CHANNELS = 16  # input channels taken together: one cache line of float32


def gradient_shape(shape: Conv2d) -> tuple[int, int, int]:
    """One example's gradient: (taps, input channels of a group, output channels)."""
    return (shape.kernel[0] * shape.kernel[1], shape.c_in // shape.groups, shape.c_out)


def weight_gradient(machine: Machine, dtype: str, shape: Conv2d, mode: str, views: int = 1) -> "tvm.tirx.PrimFunc":
    """Arguments by mode, all but the shapes of X and g as in `gradient_shape`:

    kept: X NHWC, g NHWC, D (examples, …), squared norms (examples,)
    norm: X, g, squared norms (examples,)
    summed: X, g, factors (batch,), sums (cores, …): one partial sum for each core, to be added up

    `views` images, one after the other, make an example; their gradients are added before the norm is taken.
    """
    kernel = Kernel(machine, dtype)
    one, cores, examples = gradient_shape(shape), machine.cores, shape.batch // views
    with kernel.function():
        x = kernel.argument("x", input_shape(shape, False))
        g = kernel.argument("g", (shape.batch, shape.out_height, shape.out_width, shape.c_out))
        factors: Any = kernel.argument("factors", (shape.batch,)) if mode == "summed" else None
        many = {"kept": (examples, *one), "norm": None, "summed": (cores, *one)}[mode]
        target = kernel.argument("gradient", many) if many else None
        norms = kernel.argument("squared_norms", (examples,)) if mode != "summed" else None
        if mode == "summed":
            share = -(-shape.batch // cores)
            with T.parallel(cores) as core:
                _zero(kernel, target, core, one)
                with T.serial(share) as step:
                    image = T.Bind(core * share + step)
                    # the factor is read only where there is an image; zero leaves the example out, NaN and all
                    with (
                        T.If(image < shape.batch),
                        T.Then(),
                        T.If(tirx.NE(factors[image], kernel.constant(0.0))),
                        T.Then(),
                    ):
                        _accumulate(kernel, shape, x, g, image, target, core, factors)
        else:
            with T.parallel(examples) as example:
                own = target if target is not None else kernel.scratch((1, *one))
                slot = example if target is not None else 0
                _zero(kernel, own, slot, one)
                with T.serial(views) as view:
                    image = T.Bind(example * views + view)
                    _accumulate(kernel, shape, x, g, image, own, slot, None)
                _square_norm(kernel, own, slot, one, norms, example)
    return kernel.finish()


def _zero(kernel: Kernel, target: Any, slot: Expression, one: tuple[int, int, int]) -> None:
    with T.serial(one[0]) as tap, T.serial(one[1]) as c:
        kernel.for_vectors(
            one[2], lambda o, lanes: kernel.store(target, kernel.constant(0.0, lanes), slot, tap, c, o, lanes=lanes)
        )


def _square_norm(
    kernel: Kernel, own: Any, slot: Expression, one: tuple[int, int, int], norms: Any, image: Expression
) -> None:
    """norms[image] = Σ D², row sums in vectors first, then over rows, to keep rounding small."""
    total = kernel.registers(1)
    T.buffer_store(total, kernel.constant(0.0), [0])
    with T.serial(one[0]) as tap, T.serial(one[1]) as c:
        row = kernel.registers(kernel.lanes)
        kernel.store(row, kernel.constant(0.0, kernel.lanes), 0)

        def add(o: Expression, lanes: int) -> None:
            value = T.Bind(kernel.load(own, slot, tap, c, o, lanes=lanes))
            kernel.store(row, kernel.load(row, 0, lanes=lanes) + value * value, 0, lanes=lanes)

        kernel.for_vectors(one[2], add)
        for lane in range(kernel.lanes):
            T.buffer_store(total, total[0] + row[lane], [0])
    T.buffer_store(norms, total[0], [image])


def _accumulate(
    kernel: Kernel, shape: Conv2d, x: Any, g: Any, image: Expression, target: Any, slot: Expression, factors: Any
) -> None:
    """target[slot] += [factor] · the gradient of one image."""
    (kh, kw), (sy, sx), (dy, dx) = shape.kernel, shape.stride, shape.dilation
    height, width, lanes = shape.out_height, shape.out_width, kernel.lanes
    c_in, c_out, tile_rows = shape.c_in // shape.groups, shape.c_out // shape.groups, kernel.machine.tile_rows
    rows = next(r for r in divisors(height) if r * width <= BLOCK_PIXELS or r == 1)
    block = kernel.machine.tile_vectors * lanes
    with T.serial(height // rows) as yb:
        strip = padded_strip(kernel, x, shape, image, yb * rows * sy, shape.input_rows(rows))
        block_of_g = _gradient_rows(kernel, shape, g, image, yb * rows, rows, factors)

        def tile(
            tap_y: Expression,
            tap_x: Expression,
            first: Expression,
            c: Expression,
            count: int,
            o: Expression,
            width_o: int,
        ) -> None:
            vectors = -(-width_o // lanes)

            def reduction(step: Any) -> None:
                with T.serial(rows) as y, T.serial(width) as px:
                    step(
                        lambda r: strip[y * sy + tap_y * dy, px * sx + tap_x * dx, first + c + r],
                        lambda v: kernel.load(block_of_g, y, px, o + v * lanes),
                    )

            sums = register_tile(kernel, count, vectors, reduction)
            for r in range(count):
                for v in range(vectors):
                    part, at = min(lanes, width_o - v * lanes), (r * vectors + v) * lanes
                    index = (slot, tap_y * kw + tap_x, c + r, o + v * lanes)
                    value = kernel.load(target, *index, lanes=part) + kernel.load(sums, at, lanes=part)
                    kernel.store(target, value, *index, lanes=part)

        def channels(group: Expression, o: Expression, width_o: int, c0: Expression, size: int) -> None:
            with T.serial(kh) as ky, T.serial(kw) as kx:
                for_tiles(
                    size,
                    tile_rows,
                    lambda c, count: tile(ky, kx, group * c_in, c0 + c, count, group * c_out + o, width_o),
                )

        def block_of_outputs(group: Expression, o: Expression, width_o: int) -> None:
            for_tiles(c_in, GROUP_CHANNELS, lambda c0, size: channels(group, o, width_o, c0, size))

        with T.serial(shape.groups) as group:
            for_tiles(c_out, block, lambda o, width_o: block_of_outputs(group, o, width_o))


def _gradient_rows(
    kernel: Kernel, shape: Conv2d, g: Any, image: Expression, first: Expression, rows: int, factors: Any
) -> Any:
    """A scratch copy of `rows` rows of g, times the example's factor if there is one.

    Channels are padded: the last vector of a narrow block may reach past them, and nothing of that is stored.
    """
    copy = kernel.scratch((rows, shape.out_width, shape.c_out + kernel.lanes))

    def scaled(y: Expression, px: Expression, o: Expression, lanes: int) -> Expression:
        value = kernel.load(g, image, first + y, px, o, lanes=lanes)
        return value if factors is None else value * kernel.splat(factors[image], lanes)

    with T.serial(rows) as y, T.serial(shape.out_width) as px:
        kernel.for_vectors(
            shape.c_out, lambda o, lanes: kernel.store(copy, scaled(y, px, o, lanes), y, px, o, lanes=lanes)
        )
    return copy
