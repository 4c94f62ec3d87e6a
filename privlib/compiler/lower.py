"""Dialect → kernels: every `privlib.` operator becomes a call of a generated TIR function; the cost model picks the
kernel family.

Weights are packed by kernels of their own, from parameters alone, so that for inference Relax can lift them out of the
function and they run once; in training they run once a step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from privlib.compiler import costs, dialect, lower_gradients
from privlib.compiler.dialect import dtype_of, epilogue_of, shape_of
from privlib.compiler.kernels import (
    cells,
    conv_direct,
    depthwise,
    matmul,
    narrow,
    norm,
    pointwise,
    pool,
    rows,
    separable,
    update,
    winograd,
)
from privlib.compiler.kernels.cells import Rectified
from privlib.compiler.kernels.conv_direct import Epilogue
from privlib.compiler.kernels.matmul import Matmul
from privlib.compiler.kernels.noise import NoiseGrid
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.kernels.update import Flat
from privlib.compiler.target import Machine


def lower(module: tvm.IRModule, machine: Machine, fold: "Fold | None" = None) -> tvm.IRModule:
    """The pass: main in the dialect → main of call_tir, with the kernels beside it in the module.

    With `fold`, what main returns from its position `first` on is added to sums that live outside: main takes two more
    arguments, rejected int64 (1,) and the sums, changes both and returns them in the place of what it added.
    """
    return Lowering(module["main"], machine, fold).run()


@dataclass(frozen=True)
class Fold:
    """Sums kept between calls (see `kernels.update.fold`)."""

    first: int
    flat: Flat
    grid: NoiseGrid | None


class Lowering:
    """The state of the pass, and a method for each operator of inference; `lower_gradients` has those of training."""

    def __init__(self, main: relax.Function, machine: Machine, fold: Fold | None) -> None:
        self.main, self.machine, self.fold, self.builder = main, machine, fold, relax.BlockBuilder()
        self.values: dict[relax.Var, relax.Expr] = {}

    def run(self) -> tvm.IRModule:
        parameters = [relax.Var(p.name, p.ty) for p in self.main.params]
        self.values.update(zip(self.main.params, parameters, strict=True))
        state: list[relax.Var] = []
        if self.fold:
            kind = "int64" if self.fold.grid else "float64"
            state = [
                relax.Var("rejected", relax.TensorType((1,), "int64")),
                relax.Var("sums", relax.TensorType((self.fold.flat.size,), kind)),
            ]
        with self.builder.function("main", [*parameters, *state], attrs=dict(self.main.attrs.items())):
            with self.builder.dataflow():
                for block in self.main.body.blocks:
                    for binding in block.bindings:
                        self.values[binding.var] = self.builder.emit(self.visit(binding.value))
                result = self.get(self.main.body.body)
                output = self.builder.emit_output(self.folded(result, state) if self.fold else result)
            self.builder.emit_func_output(output)
        return self.builder.get()

    def folded(self, result: relax.Expr, state: Sequence[relax.Var]) -> relax.Expr:
        assert self.fold is not None
        fields = list(self.values_of(result))
        first, flat = self.fold.first, self.fold.flat
        added = [self.reshape(value, (math.prod(shape_of(value)),)) for value in fields[first:]]
        function = update.fold(self.machine, dtype_of(fields[0]), flat, self.fold.grid)
        kernel, count = self.builder.add_func(function, "fold"), len(added)
        types = [variable.ty for variable in state]
        changed = self.builder.emit(relax.op.call_tir_inplace(kernel, [*added, *state], [count, count + 1], types))
        return relax.Tuple([*fields[:first], *(relax.TupleGetItem(changed, i) for i in range(2))])

    def values_of(self, result: relax.Expr) -> Sequence[relax.Expr]:
        """The fields of a tuple, or of a variable bound to one."""
        while isinstance(result, relax.Var):
            result = self.builder.lookup_binding(result)
        return list(result.fields)

    def get(self, expression: relax.Expr) -> relax.Expr:
        if isinstance(expression, relax.Tuple):
            return relax.Tuple([self.get(part) for part in expression.fields])
        if isinstance(expression, relax.TupleGetItem):
            return relax.TupleGetItem(self.get(expression.tuple_value), expression.index)
        return self.values.get(expression, expression) if isinstance(expression, relax.Var) else expression

    def visit(self, value: relax.Expr) -> relax.Expr:
        if not isinstance(value, relax.Call):
            return self.get(value)
        args = [self.get(arg) for arg in value.args]
        name = str(value.op.name)
        if not name.startswith("privlib."):
            return relax.Call(value.op, args, value.attrs, value.ty_args)
        short = name.removeprefix("privlib.")
        if hasattr(self, short):
            return getattr(self, short)(args, value)
        return lower_gradients.LOWERINGS[short](self, args, value)

    def call_kernel(
        self, name: str, function: "tvm.tirx.PrimFunc", args: Sequence[relax.Expr], shape: Sequence[int]
    ) -> relax.Expr:
        kernel = self.builder.add_func(function, name)
        return relax.call_tir(kernel, list(args), out_ty=relax.TensorType(tuple(shape), dtype_of(args[0])))

    def call_kernels(
        self, name: str, function: "tvm.tirx.PrimFunc", args: Sequence[relax.Expr], shapes: Sequence[Sequence[int]]
    ) -> relax.Expr:
        """A kernel with several results."""
        kernel = self.builder.add_func(function, name)
        types = [relax.TensorType(tuple(shape), dtype_of(args[0])) for shape in shapes]
        return relax.call_tir(kernel, list(args), out_ty=types)

    def conv2d(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        shape = dialect.conv_shape(shape_of(args[0]), shape_of(args[1]), call.attrs)
        return self.convolution(args, shape, epilogue_of(call.attrs), bool(call.attrs["nchw"]), shape_of(call))

    def dense(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        *outer, c_in = shape_of(args[0])
        c_out = shape_of(args[1])[0]
        if len(outer) == 1 and narrow.prefers(self.machine, c_in, c_out):
            epilogue = epilogue_of(call.attrs)
            function = narrow.dense(self.machine, dtype_of(args[0]), outer[0], c_in, c_out, epilogue)
            return self.call_kernel(f"dense_narrow_{c_in}_{c_out}", function, args, shape_of(call))
        return self.matmul(
            args, Matmul(math.prod(outer), c_in, shape_of(args[1])[0]), epilogue_of(call.attrs), shape_of(call)
        )

    def matmul(
        self,
        args: Sequence[relax.Expr],
        shape: Matmul,
        epilogue: Epilogue,
        out: Sequence[int],
        by_rows: bool = False,
    ) -> relax.Expr:
        """args: x (…, c_in), weight (c_out, c_in, …1), or (c_in, c_out) by rows, [bias], [residual]; x and weight are
        seen as matrices."""
        machine, dtype = self.machine, dtype_of(args[0])
        flat = self.reshape(args[0], (shape.rows, shape.c_in))
        size = f"{shape.rows}_{shape.c_in}_{shape.c_out}"
        if by_rows:
            packing, place = matmul.pack_rows(machine, dtype, shape), matmul.packed_shape(machine, dtype, shape)
            packed = self.builder.emit(
                self.call_kernel(f"pack_rows_{shape.c_in}_{shape.c_out}", packing, [args[1]], place)
            )
        else:
            matrix = self.reshape(args[1], (shape.c_out, shape.c_in))
            packed = self.pack(f"pack_matmul_{shape.c_in}_{shape.c_out}", matmul, shape, matrix)
        rest = list(args[2:])
        if epilogue.residual:
            rest[-1] = self.reshape(rest[-1], (shape.rows, shape.c_out))
        function = matmul.matmul(machine, dtype, shape, epilogue)
        result = self.call_kernel(f"matmul_{size}", function, [flat, packed, *rest], (shape.rows, shape.c_out))
        return self.reshape(self.builder.emit(result), out)

    def reshape(self, value: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        return value if shape_of(value) == tuple(shape) else self.builder.emit(relax.op.reshape(value, tuple(shape)))

    def convolution(
        self, args: Sequence[relax.Expr], shape: Conv2d, epilogue: Epilogue, nchw: bool, out: Sequence[int]
    ) -> relax.Expr:
        if shape.pointwise and not nchw:
            pixels = shape.batch * shape.height * shape.width
            return self.matmul(args, Matmul(pixels, shape.c_in, shape.c_out), epilogue, out)
        machine, dtype = self.machine, dtype_of(args[0])
        family = costs.choose_conv(machine, dtype, shape)
        kernels = {"direct": conv_direct, "winograd": winograd, "depthwise": depthwise}[family]
        size = f"{shape.height}x{shape.width}_{shape.c_in}_{shape.c_out}"
        packed = self.pack(f"pack_{family}_{size}", kernels, shape, args[1])
        function = kernels.conv2d(machine, dtype, shape, epilogue, nchw)
        return self.call_kernel(f"conv2d_{family}_{size}", function, [args[0], packed, *args[2:]], out)

    def separable(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        machine, dtype, a = self.machine, dtype_of(args[0]), call.attrs
        shape = dialect.conv_shape(shape_of(args[0]), shape_of(args[1]), a)
        inner = Epilogue(bool(a["inner_bias"]), False, str(a["inner_activation"]))
        x, filters, *rest = args
        inner_bias = [rest.pop(0)] if inner.bias else []
        c_out, size = shape_of(rest[0])[0], f"{shape.height}x{shape.width}_{shape.c_in}"
        product = Matmul(shape.batch * shape.out_height * shape.out_width, shape.c_in, c_out)
        packed = [
            self.pack(f"pack_depthwise_{size}", depthwise, shape, filters),
            *inner_bias,
            self.pack(f"pack_matmul_{shape.c_in}_{c_out}", matmul, product, self.reshape(rest[0], (c_out, shape.c_in))),
        ]
        function = separable.conv2d(machine, dtype, shape, inner, c_out, epilogue_of(a))
        return self.call_kernel(f"separable_{size}_{c_out}", function, [x, *packed, *rest[1:]], shape_of(call))

    def pack(self, name: str, kernels: Any, shape: Conv2d | Matmul, weight: relax.Expr) -> relax.Expr:
        """Emit the packing kernel of a family (a module of `kernels`) for one weight."""
        machine, dtype = self.machine, dtype_of(weight)
        function = kernels.pack_weights(machine, dtype, shape)
        return self.builder.emit(
            self.call_kernel(name, function, [weight], kernels.packed_shape(machine, dtype, shape))
        )

    def norm(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        shape = dialect.norm_shape(shape_of(args[0]), call.attrs)
        function = norm.group_norm(self.machine, dtype_of(args[0]), shape, epilogue_of(call.attrs))
        return self.call_kernel("norm", function, args, shape.shape)

    def pool2d(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        shape = dialect.pool_shape(shape_of(args[0]), call.attrs)
        return self.call_kernel(
            f"pool2d_{shape.kind}", pool.pool2d(self.machine, dtype_of(args[0]), shape), args, shape_of(call)
        )

    def spatial_mean(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        function = pool.spatial_mean(self.machine, dtype_of(args[0]), shape_of(args[0]))
        return self.call_kernel("spatial_mean", function, args, shape_of(call))

    def row_sum(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        function = rows.row_sum(self.machine, dtype_of(args[0]), shape_of(args[0]), float(call.attrs["factor"]))
        return self.call_kernel("row_sum", function, args, shape_of(call))

    def cell_means(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        grid = [int(count) for count in call.attrs["cells"]]
        function = cells.cell_means(self.machine, dtype_of(args[0]), shape_of(args[0]), grid)
        return self.call_kernel("cell_means", function, args, shape_of(call))

    def two_sided(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        threshold = float(call.attrs["threshold"])
        function = cells.two_sided(self.machine, dtype_of(args[0]), shape_of(args[0]), threshold)
        return self.call_kernel("two_sided", function, args, shape_of(call))

    def rectified_means(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        a, (c_out, c_in), (batch, height, width, _) = call.attrs, shape_of(args[1]), shape_of(args[0])
        grid = (int(a["cells"][0]), int(a["cells"][1]))
        what = Rectified(batch, height, width, c_in, c_out, grid, float(a["threshold"]), bool(a["bias"]))
        packed = self.pack(f"pack_matmul_{c_in}_{c_out}", matmul, what.product, args[1])
        function = cells.rectified_means(self.machine, dtype_of(args[0]), what)
        return self.call_kernel("rectified_means", function, [args[0], packed, *args[2:]], shape_of(call))

    def elementwise(self, args: Sequence[relax.Expr], call: relax.Call) -> relax.Expr:
        a, shape = dict(call.attrs.items()), shape_of(args[0])
        formula, scalar = str(a["formula"]), float(a["scalar"]) if "scalar" in a else None
        kinds = pointwise.operand_kinds(shape, [shape_of(arg) for arg in args])
        assert kinds is not None, f"{formula} of {[shape_of(arg) for arg in args]}"
        function = pointwise.elementwise(self.machine, dtype_of(args[0]), shape, formula, kinds, scalar)
        return self.call_kernel(f"elementwise_{formula}", function, args, shape)
