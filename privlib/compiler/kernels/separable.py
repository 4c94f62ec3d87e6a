"""A depthwise convolution and the 1×1 convolution behind it as one kernel: what is between them never leaves the L2
cache.

A task takes a strip of rows of one image: padded input strip → depthwise outputs of the strip (pixels, channels) →
matrix product.
"""

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles
from privlib.compiler.kernels.conv_direct import Epilogue, Output, activate, padded_strip
from privlib.compiler.kernels.depthwise import accumulate
from privlib.compiler.kernels.depthwise import packed_shape as depthwise_packed_shape
from privlib.compiler.kernels.matmul import Matmul, Product
from privlib.compiler.kernels.matmul import packed_shape as matmul_packed_shape
from privlib.compiler.kernels.shapes import Conv2d, strip_rows
from privlib.compiler.target import Machine


def conv2d(
    machine: Machine, dtype: str, depthwise: Conv2d, inner: Epilogue, c_out: int, epilogue: Epilogue
) -> "tvm.tirx.PrimFunc":
    """Arguments: input NHWC, packed depthwise weights, [depthwise bias], packed 1×1 weights, [bias], [residual], output
    NHWC.

    inner: bias and activation between the two (no residual).
    """
    kernel, channels = Kernel(machine, dtype), depthwise.c_out
    height, width = depthwise.out_height, depthwise.out_width
    rows = strip_rows(
        depthwise.batch, height, width * channels * (8 if dtype == "float64" else 4), machine.cores, 128 * 1024
    )
    strips, pixels = height // rows, rows * width
    product_shape = Matmul(depthwise.batch * height * width, channels, c_out)
    blocks = matmul_packed_shape(machine, dtype, product_shape)[0]
    with kernel.function():
        source = kernel.argument("input", (depthwise.batch, depthwise.height, depthwise.width, channels))
        filters = kernel.argument("filters", depthwise_packed_shape(machine, dtype, depthwise))
        inner_bias = kernel.argument("inner_bias", (channels,)) if inner.bias else None
        packed = kernel.argument("packed", matmul_packed_shape(machine, dtype, product_shape))
        output = Output(kernel, epilogue, (depthwise.batch, height, width, c_out))
        with T.parallel(depthwise.batch * strips) as task:
            image, first = T.Bind(task // strips), T.Bind(task % strips * rows)
            strip = padded_strip(
                kernel, source, depthwise, image, first * depthwise.stride[0], depthwise.input_rows(rows)
            )
            between = kernel.scratch((pixels, channels))

            def depthwise_tile(y: Expression, c: Expression, lanes: int, x0: Expression, count: int) -> None:
                def pixel(row: Expression, x: Expression, at: Expression, part: int) -> Expression:
                    return kernel.load(strip, row, x, at, lanes=part)

                for r, value in enumerate(accumulate(kernel, depthwise, pixel, filters, y, x0, count, c, lanes)):
                    if inner_bias is not None:
                        value = value + kernel.load(inner_bias, c, lanes=lanes)
                    kernel.store(
                        between, activate(kernel, value, inner.activation, lanes), y * width + x0 + r, c, lanes=lanes
                    )

            with T.serial(rows) as y:
                kernel.for_vectors(
                    channels,
                    lambda c, lanes: for_tiles(width, 4, lambda x0, count: depthwise_tile(y, c, lanes, x0, count)),
                )

            def store(row: Expression, channel: Expression, value: Expression, lanes: int) -> None:
                output.store(value, image, first + row // width, row % width, channel, lanes=lanes)

            product = Product(kernel, pixels, channels, c_out, packed, lambda row, k: between[row, k], store)
            with T.serial(blocks) as ob:
                product.emit(ob)
    return kernel.finish()
