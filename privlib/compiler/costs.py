"""The cost model: estimated core cycles of each kernel family for a shape, from which the kernel is chosen (no
measuring, no tuning)."""

from privlib.compiler.kernels import winograd, winograd_gradient
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine

FMA_PER_CYCLE = 2  # vector fused multiply-adds a core of x86-64-v3 or v4 retires in a cycle
# Cycles of one Winograd tile's transforms for one vector of channels, loads and stores included: about 300 vector
# instructions going in, 200 coming out, two a cycle.
INPUT_TRANSFORM_CYCLES = 150
OUTPUT_TRANSFORM_CYCLES = 100
# of the peak: what the direct weight gradient and the Gram matrices reach
DIRECT_SHARE, GRAM_SHARE = 0.8, 0.68
READ_CYCLES = 13  # one vector from memory, both cores reading (measured on Zen 3 and, in half cycles, on Zen 4)


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


def direct_weight_cycles(machine: Machine, dtype: str, shape: Conv2d, mode: str) -> float:
    """Register-tiled weight gradient: products at a share of the peak, and every example's weights on the way out."""
    lanes = machine.lanes(dtype)
    vectors = shape.groups * -(-(shape.c_out // shape.groups) // lanes)
    taps = shape.kernel[0] * shape.kernel[1] * shape.c_in // shape.groups
    products = shape.batch * shape.out_height * shape.out_width * taps * vectors / FMA_PER_CYCLE
    return products / DIRECT_SHARE + (0 if mode == "summed" else shape.batch * taps * vectors * 2)


def choose_weight_gradient(machine: Machine, dtype: str, shape: Conv2d, mode: str) -> str:
    """ "winograd" or "direct", for a mode of `weight_gradient`."""
    if not winograd_gradient.applies(shape):
        return "direct"
    fast = winograd_gradient.cycles(machine, dtype, shape, mode)
    return "winograd" if fast < direct_weight_cycles(machine, dtype, shape, mode) else "direct"


def gram_cycles(machine: Machine, dtype: str, shape: Conv2d, views: int = 1) -> float:
    """Two symmetric Gram matrices, half of each, and the shifted views of one of them, for every example."""
    lanes = machine.lanes(dtype)
    positions, pixels = views * shape.out_height * shape.out_width, views * shape.height * shape.width
    products = (pixels**2 * shape.c_in + positions**2 * shape.c_out) / 2
    additions = shape.kernel[0] * shape.kernel[1] * positions**2 / 2
    return shape.batch // views * (products / FMA_PER_CYCLE / GRAM_SHARE + additions) / lanes


def norm_cycles(machine: Machine, dtype: str, shape: Conv2d, views: int, strategy: str) -> float:
    """Taking the norms by "gram", or by "instantiate" with every gradient dropped again."""
    if strategy == "gram":
        return gram_cycles(machine, dtype, shape, views)
    return _weight_cycles(machine, dtype, shape, views, "norm")


def keeping_saves(machine: Machine, dtype: str, shape: Conv2d, views: int, strategy: str) -> float:
    """Cycles by which keeping every gradient, whose sum is then read from memory, beats `strategy` and a second pass
    for the sum."""
    dropped = norm_cycles(machine, dtype, shape, views, strategy) + _weight_cycles(machine, dtype, shape, 1, "summed")
    vectors = -(-shape.c_out // machine.lanes(dtype)) * shape.kernel[0] * shape.kernel[1] * shape.c_in
    read = shape.batch // views * vectors * READ_CYCLES
    return dropped - _weight_cycles(machine, dtype, shape, views, "kept") - read


def _weight_cycles(machine: Machine, dtype: str, shape: Conv2d, views: int, mode: str) -> float:
    direct = direct_weight_cycles(machine, dtype, shape, mode)
    if views > 1 or not winograd_gradient.applies(shape):
        return direct
    return min(direct, winograd_gradient.cycles(machine, dtype, shape, mode))


def choose_norm(machine: Machine, dtype: str, shape: Conv2d, views: int = 1) -> str:
    """ "goodfellow" for one position, else "gram" or "instantiate", whichever costs fewer cycles."""
    if shape.groups > 1:
        return "instantiate"
    if shape.out_height * shape.out_width == views == 1 and shape.kernel == (1, 1):
        return "goodfellow"
    return min(("gram", "instantiate"), key=lambda strategy: norm_cycles(machine, dtype, shape, views, strategy))
