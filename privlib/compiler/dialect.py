"""privlib's own Relax operators: channel-last, one per kernel family, with room for what a kernel can do on the way
out.

Every activation with spatial axes is (batch, height, width, channels); weights keep PyTorch's layout, so names and
shapes are those of `state_dict()`. Operators print in a stage's IR as `privlib.NAME` with their attributes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
from tvm import ir, relax

from privlib.compiler.kernels.conv_direct import Epilogue
from privlib.compiler.kernels.norm import GroupNorm
from privlib.compiler.kernels.pool import Pool2d
from privlib.compiler.kernels.shapes import Conv2d
from privlib.compiler.kernels.weight_gradient import gradient_shape

Attributes = Mapping[str, Any]


def shape_of(expression: relax.Expr) -> tuple[int, ...]:
    """The static shape of a tensor expression."""
    return tuple(int(extent) for extent in expression.ty.shape)


def dtype_of(expression: relax.Expr) -> str:
    return str(expression.ty.dtype)


Shape = tuple[int, ...]


def _register(name: str, infer: Callable[[Sequence[relax.Expr], Attributes], Shape | list[Shape]]) -> None:
    """Register an operator whose results have the first argument's type; a list of shapes is a tuple of results."""
    full = f"privlib.{name}"
    if full in ir.Op.list_op_names():
        return
    ir._ffi_api.RegisterOp(full, f"see {__name__}")

    def infer_type(call: relax.Call, _context: object) -> relax.Type:
        shapes, dtype = infer(call.args, call.attrs), dtype_of(call.args[0])
        if isinstance(shapes, list):
            return relax.TupleType([relax.TensorType(shape, dtype) for shape in shapes])
        return relax.TensorType(shapes, dtype)

    ir.register_op_attr(full, "FInferType", infer_type)
    ir.register_op_attr(full, "FPurity", True)


def conv_shape(x: Sequence[int], weight: Sequence[int], a: Attributes) -> Conv2d:
    """Geometry of a convolution from the input's NHWC shape (NCHW where attribute nchw is set), the weight's OIHW
    shape, attributes."""
    batch, height, width, c_in = (x[0], x[2], x[3], x[1]) if a["nchw"] else tuple(x)
    window = {key: tuple(int(v) for v in a[key]) for key in ("stride", "padding", "dilation")}
    return Conv2d(batch, height, width, c_in, weight[0], (weight[2], weight[3]), groups=int(a["groups"]), **window)  # type: ignore[arg-type]


def pool_shape(x: Sequence[int], a: Attributes) -> Pool2d:
    window = {key: tuple(int(v) for v in a[key]) for key in ("kernel", "stride", "padding", "dilation")}
    return Pool2d(str(a["kind"]), Conv2d(*x, c_out=x[3], **window), bool(a["count_include_pad"]))  # type: ignore[arg-type, misc]


def norm_shape(x: Sequence[int], a: Attributes) -> GroupNorm:
    return GroupNorm(tuple(x), int(a["groups"]), float(a["epsilon"]), str(a["axes"]))


def epilogue_of(a: Attributes) -> Epilogue:
    return Epilogue(bool(a["bias"]), bool(a["residual"]), str(a["activation"]))


def _infer_conv(args: Sequence[relax.Expr], a: Attributes) -> tuple[int, ...]:
    shape = conv_shape(shape_of(args[0]), shape_of(args[1]), a)
    return (shape.batch, shape.out_height, shape.out_width, shape.c_out)


def _infer_pool(args: Sequence[relax.Expr], a: Attributes) -> tuple[int, ...]:
    window = pool_shape(shape_of(args[0]), a).window
    return (window.batch, window.out_height, window.out_width, window.c_in)


_register("conv2d", _infer_conv)


def _infer_separable(args: Sequence[relax.Expr], a: Attributes) -> tuple[int, ...]:
    shape = conv_shape(shape_of(args[0]), shape_of(args[1]), a)
    weight = args[3] if a["inner_bias"] else args[2]
    return (shape.batch, shape.out_height, shape.out_width, shape_of(weight)[0])


_register("separable", _infer_separable)
_register("dense", lambda args, _: (*shape_of(args[0])[:-1], shape_of(args[1])[0]))
_register("pool2d", _infer_pool)
_register("norm", lambda args, _: shape_of(args[0]))
_register("elementwise", lambda args, _: shape_of(args[0]))
_register("row_sum", lambda args, _: (*shape_of(args[0])[:-1], 1))
_register("cell_means", lambda args, a: (shape_of(args[0])[0], *map(int, a["cells"]), shape_of(args[0])[-1]))
_register("two_sided", lambda args, _: (*shape_of(args[0])[:-1], 2 * shape_of(args[0])[-1]))
_register(
    "rectified_means",
    lambda args, a: (shape_of(args[0])[0], *map(int, a["cells"]), 2 * shape_of(args[1])[0]),
)
_register("spatial_mean", lambda args, _: (shape_of(args[0])[0], shape_of(args[0])[-1]))


