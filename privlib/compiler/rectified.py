"""A pass for inference: a linear layer whose output is rectified on both sides and then averaged over cells, and used
for nothing else, becomes one `privlib.rectified_means`."""

import tvm
from tvm import relax

from privlib.compiler import dialect
from privlib.compiler.dialect import shape_of


def join_rectified(module: tvm.IRModule) -> tvm.IRModule:
    """The pass: main in the (fused) dialect → main with such layers joined; what they replace is gone."""
    main = relax.transform.DeadCodeElimination()(module)["main"]
    blocks = [list(block.bindings) for block in main.body.blocks]
    values = {binding.var: binding.value for block in blocks for binding in block}
    new = [relax.DataflowBlock([each for binding in block for each in _joined(binding, values)]) for block in blocks]
    function = relax.Function(main.params, relax.SeqExpr(new, main.body.body), main.ret_ty)
    function = function.with_attrs(dict(main.attrs.items()))
    return relax.transform.DeadCodeElimination()(tvm.IRModule({"main": function}))


def _joined(binding: relax.Binding, values: dict[relax.Var, relax.Expr]) -> list[relax.Binding]:
    """The binding itself, or what takes its place."""
    if not _is(binding.value, "privlib.cell_means"):
        return [binding]
    sides = _producer(binding.value.args[0], values)
    if not _is(sides, "privlib.two_sided"):
        return [binding]
    dense = _producer(sides.args[0], values)
    if not _is(dense, "privlib.dense") or dense.attrs["residual"] or str(dense.attrs["activation"]) != "none":
        return [binding]
    x, positions = dense.args[0], (*shape_of(sides)[:3], shape_of(dense.args[0])[-1])
    normalize = relax.BlockBuilder().normalize
    reshaped = normalize(relax.op.reshape(x, positions))
    variable = relax.DataflowVar(f"{binding.var.name}_positions", reshaped.ty)
    attributes = {
        "bias": bool(dense.attrs["bias"]),
        "threshold": float(sides.attrs["threshold"]),
        "cells": [int(count) for count in binding.value.attrs["cells"]],
    }
    call = normalize(dialect.call("rectified_means", [variable, *dense.args[1:]], **attributes))
    return [relax.VarBinding(variable, reshaped), relax.VarBinding(binding.var, call)]


def _producer(variable: relax.Expr, values: dict[relax.Var, relax.Expr]) -> relax.Expr:
    """What computes a variable, reshapes and other names aside, where nothing else reads it; else the variable."""
    while isinstance(variable, relax.Var) and variable in values and _uses(variable, values) == 1:
        value = values[variable]
        if isinstance(value, relax.Var):
            variable = value
        elif _is(value, "relax.reshape"):
            variable = value.args[0]
        else:
            return value
    return variable


def _is(value: relax.Expr, name: str) -> bool:
    return isinstance(value, relax.Call) and str(value.op.name) == name


def _uses(variable: relax.Var, values: dict[relax.Var, relax.Expr]) -> int:
    operands = [arg for value in values.values() for arg in getattr(value, "args", [value])]
    return sum(isinstance(arg, relax.Var) and arg.same_as(variable) for arg in operands)
