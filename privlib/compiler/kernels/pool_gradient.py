"""The gradient of pooling, channel-last: a maximum's gradient goes to its first place in the window, as in PyTorch."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.kernels.pool import Pool2d
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine

Tensors = tuple[Any, Any, Any]  # input, gradient of the output, gradient of the input
Place = tuple[
    int, Expression, Expression, Any
]  # number, row, column, and the condition of being inside, if there is one


def partitions(window: Conv2d) -> bool:
    """Whether every place of the input lies in exactly one window."""
    w, (sy, sx) = window, window.stride
    whole = (w.out_height * sy, w.out_width * sx) == (w.height, w.width)
    return w.kernel == w.stride and w.dilation == (1, 1) and not any(w.padding) and whole


def pool2d_gradient(machine: Machine, dtype: str, pool: Pool2d) -> "tvm.tirx.PrimFunc":
    """Arguments: input NHWC, g NHWC (of the output), gradient NHWC (of the input). Windows may overlap.

    Where the windows partition the input, every element is written once and nothing is cleared first.
    """
    kernel, w = Kernel(machine, dtype), pool.window
    spread = _maximum if pool.kind == "max" else _average
    with kernel.function():
        source = kernel.argument("input", (w.batch, w.height, w.width, w.c_in))
        g = kernel.argument("g", (w.batch, w.out_height, w.out_width, w.c_in))
        gradient = kernel.argument("gradient", (w.batch, w.height, w.width, w.c_in))

        def row(image: Expression, y: Expression, once: bool) -> None:
            with T.serial(w.out_width) as x:
                kernel.for_vectors(
                    w.c_in, lambda c, lanes: spread(kernel, pool, (source, g, gradient), (image, y, x, c), lanes, once)
                )

        if partitions(w):
            with T.parallel(w.batch * w.out_height) as task:
                row(T.Bind(task // w.out_height), T.Bind(task % w.out_height), True)
        else:
            flat = kernel.view(gradient, (w.batch, w.height * w.width * w.c_in))
            with T.parallel(w.batch) as image:
                kernel.for_vectors(
                    w.height * w.width * w.c_in,
                    lambda at, lanes: kernel.store(flat, kernel.constant(0.0, lanes), image, at, lanes=lanes),
                )
                with T.serial(w.out_height) as y:
                    row(image, y, False)
    return kernel.finish()


def _taps(pool: Pool2d, y: Expression, x: Expression) -> list[Place]:
    """The places of a window, in PyTorch's order."""
    w = pool.window
    (kh, kw), (sy, sx), (dy, dx), (top, left, _, _) = w.kernel, w.stride, w.dilation, w.padding
    places: list[Place] = []
    for ky in range(kh):
        for kx in range(kw):
            iy, ix = T.Bind(y * sy + ky * dy - top), T.Bind(x * sx + kx * dx - left)
            inside = T.And(T.And(iy >= 0, iy < w.height), T.And(ix >= 0, ix < w.width)) if any(w.padding) else None
            places.append((ky * kw + kx, iy, ix, inside))
    return places


@contextmanager
def _where(inside: Any) -> Iterator[None]:
    if inside is None:
        yield
    else:
        with T.If(inside), T.Then():
            yield


def _give(
    kernel: Kernel, gradient: Any, value: Expression, index: Sequence[Expression], lanes: int, once: bool
) -> None:
    """Add to the gradient, or to a zero: −0 becomes 0 in both."""
    if once:
        zero = kernel.registers(lanes)  # a constant would be folded, and −0 kept
        kernel.store(zero, kernel.constant(0.0, lanes), 0, lanes=lanes)
        before = kernel.load(zero, 0, lanes=lanes)
    else:
        before = kernel.load(gradient, *index, lanes=lanes)
    kernel.store(gradient, before + value, *index, lanes=lanes)


def _maximum(
    kernel: Kernel, pool: Pool2d, tensors: Tensors, at: tuple[Expression, ...], lanes: int, once: bool
) -> None:
    """Find the first largest place (by its number, a float in the lanes of the values), then give it the gradient."""
    (source, g, gradient), (image, y, x, c) = tensors, at
    best, place = kernel.registers(lanes), kernel.registers(lanes)
    kernel.store(best, kernel.splat(T.min_value(kernel.dtype), lanes), 0, lanes=lanes)
    kernel.store(place, kernel.constant(-1.0, lanes), 0, lanes=lanes)
    places = _taps(pool, y, x)
    for number, iy, ix, inside in places:
        with _where(inside):
            value = T.Bind(kernel.load(source, image, iy, ix, c, lanes=lanes))
            kept, where = T.Bind(kernel.load(best, 0, lanes=lanes)), T.Bind(kernel.load(place, 0, lanes=lanes))
            first = where < kernel.constant(0.0, lanes)
            taken = T.Or(T.Or(value > kept, T.isnan(value)), first)
            kernel.store(place, T.Select(taken, kernel.constant(float(number), lanes), where), 0, lanes=lanes)
            kernel.store(best, T.Select(taken, value, kept), 0, lanes=lanes)
    for number, iy, ix, inside in places:
        with _where(inside):
            mine = tirx.EQ(kernel.load(place, 0, lanes=lanes), kernel.constant(float(number), lanes))
            value = T.Select(mine, kernel.load(g, image, y, x, c, lanes=lanes), kernel.constant(0.0, lanes))
            _give(kernel, gradient, value, (image, iy, ix, c), lanes, once)


def _average(
    kernel: Kernel, pool: Pool2d, tensors: Tensors, at: tuple[Expression, ...], lanes: int, once: bool
) -> None:
    (_, g, gradient), (image, y, x, c) = tensors, at
    places = _taps(pool, y, x)
    divisor: Expression = kernel.constant(float(len(places)))
    if not pool.count_include_pad and any(pool.window.padding):
        one, zero = kernel.constant(1.0), kernel.constant(0.0)
        counted = [T.if_then_else(inside, one, zero) for *_, inside in places]
        divisor = T.Bind(sum(counted[1:], counted[0]))
    share = T.Bind(kernel.load(g, image, y, x, c, lanes=lanes) / kernel.splat(divisor, lanes))
    for _, iy, ix, inside in places:
        with _where(inside):
            _give(kernel, gradient, share, (image, iy, ix, c), lanes, once)


def spatial_mean_gradient(machine: Machine, dtype: str, shape: Sequence[int]) -> "tvm.tirx.PrimFunc":
    """Arguments: g (batch, channels), gradient of `shape` (batch, …, channels): g / positions everywhere."""
    kernel = Kernel(machine, dtype)
    batch, pixels, channels = shape[0], math.prod(shape[1:-1]), shape[-1]
    with kernel.function():
        g, whole = kernel.argument("g", (batch, channels)), kernel.argument("gradient", shape)
        gradient = kernel.view(whole, (batch, pixels, channels))
        with T.parallel(batch) as image:
            share = kernel.scratch((channels,))

            def divide(c: Expression, lanes: int) -> None:
                value = kernel.load(g, image, c, lanes=lanes) / kernel.constant(float(pixels), lanes)
                kernel.store(share, value, c, lanes=lanes)

            kernel.for_vectors(channels, divide)
            with T.serial(pixels) as p:
                kernel.for_vectors(
                    channels,
                    lambda c, lanes: kernel.store(
                        gradient, kernel.load(share, c, lanes=lanes), image, p, c, lanes=lanes
                    ),
                )
    return kernel.finish()
