"""Small kernels between the large ones: sums over positions, norms of rows, clip factors, weighted sums.

A factor of zero removes an example altogether, whatever its values: 0 · NaN must not poison a sum.
"""

import math
from collections.abc import Sequence

import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine

# Squares of a shorter gradient's elements underflow in float32 (below 2⁻¹²⁶ a square may be lost whole, and four
# million of them make 5e-32): its norm comes out too small, and scaled up by it, it would be longer than the bound.
SMALLEST_NORM = 1e-12


def flip_weights(machine: Machine, dtype: str, shape: Conv2d) -> "tvm.tirx.PrimFunc":
    """(c_out, c_in/groups, kh, kw) → (c_in, c_out/groups, kh, kw), taps reversed: the data gradient's weights."""
    kernel, (kh, kw) = Kernel(machine, dtype), shape.kernel
    ci, co = shape.c_in // shape.groups, shape.c_out // shape.groups
    with kernel.function():
        weight = kernel.argument("weight", (shape.c_out, ci, kh, kw))
        flipped = kernel.argument("flipped", (shape.c_in, co, kh, kw))
        with T.parallel(shape.c_in) as c, T.serial(co) as o, T.serial(kh) as i, T.serial(kw) as j:
            value = weight[c // ci * co + o, c % ci, kh - 1 - i, kw - 1 - j]
            T.buffer_store(flipped, value, [c, o, i, j])
    return kernel.finish()


def dilate(machine: Machine, dtype: str, shape: Sequence[int], stride: tuple[int, int]) -> "tvm.tirx.PrimFunc":
    """(B, H, W, C) → (B, (H−1)·s+1, (W−1)·s+1, C) with zeros between: a strided convolution's gradient, spread out."""
    kernel, (batch, height, width, channels), (sy, sx) = Kernel(machine, dtype), tuple(shape), stride
    wide = (batch, (height - 1) * sy + 1, (width - 1) * sx + 1, channels)
    with kernel.function():
        source, output = kernel.argument("input", shape), kernel.argument("output", wide)
        with T.parallel(batch * wide[1]) as task, T.serial(wide[2]) as x:
            image, y = T.Bind(task // wide[1]), T.Bind(task % wide[1])

            def put(c: Expression, lanes: int) -> None:
                there = T.And(tirx.EQ(y % sy, 0), tirx.EQ(x % sx, 0))
                with T.If(there):
                    with T.Then():
                        value = kernel.load(source, image, y // sy, x // sx, c, lanes=lanes)
                        kernel.store(output, value, image, y, x, c, lanes=lanes)
                    with T.Else():
                        kernel.store(output, kernel.constant(0.0, lanes), image, y, x, c, lanes=lanes)

            kernel.for_vectors(channels, put)
    return kernel.finish()


def join_cores(machine: Machine, dtype: str, shape: Conv2d) -> "tvm.tirx.PrimFunc":
    """(cores, taps, c_in/groups, c_out) → (c_out, c_in/groups, kh, kw): the cores' partial sums added up."""
    kernel, (kh, kw), ci = Kernel(machine, dtype), shape.kernel, shape.c_in // shape.groups
    with kernel.function():
        sums = kernel.argument("sums", (machine.cores, kh * kw, ci, shape.c_out))
        output = kernel.argument("output", (shape.c_out, ci, kh, kw))
        with T.parallel(shape.c_out) as o, T.serial(ci) as c, T.serial(kh * kw) as tap:
            total: Expression = sums[0, tap, c, o]
            for core in range(1, machine.cores):
                total = total + sums[core, tap, c, o]
            T.buffer_store(output, total, [o, c, tap // kw, tap % kw])
    return kernel.finish()


def position_sums(machine: Machine, dtype: str, shape: Sequence[int]) -> "tvm.tirx.PrimFunc":
    """(B, …, C) → (B, C), summed over the axes between: a bias's gradient, example by example."""
    kernel, batch, pixels, channels = Kernel(machine, dtype), shape[0], math.prod(shape[1:-1]), shape[-1]
    with kernel.function():
        whole, output = kernel.argument("input", shape), kernel.argument("output", (batch, channels))
        source = kernel.view(whole, (batch, pixels, channels))
        with T.parallel(batch) as image:

            def column(c: Expression, lanes: int) -> None:
                total = kernel.registers(lanes)
                kernel.store(total, kernel.constant(0.0, lanes), 0, lanes=lanes)
                with T.serial(pixels) as p:
                    value = kernel.load(total, 0, lanes=lanes) + kernel.load(source, image, p, c, lanes=lanes)
                    kernel.store(total, value, 0, lanes=lanes)
                kernel.store(output, kernel.load(total, 0, lanes=lanes), image, c, lanes=lanes)

            kernel.for_vectors(channels, column)
    return kernel.finish()


def row_squares(machine: Machine, dtype: str, shape: Sequence[int]) -> "tvm.tirx.PrimFunc":
    """(B, …) → (B,): the squared L2 norm of each example's slice."""
    kernel, batch, size = Kernel(machine, dtype), shape[0], math.prod(shape[1:])
    with kernel.function():
        whole, output = kernel.argument("input", shape), kernel.argument("output", (batch,))
        source = kernel.view(whole, (batch, size))
        with T.parallel(batch) as row:
            line = kernel.registers(kernel.lanes)
            kernel.store(line, kernel.constant(0.0, kernel.lanes), 0)

            def add(c: Expression, lanes: int) -> None:
                value = T.Bind(kernel.load(source, row, c, lanes=lanes))
                kernel.store(line, kernel.load(line, 0, lanes=lanes) + value * value, 0, lanes=lanes)

            kernel.for_vectors(size, add)
            total: Expression = line[0]
            for lane in range(1, kernel.lanes):
                total = total + line[lane]
            T.buffer_store(output, total, [row])
    return kernel.finish()


def scale_rows(machine: Machine, dtype: str, shape: Sequence[int], only_select: bool) -> "tvm.tirx.PrimFunc":
    """(B, …), factors (B,) → rows times their factors (just kept, if only_select); zero where the factor is zero."""
    kernel, batch, size = Kernel(machine, dtype), shape[0], math.prod(shape[1:])
    with kernel.function():
        whole, factors = kernel.argument("input", shape), kernel.argument("factors", (batch,))
        result = kernel.argument("output", shape)
        source, output = kernel.view(whole, (batch, size)), kernel.view(result, (batch, size))
        with T.parallel(batch) as row:

            def put(c: Expression, lanes: int) -> None:
                factor = kernel.splat(factors[row], lanes)
                value = kernel.load(source, row, c, lanes=lanes)
                kept = value if only_select else value * factor
                zero = kernel.constant(0.0, lanes)
                kernel.store(output, T.Select(tirx.EQ(factor, zero), zero, kept), row, c, lanes=lanes)

            kernel.for_vectors(size, put)
    return kernel.finish()


def factor_sum(machine: Machine, dtype: str, shape: Sequence[int]) -> "tvm.tirx.PrimFunc":
    """(B, C), factors (B,) → (C,): Σ_b factor_b · row_b, rows of factor zero left out."""
    kernel, (batch, channels) = Kernel(machine, dtype), tuple(shape)
    with kernel.function():
        rows, factors = kernel.argument("input", shape), kernel.argument("factors", (batch,))
        output = kernel.argument("output", (channels,))
        with T.parallel(channels) as c:
            total = kernel.registers(1)
            T.buffer_store(total, kernel.constant(0.0), [0])
            with T.serial(batch) as b, T.If(tirx.NE(factors[b], kernel.constant(0.0))), T.Then():
                T.buffer_store(total, total[0] + factors[b] * rows[b, c], [0])
            T.buffer_store(output, total[0], [c])
    return kernel.finish()


def repeat_rows(machine: Machine, dtype: str, rows: int, views: int) -> "tvm.tirx.PrimFunc":
    """(rows,) → (rows · views,): every element `views` times."""
    kernel = Kernel(machine, dtype)
    with kernel.function():
        source, output = kernel.argument("input", (rows,)), kernel.argument("output", (rows * views,))
        with T.serial(rows) as row, T.serial(views) as view:
            T.buffer_store(output, source[row], [row * views + view])
    return kernel.finish()


def kept_sum(machine: Machine, dtype: str, kept: Sequence[int], kernel_size: tuple[int, int]) -> "tvm.tirx.PrimFunc":
    """Per-example gradients (B, taps, c_in, c_out), factors (B,) → Σ_b factor_b · gradient_b, (c_out, c_in, kh, kw).

    Rows of factor zero are left out. Each core sums blocks of the weights over the batch, and turns them around.
    """
    kernel, (batch, taps, c_in, c_out) = Kernel(machine, dtype), tuple(kept)
    with kernel.function():
        whole, factors = kernel.argument("kept", kept), kernel.argument("factors", (batch,))
        result = kernel.argument("output", (c_out, c_in, *kernel_size))
        source, output = kernel.view(whole, (batch, taps * c_in, c_out)), kernel.view(result, (c_out, c_in, taps))
        with T.parallel(taps * c_in) as row:
            sums = kernel.scratch((c_out,))
            kernel.for_vectors(c_out, lambda o, lanes: kernel.store(sums, kernel.constant(0.0, lanes), o, lanes=lanes))
            with T.serial(batch) as b, T.If(tirx.NE(factors[b], kernel.constant(0.0))), T.Then():

                def add(o: Expression, lanes: int) -> None:
                    value = kernel.splat(factors[b], lanes) * kernel.load(source, b, row, o, lanes=lanes)
                    kernel.store(sums, kernel.load(sums, o, lanes=lanes) + value, o, lanes=lanes)

                kernel.for_vectors(c_out, add)
            with T.serial(c_out) as o:
                T.buffer_store(output, sums[o], [o, row % c_in, row // c_in])
    return kernel.finish()


def clip_factors(
    machine: Machine, dtype: str, batch: int, sites: int, clipping: str, bound: float
) -> "tvm.tirx.PrimFunc":
    """Arguments: squared norms (B,) of each site, mask (B,), total squared norms (B,), factors (B,).

    clipping: "flat" min(1, bound/‖·‖); "normalize" bound/‖·‖, and 0 where the norm is at most SMALLEST_NORM; "none" 1.
    A masked row's and a non-finite example's factor is 0. mask holds 0 or 1.
    """
    kernel = Kernel(machine, dtype)
    with kernel.function():
        squares = [kernel.argument(f"squares{i}", (batch,)) for i in range(sites)]
        mask = kernel.argument("mask", (batch,))
        totals, factors = kernel.argument("totals", (batch,)), kernel.argument("factors", (batch,))
        zero, one, limit = kernel.constant(0.0), kernel.constant(1.0), kernel.constant(bound)
        with T.serial(batch) as row:
            total: Expression = squares[0][row]
            for more in squares[1:]:
                total = total + more[row]
            T.buffer_store(totals, total, [row])
            norm = T.Bind(T.sqrt(total))
            scaled = limit / T.max(norm, kernel.constant(1e-30))
            factor = {
                "flat": T.min(one, scaled),
                "normalize": T.if_then_else(norm > kernel.constant(SMALLEST_NORM), scaled, zero),
                "none": one,
            }
            usable = T.And(mask[row] > zero, norm < T.max_value(dtype))  # false for NaN and infinity
            T.buffer_store(factors, T.if_then_else(usable, factor[clipping], zero), [row])
    return kernel.finish()
