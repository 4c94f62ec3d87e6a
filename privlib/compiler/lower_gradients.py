"""Lowering of a training step's operators: a function for each, called by `lower.Lowering` with itself and the call."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tvm
from tvm import relax

from privlib.compiler import costs, dialect
from privlib.compiler.dialect import dtype_of, shape_of
from privlib.compiler.errors import UnsupportedOperatorError
from privlib.compiler.kernels import (
    batch,
    gram,
    loss,
    narrow,
    norm_gradient,
    pool_gradient,
    strided_gradient,
    weight_gradient,
    winograd_gradient,
)
from privlib.compiler.kernels.conv_direct import Epilogue
from privlib.compiler.kernels.matmul import Matmul
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.target import Machine

if TYPE_CHECKING:
    from privlib.compiler.lower import Lowering

Operands = Sequence[relax.Expr]


def cross_entropy(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    rows, classes = shape_of(args[0])
    function = loss.cross_entropy(self.machine, dtype_of(args[0]), rows, classes, float(call.attrs["scale"]))
    return self.call_kernels("cross_entropy", function, args, [(rows,), (rows, classes)])


def conv2d_data_gradient(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    """A convolution of the (spread out) output gradient with the flipped weights."""
    g, weight = args
    out, a = shape_of(call), call.attrs
    shape = dialect.conv_shape(out, shape_of(weight), a)
    if shape.stride != (1, 1) and strided_gradient.applies(shape):
        packed = self.pack(f"pack_strided_{_size(shape)}", strided_gradient, shape, weight)
        function = strided_gradient.data_gradient(self.machine, dtype_of(g), shape)
        return self.call_kernel(f"strided_gradient_{_size(shape)}", function, [g, packed], out)
    flipped = _flip(self, weight, shape)
    height, width = shape.out_height, shape.out_width
    if shape.stride != (1, 1):
        dilate = batch.dilate(self.machine, dtype_of(g), shape_of(g), shape.stride)
        height, width = (height - 1) * shape.stride[0] + 1, (width - 1) * shape.stride[1] + 1
        size = (shape.batch, height, width, shape.c_out)
        g = self.builder.emit(self.call_kernel("dilate", dilate, [g], size))
    reach = [(k - 1) * d for k, d in zip(shape.kernel, shape.dilation, strict=True)]
    top, left = reach[0] - shape.padding[0], reach[1] - shape.padding[1]
    if top < 0 or left < 0:
        raise UnsupportedOperatorError("a convolution padded by more than its reach has no data gradient; pad less")
    padding = (top, left, shape.height + reach[0] - height - top, shape.width + reach[1] - width - left)
    back = Conv2d(
        shape.batch, height, width, shape.c_out, shape.c_in, shape.kernel, (1, 1), padding, shape.dilation, shape.groups
    )
    return self.convolution([g, flipped], back, Epilogue(), False, out)


def _flip(self: "Lowering", weight: relax.Expr, shape: Conv2d) -> relax.Expr:
    size = (shape.c_in, shape.c_out // shape.groups, *shape.kernel)
    function = batch.flip_weights(self.machine, dtype_of(weight), shape)
    return self.builder.emit(self.call_kernel("flip", function, [weight], size))


def _transpose(self: "Lowering", matrix: relax.Expr) -> relax.Expr:
    """(rows, columns) → (columns, rows)."""
    rows, columns = shape_of(matrix)
    flipped = _flip(self, self.reshape(matrix, (rows, columns, 1, 1)), Conv2d(1, 1, 1, columns, rows, (1, 1)))
    return self.reshape(flipped, (columns, rows))


def dense_data_gradient(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    g, weight = args
    c_out, c_in = shape_of(weight)
    rows = 1
    for extent in shape_of(g)[:-1]:
        rows *= extent
    return self.matmul([g, weight], Matmul(rows, c_out, c_in), Epilogue(), shape_of(call), by_rows=True)


def norm_backward(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    norm = dialect.norm_shape(shape_of(args[0]), call.attrs)
    function = norm_gradient.group_norm_gradient(self.machine, dtype_of(args[0]), norm)
    rows = (norm.rows, norm.shape[-1])
    return self.call_kernels("norm_gradient", function, args, [norm.shape, rows, rows])


def pool2d_gradient(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    pool = dialect.pool_shape(shape_of(args[0]), call.attrs)
    function = pool_gradient.pool2d_gradient(self.machine, dtype_of(args[0]), pool)
    return self.call_kernel("pool2d_gradient", function, args, shape_of(call))


def spatial_mean_gradient(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    function = pool_gradient.spatial_mean_gradient(self.machine, dtype_of(args[0]), shape_of(call))
    return self.call_kernel("spatial_mean_gradient", function, args, shape_of(call))


def position_sums(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    function = batch.position_sums(self.machine, dtype_of(args[0]), shape_of(args[0]))
    return self.call_kernel("position_sums", function, args, shape_of(call))


def row_squares(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    function = batch.row_squares(self.machine, dtype_of(args[0]), shape_of(args[0]))
    return self.call_kernel("row_squares", function, args, shape_of(call))


def _as_images(self: "Lowering", args: Operands, shape: Conv2d) -> list[relax.Expr]:
    """x and g as the channel-last images of the 1×1 convolution that a linear layer is."""
    x = self.reshape(args[0], (shape.batch, shape.height, shape.width, shape.c_in))
    return [x, self.reshape(args[1], (shape.batch, shape.out_height, shape.out_width, shape.c_out))]


def weight_norm(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    machine, dtype, views = self.machine, dtype_of(args[0]), int(call.attrs["views"])
    shape = dialect.site_shape(shape_of(args[0]), shape_of(args[1]), call.attrs)
    strategy, rows = str(call.attrs["strategy"]), shape_of(call)
    if strategy == "goodfellow":
        factors = [
            self.builder.emit(
                self.call_kernel("row_squares", batch.row_squares(machine, dtype, shape_of(arg)), [arg], rows)
            )
            for arg in args
        ]
        return self.builder.emit(_multiply(self, factors))
    if strategy == "gram":
        function = gram.squared_norms(machine, dtype, shape, views)
    else:
        function = _gradient_kernel(machine, dtype, shape, "norm", views)
    return self.call_kernel(f"weight_norm_{strategy}_{_size(shape)}", function, _as_images(self, args, shape), rows)


def weight_norm_kept(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    machine, dtype, views = self.machine, dtype_of(args[0]), int(call.attrs["views"])
    shape = dialect.site_shape(shape_of(args[0]), shape_of(args[1]), call.attrs)
    function = _gradient_kernel(machine, dtype, shape, "kept", views)
    examples = shape.batch // views
    # the kernel's outputs are (gradients, norms)
    kept, norms = (
        self.builder.emit(relax.TupleGetItem(both, i))
        for both in [
            self.builder.emit(
                self.call_kernels(
                    f"weight_norm_kept_{_size(shape)}",
                    function,
                    _as_images(self, args, shape),
                    [(examples, *weight_gradient.gradient_shape(shape)), (examples,)],
                )
            )
        ]
        for i in range(2)
    )
    return relax.Tuple([norms, kept])


def _gradient_kernel(machine: Machine, dtype: str, shape: Conv2d, mode: str, views: int = 1) -> "tvm.tirx.PrimFunc":
    """The weight gradient's kernel family: Winograd or direct."""
    if views == 1 and costs.choose_weight_gradient(machine, dtype, shape, mode) == "winograd":
        return winograd_gradient.weight_gradient(machine, dtype, shape, mode)
    return weight_gradient.weight_gradient(machine, dtype, shape, mode, views)


