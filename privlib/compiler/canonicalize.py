"""Relax as imported (PyTorch's layouts and operators) → privlib's dialect, channel-last.

A 4-D activation is kept as (batch, height, width, channels); it is turned back to PyTorch's order only where an
operator needs the logical order (a flatten before a linear layer, a reshape). Batch normalization in evaluation mode
becomes a per-channel affine map whose coefficients are computed from parameters, so that `fuse` can fold it into a
convolution.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm
from tvm import relax

from privlib.compiler import dialect
from privlib.compiler.dialect import dtype_of, shape_of
from privlib.compiler.errors import CompileError, UnsupportedOperatorError
from privlib.compiler.kernels import pointwise

_ELEMENTWISE = {
    "relax.nn.relu": "relu",
    "relax.tanh": "tanh",
    "relax.sigmoid": "sigmoid",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.sqrt": "sqrt",
}
_BINARY = {
    "relax.add": "add",
    "relax.subtract": "subtract",
    "relax.multiply": "multiply",
    "relax.divide": "divide",
}
_COMMUTATIVE = ("add", "multiply")
# Passed on unchanged, on PyTorch's layout; TVM's own lowering serves them (they only move data, or are small).
# fmt: off
_PLAIN = frozenset(
    [
        "relax.reshape", "relax.permute_dims", "relax.mean", "relax.sum", "relax.divide", "relax.concat",
        "relax.strided_slice", "relax.nn.pad", "relax.squeeze", "relax.expand_dims", "relax.zeros_like",
        "relax.matmul", "relax.add", "relax.subtract", "relax.multiply", "relax.broadcast_to", "relax.flatten",
        "relax.flip",
    ]
)
# fmt: on


@dataclass
class Value:
    """A translated expression: in PyTorch's layout, or channel-last; `channels` is the vector behind a (1, C, 1, 1)
    reshape."""

    expression: relax.Expr
    nhwc: bool = False
    channels: relax.Expr | None = None


def canonicalize(module: tvm.IRModule, precision: str = "float32") -> tvm.IRModule:
    """The pass: main(input NCHW or (B, features…), parameters…) → the same function in the dialect.

    precision "float64" retypes input and parameters: the same passes and kernels on another type, for verification.
    """
    return _Canonicalizer(module["main"], precision).run()


class _Canonicalizer:
    def __init__(self, main: relax.Function, precision: str) -> None:
        self.main, self.precision = main, precision
        self.builder = relax.BlockBuilder()
        self.values: dict[relax.Var, Value | list[Value]] = {}
        self.linear_weights: dict[relax.Var, relax.Expr] = {}  # permuted weight -> weight
        self.handlers: dict[str, Callable[[relax.Call], Value | list[Value]]] = {
            "relax.nn.conv2d": self.conv2d,
            "relax.nn.batch_norm": self.batch_norm,
            "relax.nn.group_norm": self.group_norm,
            "relax.nn.layer_norm": self.layer_norm,
            "relax.nn.max_pool2d": lambda call: self.pool2d(call, "max"),
            "relax.nn.avg_pool2d": lambda call: self.pool2d(call, "avg"),
            "relax.nn.adaptive_avg_pool2d": self.adaptive_pool,
            "relax.mean": self.mean,
            "relax.sum": self.sum,
            "relax.concat": self.concat,
            "relax.power": self.power,
            "relax.negative": lambda call: self.number("scale", self.value(call.args[0]), -1.0),
            "relax.matmul": self.matmul,
            "relax.reshape": self.reshape,
            "relax.permute_dims": self.permute_dims,
            "relax.clip": self.clip,
            "relax.nn.dropout": lambda call: [self.value(call.args[0])],
        }

    def run(self) -> tvm.IRModule:
        blocks = self.main.body.blocks
        bindings = [binding for block in blocks for binding in block.bindings]
        types = [relax.TensorType(shape_of(p), self.precision) for p in self.main.params]
        parameters = [relax.Var(p.name, each) for p, each in zip(self.main.params, types, strict=True)]
        for old, new in zip(self.main.params, parameters, strict=True):
            self.values[old] = Value(new)
        with self.builder.function("main", parameters, attrs={"num_input": 1}):
            with self.builder.dataflow():
                for binding in bindings:
                    self.values[binding.var] = self.translate(binding.value)
                result = self.result(self.main.body.body)
                output = self.builder.emit_output(self.plain(result))
            self.builder.emit_func_output(output)
        return self.builder.get()

    def result(self, body: relax.Expr) -> Value:
        value = self.values[body]
        values = value if isinstance(value, list) else [value]
        if len(values) != 1:
            raise CompileError(f"the model returns {len(values)} tensors; wrap it so that it returns one (the logits)")
        return values[0]

    def translate(self, expression: relax.Expr) -> "Value | list[Value]":
        if isinstance(expression, relax.Var):
            return self.values[expression]
        if isinstance(expression, relax.Tuple):
            return [self.value(field) for field in expression.fields]
        if isinstance(expression, relax.TupleGetItem):
            fields = self.values[expression.tuple_value]
            return fields[expression.index] if isinstance(fields, list) else fields
        if not isinstance(expression, relax.Call):
            return Value(expression)
        name = str(expression.op.name)
        if name in self.handlers:
            return self.handlers[name](expression)
        if name in _ELEMENTWISE:
            return self.elementwise(_ELEMENTWISE[name], [self.value(expression.args[0])])
        if name in _BINARY:
            return self.binary(expression, _BINARY[name])
        if name in _PLAIN:
            return self.unchanged(expression)
        raise UnsupportedOperatorError(
            f"operator {name} has no counterpart in privlib's dialect; express it with supported operators"
        )

    def value(self, expression: relax.Expr) -> Value:
        if isinstance(expression, relax.Var):
            found = self.values[expression]
            if isinstance(found, list):
                raise CompileError(f"a tuple is used where a tensor is expected ({expression.name})")
            return found
        return Value(expression)

    def emit(self, name: str, args: Sequence[relax.Expr], **attributes: object) -> relax.Expr:
        return self.builder.emit(dialect.call(name, args, **attributes))

    def plain(self, value: Value) -> relax.Expr:
        return (
            self.builder.emit(relax.op.permute_dims(value.expression, [0, 3, 1, 2])) if value.nhwc else value.expression
        )

    def channel_last(self, value: Value) -> relax.Expr:
        return (
            value.expression if value.nhwc else self.builder.emit(relax.op.permute_dims(value.expression, [0, 2, 3, 1]))
        )

    def unchanged(self, call: relax.Call) -> Value:
        args = [
            relax.Tuple([self.plain(self.value(field)) for field in arg.fields])
            if isinstance(arg, relax.Tuple)
            else self.plain(self.value(arg))
            for arg in call.args
        ]
        return Value(self.builder.emit(relax.Call(call.op, args, call.attrs, call.ty_args)))

    def elementwise(self, formula: str, operands: Sequence[Value], *channel_vectors: relax.Expr) -> Value:
        args = [operand.expression for operand in operands] + list(channel_vectors)
        return Value(self.emit("elementwise", args, formula=formula), nhwc=operands[0].nhwc)

    def conv2d(self, call: relax.Call) -> Value:
        x, weight, a = self.value(call.args[0]), self.value(call.args[1]).expression, call.attrs
        # a network's input is read as it comes, in PyTorch's order, where it has few channels
        nchw = not x.nhwc and shape_of(x.expression)[1] <= 4
        attributes = {
            "stride": _ints(a.strides),
            "padding": _ints(a.padding),
            "dilation": _ints(a.dilation),
            "groups": int(a.groups),
            "nchw": nchw,
        }
        source = x.expression if nchw else self.channel_last(x)
        return Value(
            self.emit("conv2d", [source, weight], **attributes, bias=False, residual=False, activation="none"),
            nhwc=True,
        )

    def batch_norm(self, call: relax.Call) -> list[Value]:
        x = self.value(call.args[0])
        gamma, beta, mean, variance = (self.value(arg).expression for arg in call.args[1:5])
        emit, op = self.builder.emit, relax.op
        root = emit(op.sqrt(emit(op.add(variance, relax.const(float(call.attrs.epsilon), dtype_of(x.expression))))))
        scale = emit(op.divide(gamma, root))
        shift = emit(op.subtract(beta, emit(op.multiply(mean, scale))))
        if len(shape_of(x.expression)) == 4 and not x.nhwc:
            x = Value(self.channel_last(x), nhwc=True)
        return [self.elementwise("affine", [x], scale, shift)]

    def group_norm(self, call: relax.Call) -> Value:
        x, a = self.value(call.args[0]), call.attrs
        gamma, beta = (self.value(arg).expression for arg in call.args[1:3])
        four = len(shape_of(x.expression)) == 4
        source = self.channel_last(x) if four else x.expression
        if len(shape_of(source)) not in (2, 4):
            raise UnsupportedOperatorError(
                f"group norm over shape {shape_of(source)}: only (B, C) and (B, C, H, W) are supported"
            )
        attributes = {"groups": int(a.num_groups), "epsilon": float(a.epsilon), "axes": "example"}
        return Value(
            self.emit("norm", [source, gamma, beta], **attributes, bias=False, residual=False, activation="none"),
            nhwc=four,
        )

    def layer_norm(self, call: relax.Call) -> Value:
        x, a = self.value(call.args[0]), call.attrs
        gamma, beta = (self.value(arg).expression for arg in call.args[1:3])
        source, rank = self.plain(x), len(shape_of(x.expression))
        if _ints(a.axes) not in ([-1], [rank - 1]):
            raise UnsupportedOperatorError(
                "layer norm over more than the last axis is not supported; flatten those axes first"
            )
        attributes = {"groups": 1, "epsilon": float(a.epsilon), "axes": "row"}
        return Value(
            self.emit("norm", [source, gamma, beta], **attributes, bias=False, residual=False, activation="none")
        )

    def pool2d(self, call: relax.Call, kind: str) -> Value:
        a = call.attrs
        attributes = {
            "kind": kind,
            "kernel": _ints(a.pool_size),
            "stride": _ints(a.strides),
            "padding": _ints(a.padding),
            "dilation": _ints(a.dilation),
            "count_include_pad": bool(a.count_include_pad),
        }
        value = Value(self.emit("pool2d", [self.channel_last(self.value(call.args[0]))], **attributes), nhwc=True)
        batch, channels, height, width = shape_of(call)
        if shape_of(value.expression) != (batch, height, width, channels):
            raise UnsupportedOperatorError(
                f"{kind} pooling with ceil_mode=True changes the output's size here; use ceil_mode=False"
            )
        return value

    def adaptive_pool(self, call: relax.Call) -> Value:
        x, cells = self.value(call.args[0]), list(shape_of(call)[2:])
        if cells == [1, 1]:
            return self.spatial_mean(x, keep=True)
        return Value(self.emit("cell_means", [self.channel_last(x)], cells=cells), nhwc=True)

    def spatial_mean(self, x: Value, keep: bool) -> Value:
        mean = self.emit("spatial_mean", [self.channel_last(x)])
        if not keep:
            return Value(mean)
        batch, channels = shape_of(mean)
        return Value(self.builder.emit(relax.op.reshape(mean, (batch, 1, 1, channels))), nhwc=True)

    def mean(self, call: relax.Call) -> Value:
        x, axes = self.value(call.args[0]), _ints(call.attrs.axis or [])
        if len(shape_of(x.expression)) == 4 and sorted(axis % 4 for axis in axes) == [2, 3]:
            return self.spatial_mean(x, bool(call.attrs.keepdims))
        return self.row_sum(call, x, axes, 1 / shape_of(x.expression)[-1]) or self.unchanged(call)

    def sum(self, call: relax.Call) -> Value:
        return self.row_sum(call, self.value(call.args[0]), _ints(call.attrs.axis or []), 1.0) or self.unchanged(call)

    def row_sum(self, call: relax.Call, x: Value, axes: Sequence[int], factor: float) -> Value | None:
        """Over the axis that is the last one in memory."""
        rank = len(shape_of(x.expression))
        if rank < 2 or [axis % rank for axis in axes] != [1 if x.nhwc else rank - 1]:
            return None
        total = self.emit("row_sum", [x.expression], factor=factor)
        if call.attrs.keepdims:
            return Value(total, nhwc=x.nhwc)
        return Value(self.builder.emit(relax.op.reshape(total, shape_of(total)[:-1])))

    def power(self, call: relax.Call) -> Value:
        x = self.value(call.args[0])
        return self.elementwise("multiply", [x, x])  # `check_operators` lets no other power pass

    def number(self, formula: str, x: Value, number: float) -> Value:
        return Value(self.emit("elementwise", [x.expression], formula=formula, scalar=number), nhwc=x.nhwc)

    def concat(self, call: relax.Call) -> Value:
        values, axis = [self.value(field) for field in call.args[0].fields], int(call.attrs.axis)
        rank = len(shape_of(values[0].expression))
        along = axis % rank
        if all(value.nhwc for value in values):
            order = (0, 3, 1, 2)[along]
            parts = relax.Tuple([value.expression for value in values])
            joined = self.both_sides(values) if order == 3 else None
            joined = self.builder.emit(relax.op.concat(parts, order)) if joined is None else joined
            return Value(joined, nhwc=True)
        if along == rank - 1 and not any(value.nhwc for value in values):
            joined = self.both_sides(values)
            if joined is not None:
                return Value(joined)
        return self.unchanged(call)

    def both_sides(self, values: Sequence[Value]) -> relax.Expr | None:
        """relu(z − t) and relu(−z − t), joined along the channels: two-sided rectification."""
        if len(values) != 2:
            return None
        (first, one), (second, two) = (self.shifted_relu(value.expression) for value in values)
        if first is None or second is None or one != two:
            return None
        negated, factor = self.scaled(second)
        if factor != -1.0 or not negated.same_as(first):
            return None
        return self.emit("two_sided", [first], threshold=-one)

    def shifted_relu(self, expression: relax.Expr) -> tuple[relax.Expr | None, float]:
        """(z, t) of relu(z + t), (None, 0) of anything else."""
        rectified = self.formula(expression, "relu")
        shifted = None if rectified is None else self.formula(rectified.args[0], "shift")
        return (None, 0.0) if shifted is None else (shifted.args[0], float(shifted.attrs["scalar"]))

    def scaled(self, expression: relax.Expr) -> tuple[relax.Expr, float]:
        call = self.formula(expression, "scale")
        return (expression, 1.0) if call is None else (call.args[0], float(call.attrs["scalar"]))

    def formula(self, expression: relax.Expr, name: str) -> relax.Call | None:
        """The elementwise call behind a variable, where it has that formula."""
        found = self.builder.lookup_binding(expression) if isinstance(expression, relax.Var) else None
        is_call = isinstance(found, relax.Call) and str(found.op.name) == "privlib.elementwise"
        return found if is_call and str(found.attrs["formula"]) == name else None

    def matmul(self, call: relax.Call) -> Value:
        x, right = self.value(call.args[0]), self.value(call.args[1]).expression
        weight = self.linear_weights.get(right)
        if weight is None:
            return self.unchanged(call)
        return Value(self.emit("dense", [self.plain(x), weight], bias=False, residual=False, activation="none"))

    def permute_dims(self, call: relax.Call) -> Value:
        source, axes = self.value(call.args[0]), _ints(call.attrs.axes or [])
        if source.nhwc and axes == [0, 2, 3, 1]:
            return Value(source.expression)  # the order it has in memory
        if not source.nhwc and axes == [0, 3, 1, 2]:
            return Value(source.expression, nhwc=True)
        result = self.unchanged(call)
        if not source.nhwc and _ints(call.attrs.axes or [1, 0]) == [1, 0] and isinstance(result.expression, relax.Var):
            self.linear_weights[result.expression] = source.expression
        return result

    def reshape(self, call: relax.Call) -> Value:
        source, shape = self.value(call.args[0]), shape_of(call)
        if source.nhwc and shape_of(source.expression)[1:3] == (1, 1) and len(shape) == 2:
            return Value(self.builder.emit(relax.op.reshape(source.expression, shape)))
        result = self.unchanged(call)
        before = shape_of(source.expression)
        if len(before) == 1 and shape in ((1, before[0], 1, 1), (before[0], 1, 1)):
            result.channels = source.expression
        return result

    def clip(self, call: relax.Call) -> Value:
        low, high = (float(arg.value) for arg in call.args[1:3])
        if (low, high) != (0.0, 6.0):
            raise UnsupportedOperatorError(f"clipping to [{low}, {high}] is not supported; ReLU6 (0 to 6) is")
        return self.elementwise("relu6", [self.value(call.args[0])])

    def binary(self, call: relax.Call, formula: str) -> Value:
        left, right = self.value(call.args[0]), self.value(call.args[1])
        if formula in _COMMUTATIVE and _number(left.expression) is not None:
            left, right = right, left
        number = _number(right.expression)
        if number is not None:
            return self.with_number(formula, left, number)
        if left.nhwc or right.nhwc:
            return self.channel_last_binary(call, formula, left, right)
        one, two = shape_of(left.expression), shape_of(right.expression)
        if formula in _COMMUTATIVE and (len(one), math.prod(one)) < (len(two), math.prod(two)):
            left, right, one, two = right, left, two, one
        if one and pointwise.operand_kinds(one, [two]):
            return self.elementwise(formula, [left, right])
        return self.unchanged(call)

    def with_number(self, formula: str, x: Value, number: float) -> Value:
        if formula in ("add", "subtract"):
            return self.number("shift", x, number if formula == "add" else -number)
        return self.number("scale", x, number if formula == "multiply" else 1 / number)

    def channel_last_binary(self, call: relax.Call, formula: str, left: Value, right: Value) -> Value:
        """At least one operand is channel-last: the other joins it where broadcasting means the same in both orders."""
        if formula in _COMMUTATIVE and not left.nhwc:
            left, right = right, left
        vector = right.channels
        if left.nhwc and vector is not None and shape_of(vector) == shape_of(left.expression)[-1:]:
            return self.elementwise(formula, [left], vector)
        ranks = {len(shape_of(value.expression)) for value in (left, right)}
        if not ranks <= {0, 4}:
            return self.unchanged(call)
        one, two = (v.expression if shape_of(v.expression) == () else self.channel_last(v) for v in (left, right))
        if shape_of(two) and pointwise.operand_kinds(shape_of(one), [shape_of(two)]):
            return self.elementwise(formula, [Value(one, nhwc=True), Value(two, nhwc=True)])
        return Value(self.builder.emit(relax.Call(call.op, [one, two], call.attrs, call.ty_args)), nhwc=True)


def _number(expression: relax.Expr) -> float | None:
    """The value of a finite constant without axes, other than zero; else None."""
    data = getattr(expression, "value", None)
    if not isinstance(data, tvm.runtime.Tensor) or data.shape:
        return None
    number = float(data.numpy())
    return number if number and math.isfinite(number) else None


def _ints(values: Sequence[object]) -> list[int]:
    return [int(value) for value in values]  # type: ignore[call-overload]
