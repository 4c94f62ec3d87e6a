"""Winograd F(4×4, 3×3): a 3×3, stride-1 convolution with 36 instead of 144 products for every 4×4 outputs (Lavin &
Gray, arXiv 1509.09308).

Y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A for every 6×6 input tile d, summed over input channels, i.e. 36 small matrix products.
A task takes the tiles of a few images or of a strip of one, so that the transformed tiles stay in the cache: input
tiles → V (36, tiles · c_in) → per block of output channels M = V·U (36, tiles · block) → output tiles, with the
epilogue.
"""

from collections.abc import Sequence
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile
from privlib.compiler.kernels.conv_direct import Epilogue, Output, input_shape, padded_strip
from privlib.compiler.kernels.shapes import Conv2d, divisors
from privlib.compiler.target import Machine

# G: 3 weights → 6 points (0, 1, −1, 2, −2, ∞), scaled as Lavin & Gray scale them.
G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def applies(shape: Conv2d) -> bool:
    """Whether the kernels below can compute this convolution."""
    plain = shape.kernel == (3, 3) and shape.stride == (1, 1) and shape.dilation == (1, 1) and shape.groups == 1
    return plain and shape.out_height % 4 == 0 and shape.out_width % 4 == 0


def input_transform(kernel: Kernel, d: Sequence[Expression], lanes: int) -> list[Expression]:
    """Bᵀ d: six values in, six out, sharing the even and odd parts."""

    def times(value: float, x: Expression) -> Expression:
        return kernel.constant(value, lanes) * x

    even, odd = T.Bind(d[4] - times(4, d[2])), T.Bind(d[3] - times(4, d[1]))
    even2, odd2 = T.Bind(d[4] - d[2]), T.Bind(times(2, d[3] - d[1]))
    return [
        T.Bind(times(4, d[0]) - times(5, d[2]) + d[4]),
        T.Bind(even + odd),
        T.Bind(even - odd),
        T.Bind(even2 + odd2),
        T.Bind(even2 - odd2),
        T.Bind(times(4, d[1]) - times(5, d[3]) + d[5]),
    ]


def output_transform(kernel: Kernel, m: Sequence[Expression], lanes: int) -> list[Expression]:
    """Aᵀ m: six values in, four out."""

    def times(value: float, x: Expression) -> Expression:
        return kernel.constant(value, lanes) * x

    plus, minus = T.Bind(m[1] + m[2]), T.Bind(m[1] - m[2])
    plus2, minus2 = T.Bind(m[3] + m[4]), T.Bind(m[3] - m[4])
    return [
        T.Bind(m[0] + plus + plus2),
        T.Bind(minus + times(2, minus2)),
        T.Bind(plus + times(4, plus2)),
        T.Bind(minus + times(8, minus2) + m[5]),
    ]


