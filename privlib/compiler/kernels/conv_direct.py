"""Direct convolution with a register tile: pixels × channels of accumulators, channel-last, any stride, padding,
dilation, groups.

Y[n, y, x, o] = act(bias[o] + R[n, y, x, o] + Σ_{ky,kx,c} X[n, y·s + ky·d − p, x·s + kx·d − p, c] · W[o, ky, kx, c])

One task is a strip of output rows of one image. Where there is padding (or the input is still NCHW) the strip's input
rows are first copied, zero-padded, to scratch that stays in the L2 cache, so the inner loops have no bounds to check.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile
from privlib.compiler.kernels.shapes import Conv2d, strip_rows
from privlib.compiler.target import Machine


@dataclass(frozen=True)
class Epilogue:
    """What happens to an output value before it is stored, in this order: + bias, + residual, activation ("none",
    "relu", "relu6")."""

    bias: bool = False
    residual: bool = False
    activation: str = "none"


def activate(kernel: Kernel, value: Expression, activation: str, lanes: int) -> Expression:
    if activation == "none":
        return value
    # the second operand is what comes out of a comparison with NaN: as in PyTorch, NaN stays NaN
    value = T.max(kernel.constant(0.0, lanes), value)
    return T.min(kernel.constant(6.0, lanes), value) if activation == "relu6" else value


class Output:
    """The arguments of the epilogue and of the result, in calling order: bias, residual, output."""

    def __init__(self, kernel: Kernel, epilogue: Epilogue, shape: Sequence[int]) -> None:
        self.kernel, self.epilogue = kernel, epilogue
        self.bias = kernel.argument("bias", (shape[-1],)) if epilogue.bias else None
        self.residual = kernel.argument("residual", shape) if epilogue.residual else None
        self.result = kernel.argument("output", shape)

    def store(self, value: Expression, *index: Expression, lanes: int) -> None:
        kernel = self.kernel
        if self.bias is not None:
            value = value + kernel.load(self.bias, index[-1], lanes=lanes)
        if self.residual is not None:
            value = value + kernel.load(self.residual, *index, lanes=lanes)
        kernel.store(self.result, activate(kernel, value, self.epilogue.activation, lanes), *index, lanes=lanes)


def input_shape(shape: Conv2d, nchw: bool) -> tuple[int, int, int, int]:
    if nchw:
        return (shape.batch, shape.c_in, shape.height, shape.width)
    return (shape.batch, shape.height, shape.width, shape.c_in)


def padded_strip(
    kernel: Kernel, source: Any, shape: Conv2d, image: Expression, first_row: Expression, rows: int, nchw: bool = False
) -> Any:
    """Copy `rows` padded input rows, from row first_row of the padded image on, to scratch (rows, padded width,
    channels)."""
    top, left, _, right = shape.padding
    width, channels = shape.width, shape.c_in
    strip = kernel.scratch((rows, left + width + right, channels))
    zero = kernel.constant(0.0)

    def fill(row: Expression, start: int, columns: int) -> None:
        if columns:
            with T.serial(columns * channels) as at:
                T.buffer_store(strip, zero, [row, start + at // channels, at % channels])

    with T.serial(rows) as row:
        y = T.Bind(first_row + row - top)
        with T.If(T.And(y >= 0, y < shape.height)):
            with T.Then():
                fill(row, 0, left)
                if nchw:
                    with T.serial(width) as x:
                        for c in range(channels):
                            T.buffer_store(strip, source[image, c, y, x], [row, left + x, c])
                else:
                    with T.serial(width) as x:
                        kernel.for_vectors(
                            channels,
                            lambda c, lanes: kernel.store(
                                strip, kernel.load(source, image, y, x, c, lanes=lanes), row, left + x, c, lanes=lanes
                            ),
                        )
                fill(row, left + width, right)
            with T.Else():
                fill(row, 0, left + width + right)
    return strip


def packed_shape(machine: Machine, dtype: str, shape: Conv2d) -> tuple[int, int, int, int]:
    """(groups, blocks, taps × channels of a group, lanes of a block): output channels of a block side by side,
    zero-padded."""
    block = machine.tile_vectors * machine.lanes(dtype)
    reduction = shape.kernel[0] * shape.kernel[1] * shape.c_in // shape.groups
    return (shape.groups, -(-(shape.c_out // shape.groups) // block), reduction, block)


def pack_weights(machine: Machine, dtype: str, shape: Conv2d) -> "tvm.tirx.PrimFunc":
    """(c_out, c_in/groups, kh, kw) → packed_shape."""
    groups, blocks, _, block = packed_shape(machine, dtype, shape)
    per_group, (kh, kw), c_in = shape.c_out // shape.groups, shape.kernel, shape.c_in // shape.groups
    kernel = Kernel(machine, dtype)
    with kernel.function():
        weight = kernel.argument("weight", (shape.c_out, c_in, kh, kw))
        packed = kernel.argument("packed", (groups, blocks, kh * kw * c_in, block))
        with T.parallel(groups * blocks) as at, T.serial(kh * kw * c_in) as k, T.serial(block) as lane:
            o = (at % blocks) * block + lane
            value = T.if_then_else(
                o < per_group,
                weight[
                    T.min((at // blocks) * per_group + o, shape.c_out - 1), k % c_in, k // c_in // kw, k // c_in % kw
                ],
                kernel.constant(0.0),
            )
            T.buffer_store(packed, value, [at // blocks, at % blocks, k, lane])
    return kernel.finish()


def conv2d(machine: Machine, dtype: str, shape: Conv2d, epilogue: Epilogue, nchw: bool = False) -> "tvm.tirx.PrimFunc":
    """Arguments: input NHWC (or NCHW), packed weights, [bias], [residual], output NHWC."""
    kernel, lanes = Kernel(machine, dtype), machine.lanes(dtype)
    (kh, kw), (sy, sx), (dy, dx) = shape.kernel, shape.stride, shape.dilation
    c_in, per_group = shape.c_in // shape.groups, shape.c_out // shape.groups
    copied = nchw or any(shape.padding)
    padded_width = shape.width + shape.padding[1] + shape.padding[3]
    row_bytes = padded_width * shape.c_in * sy * (8 if dtype == "float64" else 4)
    rows = strip_rows(shape.batch, shape.out_height, row_bytes, machine.cores)
    strips = shape.out_height // rows
    *_, block = packed_shape(machine, dtype, shape)

    with kernel.function():
        source = kernel.argument("input", input_shape(shape, nchw))
        packed = kernel.argument("packed", packed_shape(machine, dtype, shape))
        output = Output(kernel, epilogue, (shape.batch, shape.out_height, shape.out_width, shape.c_out))
        with T.parallel(shape.batch * strips) as task:
            image, first = T.Bind(task // strips), T.Bind(task % strips * rows)
            strip: Any = None
            if copied:
                strip = padded_strip(kernel, source, shape, image, first * sy, shape.input_rows(rows), nchw)

            def pixel(y: Expression, x: Expression, c: Expression) -> Expression:
                return strip[y, x, c] if copied else source[image, first * sy + y, x, c]

            def tile(group: Expression, ob: Expression, width: int, y: Expression, x0: Expression, pixels: int) -> None:
                vectors = -(-width // lanes)

                def reduction(step: Any) -> None:
                    with T.serial(kh) as ky, T.serial(kw) as kx, T.serial(c_in) as c:
                        step(
                            lambda r: pixel(y * sy + ky * dy, (x0 + r) * sx + kx * dx, group * c_in + c),
                            lambda v: kernel.load(packed, group, ob, (ky * kw + kx) * c_in + c, v * lanes),
                        )

                sums = register_tile(kernel, pixels, vectors, reduction)
                for r in range(pixels):
                    for v in range(vectors):
                        part = min(lanes, width - v * lanes)
                        channel = group * per_group + ob * block + v * lanes
                        value = kernel.load(sums, (r * vectors + v) * lanes, lanes=part)
                        output.store(value, image, first + y, x0 + r, channel, lanes=part)

            def channel_block(group: Expression, ob: Expression, width: int) -> None:
                with T.serial(rows) as y:
                    for_tiles(
                        shape.out_width, machine.tile_rows, lambda x0, pixels: tile(group, ob, width, y, x0, pixels)
                    )

            with T.serial(shape.groups) as group:
                for_tiles(per_group, block, lambda start, width: channel_block(group, start // block, width))
    return kernel.finish()
