"""Transformed tiles for the Winograd weight gradient: how they lie in memory, how they get there, their products.

Tiles lie in panels of a few channels, tile after tile, so that a register tile reads two short contiguous streams.
G₄ is used without its row factors ¼, −⅙, −⅙, 1⁄24, 1⁄24, 1, which A₃ takes over.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels import winograd
from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile
from privlib.compiler.kernels.conv_direct import padded_strip
from privlib.compiler.kernels.shapes import Conv2d, divisors

PANEL = 16  # input channels side by side: one cache line of float32
TILE_BLOCK = 16  # tiles that lie together: few streams to write to, runs of 1 kB to read
STRIP_BYTES = 48 * 1024  # of padded input, copied before it is transformed


class Panels:
    """Transformed tiles (panels, blocks of tiles, 36, tiles of a block, channels of a panel)."""

    def __init__(self, kernel: Kernel, tiles: int, channels: int, panel: int) -> None:
        self.kernel, self.panel = kernel, panel
        self.block = min(TILE_BLOCK, tiles)
        # one cache line more than a point needs: with a power of two between them, too many points would share a set
        # of the cache
        self.point = self.block * panel + 64 // element_bytes(kernel.dtype)
        self.memory = kernel.scratch((-(-channels // panel), -(-tiles // self.block), 36 * self.point))

    def index(self, tile: Expression, channel: Expression, point: Expression) -> tuple[Expression, ...]:
        inner = tile % self.block * self.panel + channel % self.panel
        return (channel // self.panel, tile // self.block, point * self.point + inner)

    def put(
        self, half: Sequence[Sequence[Expression]], transform: Any, tile: Expression, c: Expression, lanes: int
    ) -> None:
        """Apply the transform to rows of `half`, already transformed by columns, and store the 36 points."""
        for i in range(6):
            for j, value in enumerate(transform(self.kernel, [column[i] for column in half], lanes)):
                self.kernel.store(self.memory, value, *self.index(tile, c, i * 6 + j), lanes=lanes)


def element_bytes(dtype: str) -> int:
    return 8 if dtype == "float64" else 4


def gradient_transform(kernel: Kernel, g: Sequence[Expression], lanes: int) -> list[Expression]:
    """G₄ g without the row factors: four values in, six out."""

    def plus_four(x: Expression, y: Expression) -> Expression:
        return T.Bind(x + kernel.constant(4.0, lanes) * y)

    even, odd = T.Bind(g[0] + g[2]), T.Bind(g[1] + g[3])
    even2, odd2 = plus_four(g[0], g[2]), T.Bind(kernel.constant(2.0, lanes) * plus_four(g[1], g[3]))
    return [g[0], T.Bind(even + odd), T.Bind(even - odd), T.Bind(even2 + odd2), T.Bind(even2 - odd2), g[3]]


def weight_transform(kernel: Kernel, m: Sequence[Expression], lanes: int) -> list[Expression]:
    """A₃ m with G₄'s row factors: six values in, three out."""

    def times(value: float, x: Expression) -> Expression:
        return kernel.constant(value, lanes) * x

    plus, minus = T.Bind(m[1] + m[2]), T.Bind(m[1] - m[2])
    plus2, minus2 = T.Bind(m[3] + m[4]), T.Bind(m[3] - m[4])
    return [
        T.Bind(times(1 / 4, m[0]) - times(1 / 6, plus) + times(1 / 24, plus2)),
        T.Bind(times(1 / 12, minus2) - times(1 / 6, minus)),
        T.Bind(times(1 / 6, plus2 - plus) + m[5]),
    ]


def multiply(
    kernel: Kernel,
    v: Panels,
    w: Panels,
    point: Expression,
    o: Expression,
    vectors: int,
    c: Expression,
    rows: int,
    images: Expression,
    part: int,
) -> Any:
    """Σ over tiles of V[c … c + rows] · W[o …], in registers."""

    def reduction(step: Any) -> None:
        def tile(at: Expression) -> None:
            *row, c_at = v.index(at, c, point)
            *column, o_at = w.index(at, o, point)
            step(
                lambda r: v.memory[(*row, c_at + r)], lambda x: kernel.load(w.memory, *column, o_at + x * kernel.lanes)
            )

        count, size = images * part, v.block
        with T.serial(count // size) as block, T.serial(size) as t:
            tile(block * size + t)
        if part % size:
            rest = T.Bind(count // size * size)
            with T.serial(count % size) as t:
                tile(rest + t)

    return register_tile(kernel, rows, vectors, reduction)


def weights_from(kernel: Kernel, points: Sequence[Expression], lanes: int) -> list[Expression]:
    """Nine taps from the 36 points."""
    half = [weight_transform(kernel, [T.Bind(points[i * 6 + j]) for i in range(6)], lanes) for j in range(6)]
    return [value for i in range(3) for value in weight_transform(kernel, [column[i] for column in half], lanes)]


def transform(
    kernel: Kernel,
    shape: Conv2d,
    tile_rows: int,
    x: Any,
    g: Any,
    factors: Any,
    v: Panels,
    w: Panels,
    image: Expression,
    first_row: Expression,
    first_tile: Expression,
) -> None:
    """Bᵀ d B and G₄ g G₄ᵀ of `tile_rows` rows of tiles of one image, to v and w from tile first_tile on; g times
    its factor, if there is one."""
    columns = shape.out_width // 4
    row_bytes = 4 * (shape.width + 2) * shape.c_in * element_bytes(kernel.dtype)
    rows = next(r for r in divisors(tile_rows) if r * row_bytes <= STRIP_BYTES or r == 1)
    with T.serial(tile_rows // rows) as block:
        top = T.Bind(first_row + block * rows)
        strip = padded_strip(kernel, x, shape, image, top * 4, rows * 4 + 2)

        def tiles(channels: Callable[[Expression, Expression, Expression], None]) -> None:
            with T.serial(rows) as ty, T.serial(columns) as tx:
                tile = T.Bind(first_tile + (block * rows + ty) * columns + tx)
                channels(ty, tx, tile)

        def of_input(ty: Expression, tx: Expression, tile: Expression, c: Expression, lanes: int) -> None:
            half = [
                winograd.input_transform(
                    kernel,
                    [T.Bind(kernel.load(strip, ty * 4 + k, tx * 4 + j, c, lanes=lanes)) for k in range(6)],
                    lanes,
                )
                for j in range(6)
            ]
            v.put(half, winograd.input_transform, tile, c, lanes)

        def of_gradient(ty: Expression, tx: Expression, tile: Expression, o: Expression, lanes: int) -> None:
            def value(k: int, j: int) -> Expression:
                raw = kernel.load(g, image, (top + ty) * 4 + k, tx * 4 + j, o, lanes=lanes)
                return T.Bind(raw if factors is None else raw * kernel.splat(factors[image], lanes))

            half = [gradient_transform(kernel, [value(k, j) for k in range(4)], lanes) for j in range(4)]
            w.put(half, gradient_transform, tile, o, lanes)

        def panels(channels: int, panel: int, body: Any) -> None:
            def one_panel(first: Expression, size: int) -> None:
                tiles(
                    lambda ty, tx, tile: kernel.for_vectors(size, lambda c, lanes: body(ty, tx, tile, first + c, lanes))
                )

            for_tiles(channels, panel, one_panel)

        panels(shape.c_in, v.panel, of_input)
        panels(shape.c_out, w.panel, of_gradient)
