"""The gradient of each operator of the data path: `differentiate` walks a graph backwards with these rules."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax

from privlib.compiler import dialect
from privlib.compiler.dialect import shape_of
from privlib.compiler.errors import UnsupportedOperatorError

_WINDOW = ("stride", "padding", "dilation", "groups", "nchw")
# formulas whose gradient reads the forward's output, or its input
_BY_OUTPUT, _BY_INPUT = ("relu", "relu6", "tanh", "sigmoid"), ("gelu", "gelu_tanh")


class GradientRules(ABC):
    """`backward` hands the gradient of a call's result on to its operands. What a parameter gets is the business of
    `weight_site` (a matrix or filters: its input and output gradient) and `vector_site` (position by position)."""

    def __init__(self, parameters: Sequence[relax.Var]) -> None:
        self.parameters = frozenset(parameters)
        self.builder = relax.BlockBuilder()
        self.values: dict[relax.Var, relax.Expr] = {}
        self.gradients: dict[relax.Var, relax.Expr] = {}

    @abstractmethod
    def weight_site(self, parameter: relax.Expr, x: relax.Expr, g: relax.Expr, attributes: Mapping[str, Any]) -> None:
        """x and g in the batch's rows; attributes: a convolution's window, empty for a linear layer."""

    @abstractmethod
    def vector_site(self, parameter: relax.Expr, rows: relax.Expr) -> None:
        """rows (…, channels): the gradient of a vector, position by position."""

    def channel_last(self, x: relax.Expr) -> relax.Expr:
        return self.builder.emit(relax.op.permute_dims(x, [0, 2, 3, 1]))

    def get(self, expression: relax.Expr) -> relax.Expr:
        if isinstance(expression, relax.Tuple):
            return relax.Tuple([self.get(part) for part in expression.fields])
        if isinstance(expression, relax.TupleGetItem):
            return relax.TupleGetItem(self.get(expression.tuple_value), expression.index)
        return self.values.get(expression, expression) if isinstance(expression, relax.Var) else expression

    def emit(self, name: str, args: Sequence[relax.Expr], **attributes: Any) -> relax.Expr:
        return self.builder.emit(dialect.call(name, args, **attributes))

    def pair(self, both: relax.Expr) -> tuple[relax.Expr, ...]:
        return tuple(self.builder.emit(relax.TupleGetItem(both, i)) for i in range(len(both.ty.fields)))

    def add_gradient(self, variable: relax.Expr, gradient: relax.Expr) -> None:
        """Gradients of a value that is used several times add up; parameters and the input get theirs elsewhere."""
        if not isinstance(variable, relax.Var) or variable in self.parameters:
            return
        earlier = self.gradients.get(variable)
        both = gradient if earlier is None else self.emit("elementwise", [earlier, gradient], formula="add")
        self.gradients[variable] = both

    def wants_gradient(self, variable: relax.Expr) -> bool:
        return isinstance(variable, relax.Var) and variable not in self.parameters

    def backward(self, value: relax.Expr, result: relax.Expr, g: relax.Expr) -> None:
        if isinstance(value, relax.Var):
            self.add_gradient(value, g)
            return
        if not isinstance(value, relax.Call):
            raise UnsupportedOperatorError(f"{type(value).__name__} has no gradient; return one tensor")
        name = str(value.op.name).removeprefix("privlib.").replace(".", "_")
        handler = getattr(self, f"back_{name}", None)
        if handler is None:
            raise UnsupportedOperatorError(
                f"operator {value.op.name} has no gradient; use supported layers, or freeze what is before it"
            )
        handler(value, result, g)

    def back_relax_reshape(self, call: relax.Call, _result: relax.Expr, g: relax.Expr) -> None:
        self.add_gradient(call.args[0], self.builder.emit(relax.op.reshape(g, shape_of(call.args[0]))))

    def back_relax_permute_dims(self, call: relax.Call, _result: relax.Expr, g: relax.Expr) -> None:
        axes = [int(axis) for axis in call.attrs.axes]
        inverse = [axes.index(i) for i in range(len(axes))]
        if self.wants_gradient(call.args[0]):
            self.add_gradient(call.args[0], self.builder.emit(relax.op.permute_dims(g, inverse)))

    def back_elementwise(self, call: relax.Call, result: relax.Expr, g: relax.Expr) -> None:
        formula = str(call.attrs["formula"])
        if formula == "add" and shape_of(call.args[0]) == shape_of(call.args[1]):
            for arg in call.args:
                self.add_gradient(arg, g)
        elif formula == "shift":
            self.add_gradient(call.args[0], g)
        elif formula == "scale":
            scaled = self.emit("elementwise", [g], formula="scale", scalar=float(call.attrs["scalar"]))
            self.add_gradient(call.args[0], scaled)
        elif formula in _BY_OUTPUT + _BY_INPUT:
            seen = result if formula in _BY_OUTPUT else self.get(call.args[0])
            self.add_gradient(call.args[0], self.emit("elementwise", [g, seen], formula=f"{formula}_gradient"))
        else:
            raise UnsupportedOperatorError(
                f"elementwise {formula} of a parameter has no per-example gradient here (BatchNorm in evaluation mode "
                "is one: use GroupNorm, which normalizes each example by itself)"
            )

    def back_pool2d(self, call: relax.Call, _result: relax.Expr, g: relax.Expr) -> None:
        attributes = dict(call.attrs.items())
        self.add_gradient(call.args[0], self.emit("pool2d_gradient", [self.get(call.args[0]), g], **attributes))

    def back_spatial_mean(self, call: relax.Call, _result: relax.Expr, g: relax.Expr) -> None:
        self.add_gradient(call.args[0], self.emit("spatial_mean_gradient", [g], input=shape_of(call.args[0])))

    def back_row_sum(self, call: relax.Call, _result: relax.Expr, g: relax.Expr) -> None:
        """Every value of a row gets the row's: a spatial mean over rows of one channel, times their length."""
        *outer, length = shape_of(call.args[0])
        rows = self.builder.emit(relax.op.reshape(g, (math.prod(outer), 1)))
        spread = self.emit("spatial_mean_gradient", [rows], input=[math.prod(outer), length, 1, 1])
        spread = self.builder.emit(relax.op.reshape(spread, (*outer, length)))
        factor = float(call.attrs["factor"]) * length
        self.add_gradient(call.args[0], self.emit("elementwise", [spread], formula="scale", scalar=factor))

    def before_epilogue(self, call: relax.Call, result: relax.Expr, g: relax.Expr) -> relax.Expr:
        """The gradient before activation and residual; the residual operand (always the last) gets the same."""
        activation = str(call.attrs["activation"])
        if activation != "none":
            g = self.emit("elementwise", [g, result], formula=f"{activation}_gradient")
        if call.attrs["residual"]:
            self.add_gradient(call.args[-1], g)
        return g

    def back_conv2d(self, call: relax.Call, result: relax.Expr, g: relax.Expr) -> None:
        g = self.before_epilogue(call, result, g)
        x, attributes = self.get(call.args[0]), {key: call.attrs[key] for key in _WINDOW}
        if attributes["nchw"]:
            x, attributes["nchw"] = self.channel_last(x), False
        kernel = list(shape_of(call.args[1])[2:])
        self.weight_site(call.args[1], x, g, {"kernel": kernel, **attributes})
        if call.attrs["bias"]:
            self.vector_site(call.args[2], g)
        if self.wants_gradient(call.args[0]):
            args = [g, self.get(call.args[1])]
            gradient = self.emit("conv2d_data_gradient", args, **attributes, input=list(shape_of(x)))
            self.add_gradient(call.args[0], gradient)

    def back_dense(self, call: relax.Call, result: relax.Expr, g: relax.Expr) -> None:
        g = self.before_epilogue(call, result, g)
        self.weight_site(call.args[1], self.get(call.args[0]), g, {})
        if call.attrs["bias"]:
            self.vector_site(call.args[2], g)
        if self.wants_gradient(call.args[0]):
            self.add_gradient(call.args[0], self.emit("dense_data_gradient", [g, self.get(call.args[1])]))

    def back_norm(self, call: relax.Call, result: relax.Expr, g: relax.Expr) -> None:
        g = self.before_epilogue(call, result, g)
        attributes = {key: call.attrs[key] for key in ("groups", "epsilon", "axes")}
        args = [self.get(call.args[0]), self.get(call.args[1]), g]
        dx, *rows = self.pair(self.emit("norm_gradient", args, **attributes))
        for parameter, each in zip(call.args[1:3], rows, strict=True):
            self.vector_site(parameter, each)
        self.add_gradient(call.args[0], dx)
