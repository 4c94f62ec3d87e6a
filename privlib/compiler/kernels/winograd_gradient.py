"""Weight gradients of a 3×3, stride-1 convolution by Winograd F(3×3, 4×4): 36 instead of 144 products for every 4×4
pixels of the output, with the arguments, the modes and the guarantees of `weight_gradient`.

D = A₃ [ Σ_tiles (Bᵀ d B) ⊙ (G₄ g G₄ᵀ) ] A₃ᵀ (Lavin & Gray, arXiv 1509.09308), over the points of the forward
F(4×4, 3×3), so that Bᵀ is the same. For each of the 36 points that is a matrix product over tiles: V (tiles, c_in)
transposed times W (tiles, c_out).

`kept` and `norm` transform the sums of a block of weights back at once. `summed` gathers the tiles of several images
before it multiplies, keeps its sums in the transformed domain and transforms them back once, at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels import winograd
from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles
from privlib.compiler.kernels.conv_direct import input_shape
from privlib.compiler.kernels.shapes import Conv2d, divisors
from privlib.compiler.kernels.weight_gradient import gradient_shape
from privlib.compiler.kernels.winograd_panels import PANEL, Panels, multiply, transform, weights_from
from privlib.compiler.target import Machine

applies = winograd.applies  # the same tiles of the output

SUMMED_TILES = 64  # gathered before the sums are loaded and stored

# The estimate's cycles, for one vector of channels each, measured on Zen 3 as everything around the products takes.
FMA_PER_CYCLE = 2
TRANSFORM_CYCLES = 220  # a tile of the input or of g
BACK_CYCLES = 80  # one example's 36 sums to 9 weights
STORE_CYCLES = 140  # its 9 weights kept, at the speed of memory
FIXED_SUM_CYCLES, CHUNK_CYCLES = 450, 50  # a core's 36 sums: cleared and transformed once, added to for every chunk


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


def cycles(machine: Machine, dtype: str, shape: Conv2d, mode: str) -> float:
    """Estimated core cycles, all cores together, on the scale of `costs.direct_cycles` (products at the peak)."""
    lanes = machine.lanes(dtype)
    vectors_in, vectors_out = -(-shape.c_in // lanes), -(-shape.c_out // lanes)
    tiles = shape.batch * (shape.out_height // 4) * (shape.out_width // 4)
    products = 36 * shape.c_in * vectors_out / FMA_PER_CYCLE
    work = tiles * (products + TRANSFORM_CYCLES * (vectors_in + vectors_out))
    weights = shape.c_in * vectors_out
    if mode == "summed":
        chunks = tiles / machine.cores / _plan(machine, shape, mode).tiles
        return work + machine.cores * weights * (FIXED_SUM_CYCLES + CHUNK_CYCLES * chunks)
    return work + shape.batch * weights * (BACK_CYCLES + (STORE_CYCLES if mode == "kept" else 0))


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
    v = Panels(kernel, plan.tiles, shape.c_in, PANEL)
    w = Panels(kernel, plan.tiles, shape.c_out, block)
    transform(kernel, shape, plan.tile_rows, x, g, None, v, w, image, 0, 0)
    total = kernel.registers(lanes)
    kernel.store(total, kernel.constant(0.0, lanes), 0)
    products = kernel.scratch((36, kernel.machine.tile_rows * block))

    def weights(o: Expression, width: int, c: Expression, rows: int) -> None:
        vectors = -(-width // lanes)
        with T.serial(36) as point:
            sums = multiply(kernel, v, w, point, o, vectors, c, rows, 1, plan.part)
            for at in range(rows * vectors):
                kernel.store(products, kernel.load(sums, at * lanes), point, at * lanes)
        squares = kernel.registers(lanes)  # of this block alone: short sums keep the rounding small
        kernel.store(squares, kernel.constant(0.0, lanes), 0)
        with T.serial(rows) as r:
            for vector in range(vectors):
                part = min(lanes, width - vector * lanes)
                at = (r * vectors + vector) * lanes
                taps = weights_from(kernel, [kernel.load(products, p, at, lanes=part) for p in range(36)], part)
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
    v = Panels(kernel, plan.tiles, shape.c_in, PANEL)
    w = Panels(kernel, plan.tiles, shape.c_out, block)
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
                transform(kernel, shape, plan.tile_rows, x, g, factors, v, w, image, strip * plan.tile_rows, first)
                T.buffer_store(live, live[0] + 1, [0])

        def add(point: Expression, o: Expression, width: int, c: Expression, rows: int) -> None:
            vectors = -(-width // lanes)
            more = multiply(kernel, v, w, point, o, vectors, c, rows, live[0], plan.part)
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
                for tap, value in enumerate(weights_from(kernel, points, part)):
                    kernel.store(target, value, core, tap, c, o + start, lanes=part)

    for_tiles(shape.c_out, block, back)
