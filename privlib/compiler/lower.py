"""Dialect → kernels: every `privlib.` operator becomes a call of a generated TIR function; the cost model picks the kernel family.

Weights are packed by kernels of their own, from parameters alone, so that for inference Relax can lift them out of the function and they
run once; in training they run once a step.
"""

import math
from collections.abc import Sequence

import tvm
from tvm import relax

from privlib.compiler import costs, dialect
from privlib.compiler.dialect import dtype_of, epilogue_of, shape_of
from privlib.compiler.kernels import conv_direct, depthwise, norm, pointwise, pool, winograd
from privlib.compiler.kernels.conv_direct import Epilogue
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine


def lower(module: tvm.IRModule, machine: Machine) -> tvm.IRModule:
    """The pass: main in the dialect → main of call_tir, with the kernels beside it in the module."""
    return _Lowering(module["main"], machine).run()


class _Lowering:
    def __init__(self, main: relax.Function, machine: Machine) -> None:
        self.main, self.machine, self.builder = main, machine, relax.BlockBuilder()
        self.values: dict[relax.Var, relax.Expr] = {}

    def run(self) -> tvm.IRModule:
        parameters = [relax.Var(p.name, p.ty) for p in self.main.params]
        self.values.update(zip(self.main.params, parameters, strict=True))
        with self.builder.function("main", parameters, attrs=dict(self.main.attrs.items())):
            with self.builder.dataflow():
                for block in self.main.body.blocks:
                    for binding in block.bindings:
                        self.values[binding.var] = self.builder.emit(self.visit(binding.value))
                output = self.builder.emit_output(self.get(self.main.body.body))
            self.builder.emit_func_output(output)
        return self.builder.get()

    def get(self, expression: relax.Expr) -> relax.Expr:
        if isinstance(expression, relax.Tuple):
            return relax.Tuple([self.get(part) for part in expression.fields])
        return self.values.get(expression, expression) if isinstance(expression, relax.Var) else expression

    def visit(self, value: relax.Expr) -> relax.Expr:
        if not isinstance(value, relax.Call):
            return self.get(value)
        args = [self.get(arg) for arg in value.args]
        name = str(value.op.name)
        if not name.startswith("privlib."):
            return relax.Call(value.op, args, value.attrs, value.ty_args)
        return getattr(self, name.removeprefix("privlib."))(args, value)

    def call_kernel(self, name: str, function: "tvm.tirx.PrimFunc", args: Sequence[relax.Expr], shape: Sequence[int]) -> relax.Expr:
        kernel = self.builder.add_func(function, name)
        return relax.call_tir(kernel, list(args), out_ty=relax.TensorType(tuple(shape), dtype_of(args[0])))

    def conv2d(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        shape = dialect.conv_shape(shape_of(args[0]), shape_of(args[1]), call.attrs)
        return self.convolution(args, shape, epilogue_of(call.attrs), bool(call.attrs["nchw"]), shape_of(call))

    def dense(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        """A linear layer is a 1×1 convolution over its rows."""
        *outer, c_in = shape_of(args[0])
        c_out, rows = shape_of(args[1])[0], math.prod(outer)
        shape = Conv2d(1, 1, rows, c_in, c_out, (1, 1))
        reshape = self.builder.emit
        x = reshape(relax.op.reshape(args[0], (1, 1, rows, c_in)))
        weight = reshape(relax.op.reshape(args[1], (c_out, c_in, 1, 1)))
        rest = list(args[2:])
        if call.attrs["residual"]:
            rest[-1] = reshape(relax.op.reshape(rest[-1], (1, 1, rows, c_out)))
        result = self.convolution([x, weight, *rest], shape, epilogue_of(call.attrs), False, (1, 1, rows, c_out))
        return relax.op.reshape(self.builder.emit(result), shape_of(call))

    def convolution(
        self, args: Sequence[relax.Expr], shape: Conv2d, epilogue: Epilogue, nchw: bool, out: Sequence[int]
    ) -> relax.Expr:
        machine, dtype = self.machine, dtype_of(args[0])
        family = costs.choose_conv(machine, dtype, shape)
        kernels = {"direct": conv_direct, "winograd": winograd, "depthwise": depthwise}[family]
        size = f"{shape.height}x{shape.width}_{shape.c_in}_{shape.c_out}"
        pack = kernels.pack_weights(machine, dtype, shape)
        packed = self.builder.emit(
            self.call_kernel(f"pack_{family}_{size}", pack, [args[1]], kernels.packed_shape(machine, dtype, shape))
        )
        function = kernels.conv2d(machine, dtype, shape, epilogue, nchw)
        return self.call_kernel(f"conv2d_{family}_{size}", function, [args[0], packed, *args[2:]], out)

    def norm(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        shape = dialect.norm_shape(shape_of(args[0]), call.attrs)
        function = norm.group_norm(self.machine, dtype_of(args[0]), shape, epilogue_of(call.attrs))
        return self.call_kernel("norm", function, args, shape.shape)

    def pool2d(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        shape = dialect.pool_shape(shape_of(args[0]), call.attrs)
        return self.call_kernel(f"pool2d_{shape.kind}", pool.pool2d(self.machine, dtype_of(args[0]), shape), args, shape_of(call))

    def spatial_mean(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        function = pool.spatial_mean(self.machine, dtype_of(args[0]), shape_of(args[0]))
        return self.call_kernel("spatial_mean", function, args, shape_of(call))

    def elementwise(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        formula, shape = str(call.attrs["formula"]), shape_of(args[0])
        per_channel = [len(shape_of(arg)) == 1 and len(shape) > 1 for arg in args]
        function = pointwise.elementwise(self.machine, dtype_of(args[0]), shape, formula, per_channel)
        return self.call_kernel(f"elementwise_{formula}", function, args, shape)