def packed_shape(machine: Machine, dtype: str, shape: Conv2d) -> tuple[int, int, int, int]:
    """(blocks of output channels, 36, c_in, lanes of a block)."""
    block = machine.tile_vectors * machine.lanes(dtype)
    return (-(-shape.c_out // block), 36, shape.c_in, block)


def pack_weights(machine: Machine, dtype: str, shape: Conv2d) -> "tvm.tirx.PrimFunc":
    """(c_out, c_in, 3, 3) → U = G w Gᵀ in packed_shape, zero where the last block has no channel."""
    blocks, _, c_in, block = packed_shape(machine, dtype, shape)
    kernel = Kernel(machine, dtype)

    def apply_g(values: Sequence[Expression]) -> list[Expression]:
        rows = [[kernel.constant(c) * v for c, v in zip(row, values, strict=True) if c] for row in G]
        return [T.Bind(sum(terms[1:], terms[0])) for terms in rows]

    with kernel.function():
        weight = kernel.argument("weight", (shape.c_out, c_in, 3, 3))
        packed = kernel.argument("packed", (blocks, 36, c_in, block))
        with T.parallel(blocks) as ob, T.serial(c_in) as c, T.serial(block) as lane:
            o = T.Bind(ob * block + lane)
            with T.If(o < shape.c_out):
                with T.Then():
                    columns = [apply_g([weight[o, c, i, j] for i in range(3)]) for j in range(3)]
                    for i in range(6):
                        for j, value in enumerate(apply_g([columns[k][i] for k in range(3)])):
                            T.buffer_store(packed, value, [ob, i * 6 + j, c, lane])
                with T.Else():
                    for point in range(36):
                        T.buffer_store(packed, kernel.constant(0.0), [ob, point, c, lane])
    return kernel.finish()


def task_split(machine: Machine, dtype: str, shape: Conv2d, budget: int = 640 * 1024) -> tuple[int, int]:
    """(images, tile rows) of one task: enough tiles to reuse the weights, few enough for the cache, an even share for
    every core."""
    rows, columns = shape.out_height // 4, shape.out_width // 4
    tile_bytes = 36 * (shape.c_in + 16) * (8 if dtype == "float64" else 4)
    fitting = max(machine.tile_rows, budget // tile_bytes)
    whole = [
        i for i in divisors(shape.batch) if i * rows * columns <= fitting and shape.batch // i % machine.cores == 0
    ]
    if whole:
        return whole[0], rows
    strips = [r for r in divisors(rows) if r * columns <= fitting and shape.batch * (rows // r) % machine.cores == 0]
    return 1, (strips or [1])[0]


def conv2d(machine: Machine, dtype: str, shape: Conv2d, epilogue: Epilogue, nchw: bool = False) -> "tvm.tirx.PrimFunc":
    """Arguments: input NHWC (or NCHW), packed weights, [bias], [residual], output NHWC."""
    kernel, lanes = Kernel(machine, dtype), machine.lanes(dtype)
    images, tile_rows = task_split(machine, dtype, shape)
    columns, strips = shape.out_width // 4, shape.out_height // 4 // tile_rows
    per_image = tile_rows * columns
    tiles, c_in = images * per_image, shape.c_in
    *_, block = packed_shape(machine, dtype, shape)

    with kernel.function():
        source = kernel.argument("input", input_shape(shape, nchw))
        packed = kernel.argument("packed", packed_shape(machine, dtype, shape))
        output = Output(kernel, epilogue, (shape.batch, shape.out_height, shape.out_width, shape.c_out))
        with T.parallel(shape.batch // images * strips) as task:
            first_image, first_row = T.Bind(task // strips * images), T.Bind(task % strips * (tile_rows * 4))
            # one cache line more than a point needs: a power-of-two stride would put all 36 points into one set of the
            # cache
            line = 2 * lanes
            v = kernel.scratch((36, tiles * c_in + line))
            m = kernel.scratch((36, tiles * block + line))
            with T.serial(images) as i:
                transform_input(kernel, source, shape, v, first_image + i, first_row, i * per_image, tile_rows, nchw)

            def channel_block(ob: Expression, width: int) -> None:
                vectors = -(-width // lanes)
                with T.serial(36) as point:
                    for_tiles(tiles, machine.tile_rows, lambda t, count: multiply(point, ob, vectors, t, count))
                with T.serial(images) as i, T.serial(tile_rows) as ty, T.serial(columns) as tx:
                    at = T.Bind(i * per_image + ty * columns + tx)
                    kernel.for_vectors(width, lambda c, part: transform_output(i, ty, tx, at, ob, c, part))

            def multiply(point: Expression, ob: Expression, vectors: int, t: Expression, count: int) -> None:
                def reduction(step: Any) -> None:
                    with T.serial(c_in) as c:
                        step(
                            lambda r: v[point, (t + r) * c_in + c],
                            lambda x: kernel.load(packed, ob, point, c, x * lanes),
                        )

                sums = register_tile(kernel, count, vectors, reduction)
                for r in range(count):
                    for x in range(vectors):
                        kernel.store(
                            m, kernel.load(sums, (r * vectors + x) * lanes), point, (t + r) * block + x * lanes
                        )

            def transform_output(
                i: Expression, ty: Expression, tx: Expression, at: Expression, ob: Expression, c: Expression, part: int
            ) -> None:
                half = [
                    output_transform(
                        kernel, [kernel.load(m, k * 6 + j, at * block + c, lanes=part) for k in range(6)], part
                    )
                    for j in range(6)
                ]
                for y in range(4):
                    for x, value in enumerate(output_transform(kernel, [half[j][y] for j in range(6)], part)):
                        index = (first_image + i, first_row + ty * 4 + y, tx * 4 + x, ob * block + c)
                        output.store(value, *index, lanes=part)

            for_tiles(shape.c_out, block, lambda start, width: channel_block(start // block, width))
    return kernel.finish()


def transform_input(
    kernel: Kernel,
    source: Any,
    shape: Conv2d,
    v: Any,
    image: Expression,
    first_row: Expression,
    first_tile: Expression,
    tile_rows: int,
    nchw: bool,
) -> None:
    """Write Bᵀ d B of every tile of `tile_rows` rows of tiles of one image to v (36, tiles · c_in), from tile
    first_tile on."""
    columns = shape.out_width // 4
    strip = padded_strip(kernel, source, shape, image, first_row, tile_rows * 4 + 2, nchw)
    with T.serial(tile_rows) as ty, T.serial(columns) as tx:

        def transform(c: Expression, lanes: int) -> None:
            half = [
                input_transform(
                    kernel,
                    [T.Bind(kernel.load(strip, ty * 4 + k, tx * 4 + j, c, lanes=lanes)) for k in range(6)],
                    lanes,
                )
                for j in range(6)
            ]
            for i in range(6):
                for j, value in enumerate(input_transform(kernel, [half[k][i] for k in range(6)], lanes)):
                    kernel.store(v, value, i * 6 + j, (first_tile + ty * columns + tx) * shape.c_in + c, lanes=lanes)

        kernel.for_vectors(shape.c_in, transform)
