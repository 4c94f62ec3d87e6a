"""Which PyTorch operators, with which arguments, the passes know: asked where each still has its place in the model."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from privlib.compiler.errors import UnsupportedOperatorError

# Core ATen operators that `canonicalize` turns into privlib's dialect or passes on unchanged (overload names left out).
# fmt: off
SUPPORTED = frozenset(
    [
        "convolution", "conv2d", "linear", "addmm", "mm", "matmul", "relu", "relu_", "hardtanh", "hardtanh_",
        "tanh", "sigmoid", "gelu", "sqrt", "neg", "pow", "add", "add_", "sub", "mul", "div", "getitem", "max_pool2d",
        "max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "mean", "sum", "flip",
        "batch_norm", "_native_batch_norm_legit_no_training", "group_norm", "native_group_norm", "layer_norm",
        "native_layer_norm", "view", "_unsafe_view", "reshape", "flatten", "permute", "t", "transpose", "unsqueeze",
        "squeeze", "cat", "slice", "pad", "constant_pad_nd", "clone", "contiguous", "dropout", "alias", "expand",
        "alias_copy", "detach",
    ]
)
# fmt: on


def check_operators(program: torch.export.ExportedProgram) -> None:
    """Raises UnsupportedOperatorError for the first operator that cannot be compiled: its name, place and remedy."""
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        if name not in SUPPORTED:
            raise UnsupportedOperatorError(
                f"operator {node.target} in {place_of(node)} is not supported; express it with convolutions, linear "
                "layers, normalization, pooling, elementwise functions, reshapes, or compile the part of the model "
                "before it"
            )
        refusal = _REFUSALS[name](node) if name in _REFUSALS else None
        if refusal is not None:
            raise UnsupportedOperatorError(f"operator {node.target} in {place_of(node)}: {refusal}")


def place_of(node: torch.fx.Node) -> str:
    """The submodule a node comes from, as `name (Class)`."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "the model"
    path, kind = stack[-1][0], stack[-1][1]
    kind_name = kind.__name__ if isinstance(kind, type) else str(kind).rsplit(".", 1)[-1]
    return f"module '{path or 'model'}' ({kind_name})"


def _argument(node: torch.fx.Node, position: int, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else default


def _shape(node: Any) -> Sequence[int]:
    value = node.meta["val"]
    return tuple((value[0] if isinstance(value, tuple | list) else value).shape)


def _convolution(node: torch.fx.Node) -> str | None:
    if _argument(node, 6, False):
        return "a transposed convolution is not supported; upsample before an ordinary one"
    if len(_shape(node.args[0])) != 4:
        return "only two-dimensional convolutions are supported; give the input a height of 1"
    return None


def _batch_norm(node: torch.fx.Node) -> str | None:
    rank = len(_shape(node.args[0]))
    return None if rank in (2, 4) else f"batch norm of {rank} axes is not supported; (B, C) and (B, C, H, W) are"


def _group_norm(node: torch.fx.Node) -> str | None:
    shape, groups = _shape(node.args[0]), int(_argument(node, 6, 1))
    if len(shape) not in (2, 4):
        return f"group norm of {len(shape)} axes is not supported; (B, C) and (B, C, H, W) are"
    if math.prod(shape[1:]) == groups:
        return "group norm over a single value gives zero whatever the input; use fewer groups than channels"
    return None


def _layer_norm(node: torch.fx.Node) -> str | None:
    if list(_argument(node, 1)) == [1]:
        return "layer norm over a single value gives zero whatever the input; leave it out"
    if len(_argument(node, 1)) == 1:
        return None
    return "layer norm is supported over the last axis only; flatten those axes first"


def _max_pool(node: torch.fx.Node) -> str | None:
    for user in node.users:
        if user.target is operator.getitem and user.args[1] == 1 and user.users:
            return "the indices of a maximum are not supported; only its values are"
    return _ceil_mode(node, _argument(node, 5, False), _argument(node, 4, [1, 1]))


def _avg_pool(node: torch.fx.Node) -> str | None:
    if _argument(node, 6) is not None:
        return "divisor_override is not supported; scale the result instead"
    return _ceil_mode(node, _argument(node, 4, False), [1, 1])


def _ceil_mode(node: torch.fx.Node, ceil_mode: bool, dilation: Sequence[int]) -> str | None:
    """ceil_mode is harmless where it changes no extent."""
    if not ceil_mode:
        return None
    kernel: Any = node.args[1]
    stride, padding = _argument(node, 2, []) or kernel, _argument(node, 3, [0, 0])
    sides = zip(
        *(_pair(values) for values in (_shape(node.args[0])[2:], kernel, stride, padding, dilation)), strict=True
    )
    floor = tuple((side + 2 * pad - d * (k - 1) - 1) // step + 1 for side, k, step, pad, d in sides)
    if floor == _shape(node)[2:]:
        return None
    return "pooling with ceil_mode=True changes the output's size here; use ceil_mode=False and pad the input"


def _pair(values: Any) -> Sequence[int]:
    several = [values] if isinstance(values, int) else list(values)
    return several * 2 if len(several) == 1 else several


def _adaptive_pool(node: torch.fx.Node) -> str | None:
    if len(_shape(node)) == 4:
        return None
    return f"adaptive average pooling of {len(_shape(node))} axes is not supported; (B, C, H, W) is"


def _power(node: torch.fx.Node) -> str | None:
    exponent = _argument(node, 1)
    return None if exponent == 2 else f"the power {exponent} is not supported; squares are"


def _hardtanh(node: torch.fx.Node) -> str | None:
    low, high = _argument(node, 1, -1.0), _argument(node, 2, 1.0)
    return None if (low, high) == (0, 6) else f"clipping to [{low}, {high}] is not supported; ReLU6 (0 to 6) is"


_REFUSALS: dict[str, Callable[[torch.fx.Node], str | None]] = {
    "convolution": _convolution,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_avg_pool2d": _adaptive_pool,
    "pow": _power,
    "hardtanh": _hardtanh,
    "hardtanh_": _hardtanh,
}
