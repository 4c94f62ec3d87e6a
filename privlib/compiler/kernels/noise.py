"""Gaussian noise on an integer grid, from ChaCha20.

Guard against floating-point attacks (Mironov, CCS 2012; Holohan & Braghin, ESORICS 2021; both use what values a float
sum can take): the clipped sum is rounded to multiples of `step`, so is the noise, and the two are added as integers.
A shift by an integer commutes with rounding, so the release is post-processing of the continuous Gaussian mechanism on
the rounded sum: its accounting holds, and every release is an exact multiple of the step whatever the data.

Uniforms have 64 bits and lie in (0, 1], the smallest being 2⁻⁶⁴, so Box–Muller reaches 9.4 standard deviations;
logarithm and angle are computed in float64, whose errors (below 1e-13) are far below a step (2⁻³⁰ sigma or less).
"""

import math
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels import chacha, elementary
from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.target import Machine

SIGMA_BITS = 30  # sigma lies between 2³⁰ and 2³¹ steps
PER_BLOCK = chacha.WORDS // 2  # 64-bit uniforms, and so normals, of one block


@dataclass(frozen=True)
class NoiseGrid:
    """step: the grid's spacing, a power of two; sigma_steps: the noise's standard deviation in steps.

    With standard deviation σ = noise_multiplier · max_grad_norm: step = 2^(⌊log₂ σ⌋ − 30). A clipped sum of n examples
    is below n · max_grad_norm / step ≤ n · 2³¹ / noise_multiplier steps: for noise multipliers of 2⁻¹⁰ or more, 2²⁰
    examples stay below 2⁶¹, far from overflowing int64. Rounding a sum moves each coordinate by at most step/2.
    """

    step: float
    sigma_steps: float

    @staticmethod
    def of(noise_multiplier: float, max_grad_norm: float) -> "NoiseGrid":
        """The grid for positive, finite parameters (ValueError otherwise)."""
        sigma = noise_multiplier * max_grad_norm
        if not (math.isfinite(sigma) and sigma > 0 and noise_multiplier >= 2**-10):
            raise ValueError(
                f"noise_multiplier {noise_multiplier} × max_grad_norm {max_grad_norm} gives no grid; "
                "both must be positive and finite, the multiplier at least 2^-10"
            )
        step = 2.0 ** (math.floor(math.log2(sigma)) - SIGMA_BITS)
        return NoiseGrid(step, sigma / step)


def normals(kernel: Kernel, key: Any, nonce: Any, first_block: Expression, lanes: int, target: Any) -> None:
    """Write lanes · 8 standard normals (float64) of `lanes` blocks from first_block (uint32) on to a local buffer."""
    words = chacha.block_words(kernel, key, nonce, first_block, lanes)

    for pair in range(PER_BLOCK // 2):
        low, high, angle_low, angle_high = words[4 * pair : 4 * pair + 4]
        minus_two = T.broadcast(T.float64(-2.0), lanes)
        radius = T.sqrt(minus_two * elementary.log(elementary.uniform(high, low, lanes), lanes))
        sign, cosine, sine = elementary.direction(angle_high, angle_low, lanes)
        signed = T.Bind(sign * radius)
        kernel.store(target, signed * cosine, 2 * pair * lanes, lanes=lanes)
        kernel.store(target, signed * sine, (2 * pair + 1) * lanes, lanes=lanes)


def grid_noise(machine: Machine, count: int, sigma_steps: float) -> "tvm.tirx.PrimFunc":
    """Arguments: key uint32 (8,), nonce uint32 (3,), noise int64 (count,). count: a multiple of `granule(machine)`.

    The elements of one granule come from word_lanes consecutive blocks, the block's index running fastest: the noise
    depends on key, nonce and the width of a vector, not on the number of cores or on count.
    """
    kernel, lanes, size = Kernel(machine, "float64"), chacha.word_lanes(machine), granule(machine)
    if count % size:
        raise ValueError(f"count must be a multiple of {size}, got {count}")
    with kernel.function():
        key, nonce = kernel.argument("key", (8,), "uint32"), kernel.argument("nonce", (3,), "uint32")
        noise = kernel.argument("noise", (count,), "int64")
        with T.parallel(count // size) as group:
            values = kernel.registers(size)
            normals(kernel, key, nonce, T.cast(group * lanes, "uint32"), lanes, values)
            for at in range(0, size, lanes):
                kernel.store(noise, in_steps(kernel, values, at, lanes, sigma_steps), group * size + at, lanes=lanes)
    return kernel.finish()


def granule(machine: Machine) -> int:
    """Elements that one group of blocks makes; flat vectors are padded to a multiple of it."""
    return PER_BLOCK * chacha.word_lanes(machine)


def in_steps(kernel: Kernel, values: Any, at: int, lanes: int, sigma_steps: float) -> Expression:
    """`lanes` normals from position `at`, scaled and rounded to int64 steps."""
    scaled = kernel.load(values, at, lanes=lanes) * T.broadcast(T.float64(sigma_steps), lanes)
    return elementary.nearest_integer(scaled, lanes)
