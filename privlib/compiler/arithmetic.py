"""Arithmetic of the canonicalizing pass: elementwise functions, sums along rows, numbers, and what is joined."""

import math
from collections.abc import Sequence

import tvm
from tvm import relax

from privlib.compiler.dialect import shape_of
from privlib.compiler.kernels import pointwise
from privlib.compiler.layouts import Translator, Value, ints

BINARY = {
    "relax.add": "add",
    "relax.subtract": "subtract",
    "relax.multiply": "multiply",
    "relax.divide": "divide",
}
_COMMUTATIVE = ("add", "multiply")


class Arithmetic(Translator):
    """A method for each operator, from a call to its value in the dialect."""

    def sum(self, call: relax.Call) -> Value:
        x, axes = self.value(call.args[0]), ints(call.attrs.axis or [])
        count = math.prod(shape_of(call.args[0])[axis] for axis in axes)
        return self.row_sum(call, x, axes, 1.0) or self.mean_over(call, x, axes, count) or self.unchanged(call)

    def row_sum(self, call: relax.Call, x: Value, axes: Sequence[int], factor: float) -> Value | None:
        """Over the axis that is the last one in memory."""
        rank = len(shape_of(x.expression))
        if rank < 2 or [axis % rank for axis in axes] != [1 if x.nhwc else rank - 1]:
            return None
        total = self.emit("row_sum", [x.expression], factor=factor)
        if call.attrs.keepdims:
            return Value(total, nhwc=x.nhwc)
        return Value(self.builder.emit(relax.op.reshape(total, shape_of(total)[:-1])))

    def mean_over(self, call: relax.Call, x: Value, axes: Sequence[int], factor: float) -> Value | None:
        """`factor` times the mean over any axes but the batch, as a spatial mean: what is reduced moves together."""
        expression = self.plain(x)
        shape = shape_of(expression)
        reduced = sorted(axis % len(shape) for axis in axes)
        if not reduced or reduced[0] == 0:
            return None
        kept = [axis for axis in range(len(shape)) if axis not in reduced]
        before, after = [axis for axis in kept if axis < reduced[0]], [axis for axis in kept if axis > reduced[0]]
        order = before + reduced + after
        if order != list(range(len(shape))):
            expression = self.builder.emit(relax.op.permute_dims(expression, order))
        rows, count, channels = (math.prod(shape[axis] for axis in part) for part in (before, reduced, after))
        expression = self.builder.emit(relax.op.reshape(expression, (rows, count, 1, channels)))
        mean = self.emit("spatial_mean", [expression])
        if factor != 1:
            mean = self.emit("elementwise", [mean], formula="scale", scalar=factor)
        return Value(self.builder.emit(relax.op.reshape(mean, shape_of(call))))

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
        if not isinstance(found, relax.Call) or str(found.op.name) != "privlib.elementwise":
            return None
        return found if str(found.attrs["formula"]) == name else None

    def binary(self, call: relax.Call, formula: str) -> Value:
        left, right = self.value(call.args[0]), self.value(call.args[1])
        first = _number(left.expression)
        if first is not None and formula in _COMMUTATIVE:
            left, right = right, left
        elif first is not None and formula == "subtract":
            return self.number("shift", self.number("scale", right, -1.0), first)
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
