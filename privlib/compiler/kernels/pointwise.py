"""Elementwise kernels: one expression over tensors of one shape, vectors along or across the channels and a number,
split over the cores."""

import math
from collections.abc import Callable, Sequence
from typing import Any

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


def _gelu_gradient(kernel: Kernel, lanes: int, x: Sequence[Expression]) -> Expression:
    """(g, x): g·(Φ(x) + x·φ(x)) with the normal distribution and its density."""
    half, one = kernel.constant(0.5), kernel.constant(1.0)
    density = kernel.constant(1 / math.sqrt(2 * math.pi)) * T.exp(-half * x[1] * x[1])
    return x[0] * (half * (one + T.erf(x[1] * kernel.constant(math.sqrt(0.5)))) + x[1] * density)


def _gelu_tanh_gradient(kernel: Kernel, lanes: int, x: Sequence[Expression]) -> Expression:
    """(g, x): with t = tanh(u(x)), g·(½(1 + t) + ½·x·(1 − t²)·u′(x))."""
    half, one = kernel.constant(0.5), kernel.constant(1.0)
    root, cubic = kernel.constant(math.sqrt(2 / math.pi)), kernel.constant(0.044715)
    square = x[1] * x[1]
    t = T.Bind(T.tanh(root * (x[1] + cubic * square * x[1])))
    slope = root * (one + kernel.constant(3 * 0.044715) * square)
    return x[0] * (half * (one + t) + half * x[1] * (one - t * t) * slope)


def _relu_gradient(kernel: Kernel, lanes: int, x: Sequence[Expression]) -> Expression:
    """(g, y): g where the output is positive (or NaN, as in PyTorch)."""
    zero = kernel.constant(0.0, lanes)
    return T.Select(x[1] <= zero, zero, x[0])


def _relu6_gradient(kernel: Kernel, lanes: int, x: Sequence[Expression]) -> Expression:
    zero, six = kernel.constant(0.0, lanes), kernel.constant(6.0, lanes)
    return T.Select(T.Or(x[1] <= zero, x[1] >= six), zero, x[0])


# name -> formula; those in _SCALAR call the math library one element at a time
FORMULAS: dict[str, Formula] = {
    "relu": lambda k, lanes, x: T.max(k.constant(0.0, lanes), x[0]),
    "relu6": lambda k, lanes, x: T.min(k.constant(6.0, lanes), T.max(k.constant(0.0, lanes), x[0])),
    "add": lambda k, lanes, x: x[0] + x[1],
    "subtract": lambda k, lanes, x: x[0] - x[1],
    "multiply": lambda k, lanes, x: x[0] * x[1],
    "divide": lambda k, lanes, x: x[0] / x[1],
    "affine": lambda k, lanes, x: x[0] * x[1] + x[2],
    "sqrt": lambda k, lanes, x: T.sqrt(x[0]),
    "tanh": lambda k, lanes, x: T.tanh(x[0]),
    "sigmoid": lambda k, lanes, x: k.constant(1.0) / (k.constant(1.0) + T.exp(-x[0])),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    # with a number
    "shift": lambda k, lanes, x: x[0] + x[1],
    "scale": lambda k, lanes, x: x[0] * x[1],
    # gradients take (g, the forward's output), those of GELU (g, the forward's input)
    "relu_gradient": _relu_gradient,
    "relu6_gradient": _relu6_gradient,
    "tanh_gradient": lambda k, lanes, x: x[0] * (k.constant(1.0, lanes) - x[1] * x[1]),
    "sigmoid_gradient": lambda k, lanes, x: x[0] * x[1] * (k.constant(1.0, lanes) - x[1]),
    "gelu_gradient": _gelu_gradient,
    "gelu_tanh_gradient": _gelu_tanh_gradient,
}
_SCALAR = frozenset({"tanh", "sigmoid", "gelu", "gelu_tanh", "gelu_gradient", "gelu_tanh_gradient"})


def operand_kinds(shape: Sequence[int], operands: Sequence[Sequence[int]]) -> list[str] | None:
    """How each operand lies over a tensor of `shape`: "full", "channel" (its last axis alone), "row" (all axes but the
    last, which is 1); None where one fits in none of these ways."""
    kinds = []
    for each in operands:
        if tuple(each) == tuple(shape):
            kinds.append("full")
        elif len(shape) > 1 and tuple(each) == tuple(shape[-1:]):
            kinds.append("channel")
        elif tuple(each) == (*shape[:-1], 1):
            kinds.append("row")
        else:
            return None
    return kinds


def elementwise(
    machine: Machine, dtype: str, shape: Sequence[int], formula: str, kinds: Sequence[str], scalar: float | None = None
) -> "tvm.tirx.PrimFunc":
    """output = formula(inputs, [scalar]), inputs of kinds as `operand_kinds` gives them. Arguments: inputs, output."""
    kernel = Kernel(machine, dtype)
    channels = shape[-1]
    rows = math.prod(shape[:-1])
    chunk = next(c for c in (64, 32, 16, 8, 4, 2, 1) if rows % c == 0)
    sizes = {"full": shape, "channel": (channels,), "row": (*shape[:-1], 1)}
    flat = {"full": (rows, channels), "channel": (channels,), "row": (rows,)}
    with kernel.function():
        arguments = [kernel.argument(f"input{i}", sizes[kind]) for i, kind in enumerate(kinds)]
        result = kernel.argument("output", shape)
        inputs = [kernel.view(a, flat[kind]) for a, kind in zip(arguments, kinds, strict=True)]
        output = kernel.view(result, (rows, channels))

        def read(source: Any, kind: str, row: Expression, c: Expression, lanes: int) -> Expression:
            if kind == "row":
                return kernel.splat(source[row], lanes)
            index = (c,) if kind == "channel" else (row, c)
            return kernel.load(source, *index, lanes=lanes)

        def at(row: Expression, c: Expression, lanes: int) -> None:
            values = [read(source, kind, row, c, lanes) for source, kind in zip(inputs, kinds, strict=True)]
            if scalar is not None:
                values.append(kernel.constant(scalar, lanes))
            kernel.store(output, FORMULAS[formula](kernel, lanes, values), row, c, lanes=lanes)

        with T.parallel(rows // chunk) as task, T.serial(chunk) as r:
            row = T.Bind(task * chunk + r)
            if formula in _SCALAR:
                with T.serial(channels) as c:
                    at(row, c, 1)
            else:
                kernel.for_vectors(channels, lambda c, lanes: at(row, c, lanes))
    return kernel.finish()
