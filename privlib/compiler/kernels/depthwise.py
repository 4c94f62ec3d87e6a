"""Depthwise convolution, channel-last: one filter a channel, vectorized over channels, a few pixels a time so that
loads are shared."""

from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles
from privlib.compiler.kernels.conv_direct import Epilogue, Output, input_shape, padded_strip
from privlib.compiler.kernels.shapes import Conv2d, strip_rows
from privlib.compiler.target import Machine


def packed_shape(machine: Machine, dtype: str, shape: Conv2d) -> tuple[int, int]:
    """(taps, channels)."""
    return (shape.kernel[0] * shape.kernel[1], shape.c_out)


def pack_weights(machine: Machine, dtype: str, shape: Conv2d) -> "tvm.tirx.PrimFunc":
    """(channels, 1, kh, kw) → (taps, channels)."""
    (kh, kw), kernel = shape.kernel, Kernel(machine, dtype)
    with kernel.function():
        weight = kernel.argument("weight", (shape.c_out, 1, kh, kw))
        packed = kernel.argument("packed", packed_shape(machine, dtype, shape))
        with T.parallel(kh * kw) as tap, T.serial(shape.c_out) as c:
            T.buffer_store(packed, weight[c, 0, tap // kw, tap % kw], [tap, c])
    return kernel.finish()


def accumulate(
    kernel: Kernel,
    shape: Conv2d,
    pixel: Any,
    packed: Any,
    y: Expression,
    x0: Expression,
    pixels: int,
    c: Expression,
    lanes: int,
) -> list[Expression]:
    """The sums of `pixels` neighbouring outputs for one vector of channels; taps are unrolled, so equal loads are
    loaded once."""
    (kh, kw), (sy, sx), (dy, dx) = shape.kernel, shape.stride, shape.dilation
    sums: list[Expression] = []
    for r in range(pixels):
        total: Expression = kernel.constant(0.0, lanes)
        for ky in range(kh):
            for kx in range(kw):
                weight = kernel.load(packed, ky * kw + kx, c, lanes=lanes)
                total = T.Bind(total + pixel(y * sy + ky * dy, (x0 + r) * sx + kx * dx, c, lanes) * weight)
        sums.append(total)
    return sums


def conv2d(machine: Machine, dtype: str, shape: Conv2d, epilogue: Epilogue, nchw: bool = False) -> "tvm.tirx.PrimFunc":
    """Arguments: input NHWC (or NCHW), packed weights, [bias], [residual], output NHWC."""
    kernel = Kernel(machine, dtype)
    row_bytes = (shape.width + 2) * shape.c_in * shape.stride[0] * (8 if dtype == "float64" else 4)
    rows = strip_rows(shape.batch, shape.out_height, row_bytes, machine.cores)
    strips, copied = shape.out_height // rows, nchw or any(shape.padding)
    with kernel.function():
        source = kernel.argument("input", input_shape(shape, nchw))
        packed = kernel.argument("packed", packed_shape(machine, dtype, shape))
        output = Output(kernel, epilogue, (shape.batch, shape.out_height, shape.out_width, shape.c_out))
        with T.parallel(shape.batch * strips) as task:
            image, first = T.Bind(task // strips), T.Bind(task % strips * rows)
            top = first * shape.stride[0]
            strip = padded_strip(kernel, source, shape, image, top, shape.input_rows(rows), nchw) if copied else None

            def pixel(y: Expression, x: Expression, c: Expression, lanes: int) -> Expression:
                if copied:
                    return kernel.load(strip, y, x, c, lanes=lanes)
                return kernel.load(source, image, top + y, x, c, lanes=lanes)

            def tile(y: Expression, c: Expression, lanes: int, x0: Expression, pixels: int) -> None:
                for r, value in enumerate(accumulate(kernel, shape, pixel, packed, y, x0, pixels, c, lanes)):
                    output.store(value, image, first + y, x0 + r, c, lanes=lanes)

            with T.serial(rows) as y:
                kernel.for_vectors(
                    shape.c_out,
                    lambda c, lanes: for_tiles(shape.out_width, 4, lambda x0, pixels: tile(y, c, lanes, x0, pixels)),
                )
    return kernel.finish()
