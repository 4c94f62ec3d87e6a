"""Rules of the dialect's operators on the way forward and back: they work row by row of axis 0.

Where every operand that is per example has its examples as whole rows of axis 0, so has the result. What an operator
applies to all rows alike (weights, biases, scales) must be public: a private one would carry one example into the
others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from privlib.sterling.verify.kinds import Kind, PerExample, Private, Public, Refusal, Value, worst
from privlib.sterling.verify.verdict import Reason

Attributes = Mapping[str, Any]
Split = tuple[Sequence[Value], Sequence[Value]]  # (read row by row, applied to all rows alike)


def _convolution(args: Sequence[Value], a: Attributes) -> Split:
    residual = [args[-1]] if a["residual"] else []
    shared = args[1 : len(args) - len(residual)]
    return [args[0], *residual], shared


def _norm(args: Sequence[Value], a: Attributes) -> Split:
    return [args[0], *args[3:]], args[1:3]


def _elementwise(args: Sequence[Value], _: Attributes) -> Split:
    """An argument of one axis beside a first one of more is a vector of channels."""
    first = args[0].shape
    rows = [arg for arg in args if arg.shape == first]
    return rows, [arg for arg in args if arg.shape != first]


_SPLITS: dict[str, Callable[[Sequence[Value], Attributes], Split]] = {
    "conv2d": _convolution,
    "separable": _convolution,
    "dense": _convolution,
    "norm": _norm,
    "elementwise": _elementwise,
    "pool2d": lambda args, _: (args, []),
    "spatial_mean": lambda args, _: (args, []),
    "cross_entropy": lambda args, _: (args, []),
    "conv2d_data_gradient": lambda args, _: (args[:1], args[1:]),
    "dense_data_gradient": lambda args, _: (args[:1], args[1:]),
    "norm_gradient": lambda args, _: ([args[0], args[2]], args[1:2]),
    "pool2d_gradient": lambda args, _: (args, []),
    "spatial_mean_gradient": lambda args, _: (args, []),
    "position_sums": lambda args, _: (args, []),
}
OPERATORS = frozenset(_SPLITS)
_FORMULAS = frozenset(
    [
        "relu",
        "relu6",
        "add",
        "subtract",
        "multiply",
        "affine",
        "sqrt",
        "tanh",
        "sigmoid",
        "gelu",
        "gelu_tanh",
        "relu_gradient",
        "relu6_gradient",
        "tanh_gradient",
        "sigmoid_gradient",
        "gelu_gradient",
        "gelu_tanh_gradient",
    ]
)


def kind_of_result(
    name: str, args: Sequence[Value], a: Attributes, leading: Sequence[int], examples: int, operation: str
) -> Kind:
    """The kind of (every field of) the result; `leading`: the extents of axis 0 of the results."""
    blamed = worst(tuple(args), operation)
    if blamed:
        return blamed
    if name == "elementwise" and str(a["formula"]) not in _FORMULAS:
        raise Refusal(Reason.UNKNOWN, operation, f"there is no elementwise formula {a['formula']!r}")
    if name in ("norm", "norm_gradient") and str(a["axes"]) not in ("example", "row"):
        return Private(Reason.MIXED, operation, f"it normalizes over axes {a['axes']!r}, not within an example")
    rows, shared = _SPLITS[name](args, a)
    for value in shared:
        if not isinstance(value.kind, Public):
            return Private(Reason.MIXED, operation, "what it applies to every example was computed from private data")
    private = [value for value in rows if isinstance(value.kind, PerExample)]
    if not private:
        return Public()
    extents = {value.shape[0] if value.shape else 0 for value in rows}
    whole = len(extents) == 1 and not extents.pop() % examples
    # a norm's gradient over rows has one row for each position, so only whole examples are asked of the results
    if not whole or any(extent % examples for extent in leading):
        return Private(Reason.MIXED, operation, "its rows are not whole examples, so it mixes them")
    return PerExample(operation)
