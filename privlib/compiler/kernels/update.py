"""Noise, average and step in one pass over all parameters, laid out as one flat vector.

    g = (sum + noise) · step / expected_batch_size          (private)      g = sum / expected_batch_size   (plain)
    d = g + weight_decay · p;   m = momentum · m + d (m = d at the first step);   d = d + momentum · m (Nesterov) or m
    p = p − learning_rate · d

as torch.optim.SGD defines them. The sums are read once, zeroed on the way out, and never leave native memory unnoised.
The divisor is a public constant. Arithmetic is float64; parameters and momentum keep their own type.
"""

from dataclasses import dataclass

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels import chacha, elementary, noise
from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.kernels.noise import NoiseGrid
from privlib.compiler.target import Machine


@dataclass(frozen=True)
class Update:
    """grid: None for plain SGD (sums are float64), else the noise's grid (sums are int64 steps)."""

    size: int
    expected_batch_size: float
    grid: NoiseGrid | None = None
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


def update(machine: Machine, dtype: str, what: Update) -> "tvm.tirx.PrimFunc":
    """Arguments: scalars float64 (2,) = (learning rate, 1 at the first step else 0), [key uint32 (8,), nonce uint32
    (3,)], sums (size,), [momentum (size,)], parameters (size,). size: a multiple of `noise.granule(machine)`."""
    lanes, granule = chacha.word_lanes(machine), noise.granule(machine)
    kernel, grid = Kernel(machine, dtype), what.grid
    if what.size % granule:
        raise ValueError(f"size must be a multiple of {granule}, got {what.size}")
    factor = (grid.step if grid else 1.0) / what.expected_batch_size
    sum_type = "int64" if grid else "float64"

    def wide(value: float) -> Expression:
        return T.broadcast(T.float64(value), lanes)

    with kernel.function():
        scalars = kernel.argument("scalars", (2,), "float64")
        key = kernel.argument("key", (8,), "uint32") if grid else None
        nonce = kernel.argument("nonce", (3,), "uint32") if grid else None
        sums = kernel.argument("sums", (what.size,), sum_type)
        momentum = kernel.argument("momentum", (what.size,)) if what.momentum else None
        parameters = kernel.argument("parameters", (what.size,))
        with T.parallel(what.size // granule) as group:
            values = kernel.registers(granule, "float64")
            if grid:
                noise.normals(kernel, key, nonce, T.cast(group * lanes, "uint32"), lanes, values)
            for offset in range(0, granule, lanes):
                at = group * granule + offset
                total = T.Bind(kernel.load(sums, at, lanes=lanes))  # read before it is zeroed
                if grid:
                    total = total + noise.in_steps(kernel, values, offset, lanes, grid.sigma_steps)
                kernel.store(sums, T.broadcast(getattr(T, sum_type)(0), lanes), at, lanes=lanes)
                parameter = T.Bind(T.cast(kernel.load(parameters, at, lanes=lanes), f"float64x{lanes}"))
                d = (elementary.float_of_integer(total, lanes) if grid else total) * wide(factor)
                if what.weight_decay:
                    d = d + wide(what.weight_decay) * parameter
                if momentum is not None:
                    kept = T.cast(kernel.load(momentum, at, lanes=lanes), f"float64x{lanes}")
                    decay = T.broadcast(T.float64(what.momentum) * (T.float64(1.0) - scalars[1]), lanes)
                    d = T.Bind(d)
                    velocity = T.Bind(decay * kept + d)
                    kernel.store(momentum, T.cast(velocity, f"{dtype}x{lanes}"), at, lanes=lanes)
                    d = d + wide(what.momentum) * velocity if what.nesterov else velocity
                moved = parameter - T.broadcast(scalars[0], lanes) * d
                kernel.store(parameters, T.cast(moved, f"{dtype}x{lanes}"), at, lanes=lanes)
    return kernel.finish()


def fold(machine: Machine, dtype: str, size: int, grid: NoiseGrid | None) -> "tvm.tirx.PrimFunc":
    """Arguments: batch sums (size,), sums (size,) int64 steps (float64 where grid is None).

    sums += batch sums, rounded to the grid. A batch sum that is NaN, infinite, beyond 3e38 or beyond 2⁶¹ steps (no sum
    of 2²⁰ clipped examples is) adds nothing: what int64 cannot hold must not wrap around.
    """
    kernel, lanes = Kernel(machine, dtype), chacha.word_lanes(machine)
    if size % lanes:
        raise ValueError(f"size must be a multiple of {lanes}, got {size}")
    with kernel.function():
        batch = kernel.argument("batch", (size,))
        sums = kernel.argument("sums", (size,), "int64" if grid else "float64")
        chunk = next(c for c in (256, 64, 16, 4, 1) if size % (c * lanes) == 0)
        with T.parallel(size // lanes // chunk) as task, T.serial(chunk) as vector:
            at = T.Bind((task * chunk + vector) * lanes)
            value = T.Bind(T.cast(kernel.load(batch, at, lanes=lanes), f"float64x{lanes}"))
            zero = T.broadcast(T.float64(0.0), lanes)
            bound = T.broadcast(T.float64(min(3e38, 2.0**61 * grid.step) if grid else 3e38), lanes)
            usable = T.And(value < bound, value > zero - bound)  # not NaN, not infinite
            kept = T.Select(usable, value, zero)
            if grid:
                steps = T.round(kept * T.broadcast(T.float64(1.0 / grid.step), lanes))
                added = T.cast(steps, f"int64x{lanes}")
                kernel.store(sums, kernel.load(sums, at, lanes=lanes) + added, at, lanes=lanes)
            else:
                kernel.store(sums, kernel.load(sums, at, lanes=lanes) + kept, at, lanes=lanes)
    return kernel.finish()
