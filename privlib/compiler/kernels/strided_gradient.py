"""The data gradient of a strided convolution, without spreading the output's gradient out: only products that count.

dX[n, y, x, c] = Σ_{ky,kx,o} g[n, (y + p − ky·d) / s, (x + p − kx·d) / s, o] · W[o, c, ky, kx], where both divide

For positions of one residue modulo the stride the taps that divide are the same, so each of the s² phases of dX is a
stride-1 convolution of g with its own few taps (zero where it has none, as three of four phases of a 1×1, stride-2
projection). Register tiles take pixels of a phase × input channels.
"""

from dataclasses import dataclass
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel, for_tiles, register_tile
from privlib.compiler.kernels.conv_direct import padded_strip
from privlib.compiler.kernels.shapes import Conv2d, strip_rows
from privlib.compiler.target import Machine

MOST_PHASES = 25


def applies(shape: Conv2d) -> bool:
    """Whether to compute this convolution's data gradient here: any kernel, padding and dilation, but one group, and no
    more phases than it is worth to write out code for."""
    return shape.groups == 1 and shape.stride[0] * shape.stride[1] <= MOST_PHASES


@dataclass(frozen=True)
class _Phase:
    """Along one axis: positions residue, residue + stride, … of dX, `count` of them. Position number a receives tap
    tap + j·tap_step from g's position a + shift + j·shift_step, for j < taps."""

    residue: int
    count: int
    taps: int
    tap: int
    tap_step: int
    shift: int
    shift_step: int