def _size(shape: Conv2d) -> str:
    return f"{shape.height}x{shape.width}_{shape.c_in}_{shape.c_out}"


def kept_sum(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    kernel = tuple(int(v) for v in call.attrs["kernel"])
    function = batch.kept_sum(self.machine, dtype_of(args[0]), shape_of(args[0]), (kernel[0], kernel[1]))
    return self.call_kernel("kept_sum", function, args, shape_of(call))


def repeat(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    function = batch.repeat_rows(self.machine, dtype_of(args[0]), shape_of(args[0])[0], int(call.attrs["views"]))
    return self.call_kernel("repeat", function, args, shape_of(call))


def _multiply(self: "Lowering", factors: Operands) -> relax.Expr:
    return self.elementwise(factors, dialect.call("elementwise", factors, formula="multiply"))


def clip(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    rows, a = shape_of(args[0]), call.attrs
    dtype, kind, bound = dtype_of(args[0]), str(a["clipping"]), float(a["bound"])
    function = batch.clip_factors(self.machine, dtype, rows[0], len(args) - 1, kind, bound)
    return self.call_kernels("clip", function, args, [rows, rows])


def weight_sum(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    machine, dtype = self.machine, dtype_of(args[0])
    x, g, factors = args
    shape = dialect.site_shape(shape_of(x), shape_of(g), call.attrs)
    if shape.out_height * shape.out_width == 1 and shape.kernel == (1, 1) and "kernel" not in call.attrs:
        return _outer_products(self, x, g, factors, shape_of(call))
    one = weight_gradient.gradient_shape(shape)
    function = _gradient_kernel(machine, dtype, shape, "summed")
    operands = [*_as_images(self, args[:2], shape), factors]
    sums = self.builder.emit(self.call_kernel(f"weight_sum_{_size(shape)}", function, operands, (machine.cores, *one)))
    weight = (shape.c_out, shape.c_in // shape.groups, *shape.kernel)
    joined = self.builder.emit(self.call_kernel("join_cores", batch.join_cores(machine, dtype, shape), [sums], weight))
    return self.reshape(joined, shape_of(call))


def _outer_products(
    self: "Lowering", x: relax.Expr, g: relax.Expr, factors: relax.Expr, out: Sequence[int]
) -> relax.Expr:
    """Σ_b f_b · g_b x_bᵀ for one position an example: a matrix product over the batch."""
    dtype = dtype_of(x)
    if narrow.applies(self.machine, out[0]):
        flat = [self.reshape(each, (shape_of(each)[0], size)) for each, size in ((x, out[1]), (g, out[0]))]
        function = narrow.outer_sums(self.machine, dtype, shape_of(x)[0], out[1], out[0])
        return self.call_kernel(f"weight_sum_outer_{out[1]}_{out[0]}", function, [*flat, factors], out)

    def rows(value: relax.Expr, only_select: bool) -> relax.Expr:
        function = batch.scale_rows(self.machine, dtype, shape_of(value), only_select)
        name = "select_rows" if only_select else "scale_rows"
        return self.builder.emit(self.call_kernel(name, function, [value, factors], shape_of(value)))

    c_out, c_in = out
    flat_g = self.reshape(g, (shape_of(g)[0], c_out))
    flat_x = self.reshape(x, (shape_of(x)[0], c_in))
    left, right = _transpose(self, rows(flat_g, False)), rows(flat_x, True)
    return self.matmul([left, right], Matmul(c_out, shape_of(x)[0], c_in), Epilogue(), out, by_rows=True)


def factor_sum(self: "Lowering", args: Operands, call: relax.Call) -> relax.Expr:
    function = batch.factor_sum(self.machine, dtype_of(args[0]), shape_of(args[0]))
    return self.call_kernel("factor_sum", function, args, shape_of(call))


LOWERINGS = {
    "cross_entropy": cross_entropy,
    "conv2d_data_gradient": conv2d_data_gradient,
    "dense_data_gradient": dense_data_gradient,
    "norm_gradient": norm_backward,
    "pool2d_gradient": pool2d_gradient,
    "spatial_mean_gradient": spatial_mean_gradient,
    "position_sums": position_sums,
    "row_squares": row_squares,
    "weight_norm": weight_norm,
    "weight_norm_kept": weight_norm_kept,
    "kept_sum": kept_sum,
    "repeat": repeat,
    "clip": clip,
    "weight_sum": weight_sum,
    "factor_sum": factor_sum,
}
