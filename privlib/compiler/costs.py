"""The cost model: estimated core cycles of each kernel family for a shape, from which the kernel is chosen (no
measuring, no tuning)."""

from privlib.compiler.kernels import winograd
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine

FMA_PER_CYCLE = 2  # vector fused multiply-adds a core of x86-64-v3 or v4 retires in a cycle
# Cycles of one Winograd tile's transforms for one vector of channels, loads and stores included: about 300 vector
# instructions going in, 200 coming out, two a cycle.
INPUT_TRANSFORM_CYCLES = 150
OUTPUT_TRANSFORM_CYCLES = 100


def direct_cycles(machine: Machine, dtype: str, shape: Conv2d) -> float:
    """Register-tiled direct convolution: every product is a vector lane of a fused multiply-add."""
    lanes = machine.lanes(dtype)
    vectors = shape.groups * -(-(shape.c_out // shape.groups) // lanes)
    taps = shape.kernel[0] * shape.kernel[1] * shape.c_in // shape.groups
    return shape.batch * shape.out_height * shape.out_width * taps * vectors / FMA_PER_CYCLE


def winograd_cycles(machine: Machine, dtype: str, shape: Conv2d) -> float:
    """36 products for 4×4 outputs, and the transforms."""
    lanes = machine.lanes(dtype)
    vectors_in, vectors_out = -(-shape.c_in // lanes), -(-shape.c_out // lanes)
    tiles = shape.batch * (shape.out_height // 4) * (shape.out_width // 4)
    products = 36 * shape.c_in * vectors_out / FMA_PER_CYCLE
    return tiles * (products + INPUT_TRANSFORM_CYCLES * vectors_in + OUTPUT_TRANSFORM_CYCLES * vectors_out)


def choose_conv(machine: Machine, dtype: str, shape: Conv2d) -> str:
    """ "depthwise", "winograd" or "direct"."""
    if shape.depthwise:
        return "depthwise"
    if winograd.applies(shape) and winograd_cycles(machine, dtype, shape) < direct_cycles(machine, dtype, shape):
        return "winograd"
    return "direct"


def gram_cycles(machine: Machine, dtype: str, shape: Conv2d) -> float:
    """Two symmetric Gram matrices, half of each, and the shifted views of one of them."""
    lanes = machine.lanes(dtype)
    positions, pixels = shape.out_height * shape.out_width, shape.height * shape.width
    products = (pixels**2 * shape.c_in + positions**2 * shape.c_out) / 2
    additions = shape.kernel[0] * shape.kernel[1] * positions**2 / 2
    return shape.batch * (products / FMA_PER_CYCLE + additions) / lanes


def choose_norm(machine: Machine, dtype: str, shape: Conv2d) -> str:
    """ "goodfellow" for one position, else "gram" or "instantiate", whichever costs fewer cycles."""
    if shape.groups > 1:
        return "instantiate"
    if shape.out_height * shape.out_width == 1 and shape.kernel == (1, 1):
        return "goodfellow"
    lanes = machine.lanes(dtype)
    weights = shape.kernel[0] * shape.kernel[1] * shape.c_in * shape.c_out
    instantiate = shape.flops / 2 / lanes / FMA_PER_CYCLE + shape.batch * weights / lanes
    return "gram" if gram_cycles(machine, dtype, shape) < instantiate else "instantiate"
