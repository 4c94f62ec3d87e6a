"""Gaussian noise on an integer grid, from ChaCha20.

Guard against floating-point attacks (Mironov, CCS 2012; Holohan & Braghin, ESORICS 2021; both use what values a float
sum can take): the clipped sum is rounded to multiples of `step`, so is the noise, and the two are added as integers.
A shift by an integer commutes with rounding, so the release is post-processing of the continuous Gaussian mechanism on
the rounded sum: its accounting holds, and every release is an exact multiple of the step whatever the data.

What remains between this and an ideal Gaussian, for N coordinates a step:

- Rounding the sum adds to the sensitivity (`NoiseGrid.sensitivity`), which the accountant must be given.
- The tail ends at 10.2σ: an ideal Gaussian passes it with probability below 2e-24 a coordinate. From 8.1σ on the radii
  of a pair are further apart than a step (probability 2⁻⁴⁷ a pair). Together below N · 4e-15, to be added to δ where
  that counts.
- Float64 moves a normal z by about |z| · 2⁻⁵¹, so a grid point's probability by a factor of 1 ± 2⁻²⁰ at most; those
  errors average out over the more than 2⁶⁰ pairs of words that lead to one point.
"""

import math
from dataclasses import dataclass

import tvm

from privlib.compiler.kernels import chacha, elementary, gaussian
from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.target import Machine
from privlib.errors import PrivlibError

SIGMA_BITS = 30  # sigma lies between 2³⁰ and 2³¹ steps
SMALLEST_MULTIPLIER = 2.0**-10  # below it the grid no longer follows sigma, so that sums fit int64
MAX_EXAMPLES = 1 << 20


class NoiseError(PrivlibError, ValueError):
    """Noise cannot be made for these parameters."""


@dataclass(frozen=True)
class NoiseGrid:
    """step: the grid's spacing, a power of two; sigma_steps: the noise's standard deviation in steps.

    With σ = noise_multiplier · max_grad_norm:

        step = 2^(⌊log₂(max(noise_multiplier, 2⁻¹⁰) · max_grad_norm)⌋ − 30)
        2³⁰ ≤ sigma_steps = σ / step < 2³¹            (less where noise_multiplier < 2⁻¹⁰; none at 0)
        |sum of n clipped examples| ≤ n · max_grad_norm / step < n · 2⁴¹ steps

    so 2²⁰ examples and the noise (at most 10.2 · 2³¹) stay below 2⁶² and cannot overflow int64.
    """

    step: float
    sigma_steps: float
    max_grad_norm: float

    @staticmethod
    def of(noise_multiplier: float, max_grad_norm: float) -> "NoiseGrid":
        """The grid for a finite noise_multiplier ≥ 0 (0: clipping without noise, no privacy) and max_grad_norm > 0.

        Raises NoiseError otherwise, and where the step would leave float64's comfortable range.
        """
        coarsest = max(noise_multiplier, SMALLEST_MULTIPLIER) * max_grad_norm
        if not (noise_multiplier >= 0 and max_grad_norm > 0 and 2.0**-900 < coarsest < 2.0**900):
            raise NoiseError(
                f"noise_multiplier {noise_multiplier} × max_grad_norm {max_grad_norm} gives no grid; "
                "the multiplier must be zero or more, the norm positive, both finite and of ordinary size"
            )
        step = 2.0 ** (math.frexp(coarsest)[1] - 1 - SIGMA_BITS)
        return NoiseGrid(step, noise_multiplier * max_grad_norm / step, max_grad_norm)

    def sensitivity(self, coordinates: int, folds: int = 1) -> float:
        """L2 sensitivity of the sum on the grid: max_grad_norm + folds · √coordinates · step.

        folds: how often a float sum was rounded to the grid (once a physical batch), each moving a coordinate by at
        most step / 2 on either of two neighbouring datasets. The float32 rounding inside a batch is the caller's.
        """
        return self.max_grad_norm + folds * math.sqrt(coordinates) * self.step

    def effective_noise_multiplier(self, coordinates: int, folds: int = 1) -> float:
        """σ / sensitivity: what the accountant must use. For 3.5 million coordinates and 64 folds, at multiplier 1,
        it is 1e-4 below the nominal one."""
        return self.sigma_steps * self.step / self.sensitivity(coordinates, folds)


def check_size(size: int) -> None:
    """Raise NoiseError unless a flat vector of `size` elements can be given noise from one nonce."""
    if size <= 0 or size % gaussian.ROW:
        raise NoiseError(f"the flat vector's size must be a positive multiple of {gaussian.ROW}, got {size}")
    chacha.check_blocks(-(-size // gaussian.SEGMENT) * chacha.LANES)


def grid_noise(machine: Machine, count: int, sigma_steps: float) -> "tvm.tirx.PrimFunc":
    """Arguments: key uint32 (8,), nonce uint32 (3,), noise int64 (count,). count: a multiple of gaussian.ROW.

    An element depends on key, nonce and its index, not on count, cores or vector width. sigma_steps < 2⁴⁷.
    """
    check_size(count)
    if not 0 <= sigma_steps < 2**47:  # ten standard deviations stay below 2⁵¹
        raise NoiseError(f"sigma must lie between 0 and 2^47 steps, got {sigma_steps}; use a coarser grid")
    kernel, lanes = Kernel(machine, "float64"), gaussian.LANES
    with kernel.function():
        key, nonce = kernel.argument("key", (8,), "uint32"), kernel.argument("nonce", (3,), "uint32")
        noise = kernel.argument("noise", (count,), "int64")

        def one_segment(index: Expression, rows: int) -> None:
            def store(position: Expression, normals: Expression) -> None:
                steps = elementary.nearest_integer(normals, lanes)
                kernel.store(noise, steps, index * gaussian.SEGMENT + position, lanes=lanes)

            gaussian.segment(kernel, key, nonce, index, sigma_steps, rows, store)

        gaussian.for_segments(count, lambda _, each: each(one_segment))
    return kernel.finish()