def site_shape(x: Sequence[int], g: Sequence[int], a: Attributes) -> Conv2d:
    """Geometry of the convolution whose input and output gradient these are; a linear layer is a 1×1 convolution."""
    if "kernel" not in a:
        rows = math.prod(x[1:-1])
        return Conv2d(x[0], 1, rows, x[-1], g[-1], (1, 1))
    kernel = [int(v) for v in a["kernel"]]
    return conv_shape(x, (g[3], x[3] // int(a["groups"]), *kernel), a)


def _infer_weight_sum(args: Sequence[relax.Expr], a: Attributes) -> Shape:
    shape = site_shape(shape_of(args[0]), shape_of(args[1]), a)
    weight = (shape.c_out, shape.c_in // shape.groups)
    return (*weight, *shape.kernel) if "kernel" in a else weight


def kept_shape(x: Sequence[int], g: Sequence[int], a: Attributes) -> Shape:
    """One example's gradient as it is kept: (taps, input channels of a group, output channels)."""
    return gradient_shape(site_shape(x, g, a))


def _infer_kept(args: Sequence[relax.Expr], a: Attributes) -> list[Shape]:
    examples = shape_of(args[0])[0] // int(a["views"])
    return [(examples,), (examples, *kept_shape(shape_of(args[0]), shape_of(args[1]), a))]


def _infer_kept_sum(args: Sequence[relax.Expr], a: Attributes) -> Shape:
    c_in, c_out = shape_of(args[0])[2:]
    kernel = tuple(int(v) for v in a["kernel"])
    return (c_out, c_in, *kernel)


def _infer_norm_gradient(args: Sequence[relax.Expr], a: Attributes) -> list[Shape]:
    norm = norm_shape(shape_of(args[0]), a)
    return [norm.shape, (norm.rows, norm.shape[-1]), (norm.rows, norm.shape[-1])]


_register("cross_entropy", lambda args, _: [shape_of(args[0])[:1], shape_of(args[0])])
_register("conv2d_data_gradient", lambda _, a: tuple(int(v) for v in a["input"]))
_register("dense_data_gradient", lambda args, _: (*shape_of(args[0])[:-1], shape_of(args[1])[1]))
_register("norm_gradient", _infer_norm_gradient)
_register("pool2d_gradient", lambda args, _: shape_of(args[0]))
_register("spatial_mean_gradient", lambda _, a: tuple(int(v) for v in a["input"]))
_register("position_sums", lambda args, _: (shape_of(args[0])[0], shape_of(args[0])[-1]))
_register("row_squares", lambda args, _: shape_of(args[0])[:1])
_register("weight_norm", lambda args, a: (shape_of(args[0])[0] // int(a["views"]),))
_register("weight_norm_kept", _infer_kept)
_register("kept_sum", _infer_kept_sum)
_register("repeat", lambda args, a: (shape_of(args[0])[0] * int(a["views"]),))
_register("clip", lambda args, _: [shape_of(args[0]), shape_of(args[0])])
_register("weight_sum", _infer_weight_sum)
_register("factor_sum", lambda args, _: shape_of(args[0])[1:])
_register("add_gaussian", lambda args, _: shape_of(args[0]))


def call(name: str, args: Sequence[relax.Expr], **attributes: Any) -> relax.Call:
    """A call of `privlib.NAME`.

    conv2d(x, weight, [bias], [residual]): stride, padding, dilation, groups, nchw, bias, residual, activation
    separable(x, filters, [inner bias], weight, [bias], [residual]): conv2d's, and inner_bias, inner_activation
    dense(x, weight, [bias], [residual]): bias, residual, activation
    norm(x, gamma, beta, [residual]): groups, epsilon, axes, bias, residual, activation
    pool2d(x): kind, kernel, stride, padding, dilation, count_include_pad
    elementwise(x, …): formula, with a number scalar; an argument of one axis is per channel, one whose last axis is 1
        per row
    spatial_mean(x); row_sum(x): factor; cell_means(x): cells; two_sided(x): threshold
    rectified_means(x, weight, [bias]): a dense layer, then two_sided, then cell_means: bias, threshold, cells

    and of a training step, with g the gradient of an output:
    cross_entropy(logits, labels): scale → (losses, their gradient times scale)
    conv2d_data_gradient(g, weight): conv2d's, and input (a shape); dense_data_gradient(g, weight)
    norm_gradient(x, gamma, g) → (dx, dgamma and dbeta of each row)
    pool2d_gradient(x, g); spatial_mean_gradient(g): input
    position_sums(g) (batch, channels); row_squares(v) (batch,)
    weight_norm(x, g): strategy, parameter, views, and for a convolution kernel and conv2d's → squared norm of each
        example's gradient, an example being `views` consecutive rows
    weight_norm_kept(x, g): as weight_norm → (squared norms, gradients (examples, taps, input, output channels))
    clip(squares…, mask): clipping, bound → (squared norms, factors)
    weight_sum(x, g, factors): as weight_norm → weighted sum, shaped as the weight; factor_sum(v, factors) (channels,)
    kept_sum(gradients, factors): kernel → weighted sum (output channels, input channels, *kernel)
    repeat(factors): views → every factor `views` times

    and, to write down what the update kernel does (it is not lowered from here):
    add_gaussian(sum, key uint32 (8,)): noise_multiplier, max_grad_norm, grid_step, stream → sum rounded to multiples of
        grid_step + Gaussian noise of standard deviation noise_multiplier · max_grad_norm rounded likewise; one key
        gives independent noise for every stream
    """
    return relax.Call(ir.Op.get(f"privlib.{name}"), list(args), tvm.ir.make_node("ir.DictAttrs", **attributes))
