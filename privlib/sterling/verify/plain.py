"""Rules of Relax's own operators: elementwise with broadcasting, reductions, and what moves data."""

from collections.abc import Sequence
from typing import Any

from privlib.sterling.verify.kinds import Kind, PerExample, Private, Public, Refusal, Value, worst
from privlib.sterling.verify.verdict import Reason

# fmt: off
_ELEMENTWISE = frozenset(
    f"relax.{name}" for name in (
        "add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "equal", "not_equal", "greater",
        "greater_equal", "less", "less_equal", "logical_and", "logical_or", "logical_not", "where", "negative", "exp",
        "log", "sqrt", "rsqrt", "tanh", "sigmoid", "abs", "square", "sign", "erf", "sin", "cos", "floor", "ceil",
        "astype", "clip", "isnan", "isinf", "isfinite", "nn.relu", "nn.gelu", "nn.gelu_tanh", "nn.silu",
        "nn.softplus", "broadcast_to", "full_like", "zeros_like", "ones_like", "expm1", "log1p",
    )
)
_REDUCTIONS = frozenset(f"relax.{name}" for name in ("sum", "mean", "max", "min", "prod", "variance", "std"))
_ALONG_AN_AXIS = frozenset(
    f"relax.{name}" for name in ("nn.softmax", "nn.log_softmax", "gather_elements", "scatter_elements", "concat",
                                 "cumsum", "argmax", "argmin")
)
_SAME_MEMORY = frozenset(f"relax.{name}" for name in ("reshape", "expand_dims", "squeeze", "flatten"))
_MAKERS = frozenset(f"relax.{name}" for name in ("arange", "zeros", "ones", "full"))
# fmt: on
OPERATORS = (
    _ELEMENTWISE
    | _REDUCTIONS
    | _ALONG_AN_AXIS
    | _SAME_MEMORY
    | _MAKERS
    | {"relax.permute_dims", "relax.matmul", "relax.strided_slice", "relax.one_hot", "relax.nn.pad"}
)  # fmt: skip


def same_memory(name: str) -> bool:
    """Whether the operator only gives memory another shape."""
    return name in _SAME_MEMORY


def kind_of_result(
    name: str, args: Sequence[Value], attrs: Any, axes: Any, shape: Sequence[int], examples: int, operation: str
) -> Kind:
    """axes: of strided_slice, an argument of the call. shape: the result's."""
    blamed = worst(tuple(args), operation)
    if blamed:
        return blamed
    private = [value for value in args if isinstance(value.kind, PerExample)]
    if not private:
        return Public()
    if name in _SAME_MEMORY:
        return PerExample(operation)  # blocks of memory stay blocks
    for value in private:
        if not value.shape or value.shape[0] % examples or not shape or shape[0] != value.shape[0]:
            return Private(Reason.MIXED, operation, "it does not keep the examples apart as rows of the first axis")
    if name in _ELEMENTWISE and any(len(value.shape) != len(shape) for value in private):
        return Private(Reason.MIXED, operation, "it spreads a private value over an axis that is not its own")
    if _touches_examples(name, args, attrs, axes):
        return Private(Reason.MIXED, operation, "it works across the axis of the examples")
    return PerExample(operation)


def _touches_examples(name: str, args: Sequence[Value], attrs: Any, axes: Any) -> bool:
    rank = len(args[0].shape)
    if name in _REDUCTIONS or name in _ALONG_AN_AXIS:
        axis = attrs.axis
        if axis is None:
            return True
        listed = [axis] if isinstance(axis, int) else list(axis)
        return any(int(each) % rank == 0 for each in listed)
    if name == "relax.permute_dims":
        return attrs.axes is None or int(attrs.axes[0]) != 0
    if name == "relax.strided_slice":
        return any(int(each) % rank == 0 for each in axes)
    if name == "relax.nn.pad":
        return any(int(each) for each in list(attrs.pad_width)[:2])
    if name == "relax.one_hot":
        return int(attrs.axis) % (rank + 1) == 0
    if name == "relax.matmul":
        left, right = args
        batched = len(left.shape) == len(right.shape) >= 3 and left.shape[0] == right.shape[0]
        return not (batched or (isinstance(right.kind, Public) and len(right.shape) == 2 and rank >= 2))
    if name in _ELEMENTWISE:
        return False
    raise Refusal(Reason.UNKNOWN, name, "there is no rule for this operator on private values")
