"""Relax as imported (PyTorch's layouts and operators) → privlib's dialect, channel-last.

A 4-D activation is kept as (batch, height, width, channels); it is turned back to PyTorch's order only where an
operator needs the logical order (a flatten before a linear layer, a reshape). Batch normalization in evaluation mode
becomes a per-channel affine map whose coefficients are computed from parameters, so that `fuse` can fold it into a
convolution.
"""

from collections.abc import Callable

import tvm
from tvm import relax

from privlib.compiler.arithmetic import BINARY, Arithmetic
from privlib.compiler.dialect import dtype_of, shape_of
from privlib.compiler.errors import CompileError, UnsupportedOperatorError
from privlib.compiler.layouts import Value, ints

_ELEMENTWISE = {
    "relax.nn.relu": "relu",
    "relax.tanh": "tanh",
    "relax.sigmoid": "sigmoid",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.sqrt": "sqrt",
}
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


def canonicalize(module: tvm.IRModule, precision: str = "float32") -> tvm.IRModule:
    """The pass: main(input NCHW or (B, features…), parameters…) → the same function in the dialect.

    precision "float64" retypes input and parameters: the same passes and kernels on another type, for verification.
    """
    return _Canonicalizer(module["main"], precision).run()


class _Canonicalizer(Arithmetic):
    def __init__(self, main: relax.Function, precision: str) -> None:
        super().__init__()
        self.main, self.precision = main, precision
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
        if name in BINARY:
            return self.binary(expression, BINARY[name])
        if name in _PLAIN:
            return self.unchanged(expression)
        raise UnsupportedOperatorError(
            f"operator {name} has no counterpart in privlib's dialect; express it with supported operators"
        )

    def conv2d(self, call: relax.Call) -> Value:
        x, weight, a = self.value(call.args[0]), self.value(call.args[1]).expression, call.attrs
        # a network's input is read as it comes, in PyTorch's order, where it has few channels
        nchw = not x.nhwc and shape_of(x.expression)[1] <= 4
        attributes = {
            "stride": ints(a.strides),
            "padding": ints(a.padding),
            "dilation": ints(a.dilation),
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
        if ints(a.axes) not in ([-1], [rank - 1]):
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
            "kernel": ints(a.pool_size),
            "stride": ints(a.strides),
            "padding": ints(a.padding),
            "dilation": ints(a.dilation),
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
        x, axes = self.value(call.args[0]), ints(call.attrs.axis or [])
        if len(shape_of(x.expression)) == 4 and sorted(axis % 4 for axis in axes) == [2, 3]:
            return self.spatial_mean(x, bool(call.attrs.keepdims))
        along_last = self.row_sum(call, x, axes, 1 / shape_of(x.expression)[-1])
        return along_last or self.mean_over(call, x, axes, 1.0) or self.unchanged(call)

    def matmul(self, call: relax.Call) -> Value:
        x, right = self.value(call.args[0]), self.value(call.args[1]).expression
        weight = self.linear_weights.get(right)
        if weight is None:
            return self.unchanged(call)
        return Value(self.emit("dense", [self.plain(x), weight], bias=False, residual=False, activation="none"))

    def permute_dims(self, call: relax.Call) -> Value:
        source, axes = self.value(call.args[0]), ints(call.attrs.axes or [])
        if source.nhwc and axes == [0, 2, 3, 1]:
            return Value(source.expression)  # the order it has in memory
        if not source.nhwc and axes == [0, 3, 1, 2]:
            return Value(source.expression, nhwc=True)
        result = self.unchanged(call)
        if not source.nhwc and ints(call.attrs.axes or [1, 0]) == [1, 0] and isinstance(result.expression, relax.Var):
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
