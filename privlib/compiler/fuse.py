"""Fusion over the dialect: what follows a convolution, a linear layer or a normalization joins its epilogue.

bias, batch normalization (folded into weight and bias), a residual addition, ReLU – in the order that a kernel applies
them. A node is held back until something else needs its value, so a residual addition is placed where both of its
operands exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from privlib.compiler import dialect
from privlib.compiler.dialect import shape_of


@dataclass
class Pending:
    """A call not emitted yet, and what its epilogue has taken up so far."""

    name: str
    args: list[relax.Expr]
    attributes: dict[str, Any]
    bias: relax.Expr | None = None
    scale: relax.Expr | None = None
    residual: relax.Expr | None = None
    activation: str = "none"
    emitted: relax.Expr | None = field(default=None)


def fuse(module: tvm.IRModule) -> tvm.IRModule:
    """The pass: main in the dialect → main with fused epilogues."""
    return _Fuser(module["main"]).run()


class _Fuser:
    def __init__(self, main: relax.Function) -> None:
        self.main, self.builder = main, relax.BlockBuilder()
        self.values: dict[relax.Var, relax.Expr | Pending] = {}
        self.uses: dict[relax.Var, int] = {}

    def run(self) -> tvm.IRModule:
        bindings = [binding for block in self.main.body.blocks for binding in block.bindings]
        for binding in bindings:
            for used in _operands(binding.value):
                self.uses[used] = self.uses.get(used, 0) + 1
        parameters = [relax.Var(p.name, p.ty) for p in self.main.params]
        self.values.update(zip(self.main.params, parameters, strict=True))
        with self.builder.function("main", parameters, attrs=dict(self.main.attrs.items())):
            with self.builder.dataflow():
                for binding in bindings:
                    self.values[binding.var] = self.visit(binding.value)
                output = self.builder.emit_output(self.get(self.main.body.body))
            self.builder.emit_func_output(output)
        return self.builder.get()

    def visit(self, value: relax.Expr) -> "relax.Expr | Pending":
        if isinstance(value, relax.Var):
            return self.values[value]
        if not isinstance(value, relax.Call):
            return self.builder.emit(value)
        name = str(value.op.name)
        attributes = dict(value.attrs.items()) if name.startswith("privlib.") else {}
        if name in ("privlib.conv2d", "privlib.dense", "privlib.norm"):
            return Pending(name.removeprefix("privlib."), [self.get(arg) for arg in value.args], attributes)
        if name == "privlib.elementwise":
            return self.elementwise(value, attributes)
        args = [self.get(arg) for arg in value.args]
        return self.builder.emit(relax.Call(value.op, args, value.attrs, value.ty_args))

    def elementwise(self, call: relax.Call, attributes: dict[str, Any]) -> "relax.Expr | Pending":
        absorbed = self.absorb(call.args, str(attributes["formula"]))
        if absorbed is not None:
            return absorbed
        return self.builder.emit(dialect.call("elementwise", [self.get(arg) for arg in call.args], **attributes))

    def absorb(self, args: Sequence[relax.Expr], formula: str) -> Pending | None:
        for position, arg in enumerate(args[:2]):
            node = self.values.get(arg) if isinstance(arg, relax.Var) else None
            if (
                not isinstance(node, Pending)
                or self.uses[arg] > 1
                or node.emitted is not None
                or node.activation != "none"
            ):
                continue
            if formula in ("relu", "relu6"):
                node.activation = formula
                return node
            if formula == "affine" and node.name == "conv2d" and node.residual is None and position == 0:
                scale, shift = self.get(args[1]), self.get(args[2])
                node.bias = self.combine(node.bias, scale, shift)
                node.scale = scale if node.scale is None else self.builder.emit(relax.op.multiply(node.scale, scale))
                return node
            if formula == "add" and node.residual is None:
                other = args[1 - position]
                vector = len(_shape(other)) == 1
                if vector and node.name != "norm" and position == 0:
                    node.bias = self.add(node.bias, self.get(other))
                    return node
                if not vector and _shape(other) == _shape(arg) and other is not arg:
                    node.residual = self.get(other)
                    return node
        return None

    def combine(self, bias: relax.Expr | None, scale: relax.Expr, shift: relax.Expr) -> relax.Expr:
        return shift if bias is None else self.add(self.builder.emit(relax.op.multiply(bias, scale)), shift)

    def add(self, one: relax.Expr | None, two: relax.Expr) -> relax.Expr:
        return two if one is None else self.builder.emit(relax.op.add(one, two))

    def get(self, expression: relax.Expr) -> relax.Expr:
        if isinstance(expression, relax.Tuple):
            return relax.Tuple([self.get(part) for part in expression.fields])
        if not isinstance(expression, relax.Var):
            return expression
        node = self.values[expression]
        if not isinstance(node, Pending):
            return node
        if node.emitted is None:
            node.emitted = self.emit(node)
        return node.emitted

    def emit(self, node: Pending) -> relax.Expr:
        args = list(node.args)
        if node.scale is not None:
            shape = (shape_of(args[1])[0], 1, 1, 1)
            args[1] = self.builder.emit(
                relax.op.multiply(args[1], self.builder.emit(relax.op.reshape(node.scale, shape)))
            )
        args += [extra for extra in (node.bias, node.residual) if extra is not None]
        changed = {"bias": node.bias is not None, "residual": node.residual is not None, "activation": node.activation}
        return self.builder.emit(dialect.call(node.name, args, **{**node.attributes, **changed}))


def _shape(expression: relax.Expr) -> tuple[int, ...]:
    return shape_of(expression)


def _operands(value: relax.Expr) -> list[relax.Var]:
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Tuple):
        return [used for part in value.fields for used in _operands(part)]
    if isinstance(value, relax.TupleGetItem):
        return _operands(value.tuple_value)
    if isinstance(value, relax.Call):
        return [used for arg in value.args for used in _operands(arg)]
    return []
