"""privlib's own Relax operators: channel-last, one per kernel family, with room for what a kernel can do on the way out.

Every activation with spatial axes is (batch, height, width, channels); weights keep PyTorch's layout, so names and shapes are those of
`state_dict()`. Operators print in a stage's IR as `privlib.NAME` with their attributes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
from tvm import ir, relax

from privlib.compiler.kernels.conv_direct import Epilogue
from privlib.compiler.kernels.norm import GroupNorm
from privlib.compiler.kernels.pool import Pool2d
from privlib.compiler.kernels.shapes import Conv2d

Attributes = Mapping[str, Any]


def shape_of(expression: relax.Expr) -> tuple[int, ...]:
    """The static shape of a tensor expression."""
    return tuple(int(extent) for extent in expression.ty.shape)


def dtype_of(expression: relax.Expr) -> str:
    return str(expression.ty.dtype)


def _register(name: str, infer: Callable[[Sequence[relax.Expr], Attributes], tuple[int, ...]]) -> None:
    full = f"privlib.{name}"
    if full in ir.Op.list_op_names():
        return
    ir._ffi_api.RegisterOp(full, f"see {__name__}")

    def infer_type(call: relax.Call, _context: object) -> relax.TensorType:
        return relax.TensorType(infer(call.args, call.attrs), dtype_of(call.args[0]))

    ir.register_op_attr(full, "FInferType", infer_type)
    ir.register_op_attr(full, "FPurity", True)


def conv_shape(x: Sequence[int], weight: Sequence[int], a: Attributes) -> Conv2d:
    """Geometry of a convolution from the input's NHWC shape (NCHW where attribute nchw is set), the weight's OIHW shape, attributes."""
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
_register("spatial_mean", lambda args, _: (shape_of(args[0])[0], shape_of(args[0])[-1]))


def call(name: str, args: Sequence[relax.Expr], **attributes: Any) -> relax.Call:
    """A call of `privlib.NAME`.

    conv2d(x, weight, [bias], [residual]): stride, padding, dilation, groups, nchw, bias, residual, activation
    separable(x, filters, [inner bias], weight, [bias], [residual]): conv2d's, and inner_bias, inner_activation
    dense(x, weight, [bias], [residual]): bias, residual, activation
    norm(x, gamma, beta, [residual]): groups, epsilon, axes, bias, residual, activation
    pool2d(x): kind, kernel, stride, padding, dilation, count_include_pad
    elementwise(x, …): formula; an argument of one axis is per channel
    spatial_mean(x)
    """
    return relax.Call(ir.Op.get(f"privlib.{name}"), list(args), tvm.ir.make_node("ir.DictAttrs", **attributes))
