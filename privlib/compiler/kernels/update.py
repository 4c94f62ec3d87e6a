"""Noise, average and step in one pass over all parameters, laid out as one flat vector.

    g = (sum + noise) · step / expected_batch_size          (private)      g = sum / expected_batch_size   (plain)
    d = g + weight_decay · p;   m = momentum · m + d (m = d at the first step);   d = d + momentum · m (Nesterov) or m
    p = p − learning_rate · d

as torch.optim.SGD defines them. The sums are read once, zeroed on the way out, and never leave native memory unnoised.
The divisor is a public constant. Arithmetic is float64; parameters and momentum keep their own type.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels import elementary, gaussian, noise
from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.kernels.elementary import real
from privlib.compiler.kernels.noise import NoiseError, NoiseGrid
from privlib.compiler.target import Machine

LANES = gaussian.LANES
_USABLE = 2.0**61  # steps; 2²⁰ clipped examples stay below
_PARALLEL = 1 << 15  # elements; a smaller tensor is folded by one core


@dataclass(frozen=True)
class Flat:
    """Tensors of `sizes` elements one after the other, each padded with zeros to a multiple of 16 elements."""

    sizes: tuple[int, ...]

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each tensor begins."""
        ends = [0]
        for size in self.sizes:
            ends.append(ends[-1] + -(-size // gaussian.ROW) * gaussian.ROW)
        return tuple(ends[:-1])

    @property
    def size(self) -> int:
        return sum(-(-size // gaussian.ROW) * gaussian.ROW for size in self.sizes)

    @property
    def padding(self) -> Sequence[int]:
        """Indices that belong to no tensor."""
        return [
            index
            for start, size in zip(self.offsets, self.sizes, strict=True)
            for index in range(start + size, start + -(-size // gaussian.ROW) * gaussian.ROW)
        ]


@dataclass(frozen=True)
class Update:
    """What one update does. grid: None without noise (sums are float64), else the noise's grid (sums are int64 steps).
    expected_batch_size: None where the number of examples is given with every update.

    NoiseError where a number is out of range, or Nesterov's step is asked for without momentum.
    """

    flat: Flat
    expected_batch_size: float | None
    grid: NoiseGrid | None = None
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        noise.check_size(self.flat.size)
        if self.nesterov and not self.momentum:
            raise NoiseError("Nesterov's step needs a momentum above zero")
        size = 1.0 if self.expected_batch_size is None else self.expected_batch_size
        if not (size > 0 and self.momentum >= 0 and self.weight_decay >= 0):
            raise NoiseError("expected_batch_size must be positive, momentum and weight_decay not negative")


def update(machine: Machine, dtype: str, what: Update) -> "tvm.tirx.PrimFunc":
    """Arguments: scalars float64 (3,) = (learning rate, 1 at the first step else 0, number of examples where no
    expected_batch_size is set), [with a grid: key uint32 (8,),
    nonce uint32 (3,)], sums (size,), [with momentum: momentum (size,)], parameters (size,).

    size = what.flat.size; momentum and parameters are `dtype`, "float32" or "float64". Padding is left zero. Where the
    grid's sigma is zero, key and nonce are taken and not used.
    """
    kernel, grid, size = Kernel(machine, dtype), what.grid, what.flat.size
    factor = (grid.step if grid else 1.0) / (what.expected_batch_size or 1.0)
    sum_type = "int64" if grid else "float64"
    with kernel.function():
        scalars = kernel.argument("scalars", (3,), "float64")
        key = kernel.argument("key", (8,), "uint32") if grid else None
        nonce = kernel.argument("nonce", (3,), "uint32") if grid else None
        sums = kernel.argument("sums", (size,), sum_type)
        momentum = kernel.argument("momentum", (size,)) if what.momentum else None
        parameters = kernel.argument("parameters", (size,))

        def averaged(at: Expression, normals: Expression | None) -> Expression:
            value = T.Bind(kernel.load(sums, at, lanes=LANES))  # read before it is zeroed
            kernel.store(sums, T.broadcast(getattr(T, sum_type)(0), LANES), at, lanes=LANES)
            if normals is not None:
                value = T.Bind(value + elementary.nearest_integer(normals, LANES))
            value = (elementary.float_of_integer(value, LANES) if grid else value) * real(factor, LANES)
            return value if what.expected_batch_size else value / T.broadcast(scalars[2], LANES)

        def step(at: Expression, normals: Expression | None) -> None:
            parameter = T.Bind(T.cast(kernel.load(parameters, at, lanes=LANES), f"float64x{LANES}"))
            d = averaged(at, normals)
            if what.weight_decay:
                d = d + real(what.weight_decay, LANES) * parameter
            if momentum is not None:
                kept = T.cast(kernel.load(momentum, at, lanes=LANES), f"float64x{LANES}")
                decay = T.broadcast(T.float64(what.momentum) * (T.float64(1.0) - scalars[1]), LANES)
                d = T.Bind(d)
                velocity = T.Bind(decay * kept + d)
                kernel.store(momentum, T.cast(velocity, f"{dtype}x{LANES}"), at, lanes=LANES)
                d = d + real(what.momentum, LANES) * velocity if what.nesterov else velocity
            moved = parameter - T.broadcast(scalars[0], LANES) * d
            kernel.store(parameters, T.cast(moved, f"{dtype}x{LANES}"), at, lanes=LANES)

        def one_segment(index: Expression, rows: int) -> None:
            start = index * gaussian.SEGMENT
            if grid and grid.sigma_steps:
                gaussian.segment(
                    kernel, key, nonce, index, grid.sigma_steps, rows, lambda offset, z: step(start + offset, z)
                )
            else:
                with T.serial(rows * gaussian.ROW // LANES) as vector:
                    step(start + vector * LANES, None)

        gaussian.for_segments(size, lambda _, each: each(one_segment))
        for index in what.flat.padding:
            for buffer in (momentum, parameters):
                if buffer is not None:
                    T.buffer_store(buffer, kernel.constant(0.0), [index])
    return kernel.finish()


def fold(machine: Machine, dtype: str, flat: Flat, grid: NoiseGrid | None) -> "tvm.tirx.PrimFunc":
    """Arguments: a batch sum (size,) of `dtype` for each tensor, rejected int64 (1,), sums (flat.size,) int64 steps
    (float64 where grid is None).

    sums += batch sums, rounded to the grid. A batch sum that is NaN, infinite or (with a grid) 2⁶¹ steps or more (no
    sum of 2²⁰ clipped examples is) adds nothing, because int64 must not wrap around, and one to `rejected`: a number
    that depends on single examples, so it must not be shown without noise.
    """
    noise.check_size(flat.size)
    kernel, cores = Kernel(machine, dtype), machine.cores
    with kernel.function():
        batches = [kernel.argument(f"batch{i}", (size,)) for i, size in enumerate(flat.sizes)]
        rejected = kernel.argument("rejected", (1,), "int64")
        sums = kernel.argument("sums", (flat.size,), "int64" if grid else "float64")
        counts = kernel.scratch((len(batches), cores), "int64")
        with T.serial(len(batches)) as i, T.serial(cores) as core:
            T.buffer_store(counts, T.int64(0), [i, core])
        for number, (batch, size, offset) in enumerate(zip(batches, flat.sizes, flat.offsets, strict=True)):
            tasks = cores if size >= _PARALLEL else 1
            whole, share = size // LANES, -(-(size // LANES) // tasks)

            def add(at: Expression, value: Expression, count: Any, offset: int = offset) -> None:
                _fold_vector(kernel, grid, sums, offset + at, value, count)

            def vectors(
                task: Expression, batch: Any = batch, share: int = share, whole: int = whole, number: int = number,
                add: Any = add,
            ) -> None:  # fmt: skip
                count = kernel.registers(LANES, "int64")
                kernel.store(count, T.broadcast(T.int64(0), LANES), 0, lanes=LANES)
                with T.serial(T.min(share, whole - task * share)) as vector:
                    at = T.Bind((task * share + vector) * LANES)
                    add(at, T.cast(kernel.load(batch, at, lanes=LANES), f"float64x{LANES}"), count)
                T.buffer_store(counts, sum((count[lane] for lane in range(1, LANES)), count[0]), [number, task])

            if tasks > 1:
                with T.parallel(tasks) as task:
                    vectors(task)
            else:
                vectors(0)
            if size % LANES:
                rest, count = kernel.registers(LANES, "float64"), kernel.registers(LANES, "int64")
                kernel.store(rest, real(0.0, LANES), 0, lanes=LANES)
                kernel.store(count, T.broadcast(T.int64(0), LANES), 0, lanes=LANES)
                for lane in range(size % LANES):
                    T.buffer_store(rest, T.cast(batch[whole * LANES + lane], "float64"), [lane])
                add(whole * LANES, kernel.load(rest, 0, lanes=LANES), count)
                for lane in range(size % LANES):
                    T.buffer_store(counts, counts[number, 0] + count[lane], [number, 0])
        with T.serial(len(batches)) as i, T.serial(cores) as core:
            T.buffer_store(rejected, rejected[0] + counts[i, core], [0])
    return kernel.finish()


def _fold_vector(
    kernel: Kernel, grid: NoiseGrid | None, sums: Any, at: Expression, value: Expression, count: Any
) -> None:
    bound = min(_USABLE * grid.step if grid else math.inf, 2.0**1000)
    value = T.Bind(value)
    usable = T.And(value < real(bound, LANES), value > real(-bound, LANES))
    one, none = (T.broadcast(T.int64(number), LANES) for number in (1, 0))
    kernel.store(count, kernel.load(count, 0, lanes=LANES) + T.Select(usable, none, one), 0, lanes=LANES)
    added = T.Bind(T.Select(usable, value, real(0.0, LANES)))
    if grid:
        added = elementary.nearest_large_integer(added * real(1.0 / grid.step, LANES), LANES)
    kernel.store(sums, kernel.load(sums, at, lanes=LANES) + added, at, lanes=LANES)