def _phases(size: int, kernel: int, stride: int, dilation: int, padding: int) -> list[_Phase]:
    phases = []
    for residue in range(min(stride, size)):
        taps = [k for k in range(kernel) if (residue + padding - k * dilation) % stride == 0]
        shifts = [(residue + padding - k * dilation) // stride for k in taps] or [0]
        steps = (taps[1] - taps[0], shifts[1] - shifts[0]) if len(taps) > 1 else (0, 0)
        count = len(range(residue, size, stride))
        phases.append(_Phase(residue, count, len(taps), (taps or [0])[0], steps[0], shifts[0], steps[1]))
    return phases


@dataclass(frozen=True)
class _Part:
    """A phase of both axes; `first` is where its taps begin in the packed weights."""

    y: _Phase
    x: _Phase
    first: int


def _parts(shape: Conv2d) -> list[_Part]:
    sizes, padding = (shape.height, shape.width), shape.padding[:2]
    vertical, horizontal = (
        _phases(*each) for each in zip(sizes, shape.kernel, shape.stride, shape.dilation, padding, strict=True)
    )
    parts, first = [], 0
    for y in vertical:
        for x in horizontal:
            parts.append(_Part(y, x, first))
            first += y.taps * x.taps * shape.c_out
    return parts


def _margins(phases: list[_Phase], size: int) -> tuple[int, int]:
    """Zeros that g, `size` long, needs before and behind."""
    reached = [p.shift + j * p.shift_step + a for p in phases for j in range(p.taps) for a in (0, p.count - 1)]
    return max(0, -min(reached, default=0)), max(0, max(reached, default=0) - size + 1)


def packed_shape(machine: Machine, dtype: str, shape: Conv2d) -> tuple[int, int, int]:
    """(blocks, taps × output channels, lanes of a block): input channels of a block side by side, zero-padded."""
    block = machine.tile_vectors * machine.lanes(dtype)
    return (-(-shape.c_in // block), shape.kernel[0] * shape.kernel[1] * shape.c_out, block)


def pack_weights(machine: Machine, dtype: str, shape: Conv2d) -> "tvm.tirx.PrimFunc":
    """(c_out, c_in, kh, kw) → packed_shape, the taps of one phase after the other."""
    kernel = Kernel(machine, dtype)
    blocks, _, block = packed_shape(machine, dtype, shape)
    with kernel.function():
        weight = kernel.argument("weight", (shape.c_out, shape.c_in, *shape.kernel))
        packed = kernel.argument("packed", packed_shape(machine, dtype, shape))
        with T.parallel(blocks) as ob:
            for part in _parts(shape):
                y, x = part.y, part.x
                with (
                    T.serial(y.taps) as jy,
                    T.serial(x.taps) as jx,
                    T.serial(shape.c_out) as o,
                    T.serial(block) as lane,
                ):
                    c = T.Bind(ob * block + lane)
                    ky, kx = y.tap + jy * y.tap_step, x.tap + jx * x.tap_step
                    value = weight[o, T.min(c, shape.c_in - 1), ky, kx]
                    value = T.if_then_else(c < shape.c_in, value, kernel.constant(0.0))
                    T.buffer_store(packed, value, [ob, part.first + (jy * x.taps + jx) * shape.c_out + o, lane])
    return kernel.finish()


def data_gradient(machine: Machine, dtype: str, shape: Conv2d) -> "tvm.tirx.PrimFunc":
    """Arguments: g NHWC, packed weights, dX NHWC; `shape` is the forward convolution's."""
    kernel, lanes = Kernel(machine, dtype), machine.lanes(dtype)
    (sy, sx), parts, c_out = shape.stride, _parts(shape), shape.c_out
    *_, block = packed_shape(machine, dtype, shape)
    top, bottom = _margins([part.y for part in parts], shape.out_height)
    left, right = _margins([part.x for part in parts], shape.out_width)
    padded = Conv2d(
        shape.batch, shape.out_height, shape.out_width, c_out, c_out, (1, 1), padding=(top, left, bottom, right)
    )
    row_bytes = (left + shape.out_width + right) * c_out * (8 if dtype == "float64" else 4)
    groups = -(-shape.height // sy)  # of a row of every phase
    reach = top + max(part.y.shift + j * part.y.shift_step for part in parts for j in range(max(1, part.y.taps)))
    rows = strip_rows(shape.batch, groups, row_bytes, machine.cores)

    with kernel.function():
        g = kernel.argument("g", (shape.batch, shape.out_height, shape.out_width, c_out))
        packed = kernel.argument("packed", packed_shape(machine, dtype, shape))
        output = kernel.argument("dx", (shape.batch, shape.height, shape.width, shape.c_in))
        with T.parallel(shape.batch * (groups // rows)) as task:
            image, first = T.Bind(task // (groups // rows)), T.Bind(task % (groups // rows) * rows)
            strip = padded_strip(kernel, g, padded, image, first, rows + reach)

            def tile(part: _Part, ob: Expression, width: int, a: Expression, x0: Expression, pixels: int) -> None:
                y, x, vectors = part.y, part.x, -(-width // lanes)

                def reduction(step: Any) -> None:
                    with T.serial(y.taps) as jy, T.serial(x.taps) as jx, T.serial(c_out) as o:
                        row, column = a + top + y.shift + jy * y.shift_step, x0 + left + x.shift + jx * x.shift_step
                        step(
                            lambda r: strip[row, column + r, o],
                            lambda v: kernel.load(packed, ob, part.first + (jy * x.taps + jx) * c_out + o, v * lanes),
                        )

                sums = register_tile(kernel, pixels, vectors, reduction)
                for r in range(pixels):
                    for v in range(vectors):
                        index = (image, (first + a) * sy + y.residue, (x0 + r) * sx + x.residue, ob * block + v * lanes)
                        lanes_left = min(lanes, width - v * lanes)
                        value = kernel.load(sums, (r * vectors + v) * lanes, lanes=lanes_left)
                        kernel.store(output, value, *index, lanes=lanes_left)

            def phase(part: _Part, ob: Expression, width: int) -> None:
                with T.serial(rows) as a, T.If((first + a) * sy + part.y.residue < shape.height), T.Then():
                    for_tiles(part.x.count, machine.tile_rows, lambda x0, pixels: tile(part, ob, width, a, x0, pixels))

            def channel_block(ob: Expression, width: int) -> None:
                for part in parts:
                    phase(part, ob, width)

            for_tiles(shape.c_in, block, lambda start, width: channel_block(start // block, width))
    return kernel.finish()
