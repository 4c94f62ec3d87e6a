"""Pooling, channel-last, with PyTorch's meaning of padding: never a maximum, counted by an average only when asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine


@dataclass(frozen=True)
class Pool2d:
    """kind: "max" or "avg"; window: geometry (c_in = c_out); count_include_pad as in torch.nn.AvgPool2d."""

    kind: str
    window: Conv2d
    count_include_pad: bool = True


def pool2d(machine: Machine, dtype: str, pool: Pool2d) -> "tvm.tirx.PrimFunc":
    """Arguments: input NHWC, output NHWC."""
    kernel, w = Kernel(machine, dtype), pool.window
    (kh, kw), (sy, sx), (dy, dx), (top, left, _, _) = w.kernel, w.stride, w.dilation, w.padding
    smallest = T.min_value(dtype) if pool.kind == "max" else kernel.constant(0.0)
    with kernel.function():
        source = kernel.argument("input", (w.batch, w.height, w.width, w.c_in))
        output = kernel.argument("output", (w.batch, w.out_height, w.out_width, w.c_in))
        inside_always = not any(w.padding)

        def window(image: Expression, y: Expression, x: Expression, c: Expression, lanes: int) -> None:
            best = kernel.registers(lanes)
            count = kernel.registers(1)
            kernel.store(best, kernel.splat(smallest, lanes), 0, lanes=lanes)
            T.buffer_store(count, kernel.constant(0.0), [0])
            for ky in range(kh):
                for kx in range(kw):
                    iy, ix = T.Bind(y * sy + ky * dy - top), T.Bind(x * sx + kx * dx - left)

                    def take(iy: Expression = iy, ix: Expression = ix) -> None:
                        value = kernel.load(source, image, iy, ix, c, lanes=lanes)
                        kept = kernel.load(best, 0, lanes=lanes)
                        if pool.kind == "max":  # NaN wins, as in PyTorch
                            chosen = T.Select(T.Or(value > kept, T.isnan(value)), value, kept)
                        else:
                            chosen = kept + value
                        kernel.store(best, chosen, 0, lanes=lanes)
                        T.buffer_store(count, count[0] + kernel.constant(1.0), [0])

                    if inside_always:
                        take()
                    else:
                        with T.If(T.And(T.And(iy >= 0, iy < w.height), T.And(ix >= 0, ix < w.width))), T.Then():
                            take()
            result = kernel.load(best, 0, lanes=lanes)
            if pool.kind == "avg":
                divisor = kernel.constant(float(kh * kw)) if pool.count_include_pad else count[0]
                result = result / kernel.splat(divisor, lanes)
            kernel.store(output, result, image, y, x, c, lanes=lanes)

        with T.parallel(w.batch * w.out_height) as task, T.serial(w.out_width) as x:
            image, y = T.Bind(task // w.out_height), T.Bind(task % w.out_height)
            kernel.for_vectors(w.c_in, lambda c, lanes: window(image, y, x, c, lanes))
    return kernel.finish()


def spatial_mean(machine: Machine, dtype: str, shape: Sequence[int]) -> "tvm.tirx.PrimFunc":
    """(batch, …, channels) → (batch, channels), the mean over the axes between. Arguments: input, output."""
    kernel = Kernel(machine, dtype)
    batch, pixels, channels = shape[0], math.prod(shape[1:-1]), shape[-1]
    with kernel.function():
        argument, output = kernel.argument("input", shape), kernel.argument("output", (batch, channels))
        source = kernel.view(argument, (batch, pixels, channels))

        def mean(image: Expression, c: Expression, lanes: int) -> None:
            total = kernel.registers(lanes)
            kernel.store(total, kernel.constant(0.0, lanes), 0, lanes=lanes)
            with T.serial(pixels) as p:
                kernel.store(
                    total,
                    kernel.load(total, 0, lanes=lanes) + kernel.load(source, image, p, c, lanes=lanes),
                    0,
                    lanes=lanes,
                )
            kernel.store(
                output,
                kernel.load(total, 0, lanes=lanes) / kernel.constant(float(pixels), lanes),
                image,
                c,
                lanes=lanes,
            )

        with T.parallel(batch) as image:
            kernel.for_vectors(channels, lambda c, lanes: mean(image, c, lanes))
    return kernel.finish()
