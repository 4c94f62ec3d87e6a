"""Elementwise kernels: one expression over tensors of one shape and per-channel vectors, split over the cores."""

import math
from collections.abc import Callable, Sequence

import tvm
from tvm.tirx.script.builder import ir as T

from privlib.compiler.kernels.builder import Expression, Kernel
from privlib.compiler.target import Machine

Formula = Callable[[Kernel, int, Sequence[Expression]], Expression]


def _gelu(kernel: Kernel, lanes: int, x: Sequence[Expression]) -> Expression:
    return kernel.constant(0.5) * x[0] * (kernel.constant(1.0) + T.erf(x[0] * kernel.constant(math.sqrt(0.5))))


def _gelu_tanh(kernel: Kernel, lanes: int, x: Sequence[Expression]) -> Expression:
    inner = kernel.constant(math.sqrt(2 / math.pi)) * (x[0] + kernel.constant(0.044715) * x[0] * x[0] * x[0])
    return kernel.constant(0.5) * x[0] * (kernel.constant(1.0) + T.tanh(inner))


# name -> formula; those in _SCALAR call the math library one element at a time
FORMULAS: dict[str, Formula] = {
    "relu": lambda k, lanes, x: T.max(x[0], k.constant(0.0, lanes)),
    "relu6": lambda k, lanes, x: T.min(T.max(x[0], k.constant(0.0, lanes)), k.constant(6.0, lanes)),
    "add": lambda k, lanes, x: x[0] + x[1],
    "subtract": lambda k, lanes, x: x[0] - x[1],
    "multiply": lambda k, lanes, x: x[0] * x[1],
    "affine": lambda k, lanes, x: x[0] * x[1] + x[2],
    "sqrt": lambda k, lanes, x: T.sqrt(x[0]),
    "tanh": lambda k, lanes, x: T.tanh(x[0]),
    "sigmoid": lambda k, lanes, x: k.constant(1.0) / (k.constant(1.0) + T.exp(-x[0])),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
_SCALAR = frozenset({"tanh", "sigmoid", "gelu", "gelu_tanh", "sqrt"})


def elementwise(
    machine: Machine, dtype: str, shape: Sequence[int], formula: str, per_channel: Sequence[bool]
) -> "tvm.tirx.PrimFunc":
    """output = formula(inputs); input i has `shape`, or only its last axis where per_channel[i]. Arguments: inputs, output."""
    kernel = Kernel(machine, dtype)
    channels = shape[-1]
    rows = math.prod(shape[:-1])
    chunk = next(c for c in (64, 32, 16, 8, 4, 2, 1) if rows % c == 0)
    with kernel.function():
        arguments = [kernel.argument(f"input{i}", (channels,) if only else shape) for i, only in enumerate(per_channel)]
        result = kernel.argument("output", shape)
        inputs = [a if only else kernel.view(a, (rows, channels)) for a, only in zip(arguments, per_channel, strict=True)]
        output = kernel.view(result, (rows, channels))

        def at(row: Expression, c: Expression, lanes: int) -> None:
            values = [
                kernel.load(source, c, lanes=lanes) if only else kernel.load(source, row, c, lanes=lanes)
                for source, only in zip(inputs, per_channel, strict=True)
            ]
            kernel.store(output, FORMULAS[formula](kernel, lanes, values), row, c, lanes=lanes)

        with T.parallel(rows // chunk) as task, T.serial(chunk) as r:
            row = T.Bind(task * chunk + r)
            if formula in _SCALAR:
                with T.serial(channels) as c:
                    at(row, c, 1)
            else:
                kernel.for_vectors(channels, lambda c, lanes: at(row, c, lanes))
    return kernel.finish()
