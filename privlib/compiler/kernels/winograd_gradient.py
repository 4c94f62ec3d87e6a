"""Weight gradients of a 3×3, stride-1 convolution by Winograd F(3×3, 4×4): 36 instead of 144 products for every 4×4
pixels of the output, with the arguments, the modes and the guarantees of `weight_gradient`.

D = A₃ [ Σ_tiles (Bᵀ d B) ⊙ (G₄ g G₄ᵀ) ] A₃ᵀ (Lavin & Gray, arXiv 1509.09308), over the points of the forward
F(4×4, 3×3), so that Bᵀ is the same. For each of the 36 points that is a matrix product over tiles: V (tiles, c_in)
transposed times W (tiles, c_out). G₄ is used without its row factors ¼, −⅙, −⅙, 1⁄24, 1⁄24, 1, which A₃ takes over.

V and W lie in panels of a few channels, tile after tile, so that a register tile reads two short contiguous streams.
`kept` and `norm` transform the sums of a block of weights back at once. `summed` gathers the tiles of several images
before it multiplies, keeps its sums in the transformed domain and transforms them back once, at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels import winograd
from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile
from privlib.compiler.kernels.conv_direct import input_shape, padded_strip
from privlib.compiler.kernels.shapes import Conv2d, divisors
from privlib.compiler.kernels.weight_gradient import gradient_shape
from privlib.compiler.target import Machine

applies = winograd.applies  # the same tiles of the output

PANEL = 16  # input channels side by side: one cache line of float32
TILE_BLOCK = 16  # tiles side by side
SUMMED_TILES = 64  # gathered before the sums are loaded and stored
STRIP_BYTES = 48 * 1024  # of padded input, copied before it is transformed


@dataclass(frozen=True)
class _Plan:
    """How many tiles are transformed before they are multiplied: those of `images` images, or of `tile_rows` rows of
    tiles of one."""

    images: int
    tile_rows: int
    columns: int

    @property
    def part(self) -> int:
        """Tiles of one image that are taken together."""
        return self.tile_rows * self.columns

    @property
    def tiles(self) -> int:
        return self.images * self.part


def _plan(machine: Machine, shape: Conv2d, mode: str) -> _Plan:
    rows, columns = shape.out_height // 4, shape.out_width // 4
    if mode != "summed":
        return _Plan(1, rows, columns)
    fitting = next(r for r in divisors(rows) if r * columns <= SUMMED_TILES or r == 1)
    images = min(-(-shape.batch // machine.cores), max(1, SUMMED_TILES // (fitting * columns)))
    return _Plan(images if fitting == rows else 1, fitting, columns)


class _Panels:
    """Transformed tiles (panels, blocks of tiles, 36, tiles of a block, channels of a panel)."""

    def __init__(self, kernel: Kernel, tiles: int, channels: int, panel: int) -> None:
        self.kernel, self.panel = kernel, panel
        self.block = min(TILE_BLOCK, tiles)
        # one cache line more than a point needs: with a power of two between them, too many points would share a set
        # of the cache
        self.point = self.block * panel + 64 // kernel_bytes(kernel.dtype)
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


def kernel_bytes(dtype: str) -> int:
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


def weight_gradient(machine: Machine, dtype: str, shape: Conv2d, mode: str) -> "tvm.tirx.PrimFunc":
    """Arguments by mode, as of `weight_gradient.weight_gradient`:

    kept: X NHWC, g NHWC, D (batch, …), squared norms (batch,)
    norm: X, g, squared norms (batch,)
    summed: X, g, factors (batch,), sums (cores, …): one partial sum for each core, to be added up
    """
    kernel = Kernel(machine, dtype)
    one = gradient_shape(shape)
    with kernel.function():
        x = kernel.argument("x", input_shape(shape, False))
        g = kernel.argument("g", (shape.batch, shape.out_height, shape.out_width, shape.c_out))
        if mode == "summed":
            factors = kernel.argument("factors", (shape.batch,))
            target = kernel.argument("gradient", (machine.cores, *one))
            with T.parallel(machine.cores) as core:
                _summed(kernel, shape, x, g, factors, target, core)
        else:
            kept = kernel.argument("gradient", (shape.batch, *one)) if mode == "kept" else None
            norms = kernel.argument("squared_norms", (shape.batch,))
            with T.parallel(shape.batch) as image:
                _example(kernel, shape, x, g, kept, norms, image)
    return kernel.finish()


def _blocks(kernel: Kernel, shape: Conv2d, body: Callable[[Expression, int, Expression, int], None]) -> None:
    """body(first output channel, width, first input channel, rows) over register tiles of the weights."""
    block = kernel.machine.tile_vectors * kernel.lanes

    def inputs(o: Expression, width: int) -> None:
        def panel(c0: Expression, size: int) -> None:
            for_tiles(size, kernel.machine.tile_rows, lambda c, rows: body(o, width, c0 + c, rows))

        for_tiles(shape.c_in, PANEL, panel)

    for_tiles(shape.c_out, block, inputs)


def _example(kernel: Kernel, shape: Conv2d, x: Any, g: Any, kept: Any, norms: Any, image: Expression) -> None:
    """One image's gradient, block by block of weights: stored if `kept`, its squared norm always."""
    plan, lanes = _plan(kernel.machine, shape, "norm"), kernel.lanes
    block = kernel.machine.tile_vectors * lanes
    v = _Panels(kernel, plan.tiles, shape.c_in, PANEL)
    w = _Panels(kernel, plan.tiles, shape.c_out, block)
    _transform(kernel, shape, plan, x, g, None, v, w, image, 0, 0)
    total = kernel.registers(lanes)
    kernel.store(total, kernel.constant(0.0, lanes), 0)
    products = kernel.scratch((36, kernel.machine.tile_rows * block))

    def weights(o: Expression, width: int, c: Expression, rows: int) -> None:
        vectors = -(-width // lanes)
        with T.serial(36) as point:
            sums = _multiply(kernel, v, w, point, o, vectors, c, rows, 1, plan.part)
            for at in range(rows * vectors):
                kernel.store(products, kernel.load(sums, at * lanes), point, at * lanes)
        squares = kernel.registers(lanes)  # of this block alone: short sums keep the rounding small
        kernel.store(squares, kernel.constant(0.0, lanes), 0)
        with T.serial(rows) as r:
            for vector in range(vectors):
                part = min(lanes, width - vector * lanes)
                at = (r * vectors + vector) * lanes

                taps = _weights_from(kernel, [kernel.load(products, p, at, lanes=part) for p in range(36)], part)
                for tap, value in enumerate(taps):
                    if kept is not None:
                        kernel.store(kept, value, image, tap, c + r, o + vector * lanes, lanes=part)
                    before = kernel.load(squares, 0, lanes=part)
                    kernel.store(squares, before + value * value, 0, lanes=part)
        kernel.store(total, kernel.load(total, 0) + kernel.load(squares, 0), 0)

    _blocks(kernel, shape, weights)
    result: Expression = total[0]
    for lane in range(1, lanes):
        result = result + total[lane]
    T.buffer_store(norms, result, [image])


def _summed(kernel: Kernel, shape: Conv2d, x: Any, g: Any, factors: Any, target: Any, core: Expression) -> None:
    """target[core] = Σ factor · gradient over the core's share of the batch."""
    plan, lanes = _plan(kernel.machine, shape, "summed"), kernel.lanes
    block = kernel.machine.tile_vectors * lanes
    share = -(-shape.batch // kernel.machine.cores)
    v = _Panels(kernel, plan.tiles, shape.c_in, PANEL)
    w = _Panels(kernel, plan.tiles, shape.c_out, block)
    sums = kernel.scratch((36, -(-shape.c_out // block), shape.c_in, block))
    with T.serial(36) as point, T.serial(-(-shape.c_out // block)) as ob, T.serial(shape.c_in) as c:
        kernel.for_vectors(
            block, lambda o, part: kernel.store(sums, kernel.constant(0.0, part), point, ob, c, o, lanes=part)
        )
    with T.serial(-(-share // plan.images)) as chunk, T.serial(shape.out_height // 4 // plan.tile_rows) as strip:
        live = kernel.registers(1, "int32")
        T.buffer_store(live, 0, [0])
        with T.serial(plan.images) as i:
            own = T.Bind(chunk * plan.images + i)
            image = T.Bind(core * share + own)
            # the factor is read only where there is an image; zero leaves the example out, NaN and all
            with (
                T.If(T.And(own < share, image < shape.batch)),
                T.Then(),
                T.If(tirx.NE(factors[image], kernel.constant(0.0))),
                T.Then(),
            ):
                first = T.Bind(live[0] * plan.part)
                _transform(kernel, shape, plan, x, g, factors, v, w, image, strip * plan.tile_rows, first)
                T.buffer_store(live, live[0] + 1, [0])

        def add(point: Expression, o: Expression, width: int, c: Expression, rows: int) -> None:
            vectors = -(-width // lanes)
            more = _multiply(kernel, v, w, point, o, vectors, c, rows, live[0], plan.part)
            for r in range(rows):
                for vector in range(vectors):
                    index = (point, o // block, c + r, vector * lanes)
                    value = kernel.load(sums, *index) + kernel.load(more, (r * vectors + vector) * lanes)
                    kernel.store(sums, value, *index)

        with T.serial(36) as point:
            _blocks(kernel, shape, lambda o, width, c, rows: add(point, o, width, c, rows))

    def back(o: Expression, width: int) -> None:
        with T.serial(shape.c_in) as c:
            for start in range(0, width, lanes):
                part = min(lanes, width - start)
                points = [kernel.load(sums, p, o // block, c, start, lanes=part) for p in range(36)]
                for tap, value in enumerate(_weights_from(kernel, points, part)):
                    kernel.store(target, value, core, tap, c, o + start, lanes=part)

    for_tiles(shape.c_out, block, back)


def _multiply(
    kernel: Kernel,
    v: _Panels,
    w: _Panels,
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


def _weights_from(kernel: Kernel, points: Sequence[Expression], lanes: int) -> list[Expression]:
    """Nine taps from the 36 points."""
    half = [weight_transform(kernel, [T.Bind(points[i * 6 + j]) for i in range(6)], lanes) for j in range(6)]
    return [value for i in range(3) for value in weight_transform(kernel, [column[i] for column in half], lanes)]


def _transform(
    kernel: Kernel,
    shape: Conv2d,
    plan: _Plan,
    x: Any,
    g: Any,
    factors: Any,
    v: _Panels,
    w: _Panels,
    image: Expression,
    first_row: Expression,
    first_tile: Expression,
) -> None:
    """Bᵀ d B and G₄ g G₄ᵀ of the plan's rows of tiles of one image, from tile first_tile on; g times its factor."""
    row_bytes = 4 * (shape.width + 2) * shape.c_in * kernel_bytes(kernel.dtype)
    rows = next(r for r in divisors(plan.tile_rows) if r * row_bytes <= STRIP_BYTES or r == 1)
    with T.serial(plan.tile_rows // rows) as block:
        top = T.Bind(first_row + block * rows)
        strip = padded_strip(kernel, x, shape, image, top * 4, rows * 4 + 2)

        def tiles(channels: Callable[[Expression, Expression, Expression], None]) -> None:
            with T.serial(rows) as ty, T.serial(plan.columns) as tx:
                tile = T.Bind(first_tile + (block * rows + ty) * plan.columns + tx)
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
